"""One of the processes of fleet.py: a program that sends requests through a throttle, when it is told to.

It prints a line when it is ready, waits for one, sends all requests at once, and prints how many seconds they took and
how many failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import anyio
import anyio.to_thread
import coredis

from prefect_http import PrefectHttpxClient, Throttle
from prefect_http.redis import RedisBackend

_LIMIT_OF_TIME = 40  # seconds


async def main(url: str, requests: int, redis_socket: str, prefix: str) -> None:
    """Send requests.

    Args:
        url: where to.
        requests: how many.
        redis_socket: the path of Redis's socket; empty: this process shares nothing.
        prefix: of the keys in Redis.
    """
    async with contextlib.AsyncExitStack() as stack:
        shared = None
        if redis_socket:
            redis = await stack.enter_async_context(coredis.Redis(unix_socket_path=redis_socket))
            shared = RedisBackend(redis, prefix=prefix)
        headers = {"X-Process": str(os.getpid())}
        client = PrefectHttpxClient(throttle=Throttle(shared=shared), headers=headers)
        await stack.enter_async_context(client)
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        started, failed, ended = time.monotonic(), 0, 0
        urls = (url for _ in range(requests))
        with anyio.move_on_after(_LIMIT_OF_TIME):
            async with client.send_many(urls, max_at_once=requests) as outcomes:
                async for outcome in outcomes:
                    ended += 1
                    failed += outcome.error is not None
        print(time.monotonic() - started, failed + requests - ended, flush=True)


if __name__ == "__main__":
    backend, where, number, path, name = sys.argv[1:]
    anyio.run(main, where, int(number), path, name, backend=backend)
