"""Whether a failed attempt is repeated, and after what wait. Pure: no clock, no sleep, no random of its own.

An attempt fails in one of these ways, and the way decides (RFC 9110, section 9.2.2):

    REFUSED      a status that the policy lists     repeat, any method: the server says it did not do it
    NEVER_SENT   the request did not leave          repeat, any method
    UNREACHABLE  no connection                      as NEVER_SENT, once the origin has answered before: a wrong
                                                    address fails fast, a restarting server does not
    AMBIGUOUS    it broke off on the way            repeat if that is safe: the server may have done it
    FINAL        anything else                      never

Then the body must be there to be sent again, a retry must be left, and the wait must be allowed and must fit.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import httpx

from prefect_http._attempt import seconds
from prefect_http._errors import ThrottleTimeout
from prefect_http._fields.methods import IDEMPOTENT_METHODS
from prefect_http._retry.policy import RetryPolicy


class Failure(enum.Enum):
    """In what way an attempt failed; see the table at the top of the file."""

    REFUSED = enum.auto()
    NEVER_SENT = enum.auto()
    UNREACHABLE = enum.auto()
    AMBIGUOUS = enum.auto()
    FINAL = enum.auto()


_FAILURES: tuple[tuple[type[Exception], Failure], ...] = (
    # It was not sent either, but the throttle knows already that another attempt would come to the same.
    (ThrottleTimeout, Failure.FINAL),
    (httpx.ConnectTimeout, Failure.NEVER_SENT),
    (httpx.PoolTimeout, Failure.NEVER_SENT),
    (httpx.ConnectError, Failure.UNREACHABLE),
    (httpx.ReadTimeout, Failure.AMBIGUOUS),
    (httpx.WriteTimeout, Failure.AMBIGUOUS),
    (httpx.ReadError, Failure.AMBIGUOUS),
    (httpx.WriteError, Failure.AMBIGUOUS),
    (httpx.RemoteProtocolError, Failure.AMBIGUOUS),
    (httpx.LocalProtocolError, Failure.AMBIGUOUS),
)


def classify(exception: Exception) -> Failure:
    """Say in what way an exception of httpx failed the attempt."""
    return next((failure for kind, failure in _FAILURES if isinstance(exception, kind)), Failure.FINAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedAttempt:
    """What the decision looks at.

    Attributes:
        number: the failed attempt's, 1-based.
        failure: in what way it failed.
        what: the same for people, "503" or "ReadTimeout".
        retry_after: what the response asked for, in seconds from now.
        method: of the request as it was first sent.
        redirected_method: of the request that failed, which a redirect may have changed.
        has_idempotency_key: the request carries an ``Idempotency-Key``.
        body_is_spent: the body was a one-shot stream, and reading it has begun.
        origin_has_answered: the failing origin has answered this client before.
        client_is_closed: the client has been closed meanwhile.
        total_left: seconds until ``total_timeout``; infinity without one.
        deadline_left: seconds until the caller's own deadline; infinity without one.
    """

    number: int
    failure: Failure
    what: str
    retry_after: float | None = None
    method: str = "GET"
    redirected_method: str = "GET"
    has_idempotency_key: bool = False
    body_is_spent: bool = False
    origin_has_answered: bool = True
    client_is_closed: bool = False
    total_left: float = math.inf
    deadline_left: float = math.inf


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the request again after ``delay`` seconds."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Make no further attempt."""

    reason: str


def decide(policy: RetryPolicy, situation: FailedAttempt, random: float) -> Retry | GiveUp:
    """Decide on a failed attempt.

    Args:
        policy: the rules.
        situation: what happened.
        random: a number from 0 up to 1 that places the wait between its bounds.
    """
    obstacle = _reason_not_to_retry(policy, situation)
    if obstacle is not None:
        return GiveUp(obstacle)
    low, high, reason = policy.wait_bounds(situation.number, situation.retry_after)
    for left, limit in (
        (situation.total_left, "total_timeout"),
        (situation.deadline_left, "the caller's deadline"),
    ):
        if low >= left:
            return GiveUp(f"a {reason} does not fit: {limit} is {seconds(max(left, 0))} s away")
        high = min(high, left)
    return Retry(low + (high - low) * random, reason)


def _reason_not_to_retry(policy: RetryPolicy, situation: FailedAttempt) -> str | None:
    """Say what forbids another attempt, whatever the wait; None if nothing does."""
    may_repeat = situation.method in IDEMPOTENT_METHODS or situation.has_idempotency_key or policy.retry_non_idempotent
    if situation.failure is Failure.FINAL:
        return f"{situation.what} is not retried" if situation.total_left > 0 else "no time is left"
    if situation.client_is_closed:
        return "the client has been closed"
    if situation.failure is Failure.UNREACHABLE and not situation.origin_has_answered:
        return "the address has never answered, so it may be wrong"
    if situation.failure is Failure.AMBIGUOUS and not may_repeat:
        return (
            f"the server may have acted on the {situation.method}; an Idempotency-Key header makes it safe to repeat, "
            "and retry_non_idempotent=True repeats it all the same"
        )
    if situation.redirected_method != situation.method and not may_repeat:
        return f"the {situation.method} was carried out, and its redirect to a {situation.redirected_method} failed"
    if situation.body_is_spent:
        return "the request body is a one-shot stream, and reading it has begun"
    if situation.number > policy.max_retries:
        return "all retries are used up" if policy.max_retries else "max_retries is 0"
    if situation.retry_after is not None and situation.retry_after > policy.max_retry_after:
        limit = seconds(policy.max_retry_after)
        return f"Retry-After of {seconds(situation.retry_after)} s exceeds max_retry_after of {limit} s"
    return None
