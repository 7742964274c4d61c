"""RetryPolicy: what is repeated, how often, and how long to wait. Pure."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from prefect_http._attempt import format_seconds

_STATUSES = frozenset({429, 502, 503})


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """What is retried, how often, and how long to wait. Immutable, and safe to share.

    Attributes:
        max_retries: the number of attempts after the first; 0: no retries. ``PREFECT_CLIENT_MAX_RETRIES``.
        statuses: the statuses that are retried, for any method; each from 300 to 999.
            ``PREFECT_CLIENT_RETRY_EXTRA_CODES`` ("408,504") adds to the default.
        backoff_base: before retry n, the client waits ``backoff_base ** n`` seconds, unless there is a ``Retry-After``.
        max_backoff: the longest such wait in seconds, jitter included.
        jitter: waits are randomly longer or shorter by up to this fraction, 0 to 1; a ``Retry-After`` is only made
            longer. ``PREFECT_CLIENT_RETRY_JITTER_FACTOR``.
        max_retry_after: if a ``Retry-After`` asks for more seconds than this, the client gives up at once.
        total_timeout: the seconds for all attempts and waits of one ``send()``; None: no limit. If it ends during an
            attempt, ``httpx.TimeoutException`` is raised. With ``stream=True`` it covers the time until the response
            headers arrive.
        retry_non_idempotent: whether to retry POST, PATCH and other methods that are not idempotent even if the server
            may have acted on the request.

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
        # A copy: otherwise changes to the caller's set would change the policy.
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
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Return the default policy with the settings from the environment. An empty variable counts as not set.

        Args:
            environ: the environment's variables; None: those of the process.

        Raises:
            ValueError: a variable's value is invalid; the message names the variable.
        """
        if environ is None:  # os.environ as the default would be in what help() shows, with all that is secret in it
            environ = os.environ
        policy = cls() if cls is not RetryPolicy else cast(Self, _DEFAULT)
        for variable, name, parse, expected in _VARIABLES:
            text = environ.get(variable, "").strip()
            if text:
                try:
                    policy = replace(policy, **{name: parse(text)})
                except ValueError:
                    raise ValueError(f"environment variable {variable} must be {expected}, not {text!r}") from None
        return policy

    def wait_bounds(self, number: int, retry_after: float | None) -> tuple[float, float, str]:
        """Return how long to wait before a retry.

        Args:
            number: the number of the retry, counted from 1.
            retry_after: what the response asked for, in seconds; None if it did not ask.

        Returns:
            The shortest and the longest wait in seconds, between which jitter chooses, and the reason.
        """
        if retry_after is not None:
            return retry_after, retry_after * (1 + self.jitter), f"Retry-After of {format_seconds(retry_after)} s"
        try:
            backoff = min(self.backoff_base**number, self.max_backoff)
        except OverflowError:
            backoff = self.max_backoff
        low, high = backoff * (1 - self.jitter), min(backoff * (1 + self.jitter), self.max_backoff)
        return low, high, f"backoff of {format_seconds(backoff)} s"


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # int() accepts 1_0 as well
        raise ValueError
    return int(text)


def _statuses_with(text: str) -> frozenset[int]:
    return _STATUSES | {_whole_number(code.strip()) for code in text.split(",") if code.strip()}


_VARIABLES: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("PREFECT_CLIENT_MAX_RETRIES", "max_retries", _whole_number, "a whole number, 0 or more"),
    ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "statuses", _statuses_with, "status codes from 300 to 999, as in '408,504'"),
    ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "jitter", float, "a number from 0 to 1"),
)


def _frozen(statuses: Set[int]) -> frozenset[int]:
    try:
        if isinstance(statuses, str | bytes):
            raise TypeError
        codes = frozenset(statuses)
    except TypeError:
        raise ValueError(f"statuses must be a set of status codes, not {statuses!r}") from None
    for code in codes:
        # Servers send codes above 599 as well. A retry of a 1xx or 2xx would repeat what has succeeded.
        if not _is_int(code) or not 300 <= code <= 999:
            raise ValueError(f"statuses must contain integers from 300 to 999, not {code!r}")
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


# Made once, because each client without a policy of its own has it.
_DEFAULT = RetryPolicy()
