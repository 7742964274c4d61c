"""Requests through proxies that misbehave at random, by tasks that give up at random: nothing is left."""

from __future__ import annotations

import random
from collections import Counter

import anyio
import anyio.abc
import httpx
import pytest
from anyio.lowlevel import checkpoint
from support.scripted_servers import read_head
from support.sockets import open_sockets, reset, sockets_closed
from support.tls_servers import listening
from support.wire import figures, new_request, until

from prefect_http import HTTPTransport

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]

REQUESTS, TASKS = 80, 10
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"
WAYS = (*["fine"] * 8, "refused", "closed", "reset", "half a head", "early data", "closed while idle", "slow")

FAILURES = {"ProxyError", "InvalidResponse", "ConnectError", "RemoteProtocolError", "ReadError", "WriteError"}


class Chaos:
    """A proxy that decides at random what it does, and answers in the place of all origins.

    Attributes:
        seen: counts how the requests ended.
        open: the number of its connections.
    """

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.seen: Counter[str] = Counter()
        self.open = 0
        self.left = REQUESTS

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection."""
        self.open += 1
        try:
            async with stream:
                await self.follow(self.dice.choice(WAYS), stream)
        finally:
            self.open -= 1

    async def follow(self, way: str, stream: anyio.abc.ByteStream) -> None:
        """Do one of the WAYS."""
        head = await read_head(stream)
        if way == "slow":
            for _ in range(self.dice.randrange(20)):
                await checkpoint()
        if way == "closed":
            return
        if way == "reset":
            await reset(stream)
            return
        if way in {"refused", "half a head"}:
            await stream.send(b"HTTP/1.1 403 No\r\n\r\n"[: 10 if way == "half a head" else None])
            return
        if head.startswith(b"CONNECT"):
            await stream.send(OPEN + (b"early" if way == "early data" else b""))
            head = await read_head(stream)
        while True:
            target = head.split(b" ")[1].rpartition(b"/")[2]
            await stream.send(FINE % (len(target), target))
            if way == "closed while idle" and self.dice.random() < 0.3:
                return
            head = await read_head(stream)

    async def request(self, transport: HTTPTransport) -> None:
        """Make requests until there are enough: ws:// ones go through tunnels, and http:// ones are forwarded."""
        while self.left:
            self.left -= 1
            number = self.left
            request = new_request(f"{self.dice.choice(['ws', 'http'])}://{self.dice.choice('abc')}.test/{number}")
            steps = self.dice.choice([None, None, None, self.dice.randrange(12)])
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    if steps is not None:
                        tasks.start_soon(give_up, steps, scope)
                    try:
                        response = await transport.handle_async_request(request)
                        body = await response.aread()
                        await response.aclose()
                    except httpx.TransportError as error:
                        self.seen[type(error).__name__] += 1
                    else:
                        assert body == b"%d" % number or response.status_code == 403
                        self.seen["answered"] += 1
                    tasks.cancel_scope.cancel()
            self.seen["cancelled"] += scope.cancelled_caught


async def give_up(steps: int, scope: anyio.CancelScope) -> None:
    """Cancel a request after some scheduling points."""
    for _ in range(steps):
        await checkpoint()
    scope.cancel()


async def test_nothing_is_left() -> None:
    """Whatever happens, no connection is left open, and no answer is another's."""
    before, chaos = open_sockets(), Chaos(random.Random(7))
    async with listening(chaos.serve) as port:
        transport = HTTPTransport(proxy=f"http://127.0.0.1:{port}", limits=httpx.Limits(max_connections=6))
        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(chaos.request, transport)
        connections, idle, waiting = figures(transport)
        assert (connections, waiting) == (idle, 0)
        await transport.aclose()
        await until(lambda: chaos.open == 0)
    await sockets_closed(before)
    assert chaos.seen["answered"] > REQUESTS / 4, chaos.seen
    assert set(chaos.seen) - {"answered", "cancelled"} <= FAILURES
    assert len(chaos.seen) > 3, chaos.seen
