"""Uploads through HTTPTransport: what goes out, what stops it, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from support.scripted_servers import (
    NOTHING,
    ONE_IDLE,
    Serve,
    byte_server,
    new_client,
    new_transport,
    open_sockets,
    read_head,
    read_to_end,
    reset,
    settle,
    until_closed,
    wired,
)
from support.servers import answer, retrying_at_once

from prefect_http import Attempt, PrefectHttpxClient
from prefect_http._foreign_errors import is_foreign
from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.exchange import Exchange
from prefect_http._wire.h1.request_head import encode_headers

pytestmark = pytest.mark.anyio

SLICE = 0x10000
# More than any socket holds back.
PLENTY = 0x1000000
HUGE = bytes(PLENTY)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlong"


class Source:
    """A body made by a generator, and what becomes of that one.

    Attributes:
        given: how many chunks have been taken.
        is_finished: its ``finally`` has run to the end.
    """

    def __init__(self, *chunks: bytes | BaseException, count: int = 1, waits: bool = True) -> None:
        self._chunks = chunks * count
        self._waits = waits
        self.given = 0
        self.is_finished = False

    async def __call__(self) -> AsyncIterator[bytes]:
        """Generate the body."""
        try:
            for chunk in self._chunks:
                if self._waits:
                    await anyio.lowlevel.checkpoint()
                if isinstance(chunk, BaseException):
                    raise chunk
                self.given += 1
                yield chunk
        finally:
            self.is_finished = True


def take_all(data: bytes = OK) -> Serve:
    """Read until the body's last chunk, then answer, on and on."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        while True:
            came = await read_head(stream)
            while not came.endswith(b"0\r\n\r\n"):
                came += await stream.receive()
            await stream.send(data)

    return serve


async def read_to_nothing(stream: anyio.abc.SocketStream) -> None:
    """Read all, and answer nothing."""
    await read_to_end(stream)


async def take_nothing(stream: anyio.abc.SocketStream) -> None:
    """Read no more than a head."""
    await read_head(stream)
    await anyio.sleep_forever()


def answer_early(data: bytes) -> Serve:
    """Answer as soon as the head is there, and take no more."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(data)
        await anyio.sleep_forever()

    return serve


# What goes out


@pytest.mark.parametrize("size", [0, SLICE, SLICE + 1, 1_000_000])
@pytest.mark.parametrize("kind", ["bytes", "file", "generator", "generator-with-length", "multipart"])
async def test_body_is_sent_whole(kind: str, size: int, tmp_path: Path) -> None:
    """A body of any size and kind arrives as it is, and the connection is used again."""
    body = bytes(range(255, 10, -1)) * (size // 245) + b"!" * (size % 245)  # no line breaks: files are read in lines
    (tmp_path / "body").write_bytes(body)

    async def chunks() -> AsyncIterator[bytes]:
        yield b""
        for start in range(0, size, 70_001):
            yield body[start : start + 70_001]
            yield b""

    async with wired(answer(body=b"fine")) as (server, client, transport):
        for _ in range(2):
            match kind:
                case "file":
                    async with await anyio.open_file(tmp_path / "body", "rb") as file:
                        response = await client.post(server.url, content=file)
                case "multipart":
                    response = await client.post(server.url, files={"file": ("name", io.BytesIO(body))})
                case "generator":
                    response = await client.post(server.url, content=chunks())
                case "generator-with-length":
                    headers = {"Content-Length": str(size)}
                    response = await client.post(server.url, content=chunks(), headers=headers)
                case _:
                    response = await client.post(server.url, content=body)
            assert response.content == b"fine"
            assert transport.statistics() == ONE_IDLE
    assert server.connections == 1
    for received in server.requests:
        if kind == "multipart":
            assert body in received.body
        else:
            assert received.body == body


async def test_generator_is_sent_as_it_goes() -> None:
    """A chunk is sent when it is there, and not with the next one."""
    may_go_on = anyio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        await may_go_on.wait()
        yield b""
        yield b"two"

    async def serve(stream: anyio.abc.SocketStream) -> None:
        came = await read_head(stream)
        while not came.endswith(b"3\r\none\r\n"):
            came += await stream.receive()
        may_go_on.set()
        while not came.endswith(b"3\r\ntwo\r\n0\r\n\r\n"):
            came += await stream.receive()
        await stream.send(OK)

    async with byte_server(serve) as server, new_client(new_transport()) as client:
        assert (await client.post(server.url, content=chunks())).content == b"fine"


@pytest.mark.parametrize(("promised", "word"), [(9, "longer"), (11, "shorter")])
@pytest.mark.parametrize("kind", ["bytes", "long-bytes", "generator"])
async def test_body_is_held_to_its_length(kind: str, promised: int, word: str) -> None:
    """A body that is longer or shorter than promised is a LocalProtocolError, and no more than promised is sent."""
    source = Source(b"01234", b"56789")
    body, promised = (b"x" * 1_000_000, promised + 999_990) if kind == "long-bytes" else (b"0123456789", promised)
    seen: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        seen.append(await read_to_end(stream))

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        headers = {"Content-Length": str(promised)}
        with pytest.raises(httpx.LocalProtocolError, match=word):
            await client.post(server.url, content=source() if kind == "generator" else body, headers=headers)
        assert transport.statistics() == NOTHING
        await server.over.wait()
    _, _, came = b"".join(seen).partition(b"\r\n\r\n")
    assert len(came) <= promised
    assert source.is_finished == (kind == "generator")


# Bodies that fail


class Stop(BaseException):
    """What is no Exception, like KeyboardInterrupt."""


ERRORS = [
    ZeroDivisionError("mine"),
    httpx.ReadError("mine"),
    httpx.WriteError("mine"),
    httpx.WriteTimeout("mine"),
    httpx.RemoteProtocolError("mine"),
    OSError("mine"),
    anyio.BrokenResourceError("mine"),
    ExceptionGroup("mine", [ValueError("mine")]),
    Stop("mine"),
]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@pytest.mark.parametrize("before", [0, 100])
@each_error
async def test_exception_of_the_body_comes_out_as_it_is(error: BaseException, before: int) -> None:
    """What a body's generator raises comes out as it is, is no failure of the wire's, and the connection is closed."""
    source = Source(*[b"x" * 1000] * before, error)
    sockets = open_sockets()
    transport = new_transport()
    async with byte_server(take_all()) as server, new_client(transport, 1) as client:
        with pytest.raises(BaseException) as caught:  # noqa: PT011, it is compared
            await client.post(server.url, content=source())
        assert caught.value is error
        assert is_foreign(error) or not isinstance(error, Exception)
        assert transport.statistics() == NOTHING
        await server.over.wait()
    await until_closed(sockets)


@each_error
async def test_exception_of_the_body_is_not_retried(error: BaseException) -> None:
    """PrefectHttpxClient takes what a body's generator raises for no failure on the way, whatever its type."""
    attempts: list[Attempt] = []

    def note(_: httpx.Request, attempt: Attempt) -> None:
        attempts.append(attempt)

    source = Source(b"x" * 1000, error)
    async with (
        byte_server(take_all()) as server,
        PrefectHttpxClient(retry=retrying_at_once(), on_retry=note, timeout=1, trust_env=False) as client,
    ):
        with pytest.raises(BaseException) as caught:  # noqa: PT011, it is compared
            await client.put(server.url, content=source())
        assert caught.value is error
    assert attempts == []
    assert server.connections == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_stray_cancellation_of_the_body_comes_out_as_it_is() -> None:
    """A body that raises asyncio's CancelledError by itself has it come out, and the connection is closed."""
    source = Source(b"x" * 1000, asyncio.CancelledError("mine"))
    transport = new_transport()
    async with byte_server(take_all()) as server, new_client(transport) as client:
        with pytest.raises(asyncio.CancelledError):
            await client.post(server.url, content=source())
        assert transport.statistics() == NOTHING


# Answers that come early


@pytest.mark.parametrize(
    ("kind", "waits", "status"),
    [
        ("bytes", False, b"302"),
        ("bytes", False, b"413"),
        ("generator", True, b"500"),
        ("generator-with-length", True, b"401"),
    ],
)
async def test_early_refusal_ends_the_upload(kind: str, status: bytes, waits: bool) -> None:
    """A refusal ends an upload that the server takes no more of: the generator is finished, the connection closed."""
    source = Source(b"x" * SLICE, count=PLENTY // SLICE, waits=waits)
    sockets = open_sockets()
    transport = new_transport()
    async with byte_server(answer_early(REFUSED.replace(b"413", status))) as server, new_client(transport) as client:
        headers = {"Content-Length": str(PLENTY)} if kind == "generator-with-length" else {}
        content = HUGE if kind == "bytes" else source()
        response = await client.post(server.url, content=content, headers=headers)
        assert (response.status_code, response.content) == (int(status), b"long")
        assert transport.statistics() == NOTHING
        assert source.is_finished == (kind != "bytes")
        assert source.given < PLENTY // SLICE
    del content
    gc.collect()
    await until_closed(sockets)


async def test_early_refusal_ends_a_body_that_never_waits() -> None:
    """An upload that the server takes in for a while, and then refuses, ends there."""
    source = Source(b"x" * 1000, count=1_000_000, waits=False)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        came = 0
        while came < 1_000_000:
            came += len(await stream.receive())
        await stream.send(REFUSED)
        await read_to_end(stream)

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=source())
        assert response.status_code == 413
        assert transport.statistics() == NOTHING
        await server.over.wait()
    assert source.given < 1_000_000


async def test_early_refusal_ends_a_body_that_waits_for_long() -> None:
    """A refusal does not wait for the next chunk."""
    is_finished = anyio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await anyio.sleep_forever()
        finally:
            is_finished.set()

    transport = new_transport()
    async with byte_server(answer_early(REFUSED)) as server, new_client(transport) as client:
        response = await client.post(server.url, content=chunks())
        assert response.status_code == 413
        assert is_finished.is_set()
        assert transport.statistics() == NOTHING


async def test_early_answer_is_read_whole() -> None:
    """An early refusal's body may be long, and come slowly."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 1000000\r\n\r\n")
        await settle()
        await stream.send(b"x" * 1_000_000)
        await anyio.sleep_forever()

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=HUGE)
        assert response.content == b"x" * 1_000_000
        assert transport.statistics() == NOTHING


@pytest.mark.parametrize("kind", ["bytes", "generator"])
async def test_early_success_does_not_end_the_upload(kind: str) -> None:
    """A server that answers 200 and goes on reading gets all of the body, and the connection is used again."""
    counts: list[int] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        while True:
            head = await read_head(stream)
            await stream.send(OK)
            came = len(head.partition(b"\r\n\r\n")[2])
            while came < 5_000_000:
                came += len(await stream.receive(min(SLICE, 5_000_000 - came)))
            counts.append(came)

    transport = new_transport()
    async with byte_server(serve) as server:
        async with new_client(transport) as client:
            for _ in range(2):
                source = Source(b"x" * 50_000, count=100)
                headers = {"Content-Length": "5000000"}
                content = b"x" * 5_000_000 if kind == "bytes" else source()
                response = await client.post(server.url, content=content, headers=headers)
                assert response.content == b"fine"
                assert transport.statistics() == ONE_IDLE
                assert source.is_finished == (kind == "generator")
        await server.over.wait()
    assert server.connections == 1
    assert counts == [5_000_000] * 2


async def test_interim_answers_do_not_end_the_upload() -> None:
    """A server may send 100 and 103 while the body comes."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        came = b""
        while not came.endswith(b"0\r\n\r\n"):
            came += await stream.receive()
        await stream.send(OK)

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=Source(b"x" * SLICE, count=20)())
        assert response.content == b"fine"
        assert transport.statistics() == ONE_IDLE


@pytest.mark.parametrize("status", [b"200", b"413"])
@pytest.mark.parametrize("size", [100, SLICE, SLICE + 1, PLENTY])
async def test_answer_and_then_a_reset(size: int, status: bytes) -> None:
    """A server that answers, takes no more and breaks the connection has answered all the same."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(REFUSED.replace(b"413", status))
        await settle()
        await reset(stream)

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=b"x" * size)
        assert (response.status_code, response.content) == (int(status), b"long")
        await server.over.wait()
        await client.get(server.url)  # on a connection of its own, if the other was kept
    assert server.connections == 2


async def test_bytes_behind_an_early_answer_close_the_connection() -> None:
    """What comes behind an answer during the upload is no answer to the next request."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"

    async def serve(stream: anyio.abc.SocketStream) -> None:
        came = await read_head(stream)
        await stream.send(OK)
        while not came.endswith(b"0\r\n\r\n"):
            came += await stream.receive()
            await stream.send(evil)
        await stream.receive()

    transport = new_transport()
    async with byte_server(serve, take_all()) as server, new_client(transport) as client:
        for _ in range(2):
            response = await client.post(server.url, content=Source(b"x" * SLICE, count=20)())
            assert response.content == b"fine"
    assert server.connections == 2


@pytest.mark.parametrize("kind", ["bytes", "generator"])
async def test_bad_early_answer_ends_the_upload(kind: str) -> None:
    """An early answer that is not valid is a RemoteProtocolError, and ends the upload."""
    source = Source(b"x" * SLICE, count=PLENTY // SLICE)
    transport = new_transport()
    async with byte_server(answer_early(b"220 smtp.example.org ESMTP\r\n")) as server, new_client(transport) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(server.url, content=HUGE if kind == "bytes" else source())
        assert transport.statistics() == NOTHING
    assert source.is_finished == (kind == "generator")


# Servers that leave


@pytest.mark.parametrize("kind", ["bytes", "generator"])
@pytest.mark.parametrize("end", ["close", "reset", "half-close"])
async def test_server_that_leaves_ends_the_upload(end: str, kind: str) -> None:
    """A server that leaves in the middle of an upload, without an answer, ends it with an error of the wire's."""
    source = Source(b"x" * SLICE, count=PLENTY // SLICE)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        if end == "reset":
            await reset(stream)
        elif end == "half-close":
            await stream.send_eof()
            await anyio.sleep_forever()

    sockets = open_sockets()
    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)) as caught:
            await client.post(server.url, content=HUGE if kind == "bytes" else source())
        assert end != "half-close" or type(caught.value) is httpx.RemoteProtocolError
        assert transport.statistics() == NOTHING
    assert source.is_finished == (kind == "generator")
    await until_closed(sockets)


# Timeouts


@pytest.mark.parametrize("kind", ["bytes", "generator"])
async def test_write_timeout(kind: str) -> None:
    """A server that takes nothing for too long is a WriteTimeout, and nothing stays behind, whatever it does then."""
    sockets = open_sockets()
    transport = new_transport()
    async with (
        byte_server(take_nothing) as server,
        new_client(transport, httpx.Timeout(5, write=0.01)) as client,
    ):
        for _ in range(5):
            source = Source(b"x" * SLICE, count=PLENTY // SLICE)
            before = open_sockets()
            with pytest.raises(httpx.TimeoutException) as caught:
                await client.post(server.url, content=HUGE if kind == "bytes" else source())
            assert type(caught.value) is httpx.WriteTimeout
            assert transport.statistics() == NOTHING
            assert source.is_finished == (kind == "generator")
            await settle()
            assert len(open_sockets()) == len(before) + 1  # the server's
    await until_closed(sockets)


class FakeConnection:
    """Notes what an Exchange does; answers when all is sent."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.notes: list[tuple[str, int, float | None]] = []
        self._all_is_sent = anyio.Event()

    async def send(self, data: bytes, timeout: float | None) -> None:
        """Take data."""
        await anyio.lowlevel.checkpoint()
        self.notes.append(("send", len(data), timeout))
        self.left -= len(data)
        if not self.left:
            self._all_is_sent.set()

    async def receive_meanwhile(self, timeout: float | None) -> bytes:
        """Give the answer."""
        await self._all_is_sent.wait()
        await settle()
        self.notes.append(("receive", len(OK), timeout))
        return OK

    def limit_wait(self, seconds: float | None) -> None:
        """Note it."""
        self.notes.append(("wait", 0, seconds))


async def test_each_part_has_its_own_timeout() -> None:
    """Each 64 KiB of a long body has its own write timeout, and the read timeout begins when all is sent."""
    line, block = b"POST / HTTP/1.1\r\n", encode_headers([(b"Host", b"x"), (b"Content-Length", b"200000")])
    head_size = len(line + block.lines)
    connection = FakeConnection(head_size + 200_000)
    exchange = Exchange(cast(Connection, connection), "POST", block, {"read": 3, "write": 2}, None)
    with anyio.fail_after(5):
        await exchange.run(line, b"x" * 200_000)
    sent = [("send", size, 2) for size in (head_size, SLICE, SLICE, SLICE, 200_000 - 3 * SLICE)]
    assert connection.notes == [*sent, ("wait", 0, 3), ("receive", len(OK), 3), ("wait", 0, 3), ("wait", 0, None)]
    assert exchange.is_sent


async def test_read_timeout_follows_the_upload() -> None:
    """A server that has got all, and does not answer, is a ReadTimeout; during the upload there is none."""
    is_sent = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal is_sent
        for _ in range(3):
            yield b"x" * 1000
            await anyio.sleep(0.03)
        is_sent = True

    transport = new_transport()
    async with byte_server(read_to_nothing) as server, new_client(transport, httpx.Timeout(5, read=0.02)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(server.url, content=chunks())
        assert transport.statistics() == NOTHING
    assert is_sent


# Cancellation


STAGES = ["first-chunk", "sending", "next-chunk", "answer", "answer-body"]
EVENTS = [
    f"{step}.{end}"
    for step in ["http11.send_request_headers", "http11.send_request_body", "http11.receive_response_headers"]
    for end in ("started", "complete")
]


class Staged:
    """A body and a server that get stuck at a stage."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.is_finished = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Generate the body."""
        try:
            if self._stage == "first-chunk":
                await anyio.sleep_forever()
            yield HUGE if self._stage == "sending" else b"x" * 1000
            if self._stage in {"sending", "next-chunk"}:
                await anyio.sleep_forever()
        finally:
            self.is_finished = True

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve a connection."""
        came = await read_head(stream)
        if self._stage == "answer-body":
            while not came.endswith(b"0\r\n\r\n"):
                came += await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
        await anyio.sleep_forever()


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelled_upload_leaves_nothing_behind(stage: str) -> None:
    """An upload that is cancelled, at any stage, ends at once and plainly, and leaves no place and no socket behind."""
    staged, outcomes, sockets = Staged(stage), list[BaseException](), open_sockets()
    transport = new_transport()

    async def post(client: httpx.AsyncClient, url: str) -> None:
        try:
            await client.post(url, content=staged.chunks())
        except BaseException as error:
            outcomes.append(error)
            raise

    async with byte_server(staged.serve) as server, new_client(transport) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, client, server.url)
            await settle()
            assert (transport.statistics().connections, outcomes) == (1, [])
            tasks.cancel_scope.cancel()
        assert [type(outcome) for outcome in outcomes] == [anyio.get_cancelled_exc_class()]
        assert staged.is_finished
        assert transport.statistics() == NOTHING
        await settle()
        assert len(open_sockets() - sockets) <= 2  # the server's
    await until_closed(sockets)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("stage", STAGES)
async def test_upload_takes_a_native_cancellation(stage: str) -> None:
    """The asyncio task's own cancellation ends an upload at once, at any stage."""
    staged, sockets = Staged(stage), open_sockets()
    transport = new_transport()
    async with byte_server(staged.serve) as server, new_client(transport) as client:
        post = asyncio.create_task(client.post(server.url, content=staged.chunks()))
        await settle()
        post.cancel()
        done, _ = await asyncio.wait([post], timeout=0.5)
        assert done == {post}
        assert post.cancelled()
        assert staged.is_finished
        assert transport.statistics() == NOTHING
    await until_closed(sockets)


@pytest.mark.parametrize("last", EVENTS)
async def test_upload_cancelled_at_an_event_leaves_nothing_behind(last: str) -> None:
    """An upload that is cancelled at any event of its trace finishes its generator, and leaves nothing behind."""
    source, scope, sockets = Source(b"x" * 1000), anyio.CancelScope(), open_sockets()

    async def trace(event: str, _: Mapping[str, object]) -> None:
        if event == last:
            scope.cancel()
        await anyio.lowlevel.checkpoint()

    transport = new_transport()
    async with byte_server(take_all()) as server, new_client(transport) as client:
        with scope:
            await client.post(server.url, content=source(), extensions={"trace": trace})
        assert scope.cancelled_caught
        assert transport.statistics() == NOTHING
        assert source.is_finished == (source.given > 0)
    await until_closed(sockets)


@pytest.mark.parametrize("failing", EVENTS)
async def test_trace_that_fails_in_an_upload_leaves_nothing_behind(failing: str) -> None:
    """A trace extension that raises during an upload has its exception reach the caller, plain."""
    source, sockets = Source(b"x" * 1000), open_sockets()

    async def trace(event: str, _: Mapping[str, object]) -> None:
        if event == failing:
            raise ZeroDivisionError

    transport = new_transport()
    async with byte_server(take_all()) as server, new_client(transport) as client:
        with pytest.raises(ZeroDivisionError):
            await client.post(server.url, content=source(), extensions={"trace": trace})
        assert transport.statistics() == NOTHING
        assert source.is_finished == (source.given > 0)
    await until_closed(sockets)


async def test_closing_the_transport_ends_an_upload() -> None:
    """An upload whose transport is closed meanwhile fails with an error of the wire's."""
    staged, errors = Staged("sending"), list[BaseException]()
    transport = new_transport()

    async def post(client: httpx.AsyncClient, url: str) -> None:
        with pytest.raises((httpx.ReadError, httpx.WriteError)) as caught:
            await client.post(url, content=staged.chunks())
        errors.append(caught.value)

    async with byte_server(staged.serve) as server, new_client(transport) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, client, server.url)
            await settle()
            await transport.aclose()
        assert transport.statistics() == NOTHING
        assert staged.is_finished
    assert len(errors) == 1


class Interrupted(FakeConnection):
    """Raises what is no Exception, in place of an answer."""

    async def receive_meanwhile(self, timeout: float | None) -> bytes:
        """Raise."""
        raise Stop


async def test_interruption_of_the_reading_is_not_lost() -> None:
    """What is no Exception, such as a KeyboardInterrupt, comes out of the task that reads, if in a group."""
    line, block = b"POST / HTTP/1.1\r\n", encode_headers([(b"Host", b"x"), (b"Content-Length", b"200000")])
    exchange = Exchange(cast(Connection, Interrupted(10**6)), "POST", block, {}, None)
    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup) as caught:
        await exchange.run(line, b"x" * 200_000)
    assert isinstance(caught.value.exceptions[0], Stop)
