"""Many requests over HTTP/2, to a server that misbehaves, by tasks that give up at random: nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.h2_frames import data, goaway, headers, reset, settings, window
from support.h2_peers import Peer, PeerRequest, h2_transport, respond
from support.sockets import open_sockets, sockets_closed
from support.wire import is_asyncio, new_request, until

from prefect_http import HTTPTransport

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

# H2_REQUESTS=10000 makes more.
REQUESTS = int(os.environ.get("H2_REQUESTS", "400"))
TASKS, CONNECTIONS = 60, 5

WAYS = (
    *["fine"] * 60,
    *["in parts"] * 10,
    *["slow"] * 5,
    *["early answer"] * 3,
    *["fewer streams"] * 2,
    *["refused", "reset", "half a body", "silent", "goaway", "graceful goaway", "closed", "garbage"],
)
OUTCOMES = {
    *("through", "cancelled", "natively cancelled", "RemoteProtocolError", "ReadError", "ReadTimeout", "PoolTimeout"),
    *("InvalidResponse", "ConnectTimeout", "ConnectError", "WriteError", "WriteTimeout", "RequestNotProcessed"),
}


@dataclass
class Chaos:
    """What the server and the tasks share.

    Attributes:
        dice: decides everything.
        left: the number of requests still to be made.
        seen: counts what the server did, and how the requests ended.
        wrong: responses that belong to other requests.
    """

    dice: random.Random
    left: int = REQUESTS
    seen: Counter[str] = field(default_factory=Counter[str])
    wrong: list[bytes] = field(default_factory=list[bytes])

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve a connection, until either side closes it."""
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                peer = Peer(stream)
                await peer.begin(settings(s3=self.dice.choice([3, 10, 100])), window(0, 10_000_000))
                while await self.answer(peer, await peer.request()):
                    pass

    async def answer(self, peer: Peer, request: PeerRequest) -> bool:
        """Do something with a request, and return whether the connection goes on."""
        way, number = self.dice.choice(WAYS), request.stream_id
        body = request.headers[":path"].encode() + request.body
        self.seen[way] += 1
        match way:
            case "fine" | "early answer":
                await peer.send(respond(number, body, status="200" if way == "fine" else "413"))
            case "in parts" | "slow":
                for part in (headers(number), data(number, body[:5]), data(number, body[5:], end=True)):
                    await peer.send(part)
                    await (anyio.sleep(0.002) if way == "slow" else anyio.lowlevel.checkpoint())
            case "fewer streams":
                await peer.send(settings(s3=self.dice.choice([0, 1, 2])), respond(number, body), settings(s3=10))
            case "refused":
                await peer.send(reset(number, 7))
            case "reset":
                await peer.send(reset(number, 2))
            case "half a body":
                await peer.send(headers(number), data(number, body[:5]), reset(number, 2))
            case "goaway":
                await peer.send(goaway(number), respond(number, body))
                await anyio.sleep(0.005)
                return False
            case "graceful goaway":
                await peer.send(goaway(2**31 - 1), respond(number, body), goaway(number))
                await anyio.sleep(0.005)
                return False
            case "closed":
                return False
            case "garbage":
                await peer.send(b"HTTP/1.1 500 No\r\n\r\n")
                return False
            case _:
                pass
        return True


async def visit(chaos: Chaos, transport: HTTPTransport, url: str) -> None:
    """Make requests, one after the other, and give some of them up."""
    while chaos.left > 0:
        chaos.left -= 1
        number = chaos.left
        chaos.seen[await attempt(chaos, transport, f"{url}{number}", b"/%d" % number)] += 1


async def attempt(chaos: Chaos, transport: HTTPTransport, url: str, path: bytes) -> str:
    """Make a request, and return how it ended."""
    content = chaos.dice.choice([None, None, b"body", chunks(chaos.dice)])
    request = new_request(url, "GET" if content is None else "POST", content, read=0.2, pool=1, write=1)
    patience = chaos.dice.choice([None, None, None, 0.0, 0.001, 0.01])
    if patience is not None and is_asyncio() and chaos.dice.random() < 0.3:
        return await attempt_in_task(chaos, transport, request, path, patience)
    with anyio.move_on_after(patience) as scope:
        return await send(chaos, transport, request, path)
    assert scope.cancelled_caught
    return "cancelled"


async def attempt_in_task(
    chaos: Chaos, transport: HTTPTransport, request: httpx.Request, path: bytes, patience: float
) -> str:
    """Make a request in a task that is cancelled by asyncio itself."""
    task = asyncio.get_running_loop().create_task(send(chaos, transport, request, path))
    await asyncio.wait([task], timeout=patience)
    task.cancel()
    await asyncio.wait([task])
    return "natively cancelled" if task.cancelled() else task.result()


async def send(chaos: Chaos, transport: HTTPTransport, request: httpx.Request, path: bytes) -> str:
    """Send a request, check that the response is its own, and return how that ended."""
    try:
        response = await transport.handle_async_request(request)
        try:
            if chaos.dice.random() < 0.1:
                return "through"  # unread
            body = await response.aread()
        finally:
            await response.aclose()
    except httpx.TransportError as error:
        return type(error).__name__
    if not body.startswith(path) or body[len(path) :].strip(b"bodyx"):
        chaos.wrong.append(body)
    return "through"


async def chunks(dice: random.Random) -> AsyncIterator[bytes]:
    """Make a body in parts."""
    for _ in range(dice.randrange(4)):
        await anyio.sleep(dice.choice([0, 0, 0.001]))
        yield b"x"


def tasks() -> int:
    """Count the tasks of the event loop."""
    if is_asyncio():
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.anyio
async def test_nothing_is_left() -> None:
    """After all that, no stream, place, task or socket is left, and no response was another request's."""
    chaos, before, tasks_before = Chaos(random.Random(int(os.environ.get("H2_SEED", "7")))), open_sockets(), tasks()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
    transport = h2_transport(httpx.Limits(max_connections=CONNECTIONS))
    with anyio.fail_after(10 + REQUESTS / 100):
        async with listener, anyio.create_task_group() as server:
            server.start_soon(listener.serve, chaos.serve)
            async with anyio.create_task_group() as group:
                for _ in range(TASKS):
                    group.start_soon(visit, chaos, transport, url)
            await until(lambda: transport.statistics().streams == 0)
            statistics = transport.statistics()
            assert (statistics.waiting, statistics.connections - statistics.idle) == (0, 0)
            await transport.aclose()
            server.cancel_scope.cancel()
    assert transport.statistics().connections == 0
    assert not chaos.wrong
    assert set(chaos.seen) <= OUTCOMES | set(WAYS), chaos.seen
    assert chaos.seen["through"] > REQUESTS / 20, chaos.seen
    await sockets_closed(before)
    await until(lambda: tasks() <= tasks_before)
