"""Session: its tasks, whether the connection is alive, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.h2_frames import ACK, GET, GOAWAY, HEADERS, PING, frame, frames_in, headers, settings, window
from support.scripted_servers import settle
from support.wire import until

from prefect_http._concurrency.backend import clock
from prefect_http._wire.h2.session import Session
from prefect_http._wire.h2.stream import Stream
from prefect_http._wire.timeouts import TimeoutWatcher


class Wire(anyio.abc.ByteStream):
    """A stream whose other side is the test.

    Attributes:
        sent: what was sent, with the time.
        failures: what to raise when something is sent or received, by name.
        is_blocked: whether nothing can be sent.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes]] = []
        self.failures: dict[str, Exception] = {}
        self.is_blocked = False
        self.closings = 0
        self._feed, self._received = anyio.create_memory_object_stream[bytes](math.inf)
        self._closed = anyio.Event()

    def feed(self, *data: bytes) -> None:
        """Let something arrive."""
        self._feed.send_nowait(b"".join(data))

    def end(self, failure: Exception | None = None) -> None:
        """Let receiving end, or fail."""
        if failure is not None:
            self.failures["receive"] = failure
        self._feed.close()

    def frames(self) -> list[tuple[float, int]]:
        """Return the kinds of the frames that were sent, and when."""
        return [(at, each.kind) for at, data in self.sent for each in frames_in(data)]

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await self._received.receive()
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            if "receive" in self.failures:
                raise self.failures.pop("receive") from None
            raise

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if "send" in self.failures:
            raise self.failures.pop("send")
        if self.is_blocked:
            await self._closed.wait()
            raise anyio.ClosedResourceError
        self.sent.append((anyio.current_time(), item))

    async def send_eof(self) -> None:
        raise AssertionError("not used")

    async def aclose(self) -> None:
        self.closings += 1
        self._closed.set()
        self._received.close()
        self._feed.close()
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return {}


class Owner:
    """What a session tells its owner.

    Attributes:
        told: in order.
        discarded: as the pool's.
        failure: raised when the connections are to be closed.
    """

    def __init__(self) -> None:
        self.told: list[object] = []
        self.discarded: list[object] = []
        self.failure: Exception | None = None

    def room_changed(self, session: Session, max_requests: int) -> None:
        """Take note of that."""
        assert session.room == max_requests
        self.told.append(max_requests)

    def going_away(self, session: Session) -> None:
        """Take note of that, and have it closed."""
        self.told.append("going away")
        self.discarded.append(session)

    def ended(self, session: Session) -> None:
        """Take note of that."""
        assert session.is_stale()
        self.told.append("ended")

    async def close_discarded(self) -> None:
        """Close what was discarded."""
        while self.discarded:
            session = self.discarded.pop()
            assert isinstance(session, Session)
            await session.aclose()
        if self.failure is not None:
            raise self.failure


def begin() -> tuple[Session, Wire, Owner, TimeoutWatcher]:
    """Start a session; the server's SETTINGS are there."""
    stream, owner, watcher = Wire(), Owner(), TimeoutWatcher()
    session = Session(stream, "host:1", watcher, clock(), 65_536, owner, owner.discarded)
    session.start()
    stream.feed(settings())
    return session, stream, owner, watcher


def request(session: Session) -> tuple[Stream, list[float]]:
    """Send a request, and return its stream, and the list of the times at which it has changed."""
    woken: list[float] = []
    return session.open_stream(GET, b"", lambda: woken.append(anyio.current_time())), woken


async def end(session: Session) -> None:
    """Close a session, which must end its tasks."""
    await session.aclose()
    await session.wait_ended()
    await session.wait_ended()


# --- Whether the connection is alive, at exact times


@pytest.mark.trio
async def test_silent_connection_is_probed(autojump_clock: trio.testing.MockClock) -> None:
    """After 30 s without a sign of life a PING is sent, and 15 s later the connection is closed."""
    session, stream, owner, _ = begin()
    began = trio.current_time()
    opened, woken = request(session)
    await trio.sleep(44.9)
    assert (stream.frames()[-1], woken) == ((began + 30, PING), [])
    await trio.sleep(0.2)
    assert woken == [began + 45]
    error = session.error_for(opened)
    assert (type(error), str(error)) == (httpx.ReadError, "host:1 has not answered a PING within 15 s")
    await session.wait_ended()
    assert owner.told[-2:] == ["going away", "ended"]
    assert stream.closings == 1


@pytest.mark.trio
async def test_answered_probe(autojump_clock: trio.testing.MockClock) -> None:
    """Any sign of life will do; the next PING is sent 30 s after the last one."""
    session, stream, owner, watcher = begin()
    began = trio.current_time()
    _, woken = request(session)
    await trio.sleep(40)
    stream.feed(window(0, 1))
    await trio.sleep(29)
    (sent,) = [at for at, kind in stream.frames() if kind == PING]
    assert sent == began + 30
    stream.feed(headers(1), frame(PING, ACK, 0, (1).to_bytes(8)))
    await trio.sleep(31)
    assert [at for at, kind in stream.frames() if kind == PING] == [began + 30, began + 99]
    stream.feed(frame(PING, ACK, 0, (2).to_bytes(8)), headers(1, end=True))
    await trio.sleep(100)
    assert "going away" not in owner.told
    assert len(woken) >= 1
    await end(session)
    await watcher.stop()


@pytest.mark.trio
async def test_idle_connection_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    """No PING is sent while no stream is open, and no task watches for it."""
    session, stream, _, watcher = begin()
    request(session)
    stream.feed(headers(1, end=True))
    await trio.sleep(100)
    assert PING not in [kind for _, kind in stream.frames()]
    assert watcher.next_wakeup == math.inf
    await end(session)


@pytest.mark.trio
async def test_farewell_is_limited(autojump_clock: trio.testing.MockClock) -> None:
    """A GOAWAY that cannot be sent holds nothing up for longer than half a second."""
    session, stream, _, _ = begin()
    request(session)
    stream.feed(headers(1, end=True))
    await trio.sleep(1)
    stream.is_blocked = True
    began = trio.current_time()
    await end(session)
    assert trio.current_time() - began == 0.5


# --- Its end


@pytest.mark.anyio
async def test_closed_while_idle() -> None:
    """An idle connection is closed with a GOAWAY, and its tasks end."""
    session, stream, owner, _ = begin()
    request(session)
    stream.feed(headers(1, end=True))
    await settle()
    await end(session)
    assert stream.frames()[-1][1] == GOAWAY
    assert owner.told[-1] == "ended"
    await session.aclose()
    assert stream.closings == 1


@pytest.mark.anyio
@pytest.mark.parametrize("is_blocked", [False, True])
async def test_closed_in_use(is_blocked: bool) -> None:
    """A connection in use is closed without one, and its requests fail."""
    session, stream, owner, _ = begin()
    stream.is_blocked = is_blocked
    opened, woken = request(session)
    await settle()
    await end(session)
    assert len(woken) == 1
    assert not session.broke_off(opened)
    assert GOAWAY not in [kind for _, kind in stream.frames()]
    error = session.error_for(opened)
    assert (type(error), str(error)) == (httpx.ReadError, "the connection to host:1 was closed locally")
    assert owner.told == [1000, "going away", "ended"]


@pytest.mark.anyio
async def test_farewell_that_fails() -> None:
    """A GOAWAY that cannot be sent changes nothing, whatever the reason."""
    for failure in (anyio.BrokenResourceError(), RuntimeError("odd")):
        session, stream, _, _ = begin()
        request(session)
        stream.feed(headers(1, end=True))
        await settle()
        stream.failures["send"] = failure
        with contextlib.suppress(RuntimeError):
            await session.aclose()
        await session.wait_ended()
        assert stream.closings == 1


@pytest.mark.anyio
async def test_closed_before_it_has_begun() -> None:
    """A connection can be closed before its tasks have started."""
    stream, owner = Wire(), Owner()
    session = Session(stream, "host:1", TimeoutWatcher(), clock(), 65_536, owner, owner.discarded)
    await end(session)
    assert stream.closings == 1


FAILURES = {
    "end": ("receive", None, httpx.RemoteProtocolError, "host:1 closed the connection before"),
    "network": ("receive", anyio.BrokenResourceError(), httpx.ReadError, "receiving from host:1 failed"),
    "own error in reading": ("receive", RuntimeError("odd"), httpx.RemoteProtocolError, "was given up"),
    "own error in writing": ("send", RuntimeError("odd"), httpx.WriteError, "was given up"),
}


@pytest.mark.anyio
async def test_failures_of_the_network(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever ends the tasks, requests fail, the connection is closed, and nothing is raised elsewhere."""
    for name, (where, failure, kind, message) in FAILURES.items():
        caplog.clear()
        session, stream, owner, _ = begin()
        opened, woken = request(session)
        await settle()
        if where == "send":
            assert failure is not None
            stream.failures["send"] = failure
            _, others = request(session)
        else:
            others = [0.0]
            stream.end(failure)
        await until(partial(operator.contains, owner.told, "ended"))
        assert len(woken) == len(others) == 1, name
        error = session.error_for(opened)
        assert (type(error), message in str(error)) == (kind, True), name
        is_own = "own" in name  # which the request raises, as it is; the request must not be repeated
        assert session.unexpected is (failure if is_own else None), name
        assert session.broke_off(opened) is not is_own, name
        assert stream.closings == 1, name
        assert not [record for record in caplog.records if record.name == "prefect_http"], name


@pytest.mark.anyio
async def test_unexpected_error_of_an_idle_connection(caplog: pytest.LogCaptureFixture) -> None:
    """There is no request to raise what a stream raises that is no error of a network. So it is logged."""
    for where in ("receive", "send"):
        caplog.clear()
        session, stream, owner, _ = begin()
        await settle()
        failure = RuntimeError("odd")
        if where == "send":
            stream.failures["send"] = failure
            stream.feed(frame(PING, 0, 0, bytes(8)))
        else:
            stream.end(failure)
        await until(partial(operator.contains, owner.told, "ended"))
        assert session.unexpected is failure
        assert [record.levelno for record in caplog.records if record.name == "prefect_http"] == [logging.WARNING]


@pytest.mark.anyio
async def test_server_that_does_not_read() -> None:
    """If sending fails, what the server may still say is read; the connection takes no more requests."""
    session, stream, owner, _ = begin()
    opened, woken = request(session)
    await settle()
    owner.discarded = []
    stream.failures["send"] = anyio.BrokenResourceError()
    stream.feed(frame(PING, 0, 0, bytes(8)))
    await until(lambda: "going away" in owner.told)
    stream.feed(headers(1, end=True))
    await until(lambda: len(woken) > 0)
    assert opened.status == 200 or opened.failure is not None
    await end(session)


@pytest.mark.anyio
async def test_owner_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong with the closing of connections ends no task."""
    caplog.set_level(logging.DEBUG, "prefect_http")
    session, stream, owner, _ = begin()
    owner.failure = OSError("cannot be closed")
    stream.end()
    await until(lambda: "ended" in owner.told)
    assert "closing a connection failed" in caplog.text
    await end(session)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_tasks() -> None:
    """If the tasks are cancelled, as at the end of asyncio.run(), requests fail."""
    session, _, owner, _ = begin()
    opened, woken = request(session)
    await settle()
    for task in asyncio.all_tasks():
        if "HTTP/2" in task.get_name():
            task.cancel()
    await until(lambda: "ended" in owner.told)
    assert len(woken) == 1
    assert "was given up" in str(session.error_for(opened))
    await end(session)


@pytest.mark.anyio
async def test_abandoned() -> None:
    """A connection whose event loop has ended can be abandoned, whatever its stream."""
    session, _, _, _ = begin()
    session.abandon()
    session.is_closed = False
    await end(session)


# --- Its requests


@pytest.mark.anyio
async def test_first_flight() -> None:
    """The preface, SETTINGS and all requests so far go out in one piece, before the server says anything."""
    stream, owner = Wire(), Owner()
    session = Session(stream, "host:1", TimeoutWatcher(), clock(), 65_536, owner, owner.discarded)
    session.start()
    request(session)
    request(session)
    await until(lambda: stream.sent)
    assert [kind for _, kind in stream.frames()].count(HEADERS) == 2
    assert len(stream.sent) == 1
    await end(session)


@pytest.mark.anyio
async def test_room() -> None:
    """The owner is told of each change of how many requests there may be."""
    session, stream, owner, _ = begin()
    for limit in (5, 5, 0, 7):
        stream.feed(settings(s3=limit))
        await settle()
        assert session.is_stale() is (limit == 0)
    assert owner.told == [1000, 5, 0, 7]
    await end(session)
