"""virtual_time_loop: an asyncio event loop on which an hour takes no time, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from prefect_http.testing._virtual_time import Deadlock, virtual_time_loop

pytest_plugins = ["pytester"]

T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]], *, debug: bool = False) -> T:
    """Run a function in virtual time."""
    with asyncio.Runner(debug=debug, loop_factory=virtual_time_loop) as runner:
        return runner.run(main())


def now() -> float:
    """Return the time of the running event loop."""
    return asyncio.get_running_loop().time()


# --- The clock


@pytest.mark.parametrize("debug", [False, True])
def test_an_hour_takes_no_time(debug: bool) -> None:
    """The clock starts at 0.0 and jumps to the end of a wait; asyncio's debug mode sees nothing slow."""

    async def main() -> tuple[float, float, float]:
        start = now()
        await asyncio.sleep(3600)
        return start, now(), anyio.current_time()

    began = time.monotonic()
    assert run(main, debug=debug) == (0.0, 3600.0, 3600.0)
    assert time.monotonic() - began < 60


def test_clock_stands_still_while_a_task_can_run() -> None:
    """However long a task runs, and however often it lets others run, no time passes."""

    async def main() -> float:
        async with asyncio.timeout(0.001):
            for _ in range(1000):
                await asyncio.sleep(0)
            time.sleep(0.002)  # noqa: ASYNC251
            return now()

    assert run(main) == 0.0


def test_clock_takes_exactly_the_times_of_the_timers() -> None:
    """Each timer sees its own time, with no rounding error added on the way; the clock never goes back."""

    async def main() -> None:
        seen: list[float] = []
        loop = asyncio.get_running_loop()
        chance = random.Random(0)
        times = [10 ** chance.uniform(-15, 9) for _ in range(500)]
        for due in times:
            loop.call_at(due, lambda: seen.append(now()))
        cancelled = [loop.call_at(due / 2, seen.append, math.nan) for due in times]
        for timer in cancelled:
            timer.cancel()
        await asyncio.sleep(10**9)
        assert seen == sorted(times)
        assert now() == 10**9
        await asyncio.sleep(0.1)  # longer than the precision of a float of this size
        assert now() == 10**9 + 0.1

    run(main)


def test_sums_are_those_of_the_waits() -> None:
    """A loop that waits adds up its waits, as floats do, whatever other timers there are."""

    async def tick() -> None:
        for _ in range(1000):
            await asyncio.sleep(0.07)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        expected = 0.0
        for _ in range(100):
            await asyncio.sleep(0.1)
            expected += 0.1
            assert now() == expected
        ticking.cancel()

    run(main)


def test_timers_of_the_same_time_fire_in_the_order_in_which_they_were_set() -> None:
    """Those who wait for the same moment go on in the order in which they began to wait, as on a real loop."""

    async def main() -> list[int]:
        order: list[int] = []

        async def wait(number: int) -> None:
            await asyncio.sleep(0.3)
            order.append(number)

        await asyncio.gather(*map(wait, range(50)))
        assert now() == 0.3
        return order

    assert run(main) == list(range(50))


def test_times_that_are_past() -> None:
    """A timer for a time that is past fires at once, and does not move the clock."""

    async def main() -> None:
        await asyncio.sleep(5)
        done = asyncio.Event()
        timer = asyncio.get_running_loop().call_at(2, done.set)
        await done.wait()
        assert (timer.when(), now()) == (2, 5)

    run(main)


def test_timeouts_of_asyncio_and_anyio() -> None:
    """Timeouts end at their exact times."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        assert now() == 60
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 60)
        assert now() == 120
        with anyio.move_on_after(86400 * 365):
            await anyio.sleep_forever()
        assert now() == 120 + 86400 * 365

    run(main)


def test_each_loop_has_its_own_clock() -> None:
    """A loop keeps its clock from one run to the next, and a new one begins at 0.0."""
    with asyncio.Runner(loop_factory=virtual_time_loop) as runner:
        for _ in range(2):
            runner.run(asyncio.sleep(1))
        assert runner.get_loop().time() == 2.0
    anyio.run(asyncio.sleep, 1, backend_options={"loop_factory": virtual_time_loop})
    loop = virtual_time_loop()
    assert loop.time() == 0.0
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_until_complete(never := asyncio.sleep(0))
    never.close()


# --- Nothing is due


def test_deadlock() -> None:
    """If all tasks wait and there is no timer, the run ends, says where each task waits, and can clean up."""
    cleaned_up: list[str] = []

    async def wait_for_news() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            cleaned_up.append("task")

    async def main() -> None:
        task = asyncio.create_task(wait_for_news(), name="the other")
        try:
            try:
                await task
            except Exception as error:
                cleaned_up.append(repr(error))
        finally:
            cleaned_up.append("main")

    with pytest.raises(Deadlock) as caught:
        run(main)
    first, *others = str(caught.value).split("\n\n")
    assert first == "all tasks wait, and there is no timer: in virtual time, nothing can wake them"
    of_other, of_main = sorted(others, key=lambda text: "in main" in text)
    assert " waits here:\n" in of_main
    assert "in main\n    await task" in of_main
    assert of_other.startswith("the other waits here:\n")
    assert "in wait_for_news\n    await asyncio.Event().wait()" in of_other
    assert sorted(cleaned_up) == ["main", "task"]


def test_deadlock_of_many() -> None:
    """The message about a deadlock stays readable."""

    async def main() -> None:
        await asyncio.gather(*(asyncio.Event().wait() for _ in range(100)))

    with pytest.raises(Deadlock, match=r"\n\n\.\.\. and 91 more$") as caught:
        run(main)
    assert str(caught.value).count("waits here") == 10


class Waiter:
    """Can be awaited, by way of a generator."""

    def __await__(self) -> Any:
        """Wait for ever."""
        yield from asyncio.Event().wait().__await__()


def test_deadlock_shows_generators() -> None:
    """Generators that are awaited are shown, too."""

    async def generate() -> Any:
        yield await Waiter()

    async def main() -> None:
        async for _ in generate():
            pass

    with pytest.raises(Deadlock, match="in main\n"):
        run(main)

    async def direct() -> None:
        await Waiter()

    with pytest.raises(Deadlock, match=r"in direct\n(?s:.*) in __await__\n"):
        run(direct)


@pytest.mark.parametrize("seconds", [math.inf, math.nan])
def test_a_timer_that_is_never_due(seconds: float) -> None:
    """The clock never reaches infinity: who waits for that waits for ever."""

    async def main() -> None:
        await asyncio.sleep(1)
        asyncio.get_running_loop().call_later(seconds, time.sleep, 0)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=virtual_time_loop) as runner:
        with pytest.raises(Deadlock):
            runner.run(main())
        assert runner.get_loop().time() == 1.0


def test_keyboard_interrupt() -> None:
    """SIGINT ends a program that only waits, and so never waits for real, as it does on a real loop."""

    async def main() -> None:
        while True:
            await asyncio.sleep(1)
            if now() == 100:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no signal handlers there")
def test_signal_handlers() -> None:
    """A signal is handled before the clock jumps, and before a deadlock is told."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for timers in (False, True):
            handled = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, handled.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            async with asyncio.timeout(5 if timers else None):
                await handled.wait()
            assert loop.time() == 0.0

    run(main)


# --- What is refused

LOCALHOST = "127.0.0.1"


def loop_method(name: str, *arguments: object) -> Callable[[], Any]:
    """Return a function that calls a method of the running loop, and awaits the result if it can."""

    async def call() -> None:
        result = getattr(asyncio.get_running_loop(), name)(*arguments)
        if isinstance(result, Awaitable):
            await result

    return call


REFUSED: dict[str, tuple[str, Callable[[], Awaitable[object]]]] = {
    "open_connection": ("create_connection", lambda: asyncio.open_connection(LOCALHOST, 1)),
    "start_server": ("create_server", lambda: asyncio.start_server(lambda *_: None, LOCALHOST)),
    "anyio.connect_tcp, a name": ("getaddrinfo", lambda: anyio.connect_tcp("localhost", 1)),
    "anyio.run_process": ("subprocess_exec", lambda: anyio.run_process([sys.executable, "-V"])),
    "a shell": ("subprocess_shell", lambda: asyncio.create_subprocess_shell("true")),
    "asyncio.to_thread": ("run_in_executor", lambda: asyncio.to_thread(time.sleep, 0)),
    "anyio.to_thread": ("anyio.to_thread.run_sync", lambda: anyio.to_thread.run_sync(time.sleep, 0)),
    "anyio.Path": ("anyio.to_thread.run_sync", lambda: anyio.Path(__file__).exists()),
    **{
        name: (name, loop_method(name))
        for name in (
            *("add_reader", "add_writer", "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe"),
            *("create_datagram_endpoint", "create_unix_connection", "create_unix_server", "getnameinfo"),
            *("set_default_executor", "sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom"),
            *("sock_recvfrom_into", "sock_sendall", "sock_sendfile", "sock_sendto"),
        )
    },
}


def test_sockets_threads_and_processes_are_refused() -> None:
    """What would wait for the outside world is an error where it is called, which says what to do instead."""

    async def main(name: str, call: Callable[[], Awaitable[object]], case: str) -> None:
        asyncio.get_running_loop().call_later(1, time.sleep, 0)  # a timer that the clock could jump to
        with pytest.raises(RuntimeError) as caught:
            await call()
        message = str(caught.value)
        assert f"{name}() was called in virtual time, which cannot wait for" in message, case
        assert "run this on asyncio's own event loop" in message, case
        assert ("FakeNetwork" in message) == (name.startswith(("create_", "add_", "sock_", "get", "connect_acc"))), case
        assert now() == 0.0, case

    for case, (name, call) in REFUSED.items():
        run(functools.partial(main, name, call, case))


def test_everything_that_opens_something_is_refused() -> None:
    """What asyncio's own event loop has, and this one neither has nor refuses, waits for nothing but the loop."""
    own = set(dir(asyncio.SelectorEventLoop))
    refused = {name for name in own if getattr(asyncio.SelectorEventLoop, name) != getattr(loop_class(), name)}
    left = {name for name in own - refused if not name.startswith("_")}
    expected = {
        *("add_signal_handler", "call_exception_handler", "call_later", "call_soon", "close"),
        *("create_future", "default_exception_handler", "get_debug", "get_exception_handler"),
        *("get_task_factory", "is_closed", "is_running", "remove_reader", "remove_signal_handler"),
        *("remove_writer", "sendfile", "set_debug", "set_exception_handler", "set_task_factory"),
        *("shutdown_asyncgens", "shutdown_default_executor", "slow_callback_duration", "start_tls", "stop"),
    }
    assert left == expected & own


def loop_class() -> type[asyncio.AbstractEventLoop]:
    """Return the class of the loops."""
    loop = virtual_time_loop()
    loop.close()
    return type(loop)


def test_a_refused_thread_ends() -> None:
    """The thread that anyio has started before it was refused ends without doing anything."""
    done: list[str] = []

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"anyio\.to_thread\.run_sync"):
                await anyio.to_thread.run_sync(done.append, "work")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused_in_a_task)

    async def refused_in_a_task() -> None:
        with pytest.raises(RuntimeError, match=r"anyio\.to_thread\.run_sync"):
            await anyio.to_thread.run_sync(done.append, "work")

    def run_forever() -> None:
        loop = virtual_time_loop()
        loop.call_soon(lambda: loop.create_task(refused_in_a_task()).add_done_callback(lambda _: loop.stop()))
        loop.run_forever()
        loop.close()

    before = set(threading.enumerate())
    run(main)
    run_forever()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before
    assert done == []


def test_calls_from_other_threads_are_refused() -> None:
    """Another thread cannot wake a task, since the clock may have jumped past it: that is an error in the thread."""
    errors: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        other = threading.Thread(target=call, args=(loop,))
        other.start()
        other.join(10)
        loop.call_soon_threadsafe(woken.set)  # from its own thread
        await woken.wait()

    def call(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError as error:
            errors.append(error)

    woken = asyncio.Event()
    run(main)
    assert len(errors) == 1
    assert str(errors[0]).startswith("another thread called loop.call_soon_threadsafe() in virtual time, which cannot")


def test_other_threads_before_and_after_a_run() -> None:
    """While the loop is not running, another thread may call it."""
    loop, called = virtual_time_loop(), list[str]()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(called.append, "before"))
    thread.start()
    thread.join(10)
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()
    assert called == ["before"]


def test_sockets_work_beside_it() -> None:
    """The refusals are those of the loop alone: blocking sockets and subprocesses work as ever."""

    async def main() -> bytes:
        left, right = socket.socketpair()
        with left, right:
            left.sendall(b"x")
            return right.recv(1)

    assert run(main) == b"x"


# --- The loop as others use it


def test_task_factory() -> None:
    """A task factory is asked for all tasks, also the one that the loop is run for."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **options)

    async def main() -> None:
        await asyncio.create_task(asyncio.sleep(1))

    with asyncio.Runner(loop_factory=virtual_time_loop) as runner:
        runner.get_loop().set_task_factory(factory)
        runner.run(main())
    assert made[:2] == ["main", "sleep"]


def test_async_generators_are_closed() -> None:
    """A generator that is left unfinished is closed at the end of the run, and may wait then."""
    closed_at: list[float] = []

    async def generate() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(60)
            closed_at.append(now())

    async def main() -> None:
        generator = generate()
        await anext(generator)
        kept.append(generator)

    kept: list[object] = []
    run(main)
    assert closed_at == [60.0]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run the tests below in virtual time."""
    return "asyncio", {"loop_factory": virtual_time_loop}


@pytest.fixture
async def started_at() -> Any:
    """Return the time when the test begins, which is later than the loop's, and wait when it is left."""
    await asyncio.sleep(1)
    yield now()
    await asyncio.sleep(3600)


@pytest.mark.anyio
async def test_plugin_of_anyio(started_at: float) -> None:
    """The pytest plugin of anyio takes the loop factory, for tests and for their fixtures."""
    await anyio.sleep(3600)
    assert (started_at, anyio.current_time()) == (1, 3601)


STUCK = """
import anyio, pytest
from prefect_http.testing._virtual_time import virtual_time_loop

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": virtual_time_loop}

@pytest.fixture
async def fixture(request):
    yield
    await anyio.sleep(1)
    request.node.user_properties.append(("was", "left"))

@pytest.mark.anyio
async def test_stuck(fixture):
    await anyio.Event().wait()
"""


def test_deadlock_in_the_plugin_of_anyio(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is stuck fails, and what its async fixtures do afterwards still works."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(STUCK)
    recorded = pytester.inline_run("-p", "anyio.pytest_plugin", "-p", "no:cacheprovider", "--tb=native")
    _, call, teardown = (report for report in recorded.getreports() if isinstance(report, pytest.TestReport))
    assert call.failed
    assert "in test_stuck" in call.longreprtext
    assert (teardown.passed, teardown.user_properties) == (True, [("was", "left")])
