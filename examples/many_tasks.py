"""Two hundred tasks at once, over httpx's own transport and over HTTPTransport.

Look at the table: the more tasks and connections there are, the more time httpx spends searching through them. The
server runs in this process too, so the client could be faster than these numbers; ``nox -s bench`` measures it with a
server in another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import trio

from prefect_http import HTTPTransport

TASKS, CONNECTIONS = 200, 20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


async def serve(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            while await stream.receive_some():
                await stream.send_all(ANSWER)
        except trio.BrokenResourceError:
            pass  # the client has closed the connection


async def measure(transport: httpx.AsyncBaseTransport, url: str) -> float:
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        started = time.perf_counter()
        async with trio.open_nursery() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(client.get, url)
        return TASKS / (time.perf_counter() - started)


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    transports: dict[str, Callable[[], httpx.AsyncBaseTransport]] = {
        "httpx's own": lambda: httpx.AsyncHTTPTransport(limits=limits),
        "HTTPTransport": lambda: HTTPTransport(limits=limits),
    }
    async with trio.open_nursery() as server:
        server.start_soon(trio.serve_listeners, serve, listeners)
        print(f"{TASKS} tasks, {CONNECTIONS} connections")
        for name, make in transports.items():
            print(f"{name:14}{await measure(make(), url):8,.0f} requests per second")
        server.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
