"""TLS: whether it holds data, asked of a connection in memory; and the stream above it."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute
from support.fake_stream import FakeStream
from support.tls_ends import End, deliver, tls_pair
from support.tls_servers import client_context, server_context

from prefect_http._concurrency.eager_stream import Data, EagerStream
from prefect_http._wire.tls import TLSStream, has_early_tls_data, has_tls_input, start_tls, tls_input_probe_of

# --- Input


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
def ends(request: pytest.FixtureRequest) -> tuple[End, End]:
    """Make a client and a server that have shaken hands."""
    return tls_pair(request.param)


def test_no_input(ends: tuple[End, End]) -> None:
    """There is no input, however often that is asked; session tickets, and data that was read, are none."""
    client, server = ends
    assert [has_tls_input(client.tls) for _ in range(3)] == [False] * 3
    deliver(server, client)
    assert has_tls_input(client.tls) is False
    server.tls.write(b"an answer")
    deliver(server, client)
    assert client.tls.read(100) == b"an answer"
    assert has_tls_input(client.tls) is False


def test_asking_disturbs_nothing(ends: tuple[End, End]) -> None:
    """Asking disturbs nothing: both sides go on as before."""
    client, server = ends
    for _ in range(3):
        assert has_tls_input(client.tls) is False
        client.tls.write(b"question")
        deliver(client, server)
        assert server.tls.read(100) == b"question"
        server.tls.write(b"answer")
        deliver(server, client)
        assert client.tls.read(100) == b"answer"


def test_record(ends: tuple[End, End]) -> None:
    """A record that has arrived is input, though it has not been decrypted."""
    client, server = ends
    server.tls.write(b"!")
    deliver(server, client)
    assert has_tls_input(client.tls) is True


def test_rest_of_a_record(ends: tuple[End, End]) -> None:
    """The rest of a record that was read in part is input."""
    client, server = ends
    server.tls.write(b"an answer!")
    deliver(server, client)
    assert client.tls.read(9) == b"an answer"
    assert has_tls_input(client.tls) is True


@pytest.mark.parametrize("has_data", [False, True])
def test_close_notify(ends: tuple[End, End], has_data: bool) -> None:
    """A close_notify is input, with or without data before it."""
    client, server = ends
    if has_data:
        server.tls.write(b"an answer")
    server.send_close_notify()
    deliver(server, client)
    if has_data:
        assert client.tls.read(100) == b"an answer"
    assert [has_tls_input(client.tls) for _ in range(2)] == [True, True]


def test_end_without_close_notify(ends: tuple[End, End]) -> None:
    """The end of the stream without a close_notify is input."""
    client, _ = ends
    client.incoming.write_eof()
    assert [has_tls_input(client.tls) for _ in range(2)] == [True, True]


def test_nonsense(ends: tuple[End, End]) -> None:
    """Data that is not TLS is input."""
    client, _ = ends
    client.incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert [has_tls_input(client.tls) for _ in range(2)] == [True, True]


def test_record_that_was_tampered_with(ends: tuple[End, End]) -> None:
    """A record that cannot be decrypted is input."""
    client, server = ends
    deliver(server, client)
    assert has_tls_input(client.tls) is False
    server.tls.write(b"an answer")
    record = bytearray(server.outgoing.read())
    record[-1] ^= 1
    client.incoming.write(record)
    assert has_tls_input(client.tls) is True


def test_alert(ends: tuple[End, End]) -> None:
    """An alert is input: the server has failed, and closes the connection."""
    client, server = ends
    server.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        server.tls.read(1)
    assert deliver(server, client)
    assert has_tls_input(client.tls) is True


def test_closed_on_this_side(ends: tuple[End, End]) -> None:
    """TLS that was ended on this side counts as having input."""
    client, _ = ends
    client.send_close_notify()
    client.incoming.write_eof()
    assert has_tls_input(client.tls) is True


def test_early_data(ends: tuple[End, End]) -> None:
    """Only data is early data: session tickets and the end of the stream are not."""
    client, server = ends
    assert has_early_tls_data(client.tls) is False
    deliver(server, client)
    assert has_early_tls_data(client.tls) is False
    server.tls.write(b"220")
    deliver(server, client)
    assert has_early_tls_data(client.tls) is True
    assert client.tls.read(9) == b"20"
    server.send_close_notify()
    deliver(server, client)
    assert has_early_tls_data(client.tls) is False
    client.incoming.write(b"220 smtp.example.org ESMTP")
    assert has_early_tls_data(client.tls) is False


# --- The stream above


class Below(ByteStream):
    """The stream below, which leads to an end in memory.

    Attributes:
        server: the other end.
        gate: while it is not None, sending waits for it.
        failure: what sending raises then.
        sent: what has been sent.
    """

    def __init__(self, server: End) -> None:
        self.server = server
        self.gate: anyio.Event | None = None
        self.failure: Exception | None = None
        self.sent: list[bytes] = []
        self.has_ended = False
        self.closings = 0

    async def send(self, item: Data) -> None:
        await anyio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(bytes(item))
        self.server.incoming.write(item)
        self.server.shake_hands()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if data := self.server.outgoing.read():
            return data
        if self.has_ended:
            raise anyio.EndOfStream
        await anyio.sleep_forever()
        raise AssertionError

    async def send_eof(self) -> None:
        raise AssertionError("not used")

    async def aclose(self) -> None:
        self.closings += 1
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {anyio.abc.SocketAttribute.remote_port: lambda: 443}


Over = tuple[ByteStream, Below, End]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
async def over(request: pytest.FixtureRequest, anyio_backend: str) -> Over:
    """Start TLS over a stream in memory."""
    return await start_over(request.param)


async def start_over(version: ssl.TLSVersion) -> Over:
    """Start TLS of a version over a stream in memory."""
    server = End(server_context(version=version), server_side=True)
    below = Below(server)
    stream = await start_tls(below, client_context(), "localhost", 5, "x")
    return stream, below, server


@pytest.mark.anyio
async def test_several_records(over: Over) -> None:
    """All records that have arrived are received at once, but no more than asked for; then the rest."""
    stream, _, server = over
    for each in b"one", b"two", b"three":
        server.tls.write(each)
    assert [await stream.receive(8), await stream.receive(8)] == [b"onetwoth", b"ree"]
    await stream.send(b"question")
    assert server.tls.read(100) == b"question"


@pytest.mark.anyio
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_input_behind_a_response(version: ssl.TLSVersion) -> None:
    """What has arrived is input unless it has been received; session tickets, and a part of a record, are none yet."""
    stream, _, server = await start_over(version)
    has_input = tls_input_probe_of(stream, stream.extra(TLSAttribute.ssl_object))
    assert not has_input()
    for each in b"first", b"second":
        server.tls.write(each)
    assert await stream.receive() == b"firstsecond"
    assert not has_input()
    server.tls.write(b"first")
    first = server.outgoing.read()
    server.tls.write(b"second")
    second = server.outgoing.read()
    server.outgoing.write(first + second[:6])
    assert await stream.receive() == b"first"
    assert not has_input()
    server.outgoing.write(second[6:])
    assert await stream.receive() == b"second"
    server.tls.write(b"more")
    assert await stream.receive(2) == b"mo"
    assert has_input()
    assert not tls_input_probe_of(FakeStream(), End(client_context(), server_side=False).tls)()


@pytest.mark.anyio
@pytest.mark.parametrize("has_data", [True, False])
@pytest.mark.parametrize("how", ["close_notify", "no close_notify"])
async def test_end_of_the_stream(over: Over, how: str, has_data: bool) -> None:
    """The stream ends with or without a close_notify, after all data, and each time."""
    stream, below, server = over
    if has_data:
        server.tls.write(b"answer")
    if how == "close_notify":
        server.send_close_notify()
    else:
        below.has_ended = True
    if has_data:
        assert await stream.receive() == b"answer"
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


@pytest.mark.anyio
@pytest.mark.parametrize("has_data", [True, False])
async def test_nonsense_is_an_error(over: Over, has_data: bool) -> None:
    """What is not TLS is an error, after all data before it; and nothing can be sent any more."""
    stream, _, server = over
    if has_data:
        server.tls.write(b"answer")
    record = server.outgoing.read()
    server.outgoing.write(record + b"HTTP/1.1 400 Bad Request\r\n\r\n")
    if has_data:
        assert await stream.receive() == b"answer"
    with pytest.raises(ssl.SSLError):
        await stream.receive()
    with pytest.raises((ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream)):
        await stream.send(b"question")


@pytest.mark.anyio
async def test_sending_is_cancelled(over: Over) -> None:
    """Nothing is sent after half a record, which the other side could not decrypt; but a response can be received."""
    stream, below, server = over
    below.gate = anyio.Event()
    with anyio.move_on_after(0.001):
        await stream.send(b"question")
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"question")
    server.tls.write(b"answer")
    assert await stream.receive() == b"answer"


class EagerBelow(Below, EagerStream):
    """A stream below that takes so many bytes without an await.

    Attributes:
        room: how many.
        wants_wait: whether it wants to be waited for when it has taken all.
    """

    room = 1000
    wants_wait = False

    def send_nowait(self, item: Data) -> Data | None:
        if self.failure is not None:
            raise self.failure
        self.server.incoming.write(item[: self.room])
        self.sent.append(bytes(item[: self.room]))
        return item[self.room :] or (b"" if self.wants_wait else None)


async def over_eager() -> tuple[TLSStream, EagerBelow, End]:
    """Return a stream over one that takes data without an await, the stream below, and the other end."""
    server = End(server_context(), server_side=True)
    below = EagerBelow(server)
    stream = await start_tls(below, client_context(), "localhost", 5, "x")
    assert isinstance(stream, TLSStream)
    return stream, below, server


@pytest.mark.anyio
@pytest.mark.parametrize("room", [0, 10, 1000])
async def test_sending_without_an_await(room: int) -> None:
    """What the stream below takes is sent at once; the rest, even of a record, is for send()."""
    stream, below, server = await over_eager()
    below.room = room
    for _ in range(2):
        rest = stream.send_nowait(b"question")
        assert rest == (None if room == 1000 else b"")
        if rest is not None:
            with pytest.raises(ssl.SSLWantReadError):
                server.tls.read(100)
            assert stream.send_nowait(b"more") == b"more", "that comes behind it"
            await stream.send(rest)
        assert server.tls.read(100) == b"question"
    below.failure = anyio.BrokenResourceError()
    for data in b"question", b"question":
        with pytest.raises(anyio.BrokenResourceError):
            stream.send_nowait(data)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"")


@pytest.mark.anyio
@pytest.mark.parametrize("room", [0, 200_000, 10**7])
async def test_a_large_part_is_encrypted_in_pieces(room: int) -> None:
    """Otherwise there would be two more copies of it in memory."""
    stream, below, server = await over_eager()
    below.room = room
    below.sent.clear()
    body = bytes(range(250)) * 4000
    if (rest := stream.send_nowait(body)) is not None:
        assert len(rest) > 700_000
        await stream.send(rest)
    assert max(map(len, below.sent)) < 270_000
    received = b""
    while len(received) < len(body):
        received += server.tls.read(2**16)
    assert received == body


@pytest.mark.anyio
async def test_sending_without_an_await_to_a_stream_that_is_full() -> None:
    """What it has taken is to be waited for there: otherwise an upload would never time out."""
    stream, below, server = await over_eager()
    below.wants_wait = True
    assert stream.send_nowait(b"question") == b""
    assert stream.send_nowait(b"more") == b"more", "that comes behind it"
    below.gate = anyio.Event()
    with anyio.move_on_after(0.001) as scope:
        await stream.send(b"")
    assert scope.cancelled_caught
    assert server.tls.read(100) == b"question"


@pytest.mark.anyio
async def test_sending_without_an_await_is_not_possible(over: Over) -> None:
    """The stream below may wait for the network each time."""
    stream, below, _ = over
    assert isinstance(stream, TLSStream)
    below.sent.clear()
    assert stream.send_nowait(b"question") == b"question"
    assert below.sent == []


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["sends all", "fails", "is cancelled"])
async def test_two_tasks_that_send(over: Over, how: str) -> None:
    """If a task is sending already, another one waits for it, and fails if it fails."""
    stream, below, server = over
    below.gate = anyio.Event()
    results: list[object] = []

    async def send(data: bytes) -> None:
        try:
            await stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            results.append(type(error))
        else:
            results.append(data)

    first = anyio.CancelScope()

    async def send_first() -> None:
        with first:
            await send(b"one")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_first)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(send, b"two")
        await anyio.wait_all_tasks_blocked()
        assert results == []
        if how == "is cancelled":
            first.cancel()
        else:
            below.failure = anyio.ClosedResourceError() if how == "fails" else None
            below.gate.set()
    if how == "sends all":
        assert results == [b"one", b"two"]
        assert server.tls.read(3) + server.tls.read(3) == b"onetwo"
    elif how == "fails":
        assert results == [anyio.ClosedResourceError, anyio.BrokenResourceError]
    else:
        assert results == [anyio.BrokenResourceError]


@pytest.mark.anyio
async def test_tasks_that_send_take_turns(over: Over) -> None:
    """One that sends large messages, one after another, keeps the others waiting for no more than one of them."""
    stream, _, server = over
    large, small = b"a" * 600_000, (b"b", b"c")

    async def send_large() -> None:
        for _ in range(2):
            await stream.send(large)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_large)
        await anyio.lowlevel.checkpoint()
        for message in small:
            tasks.start_soon(stream.send, message)
    received = b""
    while len(received) < 1_200_002:
        received += server.tls.read(2**16)
    assert received in (large + b"bc" + large, large + b"cb" + large)


@pytest.mark.anyio
async def test_what_cannot_be_sent(over: Over) -> None:
    """A mistake does no harm to the connection."""
    stream, _, server = over
    mistake: Any = "question"
    with pytest.raises(TypeError):
        await stream.send(mistake)
    await stream.send(b"question")
    assert server.tls.read(100) == b"question"


@pytest.mark.anyio
async def test_sending_is_cancelled_while_another_task_sends(over: Over) -> None:
    """Nothing of its data has been sent, so the others can go on."""
    stream, below, server = over
    below.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, b"one")
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.001) as scope:
            await stream.send(b"two")
        assert scope.cancelled_caught
        below.gate.set()
    await stream.send(b"three")
    assert server.tls.read(3) + server.tls.read(5) == b"onethree"


@pytest.mark.anyio
async def test_the_pieces_of_two_messages_do_not_alternate(over: Over) -> None:
    """A task that sends meanwhile waits, also for what is encrypted in pieces."""
    stream, _, server = over
    assert isinstance(stream, TLSStream)
    messages = b"a" * 600_000, b"b" * 600_000
    async with anyio.create_task_group() as tasks:
        for message in messages:
            tasks.start_soon(stream.send, message)
        await anyio.lowlevel.checkpoint()
        assert stream.send_nowait(b"more") == b"more"
    received = b""
    while len(received) < 1_200_000:
        received += server.tls.read(2**16)
    assert received in (messages[0] + messages[1], messages[1] + messages[0])


@pytest.mark.anyio
async def test_what_is_below_shows(over: Over) -> None:
    """The attributes are those of TLS and of the stream below, which is closed along with this one."""
    stream, below, server = over
    assert stream.extra(anyio.abc.SocketAttribute.remote_port) == 443
    assert stream.extra(TLSAttribute.tls_version) == server.tls.version()
    assert stream.extra(TLSAttribute.cipher) is not None
    assert stream.extra(TLSAttribute.peer_certificate) is not None
    assert stream.extra(TLSAttribute.peer_certificate_binary) is not None
    assert (stream.extra(TLSAttribute.server_side), stream.extra(TLSAttribute.shared_ciphers)) == (False, None)
    assert stream.extra(TLSAttribute.standard_compatible) is False
    with pytest.raises(NotImplementedError):
        await stream.send_eof()
    await stream.aclose()
    assert below.closings == 1


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "asked"), [("bücher.example", "xn--bcher-kva.example"), ("faß.de", "xn--fa-hia.de")])
async def test_international_server_name(name: str, asked: str) -> None:
    """A server name with other letters is encoded as browsers do (IDNA 2008)."""
    seen: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda _, name, __: seen.append(name)
    with pytest.raises(httpx.ConnectError, match="certificate"):
        await start_tls(Below(End(context, server_side=True)), client_context(), name, 5, "x")
    assert seen == [asked]


class OtherContext(ssl.SSLContext):
    """A context of another library, which may read files when it is used."""


@pytest.mark.anyio
async def test_context_of_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context of another library is used in a thread."""
    threads: list[object] = []
    context = OtherContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata="".join(map(ssl.DER_cert_to_PEM_cert, client_context().get_ca_certs(True))))
    wrap = context.wrap_bio

    def wrap_bio(*args: Any, **kwargs: Any) -> ssl.SSLObject:
        threads.append(threading.current_thread())
        return wrap(*args, **kwargs)

    monkeypatch.setattr(context, "wrap_bio", wrap_bio)
    await start_tls(Below(End(server_context(), server_side=True)), context, "localhost", 5, "x")
    assert threads != [threading.main_thread()]
    assert len(threads) == 1


class Renegotiating:
    """OpenSSL while the server renegotiates: it must receive and send something of its own before it goes on."""

    def __init__(self, outgoing: ssl.MemoryBIO) -> None:
        self.outgoing = outgoing
        self.reads: list[Any] = [ssl.SSLWantReadError(), b"answer", ssl.SSLWantReadError()]
        self.writes: list[Any] = [ssl.SSLWantReadError(), 8]

    def pending(self) -> int:
        return 0

    def read(self, _: int) -> Any:
        return self.next_of(self.reads)

    def write(self, _: bytes) -> Any:
        return self.next_of(self.writes)

    def next_of(self, script: list[Any]) -> Any:
        self.outgoing.write(b"reply")
        if isinstance(result := script.pop(0), Exception):
            raise result
        return result


@pytest.mark.anyio
async def test_renegotiation() -> None:
    """If the server renegotiates, what OpenSSL has to say is sent while receiving, and received while sending."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    below = FakeStream(b"hello", b"hello", b"hello")
    openssl = Renegotiating(outgoing)
    stream = TLSStream(below, cast(ssl.SSLObject, openssl), incoming, outgoing)
    assert await stream.receive() == b"answer"
    assert below.sent == [b"reply"]
    await stream.send(b"question")
    assert below.sent == [b"reply", b"replyreplyreply", b"reply"]
    openssl.writes = [ssl.SSLError("bad")]
    with pytest.raises(ssl.SSLError, match="bad"):
        await stream.send(b"question")


@pytest.mark.anyio
@pytest.mark.parametrize("fails", [False, True])
async def test_sending_while_a_reply_is_sent(fails: bool) -> None:
    """What is encrypted while the task that receives sends a reply is sent along, and waited for."""
    gate = anyio.Event()

    class Slow(FakeStream):
        async def send(self, item: bytes) -> None:
            await gate.wait()
            if fails:
                raise anyio.ClosedResourceError
            await super().send(item)

    async def refused(error: type[Exception], use: Callable[..., Awaitable[object]], *arguments: bytes) -> None:
        with pytest.raises(error) if fails else contextlib.nullcontext():
            await use(*arguments)

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    below, openssl = Slow(b"hello", b"hello"), Renegotiating(outgoing)
    openssl.writes = [8]
    stream = TLSStream(below, cast(ssl.SSLObject, openssl), incoming, outgoing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, anyio.ClosedResourceError, stream.receive)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(refused, anyio.BrokenResourceError, stream.send, b"question")
        await anyio.wait_all_tasks_blocked()
        assert below.sent == []
        gate.set()
    assert below.sent == ([] if fails else [b"reply", b"reply"])


@pytest.mark.anyio
async def test_renegotiation_while_sending_without_an_await() -> None:
    """What cannot be encrypted yet is for send()."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    openssl = Renegotiating(outgoing)
    stream = TLSStream(EagerBelow(End(server_context(), server_side=True)), cast(Any, openssl), incoming, outgoing)
    assert stream.send_nowait(b"question") == b"question"
    outgoing.read()
    openssl.writes = [ssl.SSLError("bad")]
    with pytest.raises(ssl.SSLError, match="bad"):
        stream.send_nowait(b"question")


@pytest.mark.anyio
async def test_no_server_name() -> None:
    """Without a server name, none is sent."""
    asked: list[str | None] = []
    server, client = server_context(), client_context()
    server.sni_callback = lambda _, name, __: asked.append(name)
    client.check_hostname = False
    await start_tls(Below(End(server, server_side=True)), client, None, 5, "x")
    assert asked == [None]
