"""A hundred tasks call an app with a rate limit, first independently, and then through a throttle.

Look at the table: without a throttle, the tasks all retry at the same time, and most are rejected again, until their
retries are used up. With a throttle they wait in one queue: after the first rejection all of them wait, and the rate is
learned from what was accepted before it. The clock is trio's virtual one, so waiting takes no time.
"""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import MockClock

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient, Receive, Scope, Send, Throttle

TASKS, RATE, BURST = 100, 20, 5


class App:
    """Accepts RATE requests per second, and BURST at once."""

    def __init__(self) -> None:
        self.statuses = Counter[int]()
        self.tokens = float(BURST)
        self.filled_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await trio.sleep(0.02)
        now = trio.current_time()
        self.tokens = min(self.tokens + (now - self.filled_at) * RATE, BURST)
        self.filled_at = now
        status = 200 if self.tokens >= 1 else 429
        self.statuses[status] += 1
        self.tokens -= status == 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"retry-after", b"1")]})
        await send({"type": "http.response.body"})


async def main(title: str, throttle: Throttle | None) -> None:
    app, failed = App(), 0

    async def get(number: int) -> None:
        nonlocal failed
        try:
            await client.get(f"/flows/{number}")
        except PrefectHTTPStatusError:
            failed += 1

    async with PrefectHttpxClient(app=app, throttle=throttle) as client, trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(get, number)
    print(f"{title:16} {app.statuses[200]:8} {app.statuses[429]:8} {failed:8} {trio.current_time():8.0f}")


print(f"{'':16} accepted rejected   failed  seconds")
for title, throttle in {"no throttle": None, "with a throttle": Throttle()}.items():
    trio.run(main, title, throttle, clock=MockClock(autojump_threshold=0))
