"""One call of ``send()``: its attempts so far, and how the next failure is judged."""

from __future__ import annotations

import math
import random

import anyio
import httpx

from prefect_http._attempt import Attempt
from prefect_http._client.one_shot_body import OneShotBody
from prefect_http._error_limits import seconds_for_error
from prefect_http._response import REJECTED, retry_after
from prefect_http._retry.decision import FailedAttempt, Failure, Retry, classify, decide
from prefect_http._retry.policy import RetryPolicy


class RetryState:
    """What one ``send()`` knows once an attempt has failed: the request, the rules, and what has happened.

    Attributes:
        deadline: when ``total_timeout`` ends, on the event loop's clock; infinity without one.
        attempts: the failed attempts, oldest first.
        resume_at: when the next attempt is due, on the event loop's clock.
    """

    __slots__ = ("_body", "attempts", "deadline", "policy", "request", "resume_at")

    def __init__(
        self, request: httpx.Request, policy: RetryPolicy, body: OneShotBody | None, deadline: float | None
    ) -> None:
        self.request = request
        self.policy = policy
        self._body = body
        self.deadline = math.inf if deadline is None else deadline
        self.attempts: list[Attempt] = []
        self.resume_at = -math.inf

    def record(
        self,
        failed: httpx.Response | httpx.RequestError,
        started: float,
        *,
        client_is_closed: bool,
        origin_has_answered: bool = True,
    ) -> Attempt:
        """Decide whether a failed attempt is followed by another, and put it on the record.

        Args:
            failed: the response, or what was raised in its place.
            started: when the attempt began, on the event loop's clock.
            client_is_closed: whether the client has been closed meanwhile.
            origin_has_answered: whether the failing origin has answered before.
        """
        now = anyio.current_time()
        if isinstance(failed, httpx.Response):
            status_code, exception = failed.status_code, None
            is_refusal = status_code in self.policy.statuses or REJECTED in failed.extensions
            failure = Failure.REFUSED if is_refusal else Failure.FINAL
            wanted_wait, redirected = retry_after(failed), failed.request
        else:
            status_code, exception = None, failed
            failure, wanted_wait, redirected = classify(failed), None, failed.request
        situation = FailedAttempt(
            number=len(self.attempts) + 1,
            failure=failure,
            what=str(status_code) if exception is None else type(exception).__name__,
            retry_after=wanted_wait,
            method=self.request.method,
            redirected_method=redirected.method,
            has_idempotency_key="Idempotency-Key" in self.request.headers,
            body_is_spent=self._body is not None and self._body.is_spent,
            origin_has_answered=origin_has_answered,
            client_is_closed=client_is_closed,
            total_left=self.deadline - now,
            deadline_left=anyio.current_effective_deadline() - now,
        )
        decision = decide(self.policy, situation, random.random())
        delay = decision.delay if isinstance(decision, Retry) else None
        attempt = Attempt(situation.number, status_code, exception, delay, decision.reason, now - started)
        self.attempts.append(attempt)
        self.resume_at = now + (delay or 0.0)
        return attempt

    def seconds_for_error(self) -> float:
        """Say for how long an error body may be read, so that its error still comes before the deadlines."""
        return min(seconds_for_error(), self.deadline - anyio.current_time())

    def failed_request(self, error: httpx.RequestError) -> httpx.Request:
        """Give the request that failed, which differs from the first one after a redirect."""
        try:
            return error.request
        except RuntimeError:  # raised by someone who did not say for what
            return self.request
