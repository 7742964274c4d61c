"""A response that is read while it arrives, and a stream with a bad status.

Look at the order of the lines: the client reads each number as soon as the server has sent it. The 503 before it was
closed and retried. A bad status raises an error on entering the stream, with the server's own message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import trio

from prefect_http import Attempt, PrefectHTTPStatusError, PrefectHttpxClient


async def count() -> AsyncIterator[bytes]:
    for number in range(1, 4):
        print(f"  the server sends {number}")
        yield f"{number}\n".encode()
        await trio.sleep(0.1)


script = {
    "/count": [httpx.Response(503, headers={"Retry-After": "0"}), httpx.Response(200, content=count())],
    "/sums": [httpx.Response(500, json={"detail": "not enough fingers"})],
}


def serve(request: httpx.Request) -> httpx.Response:
    return script[request.url.path].pop(0)


def report(request: httpx.Request, attempt: Attempt) -> None:
    print(f"  {request.url.path}: {attempt.status_code}, again in {attempt.delay:.0f} s ({attempt.reason})")


async def main() -> None:
    transport = httpx.MockTransport(serve)
    async with PrefectHttpxClient(transport=transport, base_url="http://school", on_retry=report) as client:
        print("A stream with a bad status is retried, then read as it arrives:")
        async with client.stream("GET", "/count") as response:
            async for line in response.aiter_lines():
                print(f"  the client reads {line}")
        print("A bad status that is not retried is an error:")
        try:
            async with client.stream("GET", "/sums"):
                print("  never reached")
        except PrefectHTTPStatusError as error:
            print(f"  {error}")
            print(f"  {error.response.is_closed=}, {error.response.json()=}")


trio.run(main)
