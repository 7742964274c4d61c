"""One ``send()``, from its first attempt to its result.

Each part is a method of `SendCall`, or a few, from the outside in:

    run              what is made of the last response
    authentication   the requests of an auth flow
    redirects        the requests that redirects lead to
    one request      its attempts: an attempt, the decision, the wait, and once more

A retry repeats one request, and not what went before it.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import httpx

from prefect_http._asgi.read_whole import READ_WHOLE
from prefect_http._attempt import Attempt, drop_tracebacks
from prefect_http._bounded_body import read_up_to
from prefect_http._client.attempt_log import log_attempt
from prefect_http._client.cookies import renew_cookies
from prefect_http._client.error_body import close, discard, read_beginning, read_whole
from prefect_http._client.observed import ObservedExchange
from prefect_http._client.one_shot_body import OneShotBody, mark_one_shot_body
from prefect_http._client.options import HOOK_MUST_BE, Hook, SendOptions, check_open
from prefect_http._client.redirects import redirect_request, redirect_url
from prefect_http._client.retry_state import RetryState, says_should_retry
from prefect_http._concurrency.backend import checkpoint, clock
from prefect_http._error_limits import ERROR_BYTES, STREAMED_ERROR_BYTES
from prefect_http._errors import PrefectHTTPStatusError, ThrottleTimeout
from prefect_http._foreign_errors import clear_mark, is_foreign
from prefect_http._httpx_details import read_held_body
from prefect_http._response import REJECTED, PrefectResponse, is_success, note_attempts, status_error
from prefect_http._retry.policy import RetryPolicy
from prefect_http._telemetry import call_safely

T = TypeVar("T")

Exchange = Callable[[httpx.Request], Awaitable[PrefectResponse]]

# A response with this extension has come through a network, and the request has waited for it. A mock may not have.
_NETWORK_STREAM = "network_stream"
_UNAUTHORIZED = 401
_logger = logging.getLogger("prefect_http")


class SendCall:
    """One ``send()``; see PrefectHttpxClient.send.

    Args:
        client: the client.
        exchange: sends a request once, and returns its response, with the body still to be read.
        options: what all ``send()`` of the client have in common.
        policy: what is retried and when.
        request: the request.
        follows_redirects: whether redirects are followed.
        stream: whether the caller reads the response.
        auth: makes the requests; None: there is only the one.
    """

    __slots__ = (
        *("_client", "_exchange", "_options", "_request", "_stream", "_auth", "_follows_redirects"),
        *("_policy", "_now", "_first_outcome", "_started", "_deadline", "_state", "_failed", "_is_repeated"),
        *("_reads_now", "_observed"),
    )

    def __init__(
        self,
        client: httpx.AsyncClient,
        exchange: Exchange,
        options: SendOptions,
        policy: RetryPolicy,
        request: httpx.Request,
        follows_redirects: bool,
        *,
        stream: bool = False,
        auth: httpx.Auth | None = None,
    ) -> None:
        self._client = client
        self._exchange = exchange
        self._options = options
        self._request = request
        self._stream = stream
        self._auth = auth
        self._follows_redirects = follows_redirects
        self._policy = policy
        self._now = clock()
        # What a first attempt before run() has ended with: its response, or the failed attempt itself.
        self._first_outcome: PrefectResponse | Attempt | None = None
        self._started = 0.0  # of the current attempt
        timeout = policy.total_timeout
        self._deadline = math.inf if timeout is None else self._now() + timeout
        self._state: RetryState | None = None  # most calls never need it
        self._failed: Attempt | None = None  # that of the response, if it is not accepted
        self._is_repeated = False  # whether the last request has been sent more than once
        # Not if an auth flow gets the responses first, and does not need their bodies.
        self._reads_now = not stream and (auth is None or auth.requires_response_body)
        self._observed: ObservedExchange | None = None
        if options.telemetry is not None:
            self._observed = ObservedExchange(exchange, options.telemetry, is_throttled=options.max_wait is not None)
            self._exchange = self._observed.send

    def go_on_with(self, response: PrefectResponse, started: float) -> None:
        """Let ``run()`` begin with the response to a plain request, which was sent at ``started``."""
        self._first_outcome, self._started = response, started

    async def retries_after(self, error: httpx.RequestError, started: float) -> bool:
        """Decide whether ``run()`` is to send a plain request again, which was sent at ``started`` and failed.

        If not, the error gets its notes.
        """
        self._started = started
        self._first_outcome = await self._decide_about_error(error, self._request, None)
        if self._first_outcome is None:
            self._state = None  # it holds the error
        return self._first_outcome is not None

    async def run(self) -> PrefectResponse:
        """Send the request, and what follows from it, until there is a response to return or an error to raise."""
        response: PrefectResponse | None = None
        try:
            if isinstance(self._first_outcome, Attempt):
                await self._wait(self._request, self._first_outcome)
            if self._auth is None:
                response = await self._follow_redirects(self._request, [])
            else:
                response = await self._authenticate(self._auth)
            if self._failed is not None:
                return await self._conclude(response, self._failed)
            earlier = () if self._state is None else tuple(self._state.attempts)
            note_attempts(response, earlier, self._now() - self._started)
            if self._options.on_attempt is not None or _logger.isEnabledFor(logging.DEBUG):
                await self._report(response.attempts[-1], response.request, response)
            return response
        except BaseException as error:
            if self._observed is not None:  # the attempt may go on while an auth flow has its response
                self._observed.end(error)
            raise
        finally:
            # They hold the errors of the attempts, and on newer Pythons these hold this frame.
            self._state = self._failed = self._first_outcome = response = None

    # --- Authentication

    async def _authenticate(self, auth: httpx.Auth) -> PrefectResponse:
        """Send the requests of an auth flow, and return the response to the last one."""
        history: list[httpx.Response] = []
        response = await self._run_flow(auth, history)
        can_be_sent_again = not isinstance(self._request.stream, OneShotBody)
        if response.status_code == _UNAUTHORIZED and self._is_repeated and can_be_sent_again:
            # The server may have taken the credentials that were sent twice for a replay (RFC 7616 section 5.5).
            await self._leave(response, "the auth flow was begun anew", history)
            response = await self._run_flow(auth, history)
        self._auth, self._reads_now = None, not self._stream
        if self._failed is not None:
            return response
        # Whether it is retried or read has been left until the flow was over.
        return await self._follow_redirects(response.request, response.history, response)

    async def _run_flow(self, auth: httpx.Auth, history: list[httpx.Response]) -> PrefectResponse:
        flow = auth.async_auth_flow(self._request)
        try:
            try:
                request = await self._within_total_timeout(anext(flow))
            except httpx.RequestError as error:
                self._explain(error, self._request)
                raise
            while True:
                if not isinstance(request, httpx.Request):
                    # Without the object itself, which may be credentials.
                    raise TypeError(f"an auth flow must yield an httpx.Request, not an object of {type(request)!r}")
                response = await self._follow_redirects(request, history)
                try:
                    request = await self._within_total_timeout(flow.asend(response))
                except StopAsyncIteration:
                    return response
                except BaseException as error:
                    await close(response)
                    if isinstance(error, Exception):
                        await self._note_answer(response, "the auth flow failed")
                        self._explain(error, response.request)
                    raise
                await self._leave(response, "the auth flow sent another request", history)
        finally:
            await flow.aclose()

    # --- Redirects

    async def _follow_redirects(
        self, request: httpx.Request, history: list[httpx.Response], first: PrefectResponse | None = None
    ) -> PrefectResponse:
        """Send a request and those that redirects lead to, and return the response to the last one.

        Args:
            request: the request.
            history: the responses that led to it.
            first: its response, if it has one already that is still to be decided about.
        """
        max_redirects = self._client.max_redirects
        while True:
            if len(history) > max_redirects:
                raise self._too_many_redirects(request)
            response = await self._repeat(request, history, first)
            # On httpx2, has_redirect_location takes ten calls, so most responses are spared it.
            if not (300 <= response.status_code < 400 and response.has_redirect_location):
                return response
            try:
                url = redirect_url(response, request)
                following = redirect_request(request, response, url, self._client.cookies)
            except BaseException:  # the client may have cookies that cannot be sent
                await close(response)
                raise
            if not self._follows_redirects:
                response.next_request = following
                return response
            history = list(history)  # that of an auth flow has no redirects
            is_followed = len(history) < max_redirects
            reason = "the redirect was followed" if is_followed else f"max_redirects is {max_redirects}"
            await self._leave(response, reason, history)
            request, first = following, None

    def _too_many_redirects(self, request: httpx.Request) -> httpx.TooManyRedirects:
        error = _too_many_redirects(request)
        self._explain(error, request)
        return error

    async def _leave(self, response: PrefectResponse, reason: str, history: list[httpx.Response]) -> None:
        """Note that a response led to another request, read the beginning of its body, and close it.

        Args:
            response: the response.
            reason: why there is another request.
            history: the responses that led to it; it is added to them.
        """
        response.history = list(history)
        history.append(response)
        await self._note_answer(response, reason)
        try:
            await self._within_total_timeout(read_up_to(response, ERROR_BYTES))
        except httpx.RequestError as error:
            self._explain(error, response.request)
            raise
        if self._observed is not None:
            self._observed.end()

    async def _note_answer(self, response: PrefectResponse, reason: str) -> None:
        """Note an attempt whose response is not that of the ``send()``, and call ``on_attempt``."""
        state, attempt = self._retry_state(), self._failed
        if attempt is None:
            attempt = Attempt(state.number, response.status_code, None, None, reason, self._now() - self._started)
        self._failed = None
        state.attempts.append(attempt)
        await self._report(attempt, response.request, response)

    def _explain(self, error: Exception, request: httpx.Request) -> None:
        """Add what led to an httpx.RequestError: the request, unless it has one, and the attempts so far."""
        if isinstance(error, httpx.RequestError):
            error.request = _request_of(error, request)
            if self._state is not None and self._state.attempts:
                error.add_note(self._state.format_attempts())

    # --- One request

    async def _repeat(
        self, request: httpx.Request, history: list[httpx.Response], response: PrefectResponse | None
    ) -> PrefectResponse:
        """Send a request, as often as the policy says, and return its last response.

        If that is not accepted, `_failed` is its attempt.

        Args:
            request: the request.
            history: the responses that led to it.
            response: its response, if it has one already that is still to be decided about.
        """
        is_checked, body = response is not None, None
        if self._first_outcome is None:
            if self._state is not None and response is None:
                self._state.note_next_request()
            clear_mark(request)
            body = None if type(request.stream) is httpx.ByteStream else mark_one_shot_body(request)
        elif isinstance(self._first_outcome, PrefectResponse):
            response = self._first_outcome
        self._first_outcome = None
        if self._options.is_in_process:
            self._mark_read_whole(request)
        self._is_repeated = False
        max_bytes = self._options.max_response_bytes
        while True:
            is_read_later = False
            try:
                if response is None:
                    self._started = self._now()
                    # In this frame, since thousands of tasks may wait here.
                    sending = self._exchange(request)
                    response = await (sending if self._deadline == math.inf else self._within_total_timeout(sending))
                if not is_checked:
                    self._options.answered.add(request.url)
                    response.history = list(history)
                    has_waited = self._options.is_in_process or _NETWORK_STREAM in response.extensions
                    if response.status_code >= 300 or not has_waited:
                        await self._within_total_timeout(self._check(response, request, has_waited=has_waited))
                if self._is_accepted(response):
                    if self._reads_now and (max_bytes is not None or not read_held_body(response)):
                        await self._within_total_timeout(read_whole(response, max_bytes))
                    is_read_later = not self._reads_now and not self._stream  # an auth flow gets it first
                    return response
                if self._leads_on(response):
                    if response.status_code != _UNAUTHORIZED:  # with a 401, the flow comes first
                        await self._within_total_timeout(read_up_to(response, ERROR_BYTES))
                        if self._observed is not None and len(history) >= self._client.max_redirects:
                            self._observed.end(_too_many_redirects(request))
                    return response
            except httpx.RequestError as error:
                if self._observed is not None:
                    self._observed.end(error)
                if (attempt := await self._decide_about_error(error, request, body)) is None:
                    raise
            except BaseException as error:
                if self._observed is not None:
                    self._observed.end(error)
                raise
            else:
                attempt = self._decide_about_response(response, body)
                if attempt.delay is None:
                    self._failed = attempt
                    return response
                renew_cookies(request, response, self._client.cookies)
                await discard(response, delay=attempt.delay)
            finally:
                if self._observed is not None and not is_read_later:
                    self._observed.end()
            response, is_checked = None, False
            self._is_repeated = True
            await self._wait(request, attempt)

    async def _check(self, response: PrefectResponse, request: httpx.Request, *, has_waited: bool) -> None:
        """Check the Location of a redirect. If nothing has been waited for, let other tasks run."""
        try:
            if 300 <= response.status_code < 400 and response.has_redirect_location:
                redirect_url(response, request)
            if not has_waited:
                await checkpoint()
        except BaseException:
            await close(response)
            raise

    def _is_accepted(self, response: httpx.Response) -> bool:
        """Whether the caller gets the response without any decision about a retry."""
        if not is_success(response) and (
            self._options.raise_on_all_errors or self._leads_on(response) or says_should_retry(response)
        ):
            return False
        return response.status_code not in self._policy.statuses and REJECTED not in response.extensions

    def _leads_on(self, response: httpx.Response) -> bool:
        """Whether the response leads to another request: a redirect does, and a challenge may."""
        if response.status_code == _UNAUTHORIZED:
            return self._auth is not None
        return self._follows_redirects and response.has_redirect_location

    def _within_total_timeout(self, step: Awaitable[T]) -> Awaitable[T]:
        """Return an awaitable for a step of an attempt; it raises TimeoutException at the end of ``total_timeout``."""
        return step if self._deadline == math.inf else _until(self._deadline, step, self._policy)

    def _mark_read_whole(self, request: httpx.Request) -> None:
        """Mark the request, for the app's transport, if its response is read whole, which then costs less."""
        if self._stream or self._options.max_response_bytes is not None:
            request.extensions = {name: value for name, value in request.extensions.items() if name != READ_WHOLE}
        else:
            # An event hook may want all of an error's body.
            is_bounded = self._options.raise_on_all_errors and not self._client.event_hooks["response"]
            request.extensions = {**request.extensions, READ_WHOLE: ERROR_BYTES if is_bounded else None}

    # --- The decision

    def _retry_state(self) -> RetryState:
        if self._state is None:
            self._state = RetryState(self._policy, self._deadline, self._options.max_wait)
        return self._state

    async def _decide_about_error(
        self, error: httpx.RequestError, request: httpx.Request, body: OneShotBody | None
    ) -> Attempt | None:
        """Return the attempt that ended with an error, if another one follows. If not, add a note that says why."""
        error.request = _request_of(error, request)
        if is_foreign(error, request) or (body is not None and body.has_raised(error)):
            return None
        await checkpoint()
        state = self._retry_state()
        attempt = state.decide(
            request,
            error,
            self._started,
            body=body,
            client_is_closed=self._client.is_closed,
            origin_has_answered=request.url in self._options.answered,
        )
        if attempt.delay is not None:
            return attempt
        state.attempts.append(attempt)
        error.add_note(state.format_attempts())
        await self._report(attempt, request)
        return None

    def _decide_about_response(self, response: PrefectResponse, body: OneShotBody | None) -> Attempt:
        """Return the attempt that ended with a response; it says whether another one follows."""
        return self._retry_state().decide(
            response.request, response, self._started, body=body, client_is_closed=self._client.is_closed
        )

    async def _report(self, attempt: Attempt, request: httpx.Request, response: httpx.Response | None = None) -> None:
        """Log an attempt, and call ``on_attempt``. If that raises an exception, close the response."""
        if _logger.isEnabledFor(logging.DEBUG):
            log_attempt(attempt, request, self._retry_state().max_attempts)
        if self._options.on_attempt is not None:
            try:
                _call(self._options.on_attempt, "on_attempt", request, attempt)
            except BaseException:
                if response is not None:
                    await close(response)
                raise

    # --- The wait

    async def _wait(self, request: httpx.Request, attempt: Attempt) -> None:
        """Report an attempt, call ``on_retry``, and wait until the next attempt is due."""
        assert attempt.delay is not None
        state = self._retry_state()
        state.attempts.append(attempt)
        await self._report(attempt, request)
        if self._options.on_retry is not None:
            _call(self._options.on_retry, "on_retry", request, attempt)
        if attempt.exception is not None:
            drop_tracebacks(attempt.exception)
        if self._options.telemetry is not None:
            call_safely(self._options.telemetry.wait, request, attempt.delay, attempt.reason)
        await anyio.sleep_until(state.resume_at)
        check_open(self._client)

    # --- The result

    async def _conclude(self, response: PrefectResponse, attempt: Attempt) -> PrefectResponse:
        """Raise the error for the last response, or return the response if it is not one to raise for."""
        state = self._retry_state()
        state.attempts.append(attempt)
        await self._report(attempt, response.request, response)
        note_attempts(response, tuple(state.attempts), None)
        if not is_success(response) and self._options.raise_on_all_errors:
            raise await self._final_error(response)
        try:
            if not self._stream:
                await self._within_total_timeout(read_whole(response, self._options.max_response_bytes))
        except httpx.RequestError as error:
            error.request = response.request
            error.add_note(state.format_attempts())
            raise
        return response

    async def _final_error(self, response: PrefectResponse) -> PrefectHTTPStatusError | ThrottleTimeout:
        """Return the error for a response, or one that it is the cause of if the throttle's max_wait is too short."""
        state, error = self._retry_state(), await self._status_error(response)
        if state.too_long is None:
            return error
        timeout = ThrottleTimeout(state.too_long, request=response.request)
        timeout.add_note(state.format_attempts())
        timeout.__cause__ = error
        return timeout

    async def _status_error(self, response: PrefectResponse) -> PrefectHTTPStatusError:
        """Read the beginning of the response for its error, close it, and return the error."""
        state, max_bytes = self._retry_state(), STREAMED_ERROR_BYTES if self._stream else ERROR_BYTES
        if self._options.max_response_bytes is not None:
            max_bytes = min(max_bytes, self._options.max_response_bytes)
        cut = await read_beginning(response, max_bytes=max_bytes, max_seconds=state.seconds_for_error())
        error = status_error(response, tuple(state.attempts))
        error.add_note(state.format_attempts())
        if cut is not None:
            error.add_note(f"The response body is incomplete: {cut}.")
        return error


def is_plain(request: httpx.Request, options: SendOptions, policy: RetryPolicy, max_redirects: int) -> bool:
    """Return whether a request needs nothing but to be sent, if its response is accepted at once."""
    return (
        options.is_simple
        and policy.total_timeout is None
        and max_redirects >= 0
        and type(request.stream) is httpx.ByteStream
        and not _logger.isEnabledFor(logging.DEBUG)
    )


def accept_whole(request: httpx.Request, response: PrefectResponse, options: SendOptions) -> bool:
    """Accept the response to a plain request, and read it, if it is good and has arrived whole.

    Returns:
        Whether it is.
    """
    extensions = response.extensions
    is_good = is_success(response) and REJECTED not in extensions and _NETWORK_STREAM in extensions
    if not (is_good and read_held_body(response)):
        return False
    options.answered.add(request.url)
    response.history = []
    return True


def _too_many_redirects(request: httpx.Request) -> httpx.TooManyRedirects:
    return httpx.TooManyRedirects("Exceeded maximum allowed redirects.", request=request)


def _request_of(error: httpx.RequestError, default: httpx.Request) -> httpx.Request:
    """Return the request of an error; an event hook, or an auth flow, may have raised one without."""
    try:
        return error.request
    except RuntimeError:
        return default


async def _until(deadline: float, step: Awaitable[T], policy: RetryPolicy) -> T:
    with anyio.CancelScope(deadline=deadline):
        return await step
    raise httpx.TimeoutException(f"total_timeout of {policy.total_timeout:g} s has passed")


def _call(hook: Hook, name: str, request: httpx.Request, attempt: Attempt) -> None:
    returned = hook(request, attempt)
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError(f"{name} {HOOK_MUST_BE}, not the async {hook!r}")
