"""The failed attempts of one ``send()`` so far, and the decision after each."""

from __future__ import annotations

import math
import random
import time

import anyio
import httpx

from prefect_http._attempt import Attempt, format_attempts, format_seconds
from prefect_http._client.one_shot_body import OneShotBody
from prefect_http._error_limits import seconds_for_error
from prefect_http._fields.should_retry import parse_should_retry
from prefect_http._internal_errors import TunnelFailed, public_class
from prefect_http._response import REJECTED, rate_limit, retry_after
from prefect_http._retry.decision import FailedAttempt, Failure, GiveUp, Retry, classify, decide
from prefect_http._retry.policy import RetryPolicy
from prefect_http._throttle.closure_reason import no_requests_for, rejection

# In seconds, from the beginning of an attempt: later, it is not the client's certificate that a server has looked at.
_BEHIND_HANDSHAKE = 5.0
# How a message begins, in httpx and here, if a server closes the connection without sending a response.
_DISCONNECTED = "Server disconnected"


class RetryState:
    """The attempts of one ``send()`` so far, and what decides about the next. Times are on the event loop's clock.

    Attributes:
        policy: the rules.
        deadline: when ``total_timeout`` ends; infinity without one.
        attempts: the attempts, oldest first: those that failed, and those whose response was followed by another
            request, as a redirect is.
        resume_at: when the next attempt is due.
        too_long: why a request failed for the throttle's ``max_wait``, in words; None if it did not.
    """

    __slots__ = (
        *("_exchanges", "_has_broken_tls", "_max_wait", "_retries", "attempts", "deadline", "policy", "resume_at"),
        "too_long",
    )

    def __init__(self, policy: RetryPolicy, deadline: float, max_wait: float | None) -> None:
        self.policy = policy
        self._max_wait = max_wait
        self._has_broken_tls = False
        self._exchanges = 1
        self._retries = 0
        self.deadline = deadline
        self.attempts: list[Attempt] = []
        self.resume_at = -math.inf
        self.too_long: str | None = None

    def decide(
        self,
        request: httpx.Request,
        failed: httpx.Response | httpx.RequestError,
        started: float,
        *,
        body: OneShotBody | None,
        client_is_closed: bool,
        origin_has_answered: bool = True,
    ) -> Attempt:
        """Decide whether a failed attempt is followed by a retry, and return the attempt.

        Args:
            request: the request.
            failed: its response, or the error that was raised instead of one.
            started: when the attempt began.
            body: the body of the request, if that can be sent only once.
            client_is_closed: whether the client has been closed meanwhile.
            origin_has_answered: whether the origin that failed has answered before.
        """
        now = anyio.current_time()
        self.too_long = None
        wait, wait_name, should_retry = None, "Retry-After", None
        needs_certificate = False
        if isinstance(failed, httpx.Response):
            wait, wait_name = _wait_asked_for(failed)
            should_retry = says_should_retry(failed)
            status_code, exception, label = failed.status_code, None, str(failed.status_code)
            is_rejected = status_code in self.policy.statuses or REJECTED in failed.extensions
            failure = Failure.REJECTED if is_rejected else Failure.FINAL
        else:
            status_code, exception, label = None, failed, public_class(failed).__name__
            failure = classify(failed)
            if isinstance(failed, TunnelFailed) and failed.response is not None:
                wait, wait_name = _wait_asked_for(failed.response)
            needs_certificate = (
                not origin_has_answered and now - started < _BEHIND_HANDSHAKE and self._needs_certificate(failed)
            )
        facts = FailedAttempt(
            retry=self._retries + 1,
            failure=failure,
            label=label,
            retry_after=wait,
            retry_after_name=wait_name,
            max_wait=self._max_wait,
            should_retry=should_retry,
            method=request.method,
            has_idempotency_key="Idempotency-Key" in request.headers,
            body_is_spent=body is not None and body.is_spent,
            needs_certificate=needs_certificate,
            origin_has_answered=origin_has_answered,
            client_is_closed=client_is_closed,
            total_left=self.deadline - now,
            deadline_left=anyio.current_effective_deadline() - now,
        )
        decision = decide(self.policy, facts, random.random())
        delay = decision.delay if isinstance(decision, Retry) else None
        if delay is not None:
            self._retries += 1
        self.resume_at = now + (delay or 0.0)
        exceeds_max_wait = isinstance(decision, GiveUp) and decision.exceeds_max_wait
        if exceeds_max_wait and wait is not None and isinstance(failed, httpx.Response):
            self.too_long = self._too_long(failed, wait, wait_name)
        return Attempt(self.number, status_code, exception, delay, decision.reason, now - started)

    def note_next_request(self) -> None:
        """Note that the last attempt is followed by another request, and not by a retry."""
        self._exchanges += 1

    @property
    def number(self) -> int:
        """The number of the current attempt."""
        return len(self.attempts) + 1

    @property
    def max_attempts(self) -> int:
        """The largest number of attempts that there may be if no further redirect or challenge comes."""
        return self.policy.max_retries + self._exchanges

    def _too_long(self, response: httpx.Response, wait: float, name: str) -> str | None:
        """Return the message for a request that was rejected, and would have to wait for longer than ``max_wait``."""
        if REJECTED not in response.extensions:
            return None
        assert self._max_wait is not None
        opens = no_requests_for(wait, rejection(response.status_code, wait, name), time.time())
        return f"the request was rejected: {opens}, and max_wait is {format_seconds(self._max_wait)} s"

    def _needs_certificate(self, error: httpx.RequestError) -> bool:
        """Whether a server that has never answered seems to want a client certificate.

        With TLS 1.3 it refuses the client behind the handshake, as the client sees it. It says so in an alert, but that
        is mostly lost in the reset that follows. So a reset counts the second time: one may happen to any server.
        """
        is_broken = isinstance(error, httpx.ReadError | httpx.WriteError) or (
            isinstance(error, httpx.RemoteProtocolError) and str(error).startswith(_DISCONNECTED)
        )
        if error.request.url.scheme != "https" or not is_broken:
            return False
        had_broken, self._has_broken_tls = self._has_broken_tls, True
        return had_broken or "CERTIFICATE_REQUIRED" in str(error)

    def format_attempts(self) -> str:
        """Return the note for the error that ends the attempts."""
        return format_attempts(self.attempts, self.max_attempts)

    def seconds_for_error(self) -> float:
        """Return for how long an error's body may be read, so that the error is raised before the deadlines."""
        return min(seconds_for_error(), self.deadline - anyio.current_time())


def says_should_retry(response: httpx.Response) -> bool | None:
    """Return what a bad response's ``x-should-retry`` says; None if it says nothing."""
    return parse_should_retry(response.headers.get("x-should-retry")) if response.status_code >= 400 else None


def _wait_asked_for(response: httpx.Response) -> tuple[float | None, str]:
    """Return how many seconds a response asks to wait, and by which name; None if it does not ask."""
    wait = retry_after(response)
    if wait is None and response.status_code == 429:
        limit = rate_limit(response)
        # A reset of 0 s would mean to repeat the request without any wait.
        if limit is not None and limit.reset:
            return limit.reset, "rate limit reset"
    return wait, "Retry-After"
