"""Servers of HTTP/2 that follow a script, frame by frame, and may break any rule."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc
import hpack
import httpx
from anyio.streams.tls import TLSAttribute

from prefect_http import HTTPTransport
from support.h2_frames import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    SentFrame,
    data,
    frame,
    headers,
    settings,
)
from support.scripted_servers import ByteServer, Serve, byte_server
from support.servers import Act, RawServer
from support.tls_servers import listening, server_context
from support.wire import trusting_context


@dataclass
class PeerRequest:
    """A request as the server has received it.

    Attributes:
        stream_id: its stream.
        headers: the head.
        body: the body.
    """

    stream_id: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Peer:
    """The server's side of a connection.

    Attributes:
        stream: the connection.
        frames: what has been received, in order, but for acknowledgements of SETTINGS.
        open: requests that have not arrived whole.
        whole: those that have, and have not been asked for.
    """

    stream: anyio.abc.ByteStream
    frames: list[SentFrame] = field(default_factory=list[SentFrame])
    open: dict[int, PeerRequest] = field(default_factory=dict[int, PeerRequest])
    whole: list[PeerRequest] = field(default_factory=list[PeerRequest])
    _buffer: bytes = b""
    _decoder: hpack.Decoder = field(default_factory=hpack.Decoder)

    async def begin(self, *first: bytes) -> None:
        """Read the preface, and send something."""
        while len(self._buffer) < len(PREFACE):
            self._buffer += await self.stream.receive()
        assert self._buffer.startswith(PREFACE)
        self._buffer = self._buffer[len(PREFACE) :]
        await self.send(*first)

    async def send(self, *frames: bytes) -> None:
        """Send frames in one piece."""
        if frames:
            await self.stream.send(b"".join(frames))

    async def read(self) -> SentFrame:
        """Read the next frame."""
        while True:
            size = 9 + int.from_bytes(self._buffer[:3])
            if len(self._buffer) < 9 or len(self._buffer) < size:
                self._buffer += await self.stream.receive()
                continue
            kind, flags, stream_id = self._buffer[3], self._buffer[4], int.from_bytes(self._buffer[5:9])
            found = SentFrame(kind, flags, stream_id, self._buffer[9:size])
            self._buffer = self._buffer[size:]
            if kind != SETTINGS or not flags & ACK:
                self.frames.append(found)
                return found

    async def until(self, kind: int) -> SentFrame:
        """Read up to a frame of some kind; PINGs on the way are answered."""
        while (found := await self.read()).kind != kind:
            self._take(found)
            if found.kind == PING and not found.flags & ACK:
                await self.send(frame(PING, ACK, 0, found.payload))
        return found

    async def request(self) -> PeerRequest:
        """Read until a request has arrived whole."""
        while not self.whole:
            found = await self.read()
            self._take(found)
            if found.kind == PING and not found.flags & ACK:
                await self.send(frame(PING, ACK, 0, found.payload))
        return self.whole.pop(0)

    async def head(self) -> int:
        """Read up to the head of a request, and return the number of its stream."""
        found = await self.until(HEADERS)
        self._take(found)
        return found.stream_id

    def _decode(self, block: bytes) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(block)}

    def _take(self, found: SentFrame) -> None:
        if found.kind == HEADERS:
            self.open[found.stream_id] = PeerRequest(found.stream_id, self._decode(found.payload))
        elif found.kind == DATA and found.stream_id in self.open:
            self.open[found.stream_id].body += found.payload
        elif found.kind == RST_STREAM:
            self.open.pop(found.stream_id, None)
        if found.kind in {HEADERS, DATA} and found.flags & END_STREAM:
            self.whole.append(self.open.pop(found.stream_id))

    async def wait_closed(self) -> None:
        """Read until the client closes the connection."""
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await self.read()

    def resets(self) -> list[tuple[int, int]]:
        """Return the streams that the client has reset, with the codes."""
        return [(each.stream_id, int.from_bytes(each.payload)) for each in self.frames if each.kind == RST_STREAM]

    def count(self, kind: int) -> int:
        """Return how many frames of a kind have been received."""
        return sum(each.kind == kind for each in self.frames)


Script = Callable[[Peer], Awaitable[None]]


def respond(stream_id: int, body: bytes = b"", *fields: tuple[str, str], status: str = "200") -> bytes:
    """Return a whole response."""
    if not body:
        return headers(stream_id, *fields, status=status, end=True)
    starts = range(0, len(body), 16_384)
    frames = [data(stream_id, body[at : at + 16_384], end=at == starts[-1]) for at in starts]
    return headers(stream_id, *fields, status=status) + b"".join(frames)


async def serve_paths(peer: Peer) -> None:
    """Answer each request with its path, or with its body."""
    while True:
        request = await peer.request()
        await peer.send(respond(request.stream_id, request.body or request.headers[":path"].encode()))


@dataclass
class H2Server:
    """A server, and what has come to it.

    Attributes:
        bytes_server: listens, and counts.
        peers: its connections.
    """

    bytes_server: ByteServer
    peers: list[Peer] = field(default_factory=list[Peer])

    @property
    def url(self) -> str:
        """Where to send requests."""
        return self.bytes_server.url


@contextlib.asynccontextmanager
async def h2_server(*scripts: Script, first: bytes | None = None) -> AsyncGenerator[H2Server]:
    """Run a server without TLS whose n-th connection follows the n-th script, repeating the last one.

    Args:
        scripts: what it does when it has read the preface and sent its SETTINGS.
        first: the SETTINGS.
    """
    peers: list[Peer] = []

    def serving(script: Script) -> Serve:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            peer = Peer(stream)
            peers.append(peer)
            await peer.begin(settings() if first is None else first)
            await script(peer)

        return serve

    async with byte_server(*map(serving, scripts)) as server:
        yield H2Server(server, peers)


@dataclass
class SecureServer:
    """A server with TLS, and what has come to it.

    Attributes:
        url: where to send requests.
        versions: the protocol of each connection; None: none was chosen.
        peers: its connections with HTTP/2.
    """

    url: str = ""
    versions: list[str | None] = field(default_factory=list[str | None])
    peers: list[Peer] = field(default_factory=list[Peer])


@contextlib.asynccontextmanager
async def secure_server(*protocols: str, script: Script, act: Act | None) -> AsyncGenerator[SecureServer]:
    """Run a server with TLS.

    Args:
        protocols: those that it can choose.
        script: what it does on a connection with HTTP/2.
        act: what it does with a request over HTTP/1.1; None: it speaks HTTP/2 in any case.
    """
    context = server_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    server = SecureServer()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        version: str | None = stream.extra(TLSAttribute.alpn_protocol)
        server.versions.append(version)
        if version != "h2" and act is not None:
            await RawServer((act,)).serve(stream)
            return
        async with stream:
            peer = Peer(stream)
            server.peers.append(peer)
            await peer.begin(settings())
            await script(peer)

    async with listening(serve, context) as port:
        server.url = f"https://127.0.0.1:{port}/"
        yield server


def h2_transport(limits: httpx.Limits | None = None) -> HTTPTransport:
    """Make a transport that speaks nothing but HTTP/2, with and without TLS."""
    return HTTPTransport(verify=trusting_context(), http1=False, http2=True, limits=limits or httpx.Limits())
