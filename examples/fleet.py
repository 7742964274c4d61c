"""Four processes call a server with a rate limit through one throttle: two of them on trio, and two on asyncio.

Hardly any request is rejected: the limit that each process names is that of all together, and they take turns, which
they share through Redis. The program starts redis-server, and ends it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import partial

import anyio
import anyio.abc
import coredis  # pip install coredis

from prefect_http import PrefectHttpxClient, Throttle
from prefect_http.redis import RedisBackend
from prefect_http.testing import TokenBucket

BACKENDS, REQUESTS, BUCKET = ("trio", "asyncio") * 2, 25, TokenBucket(45, burst=15)


async def serve(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        async for _ in stream:  # each request arrives in one piece
            status = b"200 OK" if BUCKET.admit(anyio.current_time()) else b"429 Too Many Requests\r\nRetry-After: 1"
            await stream.send(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)


async def send(url: str, redis_socket: str) -> None:
    async with coredis.Redis(unix_socket_path=redis_socket) as redis:
        throttle = Throttle(rate=40, burst=10, shared=RedisBackend(redis))
        async with PrefectHttpxClient(throttle=throttle) as client, client.send_many([url] * REQUESTS) as outcomes:
            failed = [outcome async for outcome in outcomes if outcome.error]
    print(f"{REQUESTS} requests, {throttle.statistics(url).rejected} rejected, {len(failed)} failed", flush=True)


async def start(redis_server: str, redis_socket: str) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
    async with listener, anyio.create_task_group() as servers:
        servers.start_soon(listener.serve, serve)
        servers.start_soon(anyio.run_process, [redis_server, "--port", "0", "--unixsocket", redis_socket, "--save", ""])
        while not await anyio.Path(redis_socket).exists():  # noqa: ASYNC110
            await anyio.sleep(0.01)
        async with anyio.create_task_group() as processes:
            for command in ([sys.executable, __file__, backend, url, redis_socket] for backend in BACKENDS):
                processes.start_soon(partial(anyio.run_process, command, stdout=None, stderr=None))
        servers.cancel_scope.cancel()


if len(sys.argv) > 1:
    anyio.run(send, sys.argv[2], sys.argv[3], backend=sys.argv[1])
elif not (program := shutil.which("redis-server")):
    print("redis-server is not installed.")
else:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(start, program, f"{folder}/redis.sock", backend="trio")
