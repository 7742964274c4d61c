"""A server on a real socket that follows a script of bytes, and takes note of what a FakeNetwork takes note of."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio
import anyio.abc
import h11

from support.sockets import reset


@dataclass
class LoopbackConnection:
    """A connection that the server has accepted.

    Attributes:
        number: how many it has accepted before.
        stream: the connection.
        closed_by: who has closed it first; None: nobody.
    """

    number: int
    stream: anyio.abc.ByteStream
    closed_by: Literal["client", "server"] | None = None

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
                    await connection.stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
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
        assert request is not None and act is not None
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
                await connection.stream.send(piece)
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
        await request.connection.stream.send(head("200 OK", length) + request.body)

    return Act(run)


@contextlib.asynccontextmanager
async def loopback_server(acts: Sequence[Act], unit: float) -> AsyncGenerator[tuple[LoopbackServer, str], None]:
    """Run a server during the block, which may take 10 s; yield it and its URL."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = LoopbackServer(acts, unit, listener)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:

            async def listen() -> None:
                try:
                    await listener.serve(server.serve, tasks)
                except* anyio.ClosedResourceError:  # it went down
                    pass

            tasks.start_soon(listen)
            yield server, f"http://127.0.0.1:{port}"
            tasks.cancel_scope.cancel()
