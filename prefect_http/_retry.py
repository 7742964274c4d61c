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
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx

from prefect_http._attempt import seconds
from prefect_http._errors import ThrottleTimeout

_STATUSES = frozenset({429, 502, 503})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """What is repeated, how often, and how long to wait. Immutable, and safe to share.

    Attributes:
        max_retries: attempts after the first; 0 for none. ``PREFECT_CLIENT_MAX_RETRIES``.
        statuses: the statuses that are repeated, for any method.
            ``PREFECT_CLIENT_RETRY_EXTRA_CODES`` ("408,504") adds to the default.
        backoff_base: retry n comes ``backoff_base ** n`` seconds after a failure without ``Retry-After``.
        max_backoff: the longest such wait in seconds, jitter included.
        jitter: waits are spread evenly by this fraction either way, 0 to 1; a ``Retry-After`` only upwards.
            ``PREFECT_CLIENT_RETRY_JITTER_FACTOR``.
        max_retry_after: a ``Retry-After`` of more seconds is refused: the client gives up at once.
        total_timeout: seconds for all attempts and waits of one ``send()``; None for no limit. An attempt that
            is still under way by then ends in ``httpx.TimeoutException``. With ``stream=True`` it covers the
            time until the response's headers are there.
        retry_non_idempotent: repeat POST and PATCH (and whatever else is not idempotent) also when the server
            may have acted on them.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the field.
    """

    max_retries: int = 5
    statuses: Set[int] = _STATUSES
    backoff_base: float = 2.0
    max_backoff: float = 120.0
    jitter: float = 0.2
    max_retry_after: float = 300.0
    total_timeout: float | None = None
    retry_non_idempotent: bool = False

    def __post_init__(self) -> None:
        _require(_is_int(self.max_retries) and self.max_retries >= 0, self, "max_retries", "an integer, 0 or more")
        # A copy, so that nobody can change the policy through the set that it was made from.
        object.__setattr__(self, "statuses", _frozen(self.statuses))
        for name in ("backoff_base", "max_backoff", "max_retry_after"):
            value = getattr(self, name)
            _require(_is_finite(value) and value >= 0, self, name, "a finite number, 0 or more")
        _require(_is_finite(self.jitter) and 0 <= self.jitter <= 1, self, "jitter", "a number from 0 to 1")
        _require(
            self.total_timeout is None or (_is_finite(self.total_timeout) and self.total_timeout > 0),
            self,
            "total_timeout",
            "None or a finite number above 0",
        )
        _require(isinstance(self.retry_non_idempotent, bool), self, "retry_non_idempotent", "True or False")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Make the default policy, changed by the environment. A variable that is empty counts as not set.

        Raises:
            ValueError: a variable's value is bad; the message names the variable.
        """
        policy = cls()
        for variable, name, parse, expected in _VARIABLES:
            text = environ.get(variable, "").strip()
            if text:
                try:
                    policy = replace(policy, **{name: parse(text)})
                except ValueError:
                    raise ValueError(f"environment variable {variable} must be {expected}, not {text!r}") from None
        return policy

    def wait_bounds(self, number: int, retry_after: float | None) -> tuple[float, float, str]:
        """Say when retry ``number`` (1-based) may come.

        Returns:
            The earliest and the latest wait in seconds, between which jitter chooses, and the reason.
        """
        if retry_after is not None:
            return retry_after, retry_after * (1 + self.jitter), f"Retry-After of {seconds(retry_after)} s"
        try:
            backoff = min(self.backoff_base**number, self.max_backoff)
        except OverflowError:
            backoff = self.max_backoff
        low, high = backoff * (1 - self.jitter), min(backoff * (1 + self.jitter), self.max_backoff)
        return low, high, f"backoff of {seconds(backoff)} s"


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # int() reads 1_0 as well
        raise ValueError
    return int(text)


def _statuses_with(text: str) -> frozenset[int]:
    return _STATUSES | {_whole_number(code.strip()) for code in text.split(",") if code.strip()}


_VARIABLES: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("PREFECT_CLIENT_MAX_RETRIES", "max_retries", _whole_number, "a whole number, 0 or more"),
    ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "statuses", _statuses_with, "status codes, as in '408,504'"),
    ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "jitter", float, "a number from 0 to 1"),
)


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
class Situation:
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


def decide(policy: RetryPolicy, situation: Situation, random: float) -> Retry | GiveUp:
    """Decide on a failed attempt.

    Args:
        policy: the rules.
        situation: what happened.
        random: a number from 0 up to 1 that places the wait between its bounds.
    """
    obstacle = _obstacle(policy, situation)
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


def _obstacle(policy: RetryPolicy, situation: Situation) -> str | None:
    """Say what forbids another attempt, whatever the wait; None if nothing does."""
    may_repeat = situation.method in SAFE_METHODS or situation.has_idempotency_key or policy.retry_non_idempotent
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


def _frozen(statuses: Set[int]) -> frozenset[int]:
    try:
        if isinstance(statuses, str | bytes):
            raise TypeError
        codes = frozenset(statuses)
    except TypeError:
        raise ValueError(f"statuses must be a set of status codes, not {statuses!r}") from None
    for code in codes:
        if not _is_int(code) or not 100 <= code <= 599:
            raise ValueError(f"statuses must hold integers from 100 to 599, not {code!r}")
    return codes


def _require(holds: bool, policy: RetryPolicy, name: str, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, not {getattr(policy, name)!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
