"""Whether a failed attempt is followed by another, and after what wait. Pure: no clock, no sleep, no random of its own.

An attempt fails in one of these ways, which decide whether it may be repeated (RFC 9110, section 9.2.2):

    REJECTED     a status that the policy lists     yes, any method: the server says that it has not acted on it
    NEVER_SENT   the request was not sent, or not   yes, any method
                 processed, as the server says
    UNREACHABLE  no connection, also for a proxy    as NEVER_SENT if the origin has answered before, otherwise no: a
                                                    wrong address fails fast, a server that restarts gets its time
    AMBIGUOUS    it broke off on the way            if repeating is safe: the server may have acted on it
    FINAL        anything else                      no

A response can overrule its status: ``x-should-retry: false`` makes it FINAL, and ``true`` turns FINAL into AMBIGUOUS.
In addition the body must be repeatable, a retry must be left, and the wait must be allowed and must fit. With a
throttle, its ``max_wait`` decides which waits are allowed, not the policy's ``max_retry_after``.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

import httpx

from prefect_http._attempt import format_seconds
from prefect_http._errors import InvalidResponse, ThrottleTimeout
from prefect_http._fields.epoch import LONGEST_WAIT
from prefect_http._fields.methods import IDEMPOTENT_METHODS
from prefect_http._internal_errors import RequestNotProcessed, TunnelDelayed, TunnelFailed
from prefect_http._retry.policy import RetryPolicy


class Failure(enum.Enum):
    """How an attempt failed; see the table at the top of the file."""

    REJECTED = enum.auto()
    NEVER_SENT = enum.auto()
    UNREACHABLE = enum.auto()
    AMBIGUOUS = enum.auto()
    FINAL = enum.auto()


_FAILURES: tuple[tuple[type[Exception], Failure], ...] = (
    # Not sent either, but the throttle knows that another attempt would end in the same way.
    (ThrottleTimeout, Failure.FINAL),
    # What sent it is not an HTTP server, and will not be one the next time.
    (InvalidResponse, Failure.FINAL),
    (RequestNotProcessed, Failure.NEVER_SENT),
    (TunnelDelayed, Failure.NEVER_SENT),
    (TunnelFailed, Failure.UNREACHABLE),
    (httpx.ConnectTimeout, Failure.NEVER_SENT),
    (httpx.PoolTimeout, Failure.NEVER_SENT),
    (httpx.ConnectError, Failure.UNREACHABLE),
    (httpx.ReadTimeout, Failure.AMBIGUOUS),
    (httpx.WriteTimeout, Failure.AMBIGUOUS),
    (httpx.ReadError, Failure.AMBIGUOUS),
    (httpx.WriteError, Failure.AMBIGUOUS),
    (httpx.RemoteProtocolError, Failure.AMBIGUOUS),
)


def classify(exception: Exception) -> Failure:
    """Return how an attempt failed that ended in this exception of httpx."""
    return next((failure for kind, failure in _FAILURES if isinstance(exception, kind)), Failure.FINAL)


class FailedAttempt(NamedTuple):
    """The facts that the decision is based on.

    Attributes:
        retry: the number of the retry that would follow, 1-based; it counts all those of a ``send()``.
        failure: how it failed.
        label: the same for people, "503" or "ReadTimeout".
        retry_after: what the response asked for, in seconds from now.
        retry_after_name: the name of that for people.
        max_wait: how many seconds the client's throttle lets a request wait, infinity: any number; None without one.
        should_retry: what the response's ``x-should-retry`` says; None if it says nothing.
        method: of the request.
        has_idempotency_key: whether the request carries an ``Idempotency-Key``.
        body_is_spent: whether the body is a one-shot stream that has been read, at least in part.
        needs_certificate: whether the server seems to have broken off for want of a client certificate.
        origin_has_answered: whether the origin that failed has answered this client before.
        client_is_closed: whether the client has been closed meanwhile.
        total_left: seconds until ``total_timeout``; infinity without one.
        deadline_left: seconds until the caller's own deadline; infinity without one.
    """

    retry: int
    failure: Failure
    label: str
    retry_after: float | None = None
    retry_after_name: str = "Retry-After"
    max_wait: float | None = None
    should_retry: bool | None = None
    method: str = "GET"
    has_idempotency_key: bool = False
    body_is_spent: bool = False
    needs_certificate: bool = False
    origin_has_answered: bool = True
    client_is_closed: bool = False
    total_left: float = math.inf
    deadline_left: float = math.inf


class Retry(NamedTuple):
    """Send the request again after ``delay`` seconds."""

    delay: float
    reason: str


class GiveUp(NamedTuple):
    """Make no further attempt.

    Attributes:
        reason: why.
        exceeds_max_wait: whether that is because the server asks for a longer wait than the throttle allows.
    """

    reason: str
    exceeds_max_wait: bool = False


def decide(policy: RetryPolicy, failed: FailedAttempt, random: float) -> Retry | GiveUp:
    """Decide whether a failed attempt is followed by another.

    Args:
        policy: the rules.
        failed: what happened.
        random: a number from 0 (included) to 1 (excluded) that places the wait between its bounds.
    """
    reason = _reason_not_to_retry(policy, failed)
    if reason is not None:
        return GiveUp(reason)
    asked = failed.retry_after
    if asked is not None:
        longest, name = policy.max_retry_after, "max_retry_after"
        if failed.max_wait is not None:
            longest, name = failed.max_wait, "max_wait"
        if asked > longest:
            reason = f"{_asked_for(failed.retry_after_name, asked)} exceeds {name} of {format_seconds(longest)} s"
            return GiveUp(reason, exceeds_max_wait=failed.max_wait is not None)
        if failed.max_wait is not None and asked > LONGEST_WAIT:
            asked = None  # a mistake: the gate of the throttle does not close for so long either
    low, high, reason = policy.wait_bounds(failed.retry, asked)
    if asked is not None:
        reason = _asked_for(failed.retry_after_name, asked)
    for left, limit in ((failed.total_left, "total_timeout"), (failed.deadline_left, "the caller's deadline")):
        if low >= left:
            wait, remaining = format_seconds(low), format_seconds(max(left, 0))
            problem = "would leave no time for an attempt" if wait == remaining else "is too long"
            return GiveUp(f"a {reason} {problem}: only {remaining} s remain until {limit}")
        high = min(high, left)
    return Retry(low + (high - low) * random, reason)


def _reason_not_to_retry(policy: RetryPolicy, failed: FailedAttempt) -> str | None:
    """Return why there is no further attempt, however long the wait would be; None if there may be one."""
    if failed.should_retry is False:
        return f"{failed.label} is not retried: x-should-retry is false"
    failure = failed.failure
    if failure is Failure.FINAL and failed.should_retry:
        failure = Failure.AMBIGUOUS
    if failure is Failure.FINAL:
        return f"{failed.label} is not retried" if failed.total_left > 0 else "total_timeout has passed"
    if failed.client_is_closed:
        return "the client has been closed"
    if failure is Failure.UNREACHABLE and not failed.origin_has_answered:
        return "the host has never answered this client, so the address may be wrong"
    if failed.needs_certificate:
        return "the server closes the connection right after the TLS handshake; it may require a client certificate"
    # Before the method, since otherwise the advice about that would not help.
    if failed.body_is_spent:
        return "the request body is a one-shot stream, and some of it has been read"
    is_repeatable = failed.method in IDEMPOTENT_METHODS or failed.has_idempotency_key or policy.retry_non_idempotent
    if failure is Failure.AMBIGUOUS and not is_repeatable:
        return (
            f"the server may have acted on the {failed.method}; an Idempotency-Key header makes it safe to repeat, "
            "and retry_non_idempotent=True repeats it in any case"
        )
    if failed.retry > policy.max_retries:
        return "all retries are used up" if policy.max_retries else "max_retries is 0"
    return None


def _asked_for(name: str, seconds: float) -> str:
    return f"{name} of {format_seconds(seconds)} s"
