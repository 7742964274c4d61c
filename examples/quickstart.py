"""Three tasks that call an unreliable API, and need no error handling.

The API is a fake, in memory. For each path, it first responds with 503 and ``Retry-After: 1``, then with 429 and a
date, then closes the connection without a response, and then responds with 200. Look at when each task retries, and
why.
"""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx
import trio

from prefect_http import Attempt, PrefectHttpxClient, RetryPolicy
from prefect_http.testing import FakeNetwork

PATHS = ("/apples", "/pears", "/plums")


async def main() -> None:
    def report(path: str, message: str) -> None:
        print(f"{trio.current_time() - start:4.1f} s  {path:<7}  {message}")

    def report_retry(request: httpx.Request, attempt: Attempt) -> None:
        outcome = attempt.status_code or type(attempt.exception).__name__
        report(request.url.path, f"{attempt.number}: {outcome}, again in {attempt.delay:.1f} s ({attempt.reason})")

    async def call(path: str) -> None:
        response = await client.get(path)
        report(path, f"{response.status_code}: {response.text}")

    async with FakeNetwork() as network:
        api = network.serve("https://api.example.com")
        for path in PATHS:
            date = formatdate(time.time() + 3, usegmt=True)
            route = api.get(path).reply(503, headers={"Retry-After": "1", "Connection": "close"})
            route.reply(429, headers={"Retry-After": date, "Connection": "close"}).drop().reply(text="hello")

        start = trio.current_time()
        policy = RetryPolicy(max_backoff=0.5)  # to finish soon; the default is 2, 4, 8, 16, 32 s
        client = network.client(
            PrefectHttpxClient, base_url="https://api.example.com", retry=policy, on_retry=report_retry
        )
        async with client, trio.open_nursery() as tasks:
            for path in PATHS:
                tasks.start_soon(call, path)


trio.run(main)
