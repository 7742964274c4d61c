"""One ``send()``, from its first attempt to its result.

Each part is a method of `SendCall`, or a few, in this order:

    run                  the order of the parts
    authentication       whether httpx has any credentials to use
    one attempt          a send() of httpx, which authenticates and follows redirects, within total_timeout
    redirects            which origins have answered, and which request failed
    the decision         as the pure _retry/decision.py takes it, and what follows if there is no further attempt
    the wait             until the next attempt is due
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import httpx

from prefect_http._asgi.lifespan_transport import READ_WHOLE
from prefect_http._attempt import Attempt, drop_tracebacks, format_outcome, format_seconds
from prefect_http._callbacks import is_async
from prefect_http._client.answered_origins import AnsweredOrigins
from prefect_http._client.cookies import renew_cookies
from prefect_http._client.error_body import close, discard, read_beginning, read_whole
from prefect_http._client.intermediate import mark_if_all_is_needed, unbound_body
from prefect_http._client.one_shot_body import mark_one_shot_body
from prefect_http._client.retry_state import RetryState, says_should_retry
from prefect_http._concurrency.backend import checkpoint
from prefect_http._error_limits import ERROR_BYTES, STREAMED_ERROR_BYTES
from prefect_http._errors import PrefectHTTPStatusError, ThrottleTimeout
from prefect_http._foreign_errors import clear_mark, is_foreign
from prefect_http._httpx_details import NoAuth
from prefect_http._redact import safe_url
from prefect_http._response import REJECTED, PrefectResponse, as_prefect_response, is_success, status_error
from prefect_http._retry.policy import RetryPolicy

T = TypeVar("T")

Hook = Callable[[httpx.Request, Attempt], object]

_HOOK_MUST_BE = "must be a sync function that takes a request and an attempt"
_NO_AUTH = NoAuth()
# A response with this extension has come through a network, and the request has waited for it. A mock may not have.
_NETWORK_STREAM = "network_stream"
_logger = logging.getLogger("prefect_http")


@dataclass(frozen=True, kw_only=True, slots=True)
class SendOptions:
    """What all ``send()`` of a client have in common. Most are arguments of PrefectHttpxClient.

    Attributes:
        policy: for requests that do not bring their own.
        raise_on_all_errors: whether a bad status raises an error.
        on_retry: called before each wait.
        on_attempt: called after each attempt.
        max_response_bytes: how large a body that is read whole may be; None: no limit.
        max_wait: how many seconds the throttle lets a request wait, infinity: any number; None without a throttle.
        is_in_process: whether there is an app in place of a network.
        answered: the origins that have answered the client.
    """

    policy: RetryPolicy
    raise_on_all_errors: bool
    on_retry: Hook | None
    on_attempt: Hook | None
    max_response_bytes: int | None
    max_wait: float | None
    is_in_process: bool
    answered: AnsweredOrigins


class SendCall:
    """One ``send()``; see PrefectHttpxClient.send.

    Args:
        client: the client.
        transmit: the ``send()`` of httpx.AsyncClient for it.
        options: what all ``send()`` of the client have in common.
        request: the request.
        stream: whether the caller reads the response.
        auth: for httpx.
        follow_redirects: for httpx.
    """

    __slots__ = (
        *("_client", "_options", "_transmit", "_request", "_stream", "_auth", "_follow_redirects"),
        *("_policy", "_body", "_started", "_deadline", "_lazy_state"),
    )

    def __init__(
        self,
        client: httpx.AsyncClient,
        transmit: Callable[..., Awaitable[httpx.Response]],
        options: SendOptions,
        request: httpx.Request,
        stream: bool,
        auth: object,
        follow_redirects: object,
    ) -> None:
        self._client = client
        self._transmit = transmit
        self._options = options
        self._request = request
        self._stream = stream
        self._follow_redirects = follow_redirects
        self._auth = self._authentication(auth)
        clear_mark(request)
        policy = request.extensions.get("retry")
        self._policy = options.policy if policy is None else checked_policy(policy, 'extensions["retry"]')
        self._body = mark_one_shot_body(request)
        mark_if_all_is_needed(request, client, self._auth)
        self._started = anyio.current_time()  # of the current attempt
        timeout = self._policy.total_timeout
        self._deadline = math.inf if timeout is None else self._started + timeout
        self._lazy_state: RetryState | None = None
        if options.is_in_process:
            self._mark_read_whole()

    async def run(self) -> PrefectResponse:
        """Send the request until its response is accepted or no further attempt is made."""
        limit = self._options.max_response_bytes
        response: httpx.Response | None = None
        try:
            while True:
                try:
                    response = await self._attempt()
                    unbound_body(response)
                    if _NETWORK_STREAM not in response.extensions:
                        await self._checkpoint(response)
                    self._note_who_answered(response)
                    is_accepted = self._is_accepted(response)
                    if is_accepted and not self._stream:
                        await self._within_total_timeout(read_whole(response, limit))
                except httpx.RequestError as error:
                    if not await self._retries_error(error):
                        raise
                else:
                    if is_accepted:
                        return await self._accept(response)
                    if not await self._retries_response(response):
                        return await self._conclude(response)
                await self._wait()
        finally:
            # They hold the errors of the attempts, and on newer Pythons these hold this frame.
            self._lazy_state = response = None

    # --- Authentication

    def _authentication(self, auth: object) -> object:
        """Return what httpx is given as ``auth``: if it would find no credentials, an auth flow that costs less."""
        if auth is httpx.USE_CLIENT_DEFAULT and self._client.auth is None and not self._request.url.userinfo:
            return _NO_AUTH
        return auth

    # --- One attempt

    def _attempt(self) -> Awaitable[httpx.Response]:
        """Return an awaitable that sends the request once, and is the response with its body unread."""
        # Always streamed: a response that is not wanted is never read whole, however long it is.
        sending = self._transmit(self._request, stream=True, auth=self._auth, follow_redirects=self._follow_redirects)
        return self._within_total_timeout(sending)

    async def _checkpoint(self, response: httpx.Response) -> None:
        """Let other tasks run, and be cancelled if that is due, unless the app's transport has seen to it."""
        if not self._options.is_in_process:
            try:
                await checkpoint()
            except BaseException:
                await close(response)
                raise

    def _is_accepted(self, response: httpx.Response) -> bool:
        """Whether the caller gets the response without any decision about a retry."""
        if response.status_code in self._policy.statuses or REJECTED in response.extensions:
            return False
        return is_success(response) or not (self._options.raise_on_all_errors or says_should_retry(response))

    def _within_total_timeout(self, step: Awaitable[T]) -> Awaitable[T]:
        """Return an awaitable for a step of an attempt; it raises TimeoutException at the end of ``total_timeout``."""
        return step if self._deadline == math.inf else _until(self._deadline, step, self._policy)

    def _mark_read_whole(self) -> None:
        """Mark the request, for the app's transport, if its response is read whole, which then costs less."""
        request = self._request
        if self._stream or self._options.max_response_bytes is not None:
            request.extensions = {name: value for name, value in request.extensions.items() if name != READ_WHOLE}
        else:
            # An event hook may want all of an error's body.
            is_bounded = self._options.raise_on_all_errors and not self._client.event_hooks["response"]
            request.extensions = {**request.extensions, READ_WHOLE: ERROR_BYTES if is_bounded else None}

    # --- Redirects, which httpx follows

    def _note_who_answered(self, response: httpx.Response) -> None:
        """Note that the origin of the request has answered, and those that redirects led to."""
        answered = self._options.answered
        answered.add(self._request.url)
        if response.history:
            for answer in (*response.history, response):
                answered.add(answer.url)

    def _failed_request(self, error: httpx.RequestError) -> httpx.Request:
        """Return the request that failed, which is not the first one if a redirect led to it."""
        try:
            return error.request
        except RuntimeError:  # raised by code that did not say for which request
            return self._request

    # --- The decision

    @property
    def _state(self) -> RetryState:
        """The state of the retries, which most requests never need."""
        if self._lazy_state is None:
            max_wait = self._options.max_wait
            self._lazy_state = RetryState(self._request, self._policy, self._body, self._deadline, max_wait)
        return self._lazy_state

    async def _retries_error(self, error: httpx.RequestError) -> bool:
        """Decide whether an error is followed by another attempt. If not, add a note that says why."""
        error.request = self._failed_request(error)
        if is_foreign(error, error.request) or (self._body is not None and self._body.has_raised(error)):
            return False
        await checkpoint()
        answered = self._options.answered
        if error.request is not self._request:
            answered.add(self._request.url)  # with the redirect
        attempt = self._state.record(
            error,
            self._started,
            client_is_closed=self._client.is_closed,
            origin_has_answered=error.request.url in answered,
        )
        if attempt.delay is None:
            error.add_note(self._state.format_attempts())
            await self._report(attempt)
        return attempt.delay is not None

    async def _retries_response(self, response: httpx.Response) -> bool:
        """Decide whether a response is followed by another attempt. If so, close it."""
        attempt = self._state.record(response, self._started, client_is_closed=self._client.is_closed)
        if attempt.delay is not None:
            renew_cookies(self._request, response, self._client.cookies)
            await discard(response, delay=attempt.delay)
        return attempt.delay is not None

    async def _accept(self, response: httpx.Response) -> PrefectResponse:
        """Return the response for the caller."""
        failed = () if self._lazy_state is None else tuple(self._lazy_state.attempts)
        elapsed = anyio.current_time() - self._started
        accepted = as_prefect_response(response, failed, elapsed, self._options.max_response_bytes)
        if self._options.on_attempt is not None:
            await self._report(accepted.attempts[-1], accepted)
        return accepted

    async def _conclude(self, response: httpx.Response) -> PrefectResponse:
        """Raise the error for the last response, or return the response if it is not one to raise for."""
        await self._report(self._state.attempts[-1], response)
        attempts, limit = tuple(self._state.attempts), self._options.max_response_bytes
        if not is_success(response) and self._options.raise_on_all_errors:
            raise await self._final_error(as_prefect_response(response, attempts, None, limit))
        try:
            if not self._stream:
                await self._within_total_timeout(read_whole(response, limit))
        except httpx.RequestError as error:
            error.request = self._failed_request(error)
            error.add_note(self._state.format_attempts())
            raise
        return as_prefect_response(response, attempts, None, limit)

    async def _final_error(self, response: PrefectResponse) -> PrefectHTTPStatusError | ThrottleTimeout:
        """Return the error for a response, or one that it is the cause of if the throttle's max_wait is too short."""
        error = await self._status_error(response)
        if self._state.too_long is None:
            return error
        timeout = ThrottleTimeout(self._state.too_long, request=response.request)
        timeout.add_note(self._state.format_attempts())
        timeout.__cause__ = error
        return timeout

    async def _status_error(self, response: PrefectResponse) -> PrefectHTTPStatusError:
        """Read the beginning of the response for its error, close it, and return the error."""
        max_bytes = STREAMED_ERROR_BYTES if self._stream else ERROR_BYTES
        if self._options.max_response_bytes is not None:
            max_bytes = min(max_bytes, self._options.max_response_bytes)
        cut = await read_beginning(response, max_bytes=max_bytes, max_seconds=self._state.seconds_for_error())
        error = status_error(response, tuple(self._state.attempts))
        error.add_note(self._state.format_attempts())
        if cut is not None:
            error.add_note(f"The response body is incomplete: {cut}.")
        return error

    async def _report(self, attempt: Attempt, response: httpx.Response | None = None) -> None:
        """Call ``on_attempt``. If that raises an exception, close the response."""
        if self._options.on_attempt is not None:
            try:
                _call(self._options.on_attempt, "on_attempt", self._request, attempt)
            except BaseException:
                if response is not None:
                    await close(response)
                raise

    # --- The wait

    async def _wait(self) -> None:
        """Log the last attempt, call ``on_attempt`` and ``on_retry``, and wait until the next attempt is due."""
        state = self._state
        attempt = state.attempts[-1]
        assert attempt.delay is not None
        _logger.debug(
            "%s %s: %s, attempt %d/%d; the next one in %s s (%s)",
            state.request.method,
            safe_url(state.request.url),
            format_outcome(attempt),
            attempt.number,
            state.policy.max_retries + 1,
            format_seconds(attempt.delay),
            attempt.reason,
        )
        await self._report(attempt)
        if self._options.on_retry is not None:
            _call(self._options.on_retry, "on_retry", self._request, attempt)
        if attempt.exception is not None:
            drop_tracebacks(attempt.exception)
        await anyio.sleep_until(state.resume_at)
        self._started = anyio.current_time()


async def _until(deadline: float, step: Awaitable[T], policy: RetryPolicy) -> T:
    with anyio.CancelScope(deadline=deadline):
        return await step
    raise httpx.TimeoutException(f"total_timeout of {policy.total_timeout:g} s has passed")


def _call(hook: Hook, name: str, request: httpx.Request, attempt: Attempt) -> None:
    returned = hook(request, attempt)
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError(f"{name} {_HOOK_MUST_BE}, not the async {hook!r}")


def checked_hook(hook: Hook | None, name: str) -> Hook | None:
    """Return a hook that is a plain function, or None; otherwise raise a TypeError."""
    if hook is not None and (not callable(hook) or is_async(hook)):
        raise TypeError(f"{name} {_HOOK_MUST_BE}, not {hook!r}")
    return hook


def checked_policy(policy: object, where: str) -> RetryPolicy:
    """Return a policy that is one, or raise a TypeError."""
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"{where} must be a RetryPolicy, not {policy!r}")
    return policy
