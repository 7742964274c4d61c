"""PrefectHttpxClient: sends, decides, waits, and sends again."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, Unpack, cast

import anyio
import anyio.lowlevel
import httpx

from prefect_http._asgi.lifespan_transport import READ_WHOLE, AppTransport
from prefect_http._attempt import Attempt, format_attempts, outcome, seconds
from prefect_http._callbacks import is_async
from prefect_http._client.answered_origins import AnsweredOrigins
from prefect_http._client.arguments import HttpxArguments
from prefect_http._client.error_body import close, discard, read_beginning, read_whole
from prefect_http._client.one_shot_body import mark_one_shot_body
from prefect_http._client.retry_state import RetryState
from prefect_http._client.routing import make_transports
from prefect_http._error_limits import ERROR_BYTES, STREAMED_ERROR_BYTES
from prefect_http._foreign_errors import is_foreign
from prefect_http._httpx_details import LeanCookies, NoAuth
from prefect_http._redact import safe_url
from prefect_http._response import REJECTED, PrefectResponse, as_prefect_response, is_success, status_error
from prefect_http._retry.policy import RetryPolicy
from prefect_http._throttle.throttle import Throttle
from prefect_http._throttle.transport import ThrottledTransport
from prefect_http._types import ASGIApp, Cookies, Headers
from prefect_http._version import __version__

T = TypeVar("T")

_logger = logging.getLogger("prefect_http")
_USER_AGENT = f"prefect-http/{__version__} python-httpx/{httpx.__version__}"

_HEADERS = cast(property, httpx.AsyncClient.headers)
_COOKIES = cast(property, httpx.AsyncClient.cookies)
# Programs ask for the same URLs again and again. To take one apart is a fourth of what a request costs in the client.
_MAX_URLS = 256
_NO_AUTH = NoAuth()
_ON_RETRY = "on_retry must be a function of a request and an attempt, and not an async one"


class PrefectHttpxClient(httpx.AsyncClient):
    """An httpx.AsyncClient that retries what is safe to retry, waits as the server asks, and raises for a bad status.

    Whatever httpx.AsyncClient does, this does too, and every response is a PrefectResponse. ``send()``, and so
    every request, is repeated as its RetryPolicy says: the client's, or the one in the request's
    ``extensions={"retry": policy}``. A response that is thrown away is closed before the wait, so that a retrying
    stream never holds a connection.

    Args:
        retry: what is repeated and when; None: ``RetryPolicy.from_env()``.
        app: an ASGI app to call in this process in place of a network; see ASGITransport. While the client is entered,
            it holds the app's lifespan, as ``app_lifespan_context`` does, and each request has the lifespan's state.
            Closing it ends the requests that are still running before the app's shutdown begins. URLs may be
            relative, to ``http://localhost`` unless there is a ``base_url``.
        throttle: holds back requests to hosts that have had enough, those that follow a redirect or authenticate too;
            it may be shared with other clients. A request that waits for its turn holds no connection, and waiting
            counts for none of its retries; one that is rejected has had an attempt.
        raise_on_all_errors: False gives a response with a bad status back, once it is not retried any more.
        on_retry: called before each wait, with the request and the attempt that failed. A plain function: an
            exception from it ends the request.
        **httpx_arguments: every keyword of httpx.AsyncClient. The ``User-Agent`` names this package, unless
            ``headers`` has one.

    Raises:
        TypeError: ``retry`` is not a RetryPolicy, ``throttle`` is not a Throttle, ``on_retry`` is not a plain
            function, ``app`` is not callable, or it comes with ``transport``, ``mounts`` or ``proxy``.
        ValueError: an environment variable of RetryPolicy is bad.

    Entering raises, with ``app``:
        LifespanError: the app does not start; as ``app_lifespan_context`` does.

    Leaving raises, with ``app``:
        LifespanError: the app has crashed, or does not shut down well; likewise. After a crash, requests raise
            LifespanCrashed as well.
    """

    def __init__(
        self,
        *,
        retry: RetryPolicy | None = None,
        app: ASGIApp | None = None,
        throttle: Throttle | None = None,
        raise_on_all_errors: bool = True,
        on_retry: Callable[[httpx.Request, Attempt], object] | None = None,
        **httpx_arguments: Unpack[HttpxArguments],
    ) -> None:
        if on_retry is not None and (not callable(on_retry) or is_async(on_retry)):
            raise TypeError(f"{_ON_RETRY}, not {on_retry!r}")
        self._policy = RetryPolicy.from_env() if retry is None else _checked_policy(retry, "retry")
        self._raise_on_all_errors = raise_on_all_errors
        self._on_retry = on_retry
        self._answered = AnsweredOrigins()
        self._is_in_process = app is not None
        self._parse_url = functools.lru_cache(_MAX_URLS)(httpx.URL)
        if app is not None:
            _call_app_instead_of_network(httpx_arguments, app)
        make_transports(
            httpx_arguments,
            lambda transport: transport if throttle is None else ThrottledTransport(transport, throttle),
        )
        super().__init__(**httpx_arguments)
        self._lean_cookies = LeanCookies(_COOKIES.__get__(self).jar)

    def _set_headers(self, headers: Headers | None) -> None:
        merged = httpx.Headers(headers)
        merged.setdefault("User-Agent", _USER_AGENT)
        _HEADERS.__set__(self, merged)

    if not TYPE_CHECKING:
        # Also headers that are set later keep the package's User-Agent. httpx's own getter, for every request asks it.
        headers = _HEADERS.setter(_set_headers)

    def _get_cookies(self) -> LeanCookies:
        return self._lean_cookies

    def _set_cookies(self, cookies: Cookies) -> None:
        _COOKIES.__set__(self, cookies)
        self._lean_cookies = LeanCookies(_COOKIES.__get__(self).jar)

    if not TYPE_CHECKING:
        cookies = property(_get_cookies, _set_cookies)

        def build_request(self, method: str, url: httpx.URL | str, **arguments: object) -> httpx.Request:
            """Build a request, as httpx does."""
            return super().build_request(method, self._parse_url(url) if type(url) is str else url, **arguments)

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: object = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: object = httpx.USE_CLIENT_DEFAULT,
    ) -> PrefectResponse:
        """Send a request, and repeat it as its RetryPolicy says. The arguments are those of httpx.AsyncClient.send.

        Returns:
            The response, read; or with ``stream=True``, open at the start of its body.

        Raises:
            PrefectHTTPStatusError: the last response has a bad status. Its body is read as far as 64 KiB if
                streamed, else 1 MiB, for at most 5 s, and the response is closed.
            ThrottleTimeout: the throttle could not let it out in time; it was not sent, and is not retried.
            httpx.RequestError: what ended the last attempt, as httpx raised it; httpx.TimeoutException also when
                ``total_timeout`` passed during an attempt. Each of these carries a note that lists the attempts.
            TypeError: ``extensions["retry"]`` is not a RetryPolicy.

        Cancellation:
            Ends the attempt or the wait at once, with the response closed.
        """
        if self._is_in_process:
            self._mark_read_whole(request, stream)
        if auth is httpx.USE_CLIENT_DEFAULT and self.auth is None and not request.url.userinfo:
            auth = _NO_AUTH
        policy = request.extensions.get("retry")
        if not isinstance(policy, RetryPolicy):
            policy = self._policy if policy is None else _checked_policy(policy, 'extensions["retry"]')
        body = None if isinstance(request.stream, httpx.ByteStream) else mark_one_shot_body(request)
        started = anyio.current_time()
        deadline = None if policy.total_timeout is None else started + policy.total_timeout
        call: RetryState | None = None
        while True:
            try:
                # Streamed in any case: a response that is not wanted is never read whole, however long it is.
                sending = super().send(
                    request,
                    stream=True,
                    auth=auth,  # type: ignore[arg-type]  # httpx has no public name for USE_CLIENT_DEFAULT's type
                    follow_redirects=follow_redirects,  # type: ignore[arg-type]
                )
                response = await (sending if deadline is None else _until(deadline, sending, policy))
                self._answered.add(request.url)
                if response.history:  # redirects
                    for answer in (*response.history, response):
                        self._answered.add(answer.url)
                status = response.status_code
                if (
                    status not in policy.statuses
                    and REJECTED not in response.extensions
                    and (200 <= status < 300 or is_success(response) or not self._raise_on_all_errors)
                ):
                    if not stream and status != 101:
                        try:
                            reading = response.aread()
                            await (reading if deadline is None else _until(deadline, reading, policy))
                        except BaseException:
                            await close(response)
                            raise
                    return as_prefect_response(response)
            except httpx.RequestError as error:
                if is_foreign(error):
                    raise
                await anyio.lowlevel.checkpoint_if_cancelled()
                call = call or RetryState(request, policy, body, deadline)
                error.request = call.failed_request(error)
                if error.request is not request:
                    self._answered.add(request.url)  # with a redirect to where it failed
                attempt = call.record(
                    error,
                    started,
                    client_is_closed=self.is_closed,
                    origin_has_answered=error.request.url in self._answered,
                )
                if attempt.delay is None:
                    error.add_note(format_attempts(call.attempts, policy.max_retries))
                    raise
            else:
                call = call or RetryState(request, policy, body, deadline)
                attempt = call.record(response, started, client_is_closed=self.is_closed)
                if attempt.delay is None:
                    return await self._conclude(call, as_prefect_response(response), stream)
                await discard(response, delay=attempt.delay)
            await self._wait(call, attempt)
            started = anyio.current_time()

    def _mark_read_whole(self, request: httpx.Request, stream: bool) -> None:
        """Tell an app's transport whether the response is read whole; it can do that at less cost."""
        if stream:
            request.extensions = {name: value for name, value in request.extensions.items() if name != READ_WHOLE}
        else:
            # An event hook may want all of the body of an error.
            is_bounded = self._raise_on_all_errors and not self.event_hooks["response"]
            request.extensions = {**request.extensions, READ_WHOLE: ERROR_BYTES if is_bounded else None}

    async def _conclude(self, call: RetryState, response: PrefectResponse, stream: bool) -> PrefectResponse:
        """Raise for a bad status, with as much of the body as is good for, or give the response back."""
        if is_success(response) or not self._raise_on_all_errors:
            try:
                if not stream:
                    await _until(call.deadline, read_whole(response), call.policy)
            except httpx.RequestError as error:
                error.request = call.failed_request(error)
                error.add_note(format_attempts(call.attempts, call.policy.max_retries))
                raise
            return response
        max_bytes = STREAMED_ERROR_BYTES if stream else ERROR_BYTES
        cut = await read_beginning(response, max_bytes=max_bytes, max_seconds=call.seconds_for_error())
        failure = status_error(response, tuple(call.attempts))
        failure.add_note(format_attempts(call.attempts, call.policy.max_retries))
        if cut is not None:
            failure.add_note(f"The response body is not whole: {cut}.")
        raise failure

    async def _wait(self, call: RetryState, attempt: Attempt) -> None:
        assert attempt.delay is not None
        _logger.debug(
            "%s %s: %s, attempt %d/%d; the next one in %s s (%s)",
            call.request.method,
            safe_url(call.request.url),
            outcome(attempt),
            attempt.number,
            call.policy.max_retries + 1,
            seconds(attempt.delay),
            attempt.reason,
        )
        if self._on_retry is not None:
            told = self._on_retry(call.request, attempt)
            if inspect.iscoroutine(told):
                told.close()
                raise TypeError(f"{_ON_RETRY}, not {self._on_retry!r}")
        await anyio.sleep_until(call.resume_at)


async def _until(deadline: float, doing: Awaitable[T], policy: RetryPolicy) -> T:
    """Await a part of an attempt until ``total_timeout`` has passed; its end is ``deadline``."""
    with anyio.CancelScope(deadline=deadline):
        return await doing
    raise httpx.TimeoutException(f"total_timeout of {policy.total_timeout:g} s has passed")


def _call_app_instead_of_network(httpx_arguments: HttpxArguments, app: ASGIApp) -> None:
    for name in ("transport", "mounts", "proxy"):
        if httpx_arguments.get(name) is not None:
            raise TypeError(f"app= takes the place of the network, so {name}= cannot be given as well")
    httpx_arguments["transport"] = AppTransport(app)
    if httpx_arguments.get("base_url") in (None, ""):
        httpx_arguments["base_url"] = "http://localhost"


def _checked_policy(policy: object, where: str) -> RetryPolicy:
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"{where} must be a RetryPolicy, not {policy!r}")
    return policy
