"""Request bodies on their way into an app: whole ones, and streams, which are read one chunk ahead."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import trio
from anyio.lowlevel import checkpoint
from support.rows import each_row

from prefect_http._asgi.request_body import RequestBody, StreamedBody, WholeBody

Produce = Callable[[], AsyncIterator[bytes]]


class BodyError(Exception):
    """What the stream of a request raises."""


class Odd(BaseException):
    """A BaseException that is not an Exception."""


class Stream(httpx.AsyncByteStream):
    """A stream that reads through an iterator within a generator, as those of httpx do."""

    def __init__(self, produce: Produce) -> None:
        self._produce = produce

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._produce():
            yield chunk


class Upload:
    """A streamed body, and what the call around it is told.

    Attributes:
        body: the body.
        changes: the flags waits_for_app and waits_for_caller at each change.
        errors: the errors that it has reported.
        has_ended: whether the task that reads the stream has ended.
    """

    def __init__(self, stream: Produce | httpx.AsyncByteStream) -> None:
        stream = stream if isinstance(stream, httpx.AsyncByteStream) else Stream(stream)
        self.body = StreamedBody(stream)
        self.changes: list[tuple[bool, bool]] = []
        self.errors: list[BaseException] = []
        self.has_ended = False

    def _on_change(self) -> None:
        self.changes.append(flags(self.body))

    def _on_error(self, error: BaseException) -> None:
        self.errors.append(error)

    async def produce(self) -> None:
        """Read the stream to its end."""
        try:
            await self.body.produce(self._on_change, self._on_error)
        finally:
            self.has_ended = True

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[StreamedBody]:
        """Read the stream during the block, which starts where the stream has to wait; then wait for its end."""
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(self.produce)
                await anyio.wait_all_tasks_blocked()
                yield self.body

    async def take_all(self) -> list[tuple[bytes, bool]]:
        """Take chunks until the stream has been read to its end."""
        taken: list[tuple[bytes, bool]] = []
        while True:
            if (offer := self.body.take()) is not None:
                taken.append(offer)
            elif self.has_ended:
                return taken
            else:
                await checkpoint()


def flags(body: RequestBody) -> tuple[bool, bool]:
    """Return the two flags of a body."""
    return body.waits_for_app, body.waits_for_caller


def parts(*chunks: bytes) -> Produce:
    """Return a generator function that yields these chunks."""

    async def produce() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return produce


# Whole bodies.


@pytest.mark.parametrize("content", [b"text", b"x" * 1_000_000])
def test_whole_body(content: bytes) -> None:
    """A whole body waits for the app until it is taken, once and in one piece, and never for the caller."""
    body = WholeBody(content)
    assert flags(body) == (True, False)
    assert body.take() == (content, False)
    assert flags(body) == (False, False)
    assert body.take() is None
    assert flags(body) == (False, False)


def test_empty_body() -> None:
    """An empty body is taken once as well, but does not wait for that."""
    body = WholeBody(b"")
    assert flags(body) == (False, False)
    assert body.take() == (b"", False)
    assert body.take() is None


def test_stopping_a_whole_body() -> None:
    """Stopping a whole body has no effect."""
    body = WholeBody(b"text")
    body.stop()
    assert body.take() == (b"text", False)


# Streams.


@pytest.mark.anyio
async def test_stream_that_is_not_read_yet() -> None:
    """Before its first chunk, a stream waits for the caller, and there is nothing to take."""
    upload = Upload(parts(b"one"))
    assert flags(upload.body) == (False, True)
    assert upload.body.take() is None
    assert flags(upload.body) == (False, True)


@pytest.mark.anyio
async def test_one_ahead() -> None:
    """A stream is read one chunk ahead of the app; the flags say which side has to act at each stage."""
    log: list[str] = []

    async def produce() -> AsyncIterator[bytes]:
        for part in (b"one", b"two"):
            log.append(part.decode())
            yield part
        log.append("end")

    upload = Upload(produce)
    async with upload.running() as body:
        assert (log, flags(body)) == (["one"], (True, False))
        assert body.take() == (b"one", True)
        assert (log, flags(body)) == (["one"], (False, True))
        assert body.take() is None
        await anyio.wait_all_tasks_blocked()
        assert (log, flags(body)) == (["one", "two"], (True, False))
        assert body.take() == (b"two", True)
        assert flags(body) == (False, True)
        await anyio.wait_all_tasks_blocked()
        assert (log, flags(body)) == (["one", "two", "end"], (False, False))
        assert upload.has_ended
        assert body.take() == (b"", False)
        assert body.take() is None
        assert flags(body) == (False, False)
    assert upload.changes == [(True, False), (True, False), (False, False)]
    assert not upload.errors


@pytest.mark.anyio
@each_row(
    ("chunks", "expected"),
    [
        ([], []),
        ([b""], []),
        ([b"", b"", b""], []),
        ([b"one"], [b"one"]),
        ([b"", b"one", b"", b"", b"two", b""], [b"one", b"two"]),
        ([b"same", b"same"], [b"same", b"same"]),
        ([b"%d" % number for number in range(100)], [b"%d" % number for number in range(100)]),
    ],
    ids=["none", "empty", "empties", "one", "between", "same", "many"],
)
async def test_chunks(chunks: list[bytes], expected: list[bytes]) -> None:
    """The app takes the chunks unchanged, but for empty ones, and then an empty last one."""
    upload = Upload(parts(*chunks))
    async with upload.running():
        taken = await upload.take_all()
    assert taken == [*((chunk, True) for chunk in expected), (b"", False)]
    assert len(upload.changes) == len(taken)
    assert not upload.errors


@pytest.mark.anyio
async def test_waiting_for_the_caller() -> None:
    """While the caller produces its next chunk, the body waits for the caller; an empty chunk does not change that."""
    first, second = anyio.Event(), anyio.Event()

    async def produce() -> AsyncIterator[bytes]:
        await first.wait()
        yield b""
        await second.wait()
        yield b"one"

    upload = Upload(produce)
    async with upload.running() as body:
        for event in (first, second):
            assert (flags(body), upload.changes, body.take()) == ((False, True), [], None)
            event.set()
            await anyio.wait_all_tasks_blocked()
        assert (flags(body), upload.changes) == ((True, False), [(True, False)])
        assert await upload.take_all() == [(b"one", True), (b"", False)]


@pytest.mark.anyio
async def test_taking_within_the_callback() -> None:
    """The callback for a new chunk may take it at once."""
    taken: list[tuple[bytes, bool] | None] = []
    errors: list[BaseException] = []
    body = StreamedBody(Stream(parts(b"one", b"two")))
    with anyio.fail_after(30):
        await body.produce(lambda: taken.append(body.take()), errors.append)
    assert taken == [(b"one", True), (b"two", True), (b"", False)]
    assert (flags(body), errors) == ((False, False), [])


@pytest.mark.anyio
async def test_one_task_reads_it_all() -> None:
    """One task reads the stream from start to end, so the stream may have a nursery open across its chunks."""
    tasks: list[int] = []
    takers: list[int] = []

    async def produce() -> AsyncGenerator[bytes]:
        try:
            async with anyio.create_task_group():
                with anyio.CancelScope():
                    for part in (b"one", b"two", b"three"):
                        tasks.append(anyio.get_current_task().id)
                        yield part
                        await checkpoint()
        finally:
            tasks.append(anyio.get_current_task().id)

    async def take(body: StreamedBody) -> None:
        takers.append(anyio.get_current_task().id)
        assert body.take() is not None

    upload = Upload(produce)
    async with upload.running() as body:
        for _ in range(3):
            async with anyio.create_task_group() as group:
                group.start_soon(take, body)
            await anyio.wait_all_tasks_blocked()
        assert body.take() == (b"", False)
    assert (len(tasks), len(set(tasks)), len(takers)) == (4, 1, 3)
    assert not set(tasks) & set(takers)


# Streams that fail.


@pytest.mark.anyio
@each_row("error", [BodyError(), httpx.StreamConsumed(), Odd(), ExceptionGroup("", [OSError()])])
async def test_error(error: BaseException) -> None:
    """What a stream raises is reported once, unchanged, after the app has taken what came before; it is not raised."""

    async def produce() -> AsyncIterator[bytes]:
        yield b"one"
        raise error

    upload = Upload(produce)
    async with upload.running() as body:
        assert not upload.errors
        assert body.take() == (b"one", True)
        await anyio.wait_all_tasks_blocked()
        assert upload.has_ended
        assert body.take() is None
        assert flags(body) == (False, False)
    assert len(upload.errors) == 1
    assert upload.errors[0] is error
    assert upload.changes == [(True, False)]


@pytest.mark.anyio
async def test_error_at_once() -> None:
    """A stream that raises before its first chunk leaves nothing to take, not even an end."""

    async def produce() -> AsyncIterator[bytes]:
        raise BodyError
        yield b"never"

    upload = Upload(produce)
    async with upload.running() as body:
        assert upload.has_ended
        assert body.take() is None
    assert [type(error) for error in upload.errors] == [BodyError]
    assert (flags(upload.body), upload.changes) == ((False, False), [])


@pytest.mark.anyio
async def test_error_of_aiter() -> None:
    """An error of __aiter__() is reported like any other."""

    class Consumed(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise BodyError

    upload = Upload(Consumed())
    with anyio.fail_after(30):
        await upload.produce()
    assert [type(error) for error in upload.errors] == [BodyError]
    assert flags(upload.body) == (False, False)


# Streams that are stopped.


class Nested:
    """A stream of generators within generators, which log how they end.

    Args:
        depth: how many generators are around the innermost one.
        waits: whether the innermost one waits forever after its first chunk.
    """

    def __init__(self, depth: int = 3, *, waits: bool = False) -> None:
        self.depth = depth
        self.waits = waits
        self.log: list[object] = []

    def produce(self) -> AsyncIterator[bytes]:
        return self._level(self.depth)

    async def _level(self, depth: int) -> AsyncIterator[bytes]:
        try:
            if depth:
                async for chunk in self._level(depth - 1):
                    yield chunk
            else:
                yield b"one"
                if self.waits:
                    await anyio.sleep_forever()
                await checkpoint()
                yield b"two"
                await checkpoint()
        except anyio.get_cancelled_exc_class():
            self.log.append("cancelled")
            raise
        finally:
            self.log.append(depth)

    def unwound(self) -> list[object]:
        """Return the log of a stream that was cancelled from the inside out."""
        return [entry for depth in range(self.depth + 1) for entry in ("cancelled", depth)]


@asynccontextmanager
async def no_warnings() -> AsyncGenerator[None]:
    """Check that no generator is left to the garbage collector, which trio warns about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
        await checkpoint()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.anyio
@pytest.mark.parametrize("waits_for", ["app", "caller"])
async def test_stop_closes_nested_generators(waits_for: str) -> None:
    """A stream that is stopped unwinds at once, down to its innermost generator, whichever side has to act."""
    nested = Nested(waits=waits_for == "caller")
    async with no_warnings():
        upload = Upload(nested.produce)
        async with upload.running() as body:
            if waits_for == "caller":
                body.take()
                await anyio.wait_all_tasks_blocked()
            assert flags(body) == (waits_for == "app", waits_for == "caller")
            assert not nested.log
            body.stop()
        assert not body.waits_for_caller
        assert nested.log == nested.unwound()
        del body, upload
    assert nested.log == nested.unwound()


@pytest.mark.anyio
async def test_stop_is_not_an_error() -> None:
    """Stopping a stream is reported neither as an error nor as its end."""
    upload = Upload(Nested().produce)
    async with upload.running() as body:
        body.stop()
    assert (upload.errors, upload.changes) == ([], [(True, False)])


@pytest.mark.anyio
async def test_stop_closes_a_stream_with_buffered_chunks() -> None:
    """A stopped stream that has a few more chunks ready is closed."""
    log: list[str] = []

    async def produce() -> AsyncIterator[bytes]:
        try:
            for _ in range(10):
                yield b"chunk"
        finally:
            log.append("closed")

    async with no_warnings():
        upload = Upload(produce)
        async with upload.running() as body:
            body.stop()
        assert log == ["closed"]
        del body, upload


@pytest.mark.anyio
async def test_stop_before_the_first_chunk() -> None:
    """A stream that is stopped before it is read does not wait for the caller, and reports no error."""
    nested = Nested()
    async with no_warnings():
        upload = Upload(nested.produce)
        upload.body.stop()
        async with upload.running():
            pass
        assert not upload.body.waits_for_caller
        assert not upload.errors
        del upload
    assert nested.log in ([], nested.unwound())


@pytest.mark.anyio
async def test_stop_after_the_end() -> None:
    """Stopping a stream that has ended, even twice, does not change it."""
    upload = Upload(parts(b"one"))
    async with upload.running() as body:
        body.take()
    upload.body.stop()
    upload.body.stop()
    assert upload.body.take() == (b"", False)
    assert (flags(upload.body), upload.errors) == ((False, False), [])


@pytest.mark.anyio
@each_row("error", [BodyError(), Odd()])
@each_row("waits_for", ["app", "caller"])
async def test_stream_that_fails_when_it_is_stopped(waits_for: str, error: BaseException) -> None:
    """What a stopped stream raises ends it, and is not raised."""

    async def produce() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await anyio.sleep_forever()
        finally:
            raise error

    upload = Upload(produce)
    async with upload.running() as body:
        if waits_for == "caller":
            body.take()
            await anyio.wait_all_tasks_blocked()
        body.stop()
    assert upload.has_ended
    assert not upload.body.waits_for_caller


@pytest.mark.anyio
@each_row("holds", ["scope", "nursery", "nursery whose child fails"])
@each_row("waits_for", ["app", "caller"])
async def test_stop_unwinds_what_is_open_across_chunks(waits_for: str, holds: str) -> None:
    """A stopped stream leaves the scopes and nurseries that it has open across its chunks, in order."""
    log: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("child")
            if holds == "nursery whose child fails":
                raise BodyError

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await anyio.sleep_forever()
        finally:
            log.append("chunks")

    async def produce() -> AsyncIterator[bytes]:
        if holds == "scope":
            with anyio.CancelScope():
                async for chunk in chunks():
                    yield chunk
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                async for chunk in chunks():
                    yield chunk

    upload = Upload(produce)
    async with upload.running() as body:
        if waits_for == "caller":
            body.take()
            await anyio.wait_all_tasks_blocked()
        body.stop()
    assert sorted(log) == (["chunks"] if holds == "scope" else ["child", "chunks"])
    if holds != "nursery whose child fails":
        assert not upload.errors


@pytest.mark.anyio
async def test_stream_that_ignores_its_cancellation() -> None:
    """A stream that never ends and never waits is given up after a number of chunks."""
    chunks: list[int] = []

    class Endless(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            chunks.append(1)
            return b"chunk"

    upload = Upload(Endless())
    async with upload.running() as body:
        body.stop()
    assert upload.has_ended
    assert 1 <= len(chunks) <= 32


@pytest.mark.anyio
@pytest.mark.parametrize("waits_for", ["app", "caller"])
async def test_cancelled_from_outside(waits_for: str) -> None:
    """A cancellation of the reading task passes through the stream, and is not reported as an error."""
    nested = Nested(waits=waits_for == "caller")
    async with no_warnings():
        upload = Upload(nested.produce)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(upload.produce)
                await anyio.wait_all_tasks_blocked()
                if waits_for == "caller":
                    upload.body.take()
                    await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
        assert nested.log == nested.unwound()
        assert (upload.errors, upload.body.waits_for_caller, upload.has_ended) == ([], False, True)
        del upload


@pytest.mark.trio
async def test_stop_takes_no_time(autojump_clock: trio.testing.MockClock) -> None:
    """A stream is stopped before the clock moves."""

    async def produce() -> AsyncIterator[bytes]:
        while True:
            await trio.sleep(3)
            yield b"chunk"

    upload = Upload(produce)
    began = trio.current_time()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload.produce)
            await trio.sleep(4)
            upload.body.stop()
    assert trio.current_time() - began == 4.0
