"""A thousand requests to an API with a rate limit, a hundred at once, through one throttle.

Look at the output: all requests are answered, although the server accepts only 50 a second, which the client is not
told: the throttle learns it. Requests are made as they are sent, so a million would take no more memory. One page is
missing and one URL is invalid: each becomes an outcome with an error, and the others go on. The network is in memory
and the clock is trio's virtual one, so nothing has to wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import trio
from trio.testing import MockClock

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient, Throttle
from prefect_http.testing import FakeNetwork, ReceivedRequest, Reply, TokenBucket

REQUESTS, AT_ONCE, RATE = 1_000, 100, 50


def answer(request: ReceivedRequest) -> Reply:
    number = request.path_parameters["number"]
    return Reply(404) if number == "404" else Reply(json={"flow": number}, delay=0.1)


def urls() -> Iterator[str]:
    for number in range(REQUESTS):
        yield "https://api.example.com:port/" if number == 500 else f"/flows/{number}"


async def main() -> None:
    network = FakeNetwork()
    api = network.serve("https://api.example.com")
    api.get("/flows/{number}").call(answer)
    api.limit(TokenBucket(RATE, burst=10))

    ended = Counter[str]()
    client = network.client(PrefectHttpxClient, base_url="https://api.example.com", throttle=Throttle())
    async with client, client.send_many(urls(), max_at_once=AT_ONCE) as outcomes:
        async for outcome in outcomes:
            match outcome.error:
                case None:
                    ended["answered"] += 1
                case PrefectHTTPStatusError():
                    ended[f"status {outcome.error.response.status_code}"] += 1
                case httpx.InvalidURL():
                    ended[f"{outcome.error}"] += 1
                case error:
                    raise error
    for how, count in ended.items():
        print(f"{count:5} {how}")
    print(f"{len(network.requests) - REQUESTS + 1:5} sent again, after a 429")
    print(f"{trio.current_time():.1f} s; at the server's limit, it takes {REQUESTS / RATE:.1f} s")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
