"""Leaving ``send_many()`` early: by break, an exception, a cancellation, or a KeyboardInterrupt in a request."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import signal
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from support.cancelling import MOST, Way, When, run_cancelled
from support.many_requests import CountingServer, name_of
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient, RetryPolicy

BACKENDS = ["asyncio", "trio"]
ONCE = RetryPolicy(max_retries=0)


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run in virtual time."""
    return virtual_time_backend(str(request.param))


def run(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run an async function in virtual time, outside anyio's plugin."""
    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)


class BodyError(Exception):
    """Raised by the block."""


class Urls:
    """An async generator of endless URLs, which records how it ends.

    Args:
        path: what follows the number in the URL.
        every: the seconds before each URL.
        within: what it has open while it yields: a "scope" or a "nursery".
        closing: seconds that it takes to be closed.
        error: what it raises when it is closed.
    """

    def __init__(
        self,
        path: str = "10",
        *,
        every: float = 0,
        within: str = "scope",
        closing: float = 1,
        error: Exception | None = None,
    ) -> None:
        self.path = path
        self.every = every
        self.within = within
        self.closing = closing
        self.error = error
        self.yielded = 0
        self.ends: list[str] = []

    async def urls(self) -> AsyncIterator[str]:
        try:
            if self.within == "nursery":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep_forever)
                    while True:
                        yield await self.next_url()
            with anyio.CancelScope():
                while True:
                    yield await self.next_url()
        finally:
            self.ends.append("begun")
            await anyio.sleep(self.closing)
            if self.error is not None:
                raise self.error
            self.ends.append("complete")

    async def next_url(self) -> str:
        await anyio.sleep(self.every)
        self.yielded += 1
        return f"/{self.yielded}/{self.path}"


# --- The block ends early


@pytest.mark.anyio
async def test_break() -> None:
    """Leaving the loop and the block cancels what is on its way, and waits for that."""
    server = CountingServer()
    async with server.client() as client:
        async with client.send_many([f"/{number}/{number}" for number in range(1, 10)], max_at_once=5) as outcomes:
            async for outcome in outcomes:
                if name_of(outcome) == "2":
                    break
            assert server.current == 4
        assert server.current == 0
    assert len(server.cancelled) == 4
    assert len(server.started) == 6, "nothing was sent behind the block"


@pytest.mark.anyio
async def test_block_that_does_not_iterate() -> None:
    """A block that never iterates, and one that does not wait for anything, are left at once."""
    for seconds in (0, 1):
        server = CountingServer()
        async with server.client() as client, client.send_many(["/a/10", "/b/10"]):
            if seconds:
                await anyio.sleep(seconds)
        assert server.current == 0


@pytest.mark.anyio
async def test_exception_of_the_block() -> None:
    """An exception of the block cancels the rest, and comes out as it is."""
    for error in (
        BodyError(),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopAsyncIteration(),
        ExceptionGroup("", [BodyError()]),
    ):
        server, urls = CountingServer(), Urls()
        async with server.client() as client:
            with pytest.raises(type(error)) as caught:
                async with client.send_many(urls.urls(), max_at_once=2) as outcomes:
                    await anext(outcomes)
                    raise error
        assert caught.value is error
        assert error.__context__ is None
        assert server.current == 0
        assert urls.ends == ["begun", "complete"]


@pytest.mark.anyio
async def test_cancelled_from_outside() -> None:
    """A timeout around the block cancels all requests; one within the block leaves them alone."""
    server = CountingServer()
    async with server.client() as client:
        with anyio.move_on_after(4) as scope:
            async with client.send_many(["/a/1", "/b/3", "/c/9"]) as outcomes:
                found = [name_of(await anext(outcomes))]
                with anyio.move_on_after(1):
                    found.append(name_of(await anext(outcomes)))
                assert not server.cancelled
                found += [name_of(outcome) async for outcome in outcomes]
        assert scope.cancelled_caught
    assert found == ["a"]
    assert server.cancelled == ["/c/9"]


@pytest.mark.anyio
async def test_cancelled_iteration_loses_nothing() -> None:
    """However often an iteration is cancelled, each request has exactly one outcome."""
    for ordered in (False, True):
        found = []
        urls = [f"/{number}/{1 + number % 4}" for number in range(12)]
        async with CountingServer().client() as client:
            async with client.send_many(urls, max_at_once=3, ordered=ordered) as outcomes:
                for step in range(1000):
                    with anyio.CancelScope() as scope:
                        if step % 3 == 0:
                            scope.cancel()
                        elif step % 3 == 1:
                            scope.deadline = anyio.current_time() + 0.5
                        try:
                            found.append(name_of(await anext(outcomes)))
                        except StopAsyncIteration:
                            break
        assert sorted(found, key=int) == [str(number) for number in range(12)]


@pytest.mark.anyio
async def test_shielded_block_is_told() -> None:
    """If the requests are cancelled while the block is shielded, it gets what is there, and then an error: no hang."""
    with anyio.CancelScope() as outer:
        async with CountingServer().client() as client, client.send_many(["/a/1", "/b/9"]) as outcomes:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
                outer.cancel()
                await anyio.sleep(1)
                assert name_of(await anext(outcomes)) == "a"
                with pytest.raises(RuntimeError, match=r"^send_many\(\) has been cancelled"):
                    await anext(outcomes)


WAYS = [("scope", "asyncio"), ("scope", "trio"), ("task", "asyncio")]


@pytest.mark.parametrize("source", ["sync", "async"])
@pytest.mark.parametrize(("way", "backend"), WAYS, ids=["asyncio-scope", "trio-scope", "asyncio-task"])
def test_cancelled_at_each_step(way: Way, backend: str, source: str) -> None:
    """At whichever step the block is cancelled, it is cancelled plainly, and nothing is left."""

    async def main() -> None:
        for when in ("waiting", "woken"):
            for number in range(1, MOST):
                if not await cancelled_at(number, when):
                    break
            else:
                raise AssertionError("it has too many steps")
            assert number > 5

    async def cancelled_at(number: int, when: When) -> bool:
        server, urls = CountingServer(), Urls("1", closing=0)
        client = server.client()

        async def block() -> None:
            given: Any = urls.urls() if source == "async" else (f"/{number}/1" for number in range(100))
            async with client.send_many(given, max_at_once=2, ordered=bool(number % 2)) as outcomes:
                for _ in range(3):
                    await anext(outcomes)
                await anyio.sleep(0.5)

        is_reached = await run_cancelled(number, way, when, block)
        assert server.current == 0
        if source == "async" and urls.yielded:
            assert urls.ends[:1] == ["begun"]
        return is_reached

    run(backend, main)


# --- Generators that are closed


@pytest.mark.anyio
async def test_generator_may_wait_while_it_is_closed() -> None:
    """A generator that is left early is closed at its yield, in its own task, and may wait for something as it is."""
    for within in ("scope", "nursery"):
        urls, started = Urls(within=within), anyio.current_time()
        async with CountingServer().client() as client, client.send_many(urls.urls(), max_at_once=2) as outcomes:
            await anext(outcomes)
        assert urls.ends == ["begun", "complete"], within
        assert anyio.current_time() - started == 11


@pytest.mark.anyio
async def test_closing_is_bounded() -> None:
    """A generator has five seconds to be closed. After a cancellation it has none, unless it shields itself."""
    for cancels in (False, True):
        urls = Urls(closing=1e6)
        async with CountingServer().client() as client:
            with anyio.CancelScope() as scope:
                async with client.send_many(urls.urls(), max_at_once=2) as outcomes:
                    await anext(outcomes)
                    left_at = anyio.current_time()
                    if cancels:
                        scope.cancel()
        assert urls.ends == ["begun"]
        assert anyio.current_time() - left_at == (0 if cancels else 5)


@pytest.mark.anyio
async def test_generator_is_cancelled_where_it_waits() -> None:
    """A generator that is just waiting for something is cancelled there."""
    for within in ("scope", "nursery"):
        urls = Urls("0", every=100, within=within)
        async with CountingServer().client() as client, client.send_many(urls.urls()):
            await anyio.sleep(150)
        assert urls.yielded == 1
        assert urls.ends == ["begun"]


@pytest.mark.anyio
async def test_generator_that_is_shielded() -> None:
    """A generator that shields what it waits for is waited for, and closed where it yields next."""
    ends = []

    async def urls() -> AsyncIterator[str]:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10)
            yield "/a/1"
        finally:
            ends.append(anyio.current_time())

    server = CountingServer()
    async with server.client() as client, client.send_many(urls()):
        await anyio.sleep(1)
        left_at = anyio.current_time()
    assert ends == [left_at + 9]
    assert not server.started


@pytest.mark.anyio
async def test_closing_raises() -> None:
    """What a generator raises as it is closed comes out of the block, unless the block has raised something."""
    async with CountingServer().client() as client:
        with pytest.raises(LookupError, match=r"^gone$"):
            async with client.send_many(Urls(error=LookupError("gone")).urls(), max_at_once=1):
                await anyio.sleep(1)
        with pytest.raises(BodyError) as caught:
            async with client.send_many(Urls(error=LookupError("gone")).urls(), max_at_once=1):
                await anyio.sleep(1)
                raise BodyError
    assert caught.value.__notes__ == ["closing the iterable of requests failed as well: LookupError: gone"]


@pytest.mark.anyio
async def test_cancelling_raises() -> None:
    """So does what a generator raises as it is cancelled where it waits."""

    async def urls() -> AsyncIterator[str]:
        try:
            await anyio.sleep(100)
            yield "/a/1"
        finally:
            raise LookupError("gone")

    async with CountingServer().client() as client:
        with pytest.raises(LookupError, match=r"^gone$"):
            async with client.send_many(urls()):
                await anyio.sleep(1)
        with pytest.raises(BodyError) as caught:
            async with client.send_many(urls()):
                await anyio.sleep(1)
                raise BodyError
    assert caught.value.__notes__ == ["closing the iterable of requests failed as well: LookupError: gone"]


@pytest.mark.anyio
@each_row("waits", [False, True])
@each_row("has_nursery", [False, True])
@each_row("has_left", [False, True])
async def test_closing_raises_after_a_cancellation(has_left: bool, has_nursery: bool, waits: bool) -> None:
    """If the block is cancelled, what the generator raises then is dropped, wherever it has been."""
    ends = []

    async def urls() -> AsyncIterator[str]:
        async with anyio.create_task_group() if has_nursery else contextlib.nullcontext():
            try:
                yield "/a/1"
                await anyio.sleep(100)
                yield "/a/2"
            finally:
                ends.append("gone")
                raise LookupError("gone")

    async with CountingServer().client() as client:
        with anyio.CancelScope() as scope:
            async with client.send_many(urls(), max_at_once=2 if waits else 1):
                await anyio.sleep(1)
                scope.cancel()
                if not has_left:
                    await anyio.sleep(1)
            await anyio.sleep(1)
    assert scope.cancelled_caught
    assert ends == ["gone"]


@pytest.mark.anyio
async def test_nursery_of_a_generator_raises() -> None:
    """What a nursery of a generator raises as it ends comes out in the nursery's group, without a cancellation."""

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("gone")

    async def urls() -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            await anyio.sleep(0.5)
            yield "/a/1"
            await anyio.sleep(100)
            yield "/a/2"

    async with CountingServer().client() as client:
        for max_at_once in (1, 2):  # it is suspended at its yield, or waits for something
            with pytest.raises(ExceptionGroup) as caught:
                async with client.send_many(urls(), max_at_once=max_at_once):
                    await anyio.sleep(1)
            assert [str(error) for error in caught.value.exceptions] == ["gone"]


@pytest.mark.anyio
async def test_iterator_that_is_no_generator() -> None:
    """What is no generator, such as a channel, is left as it is: its owner closes it."""
    send, receive = anyio.create_memory_object_stream[str](10)
    async with send, receive, CountingServer().client() as client:
        for name in "abc":
            send.send_nowait(f"/{name}/1")
        async with client.send_many(receive, max_at_once=1) as outcomes:
            assert name_of(await anext(outcomes)) == "a"
        assert receive.statistics().open_receive_streams == 1


# --- What is no Exception


async def raising(error: BaseException, where: str) -> None:
    """Have a block raise ``error`` in one of its tasks, while it waits for something else."""

    def answer(_: httpx.Request) -> httpx.Response:
        if where == "request":
            raise error
        return httpx.Response(200)

    def urls() -> Iterator[str]:
        yield "http://server/1"
        if where == "iterable":
            raise error
        yield "http://server/2"

    async def in_async() -> AsyncIterator[str]:
        yield "http://server/1"
        await anyio.sleep(1)
        raise error

    server = httpx.MockTransport(answer)
    async with PrefectHttpxClient(transport=server) as client:
        async with client.send_many(in_async() if where == "generator" else urls()):
            await anyio.sleep(10)
            raise AssertionError("the block is to be cancelled")


@pytest.mark.parametrize("where", ["request", "iterable", "generator"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_base_exceptions_are_plain(backend: str, where: str) -> None:
    """A KeyboardInterrupt or SystemExit of a request or the iterable cancels the block, and comes out as it is."""
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)) as caught:
            run(backend, functools.partial(raising, error, where))
        assert caught.value is error


@pytest.mark.parametrize("backend", BACKENDS)
def test_interrupt_wins(backend: str) -> None:
    """A KeyboardInterrupt is raised also if the block raises something, or is cancelled from outside, as well."""

    async def main(outcome: str) -> None:
        async def answer(_: httpx.Request) -> httpx.Response:
            try:
                await anyio.sleep(10)
            finally:
                raise KeyboardInterrupt  # while it is cancelled

        async with PrefectHttpxClient(transport=httpx.MockTransport(answer), retry=ONCE) as client:
            with anyio.CancelScope() as scope:
                async with client.send_many(["http://server/"]):
                    await anyio.sleep(1)
                    if outcome == "raises":
                        raise BodyError
                    scope.cancel()
                    await anyio.sleep(1)

    for outcome in ("raises", "is cancelled"):
        with pytest.raises(KeyboardInterrupt):
            run(backend, functools.partial(main, outcome))


@pytest.mark.parametrize("backend", BACKENDS)
def test_interrupt_before_a_cancellation(backend: str) -> None:
    """A KeyboardInterrupt is raised although the block, which was shielded at that time, is cancelled from outside."""

    async def answer(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    async def main() -> None:
        async with PrefectHttpxClient(transport=httpx.MockTransport(answer)) as client:
            with anyio.CancelScope() as scope:
                async with client.send_many(["http://server/"]):
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(1)
                    scope.cancel()
                    await anyio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        run(backend, main)


def test_ctrl_c_while_the_block_is_left() -> None:
    """On trio, a Ctrl-C that comes while the block waits for its requests to end is raised plainly."""

    async def answer(_: httpx.Request) -> httpx.Response:
        try:
            return await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async def press() -> None:
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with PrefectHttpxClient(transport=httpx.MockTransport(answer)) as client:
            async with client.send_many(["http://server/"]):
                await trio.sleep(1)
                trio.lowlevel.spawn_system_task(press)

    with pytest.raises(KeyboardInterrupt):
        run("trio", main)


def test_cancelled_error_of_a_request() -> None:
    """On asyncio, a CancelledError that no scope has caused ends the block with a CancelledError, and does not hang."""

    async def answer(_: httpx.Request) -> httpx.Response:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        raise AssertionError

    async def main() -> None:
        async with PrefectHttpxClient(transport=httpx.MockTransport(answer)) as client:
            async with client.send_many(["http://server/"]) as outcomes:
                with pytest.raises(asyncio.CancelledError):
                    await anext(outcomes)
                raise asyncio.CancelledError
        raise AssertionError

    async def watch() -> None:
        (result,) = await asyncio.gather(main(), return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError)

    run("asyncio", watch)


# --- What is left


@pytest.mark.anyio
async def test_nothing_is_kept() -> None:
    """What has been taken is kept by nobody, and failures leave nothing for the garbage collector."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/fails":
            raise httpx.ReadError("broken")
        return httpx.Response(200)

    async with PrefectHttpxClient(transport=httpx.MockTransport(answer), retry=ONCE) as client:

        async def send(urls: list[str]) -> None:
            seen = []
            async with client.send_many(urls, max_at_once=2) as outcomes:
                async for outcome in outcomes:
                    seen.append(weakref.ref(outcome.response or outcome.error or outcome))
                    del outcome
                    assert sum(one() is not None for one in seen) == 0, len(seen)

        await send(["http://server/", "http://server/fails"])  # what is made once
        gc.collect()
        gc.disable()
        try:
            await send(["http://server/", "http://server/fails", "no://scheme/"] * 5)
            assert gc.collect() == 0
        finally:
            gc.enable()
