"""What all ``send()`` of a client have in common, and the checks of what users give."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from prefect_http._attempt import Attempt
from prefect_http._callbacks import is_async
from prefect_http._client.answered_origins import AnsweredOrigins
from prefect_http._concurrency.loop_binding import LoopBinding
from prefect_http._retry.policy import RetryPolicy
from prefect_http._telemetry import Telemetry

Hook = Callable[[httpx.Request, Attempt], object]

HOOK_MUST_BE = "must be a sync function that takes a request and an attempt"


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
        default_encoding: of the texts of responses, as in httpx.
        telemetry: is told of each attempt and each wait.
        is_simple: whether nothing of the client observes, limits or prepares an attempt that is accepted at once.
        answered: the origins that have answered the client.
    """

    __slots__ = (
        *("_binding", "answered", "default_encoding", "is_in_process", "max_response_bytes", "max_wait", "is_simple"),
        *("on_attempt", "on_retry", "policy", "raise_on_all_errors", "telemetry"),
    )

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        raise_on_all_errors: bool = True,
        on_retry: Hook | None = None,
        on_attempt: Hook | None = None,
        max_response_bytes: int | None = None,
        max_wait: float | None = None,
        is_in_process: bool = False,
        default_encoding: str | Callable[[bytes], str] = "utf-8",
        telemetry: Telemetry | None = None,
    ) -> None:
        self.policy = policy
        self.raise_on_all_errors = raise_on_all_errors
        self.on_retry = on_retry
        self.on_attempt = on_attempt
        self.max_response_bytes = max_response_bytes
        self.max_wait = max_wait
        self.is_in_process = is_in_process
        self.default_encoding = default_encoding
        self.telemetry = telemetry
        self.answered = AnsweredOrigins()
        self._binding: LoopBinding | None = None
        # Compared with None, since a hook may be falsy, such as an empty list that can be called.
        self.is_simple = not is_in_process and on_attempt is None and telemetry is None and max_response_bytes is None

    def clock(self) -> Callable[[], float]:
        """Return the function that reads the running event loop's clock."""
        binding = self._binding
        if binding is None or not binding.is_current():
            binding = self._binding = LoopBinding()
        return binding.now


def checked_hook(hook: Hook | None, name: str) -> Hook | None:
    """Return a hook that is a plain function, or None; otherwise raise a TypeError."""
    if hook is not None and (not callable(hook) or is_async(hook)):
        raise TypeError(f"{name} {HOOK_MUST_BE}, not {hook!r}")
    return hook


def check_telemetry(telemetry: object) -> None:
    """Raise a TypeError if a telemetry is none."""
    if telemetry is not None and not isinstance(telemetry, Telemetry):
        raise TypeError(f"telemetry must be an object of a subclass of prefect_http.Telemetry, not {telemetry!r}")


def checked_policy(policy: object, where: str) -> RetryPolicy:
    """Return a policy that is one, or raise a TypeError."""
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"{where} must be a RetryPolicy, not {policy!r}")
    return policy


def check_open(client: httpx.AsyncClient) -> None:
    """Raise a RuntimeError, as httpx does, if a client has been closed."""
    if client.is_closed:
        raise RuntimeError("Cannot send a request, as the client has been closed.")
