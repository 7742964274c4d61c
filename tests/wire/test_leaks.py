"""Thousands of requests, to a server that misbehaves at random, by tasks that give up at random: nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.sockets import open_sockets, reset, sockets_closed
from support.wire import figures, is_asyncio, new_request, until

from prefect_http import HTTPTransport

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

# WIRE_REQUESTS=10000 makes more.
REQUESTS = int(os.environ.get("WIRE_REQUESTS", "3000"))
TASKS, CONNECTIONS = 100, 20
HEAD_END = b"\r\n\r\n"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
LONG = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

WAYS = (
    *["fine"] * 70,
    *["in parts"] * 5,
    *["chunked"] * 5,
    *["slow"] * 3,
    *["closed after it"] * 2,
    *["closed while idle"] * 2,
    *["trailing bytes"] * 2,
    *["more while idle"] * 2,
    *["closed", "reset", "half a head", "half a body", "half a body and reset", "garbage", "early answer", "silent"],
)
OUTCOMES = {
    *("through", "cancelled", "natively cancelled", "RemoteProtocolError", "ReadError", "ReadTimeout", "PoolTimeout"),
    *("InvalidResponse", "ConnectTimeout", "ConnectError", "WriteError", "WriteTimeout"),
}


@dataclass
class Chaos:
    """What the server and the tasks share.

    Attributes:
        dice: decides everything.
        left: the number of requests still to be made.
        seen: counts what the server did, and how the requests ended.
        open: the number of the server's connections.
        wrong: responses that belong to no request.
    """

    dice: random.Random
    left: int = REQUESTS
    seen: Counter[str] = field(default_factory=Counter[str])
    open: int = 0
    wrong: list[bytes] = field(default_factory=list[bytes])

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve a connection, until either side closes it."""
        self.open += 1
        try:
            async with stream:
                with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                    while await self.answer(stream):
                        pass
        finally:
            self.open -= 1

    async def answer(self, stream: anyio.abc.SocketStream) -> bool:
        """Answer a request in some way, and return whether to go on with the connection."""
        data = await stream.receive()
        while HEAD_END not in data:
            data += await stream.receive()
        way = self.dice.choice(WAYS)
        self.seen[way] += 1
        head, _, body = data.partition(HEAD_END)
        if way != "early answer":
            while b"\r\nTransfer-Encoding: chunked" in head and not body.endswith(b"0\r\n\r\n"):
                body += await stream.receive()
        match way:
            case "fine":
                await stream.send(FINE)
            case "in parts":
                for part in (FINE[:10], FINE[10:40], FINE[40:]):
                    await stream.send(part)
                    await anyio.lowlevel.checkpoint()
            case "chunked":
                await stream.send(LONG + b"2\r\nfi\r\n")
                await anyio.lowlevel.checkpoint()
                await stream.send(b"2\r\nne\r\n0\r\n\r\n")
            case "slow":
                for _ in range(self.dice.randrange(20)):
                    await anyio.lowlevel.checkpoint()
                await stream.send(FINE)
            case "closed after it":
                await stream.send(FINE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
                return False
            case "closed while idle":
                await stream.send(FINE)
                await anyio.lowlevel.checkpoint()
                return False
            case "trailing bytes":
                await stream.send(FINE + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
            case "more while idle":
                await stream.send(FINE)
                await anyio.lowlevel.checkpoint()
                # If the next request has been sent already, there is no telling that this is not its response.
                await stream.send(FINE.replace(b"200 OK", b"408 Request Timeout"))
            case "reset":
                await reset(stream)
                return False
            case "half a head":
                await stream.send(FINE[:20])
                return False
            case "half a body":
                await stream.send(FINE[:-2])
                return False
            case "half a body and reset":
                await stream.send(LONG + b"5\r\nfi")
                await reset(stream)
                return False
            case "garbage":
                await stream.send(b"220 smtp.example.org ESMTP\r\n")
                return False
            case "early answer":
                await stream.send(FINE.replace(b"200 OK", b"413 No"))
                return False
            case "silent":
                await stream.receive()
                return False
            case _:
                return False
        return True

    async def ask(self, transport: HTTPTransport, url: str) -> None:
        """Make requests as long as any are left to make."""
        while self.left:
            self.left -= 1
            patience = self.dice.choice([None] * 17 + ["timeouts", "few steps", "some time"])
            try:
                if patience == "few steps":
                    await self.ask_and_cancel(transport, url)
                else:
                    with anyio.move_on_after(self.dice.random() * 0.01 if patience == "some time" else 5):
                        await self.ask_once(transport, url, 0.01 if patience == "timeouts" else 0.3)
                    self.seen["through"] += 1
            except httpx.TransportError as error:
                self.seen[type(error).__name__] += 1

    async def ask_and_cancel(self, transport: HTTPTransport, url: str) -> None:
        """Make a request, and cancel it a few steps later."""
        steps = self.dice.randrange(12)
        with contextlib.suppress(httpx.TransportError):
            if is_asyncio() and self.dice.random() < 0.5:
                task = asyncio.create_task(self.ask_once(transport, url, 0.3))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                self.seen["natively cancelled"] += task.cancelled()
                if not task.cancelled():
                    task.result()
                return

            async def ask(scope: anyio.CancelScope) -> None:
                with contextlib.suppress(httpx.TransportError), scope:
                    await self.ask_once(transport, url, 0.3)
                self.seen["cancelled"] += scope.cancelled_caught

            async with anyio.create_task_group() as tasks:
                scope = anyio.CancelScope()
                tasks.start_soon(ask, scope)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

    async def ask_once(self, transport: HTTPTransport, url: str, seconds: float) -> None:
        """Make a request of some kind, and read the response, or leave it."""
        kind = self.dice.choice(["GET"] * 6 + ["PUT", "POST", "upload"])
        content = {"GET": None, "upload": self.upload()}.get(kind, b"x" * 100)
        method = "POST" if kind == "upload" else kind
        request = new_request(url, method, content, read=seconds, write=seconds, pool=20 * seconds, connect=seconds)
        response = await transport.handle_async_request(request)
        try:
            if self.dice.random() < 0.95 and await response.aread() != b"fine":
                self.wrong.append(response.content)
        finally:
            await response.aclose()

    async def upload(self) -> AsyncIterator[bytes]:
        """Generate a body in parts."""
        for _ in range(3):
            yield b"x" * 100
            await anyio.lowlevel.checkpoint()


def tasks_running() -> int:
    """Count the tasks of this event loop."""
    if is_asyncio():
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.anyio
async def test_nothing_is_left_over() -> None:
    """After thousands of requests, no connection is lost, no socket and no task is left, and there are no warnings."""
    gc.collect()
    sockets, tasks, chaos = open_sockets(), tasks_running(), Chaos(random.Random(20))
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS - 5)
    transport = HTTPTransport(verify=False, limits=limits)
    most = 0
    with warnings.catch_warnings(record=True) as warned, anyio.fail_after(60 + REQUESTS / 50):
        warnings.simplefilter("always")
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=1000)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        async with listener, anyio.create_task_group() as serving:
            serving.start_soon(listener.serve, chaos.serve)
            async with anyio.create_task_group() as asking:
                for _ in range(TASKS):
                    asking.start_soon(chaos.ask, transport, url)
                while chaos.left:
                    connections, idle, _ = figures(transport)
                    most = max(most, connections)
                    assert idle <= connections <= CONNECTIONS
                    assert idle <= CONNECTIONS - 5
                    await anyio.sleep(0.01)
            connections, idle, waiting = figures(transport)
            assert (connections, waiting) == (idle, 0)
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
            await until(lambda: chaos.open == 0)
            serving.cancel_scope.cancel()
        await sockets_closed(sockets)
        await until(lambda: tasks_running() == tasks)
        gc.collect()
    assert [str(each.message) for each in warned] == []
    assert chaos.wrong == []
    assert most == CONNECTIONS
    assert set(WAYS) <= set(chaos.seen) <= set(WAYS) | OUTCOMES
    assert {"cancelled", "through", "ReadTimeout", "ReadError", "RemoteProtocolError"} <= set(chaos.seen)
