"""Virtual time for asyncio: an event loop on which waiting takes no time, as under trio's MockClock.

Its clock stands still while a task can run, and jumps to the next timer as soon as none can. That is right only if
nothing but timers can wake a task, so whatever waits for the outside world is refused: real sockets, pipes,
subprocesses and threads. Nothing has to be polled then, but for signals.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import selectors
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextvars import Context
from types import FrameType
from typing import Any, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(BaseException):
    """All tasks are waiting, and there is no timer: on another event loop, they would wait forever.

    It is raised out of the run of the event loop, such as ``asyncio.Runner.run()``. Like a KeyboardInterrupt, it is not
    an Exception: only then does anyio's pytest plugin end a test that is stuck, and leave its fixtures.
    """


def virtual_time_loop() -> asyncio.AbstractEventLoop:
    """Return a new asyncio event loop in virtual time, on which an hour takes no time.

    Pass this function as a loop factory: to ``asyncio.Runner(loop_factory=...)``, in anyio's ``backend_options``, or to
    anyio's pytest plugin::

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": virtual_time_loop}

    The loop's clock starts at 0.0. It stands still while a task can run, and jumps to exactly the time of the next
    timer when all tasks are waiting. Timers that are due at the same time fire in the order in which they were set.

    Only asyncio's own clock is virtual: ``loop.time()`` and ``anyio.current_time()``, ``asyncio.sleep()``, timeouts.
    ``time.monotonic()``, ``time.time()`` and ``time.sleep()`` are not.

    Calls that would wait for the outside world raise a RuntimeError: sockets, name lookups, pipes, subprocesses, and
    threads, such as ``asyncio.to_thread()`` and ``anyio.to_thread.run_sync()``. So does a call of
    ``call_soon_threadsafe()`` from another thread while the loop is running. If all tasks are waiting and there is no
    timer, the run ends with a Deadlock that shows where each of them waits.
    """
    return _VirtualTimeLoop()


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    is_time_virtual = True  # what the package calls in threads elsewhere, it calls without one here
    _scheduled: list[asyncio.TimerHandle]  # asyncio's own heap; cancelled timers do not stay at its top

    def __init__(self) -> None:
        self._thread: int | None = None
        self._has_main_task = False
        self._timers = itertools.count()
        super().__init__(_Selector(self._jump))
        self._set_time(0.0)

    def time(self) -> float:
        return self._now

    def _set_time(self, now: float) -> None:
        self._now = now
        # How much later than now a timer may be to fire now: less than any, but enough to be seen in a sum.
        self._clock_resolution = math.ulp(now)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(_Due(when, next(self._timers)), callback, *args, context=context)

    def _jump(self) -> None:
        """Advance the clock to the next timer, as no task can run."""
        __tracebackhide__ = True
        due = self._scheduled[0].when() if self._scheduled else math.inf
        if not due < math.inf:
            raise Deadlock(_describe(self))
        self._set_time(float(due))

    def run_forever(self) -> None:
        self._thread = threading.get_ident()
        super().run_forever()

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        self._has_main_task = True
        try:
            return super().run_until_complete(future)
        finally:
            self._has_main_task = False

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        # A signal handler may call this in the loop's own thread, and asyncio does so for async generators.
        if self.is_running() and self._thread != threading.get_ident():
            raise RuntimeError(_refusal("another thread called loop.call_soon_threadsafe()", _THREADS))
        return super().call_soon_threadsafe(callback, *args, context=context)

    def create_task(self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
        is_plain = self.is_running() and self._has_main_task  # which takes 2 us less
        if is_plain or self.is_closed() or self.get_task_factory() is not None:
            return super().create_task(coro, **options)
        return _MainTask(coro, loop=self, **options)


class _MainTask(asyncio.Task[T]):
    """The task that the loop is started for, or any task if there is none, as with ``run_forever()``."""

    def add_done_callback(self, callback: Callable[..., object], /, **options: Any) -> None:
        """Refuse to tell a thread when the task is done.

        anyio starts its worker threads without the event loop. But each has to stop when the main task is done, and
        anyio asks for that before it hands over the work, still in the task that called ``run_sync()``.
        """
        if isinstance(getattr(callback, "__self__", None), threading.Thread):
            callback(self)
            raise RuntimeError(_refusal("anyio.to_thread.run_sync() was called", _THREADS))
        super().add_done_callback(callback, **options)


class _Due(float):
    """The time of a timer. Of two that are equal, that of the timer which was set first is less."""

    __slots__ = ("_number",)
    _number: int

    def __new__(cls, when: float, number: int) -> _Due:
        self = super().__new__(cls, when)
        self._number = number
        return self

    def __lt__(self, other: float) -> bool:
        if isinstance(other, _Due) and float.__eq__(self, other):
            return self._number < other._number
        return float.__lt__(self, other)


class _Selector(selectors.DefaultSelector):
    """Calls a function rather than wait.

    All that it watches is the loop's own pipe, which says that a signal has arrived. That can wait until no task can
    run, which saves a system call in each turn of the loop.
    """

    def __init__(self, on_idle: Callable[[], None]) -> None:
        super().__init__()
        self._on_idle = on_idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        __tracebackhide__ = True
        if timeout is not None and timeout <= 0:
            return []
        events = super().select(0)
        if not events:
            self._on_idle()
        return events


# --- What is refused

_NETWORK = "use prefect_http.testing.FakeNetwork in place of the network"
_THREADS = "call the function without a thread"
_PROCESSES = "replace the subprocess by a fake"
_PIPES = "replace the pipe by a fake, such as one of anyio's memory streams"

_REFUSED = {
    "add_reader": _NETWORK,
    "add_writer": _NETWORK,
    "connect_accepted_socket": _NETWORK,
    "connect_read_pipe": _PIPES,
    "connect_write_pipe": _PIPES,
    "create_connection": _NETWORK,
    "create_datagram_endpoint": _NETWORK,
    "create_server": _NETWORK,
    "create_unix_connection": _NETWORK,
    "create_unix_server": _NETWORK,
    "getaddrinfo": _NETWORK,
    "getnameinfo": _NETWORK,
    "run_in_executor": _THREADS,
    "set_default_executor": _THREADS,
    "sock_accept": _NETWORK,
    "sock_connect": _NETWORK,
    "sock_recv": _NETWORK,
    "sock_recv_into": _NETWORK,
    "sock_recvfrom": _NETWORK,
    "sock_recvfrom_into": _NETWORK,
    "sock_sendall": _NETWORK,
    "sock_sendfile": _NETWORK,
    "sock_sendto": _NETWORK,
    "subprocess_exec": _PROCESSES,
    "subprocess_shell": _PROCESSES,
}


def _refusal(event: str, remedy: str) -> str:
    return (
        f"{event} in virtual time, which cannot wait for real sockets, threads or processes: "
        f"{remedy}, or run this on asyncio's own event loop, without virtual_time_loop"
    )


def _refuse(name: str, remedy: str) -> Callable[..., NoReturn]:
    def refuse(self: _VirtualTimeLoop, *args: object, **options: object) -> NoReturn:
        raise RuntimeError(_refusal(f"loop.{name}() was called", remedy))

    return refuse


for _name, _remedy in _REFUSED.items():
    setattr(_VirtualTimeLoop, _name, _refuse(_name, _remedy))


# --- The message of a deadlock

_MAX_TASKS = 10


def _describe(loop: asyncio.AbstractEventLoop) -> str:
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
    parts = ["all tasks wait, and there is no timer: in virtual time, nothing can wake them"]
    parts += [f"{task.get_name()} waits here:\n{_stack(task)}" for task in tasks[:_MAX_TASKS]]
    if len(tasks) > _MAX_TASKS:
        parts.append(f"... and {len(tasks) - _MAX_TASKS} more")
    return "\n\n".join(parts)


def _stack(task: asyncio.Task[Any]) -> str:
    frames = ((frame, frame.f_lineno) for frame in _frames(task.get_coro()))
    return "".join(traceback.StackSummary.extract(frames).format()).rstrip()


def _frames(awaitable: object) -> Iterator[FrameType]:
    """Return the frames of a coroutine and of what it awaits; ``Task.get_stack()`` has only the first."""
    while awaitable is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaitable, f"{kind}_frame")), "")
        frame = getattr(awaitable, f"{kind}_frame", None)
        if frame is not None:
            yield frame
        awaitable = getattr(awaitable, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
