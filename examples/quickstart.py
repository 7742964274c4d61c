"""Three tasks that call an unreliable API, and need no error handling.

For each path, the server first responds with 503 and ``Retry-After: 1``, then with 429 and a date, then closes the
connection without a response, and then responds with 200. Look at when each task retries, and why.
"""

from __future__ import annotations

import time
from email.utils import formatdate

import anyio
import httpx
import trio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from prefect_http import Attempt, PrefectHttpxClient, RetryPolicy

visits: list[str] = []


async def serve(connection: SocketStream) -> None:
    async with connection:
        request = await BufferedByteReceiveStream(connection).receive_until(b"\r\n\r\n", 65536)
        path = request.decode().split()[1]
        visits.append(path)
        answer = {
            1: "503 Service Unavailable\r\nRetry-After: 1",
            2: f"429 Too Many Requests\r\nRetry-After: {formatdate(time.time() + 2, usegmt=True)}",
            4: "200 OK",
        }.get(visits.count(path))
        if answer:
            await connection.send(f"HTTP/1.1 {answer}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".encode())


async def main() -> None:
    def report(path: str, message: str) -> None:
        print(f"{trio.current_time() - start:4.1f} s  {path:<7}  {message}")

    def report_retry(request: httpx.Request, attempt: Attempt) -> None:
        outcome = attempt.status_code or type(attempt.exception).__name__
        report(request.url.path, f"{attempt.number}: {outcome}, again in {attempt.delay:.1f} s ({attempt.reason})")

    async def call(path: str) -> None:
        response = await client.get(path)
        report(path, f"{response.status_code}: {response.text}")

    policy = RetryPolicy(max_backoff=0.5)  # to finish soon; the default is 2, 4, 8, 16, 32 s
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, trio.open_nursery() as server:
        server.start_soon(listener.serve, serve)
        url, start = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}", trio.current_time()
        client = PrefectHttpxClient(base_url=url, retry=policy, on_retry=report_retry, trust_env=False)
        async with client, trio.open_nursery() as tasks:
            for path in ("/apples", "/pears", "/plums"):
                tasks.start_soon(call, path)
        server.cancel_scope.cancel()


trio.run(main)
