"""Uploads through HTTPTransport: what is sent, what stops it, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import io
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from support.fake_stream import FakeStream
from support.rows import each_row
from support.scripted_servers import (
    Serve,
    byte_server,
    new_client,
    one_connection,
    read_head,
    read_to_end,
    settle,
    wired,
)
from support.servers import answer, raw_server, retrying_at_once
from support.sockets import open_sockets, reset, sockets_closed
from support.wire import NOTHING, ONE_IDLE

from prefect_http import Attempt, HTTPTransport, PrefectHttpxClient
from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.exchange import Exchange, OutgoingRequest
from prefect_http._wire.h1.request_head import encode_headers

pytestmark = pytest.mark.anyio

SLICE = 0x10000
# More than the buffers of a socket hold.
PLENTY = 0x1000000
HUGE = bytes(PLENTY)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlong"


class Source:
    """A body made by a generator.

    Attributes:
        given: the number of parts that have been taken.
        is_finished: whether its ``finally`` has run to the end.
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


def read_all(data: bytes = OK) -> Serve:
    """Read up to the last chunk of the body, then answer; again and again."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        while True:
            received = await read_head(stream)
            while not received.endswith(b"0\r\n\r\n"):
                received += await stream.receive()
            await stream.send(data)

    return serve


async def read_and_stay_silent(stream: anyio.abc.SocketStream) -> None:
    """Read everything, and never answer."""
    await read_to_end(stream)


async def read_a_head(stream: anyio.abc.SocketStream) -> None:
    """Answer a request, and read no more than the head of the next one.

    Under asyncio, a stream of anyio does not stop reading before it has waited once for something to read.
    """
    await read_head(stream)
    await stream.send(OK)
    await read_head(stream)
    await anyio.sleep_forever()


def answer_early(data: bytes) -> Serve:
    """Answer as soon as the head has arrived, and read no more."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(data)
        await anyio.sleep_forever()

    return serve


def answer_early_and_reset(data: bytes) -> Serve:
    """Answer as soon as the head has arrived, and reset the connection once the answer has."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(data)
        await settle()
        await reset(stream)

    return serve


# What is sent


@pytest.mark.parametrize("size", [0, SLICE, SLICE + 1, 1_000_000])
@pytest.mark.parametrize("kind", ["bytes", "file", "generator", "generator-with-length", "multipart"])
async def test_body_is_sent_whole(kind: str, size: int, tmp_path: Path) -> None:
    """A body of any size and kind arrives unchanged, and the connection is reused."""
    body = bytes(range(255, 10, -1)) * (size // 245) + b"!" * (
        size % 245
    )  # no line breaks, since files are read in lines
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


async def test_generator_is_sent_as_it_is_made() -> None:
    """A part of the body is sent when it is made, and not with the next one."""
    may_go_on = anyio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        await may_go_on.wait()
        yield b""
        yield b"two"

    async def serve(stream: anyio.abc.SocketStream) -> None:
        received = await read_head(stream)
        while not received.endswith(b"3\r\none\r\n"):
            received += await stream.receive()
        may_go_on.set()
        while not received.endswith(b"3\r\ntwo\r\n0\r\n\r\n"):
            received += await stream.receive()
        await stream.send(OK)

    async with byte_server(serve) as server, new_client(one_connection()) as client:
        assert (await client.post(server.url, content=chunks())).content == b"fine"


@each_row(("length", "word"), [(9, "longer"), (11, "shorter")])
@each_row("kind", ["bytes", "large-bytes", "generator"])
async def test_body_of_the_wrong_length(kind: str, length: int, word: str) -> None:
    """A body that is longer or shorter than its Content-Length is a LocalProtocolError; no more than that is sent."""
    source = Source(b"01234", b"56789")
    body, length = (b"x" * 1_000_000, length + 999_990) if kind == "large-bytes" else (b"0123456789", length)
    seen: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        seen.append(await read_to_end(stream))

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        headers = {"Content-Length": str(length)}
        with pytest.raises(httpx.LocalProtocolError, match=word):
            await client.post(server.url, content=source() if kind == "generator" else body, headers=headers)
        assert transport.statistics() == NOTHING
        await server.all_closed.wait()
    _, _, received = b"".join(seen).partition(b"\r\n\r\n")
    assert len(received) <= length
    assert source.is_finished == (kind == "generator")


class Progress(httpx.ByteStream):
    """A body of bytes that knows how much of it has been sent."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._content = content
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("not used")
        yield

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in (self._content[:3], self._content[3:]):
            self.given += len(part)
            yield part


async def test_subclass_of_byte_stream() -> None:
    """A subclass of httpx.ByteStream is iterated, as httpx does."""
    body = Progress(b"hello")
    with anyio.fail_after(5):
        async with raw_server(answer()) as server, one_connection() as transport:
            headers = {"Host": "server", "Content-Length": "5"}
            request = httpx.Request("POST", server.url, headers=headers, stream=body)
            await (await transport.handle_async_request(request)).aclose()
        assert [received.body for received in server.requests] == [b"hello"]
    assert body.given == 5


async def turns_of_others(chunks: Iterator[bytes]) -> int:
    """Send a body on a connection that takes everything at once, and return how often another task runs meanwhile."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()

    request = httpx.Request("POST", "http://x/", content=body(), headers={"Transfer-Encoding": "chunked"})
    exchange = Exchange(cast(Connection, FakeConnection(10**9)), OutgoingRequest.of(request, encode_headers))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        await exchange.send()
        await exchange.receive_head()
    return turns


async def test_other_tasks_run_during_an_upload() -> None:
    """An upload that need not wait lets other tasks run after 16 parts, empty or not, or if one takes long to make."""
    for part in (b"x", b""):
        assert 8 <= await turns_of_others(part for _ in range(160)) < 100  # more than 10 on a busy machine

    def slowly() -> Iterator[bytes]:
        for _ in range(10):
            time.sleep(0.002)
            yield b"x"

    assert await turns_of_others(slowly()) >= 8


# Bodies that fail


class Stop(BaseException):
    """An exception that is not an Exception, like KeyboardInterrupt."""


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
each_error = each_row("error", ERRORS)


@pytest.mark.parametrize("before", [0, 100])
@each_error
async def test_exception_of_the_body(error: BaseException, before: int) -> None:
    """An exception of the generator is raised unchanged, and the connection is closed."""
    source = Source(*[b"x" * 1000] * before, error)
    sockets = open_sockets()
    transport = one_connection()
    async with byte_server(read_all()) as server, new_client(transport, 1) as client:
        with pytest.raises(BaseException) as caught:  # noqa: PT011, it is compared
            await client.post(server.url, content=source())
        assert caught.value is error
        assert transport.statistics() == NOTHING
        await server.all_closed.wait()
    await sockets_closed(sockets)


@each_error
async def test_exception_of_the_body_is_not_retried(error: BaseException) -> None:
    """PrefectHttpxClient does not retry after an exception of the generator, whatever its type."""
    attempts: list[Attempt] = []

    def note(_: httpx.Request, attempt: Attempt) -> None:
        attempts.append(attempt)

    source = Source(b"x" * 1000, error)
    async with (
        byte_server(read_all()) as server,
        PrefectHttpxClient(retry=retrying_at_once(), on_retry=note, timeout=1, trust_env=False) as client,
    ):
        with pytest.raises(BaseException) as caught:  # noqa: PT011, it is compared
            await client.put(server.url, content=source())
        assert caught.value is error
    assert attempts == []
    assert server.connections == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_stray_cancellation_of_the_body() -> None:
    """A CancelledError that the generator raises by itself is raised unchanged, and the connection is closed."""
    source = Source(b"x" * 1000, asyncio.CancelledError("mine"))
    transport = one_connection()
    async with byte_server(read_all()) as server, new_client(transport) as client:
        with pytest.raises(asyncio.CancelledError):
            await client.post(server.url, content=source())
        assert transport.statistics() == NOTHING


# Early responses


@each_row(
    ("kind", "waits", "status"),
    [
        ("bytes", False, b"302"),
        ("bytes", False, b"413"),
        ("generator", True, b"500"),
        ("generator-with-length", True, b"401"),
    ],
)
async def test_early_error_ends_the_upload(kind: str, status: bytes, waits: bool) -> None:
    """An error response ends an upload that the server no longer reads, with its generator and its connection."""
    source = Source(b"x" * SLICE, count=PLENTY // SLICE, waits=waits)
    sockets = open_sockets()
    transport = one_connection()
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
    await sockets_closed(sockets)


async def test_early_error_ends_a_body_that_never_waits() -> None:
    """An error response ends an upload that the server has read for a while."""
    source = Source(b"x" * 1000, count=1_000_000, waits=False)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        received = 0
        while received < 1_000_000:
            received += len(await stream.receive())
        await stream.send(REFUSED)
        await read_to_end(stream)

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=source())
        assert response.status_code == 413
        assert transport.statistics() == NOTHING
        await server.all_closed.wait()
    assert source.given < 1_000_000


async def test_early_error_ends_a_body_that_waits() -> None:
    """An error response does not wait for the next part of the body."""
    is_finished = anyio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await anyio.sleep_forever()
        finally:
            is_finished.set()

    transport = one_connection()
    async with byte_server(answer_early(REFUSED)) as server, new_client(transport) as client:
        response = await client.post(server.url, content=chunks())
        assert response.status_code == 413
        assert is_finished.is_set()
        assert transport.statistics() == NOTHING


async def test_early_response_is_read_whole() -> None:
    """The body of an early error response may be large, and arrive slowly."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 1000000\r\n\r\n")
        await settle()
        await stream.send(b"x" * 1_000_000)
        await anyio.sleep_forever()

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=HUGE)
        assert response.content == b"x" * 1_000_000
        assert transport.statistics() == NOTHING


@pytest.mark.parametrize("kind", ["bytes", "generator"])
async def test_early_success_does_not_end_the_upload(kind: str) -> None:
    """A server that answers 200 and goes on reading gets all of the body, and the connection is reused."""
    counts: list[int] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        while True:
            head = await read_head(stream)
            await stream.send(OK)
            received = len(head.partition(b"\r\n\r\n")[2])
            while received < 5_000_000:
                received += len(await stream.receive(min(SLICE, 5_000_000 - received)))
            counts.append(received)

    transport = one_connection()
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
        await server.all_closed.wait()
    assert server.connections == 1
    assert counts == [5_000_000] * 2


async def test_informational_responses_do_not_end_the_upload() -> None:
    """A server may send 100 and 103 while the body is sent."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await stream.receive()
        await stream.send(OK)

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=Source(b"x" * SLICE, count=20)())
        assert response.content == b"fine"
        assert transport.statistics() == ONE_IDLE


@each_row("status", [b"200", b"413"])
@each_row("size", [100, SLICE, SLICE + 1, PLENTY])
async def test_response_and_then_a_reset(size: int, status: bytes) -> None:
    """If a server answers, and then stops reading and resets the connection, the response is returned all the same."""
    serve = answer_early_and_reset(REFUSED.replace(b"413", status))
    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=b"x" * size)
        assert (response.status_code, response.content) == (int(status), b"long")
        await server.all_closed.wait()
        await client.get(server.url)  # on a new connection, even if the other was kept
    assert server.connections == 2


@each_row("status", [b"307", b"400", b"500"])
@each_row("size", [100, SLICE + 1, PLENTY])
async def test_response_without_length_and_then_a_reset(size: int, status: bytes) -> None:
    """If a server refuses an upload, and does not say how long its response is, the reset may be its end."""
    serve = answer_early_and_reset(b"HTTP/1.1 %b Refused\r\n\r\nlong" % status)
    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        response = await client.post(server.url, content=b"x" * size)
        assert (response.status_code, response.content) == (int(status), b"long")
        assert transport.statistics() == NOTHING


@each_row(
    ("method", "head"),
    [
        ("GET", b"HTTP/1.1 400 Bad Request\r\n\r\n"),  # it has nothing to refuse
        ("POST", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("POST", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\n"),
        ("POST", b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n"),
    ],
)
async def test_a_reset_that_is_not_the_end(method: str, head: bytes) -> None:
    """Any other response that a reset has cut off is incomplete."""
    async with byte_server(answer_early_and_reset(head + b"long")) as server, new_client(one_connection()) as client:
        with pytest.raises(httpx.ReadError):
            await client.request(method, server.url, content=b"" if method == "GET" else b"x" * PLENTY)


@pytest.mark.parametrize(("cause", "is_end"), [(ConnectionResetError, True), (TimeoutError, False), (None, False)])
async def test_what_ends_a_refusal(cause: type[OSError] | None, is_end: bool) -> None:
    """A reset is the end of a refusal that does not say how long it is, and no other failure is."""
    broken = anyio.BrokenResourceError()
    broken.__cause__ = None if cause is None else cause()

    async def connect(host: str, port: int) -> FakeStream:
        return FakeStream(b"HTTP/1.1 400 Bad Request\r\n\r\nlong", broken)

    async with new_client(HTTPTransport(connect=connect)) as client:
        if is_end:
            assert (await client.post("http://server/", content=b"body")).content == b"long"
        else:
            with pytest.raises(httpx.ReadError):
                await client.post("http://server/", content=b"body")


async def test_closing_the_transport_is_not_the_end() -> None:
    """A refusal that is cut off because its transport was closed is incomplete."""
    serve = answer_early(b"HTTP/1.1 400 Bad Request\r\n\r\nlong")
    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        async with client.stream("POST", server.url, content=b"x" * PLENTY) as response:
            chunks = response.aiter_raw()
            assert await anext(chunks) == b"long"
            await transport.aclose()
            with pytest.raises(httpx.ReadError):
                await anext(chunks)


async def test_data_after_an_early_response() -> None:
    """Data that follows a response during the upload is not the next request's response."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"

    async def serve(stream: anyio.abc.SocketStream) -> None:
        received = await read_head(stream)
        await stream.send(OK)
        while not received.endswith(b"0\r\n\r\n"):
            received += await stream.receive()
            await stream.send(evil)
        await stream.receive()

    transport = one_connection()
    async with byte_server(serve, read_all()) as server, new_client(transport) as client:
        for _ in range(2):
            response = await client.post(server.url, content=Source(b"x" * SLICE, count=20)())
            assert response.content == b"fine"
    assert server.connections == 2


@pytest.mark.parametrize("kind", ["bytes", "generator"])
async def test_invalid_early_response_ends_the_upload(kind: str) -> None:
    """An invalid early response is a RemoteProtocolError, and ends the upload."""
    source = Source(b"x" * SLICE, count=PLENTY // SLICE)
    transport = one_connection()
    async with byte_server(answer_early(b"220 smtp.example.org ESMTP\r\n")) as server, new_client(transport) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(server.url, content=HUGE if kind == "bytes" else source())
        assert transport.statistics() == NOTHING
    assert source.is_finished == (kind == "generator")


# Servers that leave


@each_row("kind", ["bytes", "generator"])
@each_row("end", ["close", "reset", "half-close"])
async def test_server_that_leaves_ends_the_upload(end: str, kind: str) -> None:
    """If the server leaves in the middle of an upload without a response, the upload ends with a network error."""
    source = Source(b"x" * SLICE, count=PLENTY // SLICE)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        if end == "reset":
            await reset(stream)
        elif end == "half-close":
            await stream.send_eof()
            await anyio.sleep_forever()

    sockets = open_sockets()
    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)) as caught:
            await client.post(server.url, content=HUGE if kind == "bytes" else source())
        assert end != "half-close" or type(caught.value) is httpx.RemoteProtocolError
        assert transport.statistics() == NOTHING
    assert source.is_finished == (kind == "generator")
    await sockets_closed(sockets)


# Timeouts


@pytest.mark.parametrize("kind", ["bytes", "generator"])
async def test_write_timeout(kind: str) -> None:
    """If the server reads nothing for too long, that is a WriteTimeout, and nothing is left behind."""
    sockets = open_sockets()
    transport = one_connection()
    async with (
        byte_server(read_a_head) as server,
        new_client(transport, httpx.Timeout(5, write=0.01)) as client,
    ):
        for _ in range(5):
            source = Source(b"x" * SLICE, count=PLENTY // SLICE)
            before = open_sockets()
            await client.get(server.url)
            with pytest.raises(httpx.TimeoutException) as caught:
                await client.post(server.url, content=HUGE if kind == "bytes" else source())
            assert type(caught.value) is httpx.WriteTimeout
            assert transport.statistics() == NOTHING
            assert source.is_finished == (kind == "generator")
            await settle()
            assert len(open_sockets()) == len(before) + 1  # the server's
    await sockets_closed(sockets)


class FakeConnection:
    """Keeps what an Exchange does; responds when all is sent. It takes nothing without an await."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.notes: list[tuple[str, int, float | None]] = []
        self._all_is_sent = anyio.Event()

    async def send(self, data: bytes, timeout: float | None) -> None:
        """Accept data."""
        await self.send_rest(data, timeout)

    async def send_rest(self, data: bytes, timeout: float | None) -> None:
        """Accept data."""
        self.notes.append(("send", len(data), timeout))
        self.left -= len(data)
        if not self.left:
            self._all_is_sent.set()

    def send_nowait(self, data: bytes) -> bytes | None:
        """Accept nothing."""
        return data

    async def receive_while_sending(self, timeout: float | None) -> bytes:
        """Return the response."""
        await self._all_is_sent.wait()
        await settle()
        self.notes.append(("receive", len(OK), timeout))
        return OK

    def limit_wait(self, seconds: float | None) -> None:
        """Keep the timeout."""
        self.notes.append(("wait", 0, seconds))


def large_request(**timeouts: float) -> OutgoingRequest:
    """Make a request whose body is sent in parts."""
    request = httpx.Request("POST", "http://x/", content=b"x" * 200_000, extensions={"timeout": timeouts})
    return OutgoingRequest.of(request, encode_headers)


async def test_each_part_has_its_own_timeout() -> None:
    """Each 64 KiB of a large body has its own write timeout, and the read timeout starts when all is sent."""
    request = large_request(read=3, write=2)
    head_size = len(request.line + request.headers.lines)
    connection = FakeConnection(head_size + 200_000)
    exchange = Exchange(cast(Connection, connection), request)
    with anyio.fail_after(5):
        await exchange.send()
        await exchange.receive_head()
    sent = [("send", size, 2) for size in (head_size, SLICE, SLICE, SLICE, 200_000 - 3 * SLICE)]
    assert connection.notes == [*sent, ("wait", 0, 3), ("receive", len(OK), 3), ("wait", 0, 3), ("wait", 0, None)]
    assert exchange.is_sent


async def test_read_timeout_follows_the_upload() -> None:
    """A server that has everything and does not answer is a ReadTimeout; during the upload there is none."""
    is_sent = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal is_sent
        for _ in range(3):
            yield b"x" * 1000
            await anyio.sleep(0.03)
        is_sent = True

    transport = one_connection()
    async with (
        byte_server(read_and_stay_silent) as server,
        new_client(transport, httpx.Timeout(5, read=0.02)) as client,
    ):
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
        received = await read_head(stream)
        if self._stage == "answer-body":
            while not received.endswith(b"0\r\n\r\n"):
                received += await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
        await anyio.sleep_forever()


@each_row("stage", STAGES)
async def test_cancelled_upload_leaves_nothing_behind(stage: str) -> None:
    """An upload that is cancelled at any stage ends at once, and leaves nothing behind."""
    staged, outcomes, sockets = Staged(stage), list[BaseException](), open_sockets()
    transport = one_connection()

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
    await sockets_closed(sockets)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("stage", STAGES)
async def test_upload_takes_a_native_cancellation(stage: str) -> None:
    """The cancellation of an asyncio task ends an upload at once, at any stage."""
    staged, sockets = Staged(stage), open_sockets()
    transport = one_connection()
    async with byte_server(staged.serve) as server, new_client(transport) as client:
        post = asyncio.create_task(client.post(server.url, content=staged.chunks()))
        await settle()
        post.cancel()
        done, _ = await asyncio.wait([post], timeout=0.5)
        assert done == {post}
        assert post.cancelled()
        assert staged.is_finished
        assert transport.statistics() == NOTHING
    await sockets_closed(sockets)


@each_row("last", EVENTS)
async def test_upload_cancelled_at_an_event_leaves_nothing_behind(last: str) -> None:
    """An upload that is cancelled at any event of its trace ends its generator, and leaves nothing behind."""
    source, scope, sockets = Source(b"x" * 1000), anyio.CancelScope(), open_sockets()

    async def trace(event: str, _: Mapping[str, object]) -> None:
        if event == last:
            scope.cancel()
        await anyio.lowlevel.checkpoint()

    transport = one_connection()
    async with byte_server(read_all()) as server, new_client(transport) as client:
        with scope:
            await client.post(server.url, content=source(), extensions={"trace": trace})
        assert scope.cancelled_caught
        assert transport.statistics() == NOTHING
        assert source.is_finished == (source.given > 0)
    await sockets_closed(sockets)


@each_row("failing", EVENTS)
async def test_trace_that_fails_in_an_upload_leaves_nothing_behind(failing: str) -> None:
    """An exception of the trace extension during an upload is raised unchanged."""
    source, sockets = Source(b"x" * 1000), open_sockets()

    async def trace(event: str, _: Mapping[str, object]) -> None:
        if event == failing:
            raise ZeroDivisionError

    transport = one_connection()
    async with byte_server(read_all()) as server, new_client(transport) as client:
        with pytest.raises(ZeroDivisionError):
            await client.post(server.url, content=source(), extensions={"trace": trace})
        assert transport.statistics() == NOTHING
        assert source.is_finished == (source.given > 0)
    await sockets_closed(sockets)


async def test_closing_the_transport_ends_an_upload() -> None:
    """If the transport is closed during an upload, the upload fails with a network error."""
    staged, errors = Staged("sending"), list[BaseException]()
    transport = one_connection()

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
    """Raises an exception that is not an Exception, in place of a response."""

    async def receive_while_sending(self, timeout: float | None) -> bytes:
        """Raise."""
        raise Stop


async def test_interruption_of_the_task_that_reads() -> None:
    """An exception such as KeyboardInterrupt in the task that reads is raised, if in a group."""
    exchange = Exchange(cast(Connection, Interrupted(10**6)), large_request())
    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup) as caught:
        await exchange.send()
        await exchange.receive_head()
    assert isinstance(caught.value.exceptions[0], Stop)
