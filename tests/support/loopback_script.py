"""A server on a real socket that follows a script of bytes, and takes note of what a FakeNetwork takes note of."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio
import anyio.abc
import h11

from support.h2_frames import WINDOW_UPDATE, frame, settings, uint32
from support.h2_peers import Peer, PeerRequest, respond
from support.sockets import reset


@dataclass
class LoopbackConnection:
    """A connection that the server has accepted.

    Attributes:
        number: how many it has accepted before.
        stream: the connection.
        closed_by: who has closed it first; None: nobody.
        lock: held while something is sent.
    """

    number: int
    stream: anyio.abc.ByteStream
    closed_by: Literal["client", "server"] | None = None
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def send(self, data: bytes) -> None:
        """Send something; several tasks may at once."""
        async with self.lock:
            await self.stream.send(data)

    async def close(self, *, is_reset: bool = False) -> None:
        """Close the connection."""
        self.closed_by = self.closed_by or "server"
        await (reset(self.stream) if is_reset else self.stream.aclose())


@dataclass
class LoopbackRequest:
    """A request.

    Attributes:
        method: the method.
        target: what was requested.
        connection: where it has arrived.
        time: when its head has arrived.
        body: as far as it has arrived.
        is_complete: whether that is all of it.
        ended_at: when the answer was sent, or the connection broke off; None: not yet.
    """

    method: str
    target: str
    connection: LoopbackConnection
    time: float
    body: bytes = b""
    is_complete: bool = False
    ended_at: float | None = None


@dataclass
class LoopbackServer:
    """The server.

    Attributes:
        acts: what it does with the n-th request.
        unit: how many seconds a pause of 1 is.
        listener: where it listens.
        done: how many acts have begun.
        connections: what it has accepted.
        requests: what has arrived.
    """

    acts: Sequence[Act]
    unit: float
    listener: anyio.abc.Listener[anyio.abc.SocketStream]
    done: int = 0
    connections: list[LoopbackConnection] = field(default_factory=list[LoopbackConnection])
    requests: list[LoopbackRequest] = field(default_factory=list[LoopbackRequest])

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve a connection until either side closes it."""
        connection = LoopbackConnection(len(self.connections), stream)
        self.connections.append(connection)
        async with stream:
            try:
                while connection.closed_by is None:
                    await self._serve_one(connection)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                connection.closed_by = connection.closed_by or "client"

    async def _serve_one(self, connection: LoopbackConnection) -> None:
        h11_connection, request, act = h11.Connection(h11.SERVER), None, None
        while request is None or not request.is_complete:
            event = h11_connection.next_event()
            if event is h11.NEED_DATA:
                if act is not None and h11_connection.they_are_waiting_for_100_continue:
                    await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                    h11_connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                h11_connection.receive_data(await connection.stream.receive())
            elif isinstance(event, h11.Request):
                request = LoopbackRequest(
                    event.method.decode(), event.target.decode(), connection, anyio.current_time()
                )
                act = self.acts[self.done]
                self.done += 1
                if act.is_seen:
                    self.requests.append(request)
                if act.is_early:
                    break
            elif isinstance(event, h11.Data):
                assert request is not None
                request.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                request.is_complete = True
        assert request is not None
        assert act is not None
        try:
            await act.run(self, request)
        finally:
            request.ended_at = anyio.current_time()


@dataclass(frozen=True)
class Act:
    """What a server does with a request.

    Attributes:
        run: does it.
        is_early: whether it does so before it has read the body.
        is_seen: whether it takes note of the request. One that closes the connection meanwhile does not.
    """

    run: Callable[[LoopbackServer, LoopbackRequest], Awaitable[None]]
    is_early: bool = False
    is_seen: bool = True


def head(status: str, *lines: str) -> bytes:
    """Return the head of a response."""
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


def chunks(*parts: bytes) -> bytes:
    """Return a whole body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def send(
    *pieces: bytes | float,
    then: Literal["stay", "close", "reset", "hang", "go down"] = "stay",
    is_early: bool = False,
    is_seen: bool = True,
) -> Act:
    """Send bytes, with pauses in units between them; and then close the connection, or wait until the client does."""

    async def run(server: LoopbackServer, request: LoopbackRequest) -> None:
        connection = request.connection
        for piece in pieces:
            if isinstance(piece, bytes):
                await connection.send(piece)
            else:
                await anyio.sleep(piece * server.unit)
        if then == "hang":
            while True:
                await connection.stream.receive()
        if then == "go down":
            await server.listener.aclose()
        if then != "stay":
            await connection.close(is_reset=then == "reset")

    return Act(run, is_early, is_seen)


def echo() -> Act:
    """Send the body back."""

    async def run(_: LoopbackServer, request: LoopbackRequest) -> None:
        length = f"Content-Length: {len(request.body)}"
        await request.connection.send(head("200 OK", length) + request.body)

    return Act(run)


@dataclass
class LoopbackH2Server:
    """The same for HTTP/2, without TLS. Its acts are of streams, and run at the same time.

    Attributes:
        acts: what it does with the n-th request.
        unit: how many seconds a pause of 1 is.
        listener: where it listens.
        done: how many acts have begun.
        connections: what it has accepted.
        arrived: the requests that have arrived, and where.
    """

    acts: Sequence[H2Act]
    unit: float
    listener: anyio.abc.Listener[anyio.abc.SocketStream]
    done: int = 0
    connections: list[LoopbackConnection] = field(default_factory=list[LoopbackConnection])
    arrived: list[tuple[LoopbackConnection, PeerRequest]] = field(
        default_factory=list[tuple[LoopbackConnection, PeerRequest]]
    )
    _early: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    @property
    def requests(self) -> list[LoopbackRequest]:
        """What has arrived."""
        return [
            LoopbackRequest(each.headers[":method"], each.headers[":path"], connection, 0, each.body)
            for connection, each in self.arrived
        ]

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve a connection until either side closes it."""
        connection = LoopbackConnection(len(self.connections), stream)
        self.connections.append(connection)
        peer = Peer(stream)
        async with stream, anyio.create_task_group() as tasks:
            try:
                # Windows as large as they can be: nothing else is ever given back.
                await peer.begin(settings(s4=0x7FFFFFFF), frame(WINDOW_UPDATE, 0, 0, uint32(0x7FFF0000)))
                while True:
                    await self._take(connection, peer, tasks)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                connection.closed_by = connection.closed_by or "client"
            tasks.cancel_scope.cancel()

    async def _take(self, connection: LoopbackConnection, peer: Peer, tasks: anyio.abc.TaskGroup) -> None:
        if self.done < len(self.acts) and self.acts[self.done].is_early:
            stream_id = await peer.head()
            request = peer.open.get(stream_id) or peer.whole.pop()
            if not self.acts[self.done].takes_body:
                request = replace(request)
            self._early.add((connection.number, stream_id))
        else:
            request = await peer.request()
            if (connection.number, request.stream_id) in self._early:
                return
        act = self.acts[self.done]
        self.done += 1
        if act.is_seen:
            self.arrived.append((connection, request))
        tasks.start_soon(act.run, self, connection, request.stream_id)


@dataclass(frozen=True)
class H2Act:
    """What a server does with a request over HTTP/2; see `Act`.

    Attributes:
        run: does it.
        is_early: whether it does so before it has read the body.
        is_seen: whether it takes note of the request.
        takes_body: whether it takes the body, if it does something early.
    """

    run: Callable[[LoopbackH2Server, LoopbackConnection, int], Coroutine[Any, Any, None]]
    is_early: bool = False
    is_seen: bool = True
    takes_body: bool = False


def send_frames(
    *pieces: Callable[[int], bytes] | float,
    then: Literal["stay", "close", "go down"] = "stay",
    is_early: bool = False,
    is_seen: bool = True,
    takes_body: bool = False,
) -> H2Act:
    """Send frames, which are made for the number of the stream, with pauses in units between them."""

    async def run(server: LoopbackH2Server, connection: LoopbackConnection, stream_id: int) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            for piece in pieces:
                if callable(piece):
                    await connection.send(piece(stream_id))
                else:
                    await anyio.sleep(piece * server.unit)
            if then == "go down":
                await server.listener.aclose()
            if then != "stay":
                connection.closed_by = "server"
                await connection.stream.send_eof()  # what has not been read, such as a SETTINGS, would cause a reset

    return H2Act(run, is_early, is_seen, takes_body)


def echo_frames() -> H2Act:
    """Send the body back."""

    async def run(server: LoopbackH2Server, connection: LoopbackConnection, stream_id: int) -> None:
        (body,) = [each.body for on, each in server.arrived if (on, each.stream_id) == (connection, stream_id)]
        await connection.send(respond(stream_id, body, ("content-length", str(len(body)))))

    return H2Act(run)


@contextlib.asynccontextmanager
async def loopback_h2_server(acts: Sequence[H2Act], unit: float) -> AsyncGenerator[tuple[LoopbackH2Server, str], None]:
    """Run a server for HTTP/2 during the block."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = LoopbackH2Server(acts, unit, listener)
    async with _listening(listener, server.serve) as url:
        yield server, url


@contextlib.asynccontextmanager
async def loopback_server(acts: Sequence[Act], unit: float) -> AsyncGenerator[tuple[LoopbackServer, str], None]:
    """Run a server during the block, which may take 10 s; yield it and its URL."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = LoopbackServer(acts, unit, listener)
    async with _listening(listener, server.serve) as url:
        yield server, url


@contextlib.asynccontextmanager
async def _listening(
    listener: anyio.abc.Listener[anyio.abc.SocketStream], serve: Callable[[anyio.abc.SocketStream], Awaitable[None]]
) -> AsyncGenerator[str, None]:
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:

            async def listen() -> None:
                try:
                    await listener.serve(serve, tasks)
                except* anyio.ClosedResourceError:  # it went down
                    pass

            tasks.start_soon(listen)
            yield f"http://127.0.0.1:{port}"
            tasks.cancel_scope.cancel()
