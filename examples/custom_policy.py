"""A retry policy for the client, another for a single request, a hook for each retry, and errors with all attempts.

Look at the two POSTs: after a read timeout, the server may or may not have acted on the request. So it is repeated only
if its policy allows that. Look at the errors: they contain the attempts as data, and as a note that tracebacks show.
"""

from __future__ import annotations

from dataclasses import replace

import httpx
import trio

from prefect_http import Attempt, PrefectHTTPStatusError, PrefectHttpxClient, RetryPolicy

script: dict[str, list[httpx.Response | Exception]] = {
    "/fruit": [httpx.Response(504), httpx.Response(200)],
    "/order/1": [httpx.ReadTimeout("no answer")],
    "/order/2": [httpx.ReadTimeout("no answer"), httpx.Response(201)],
    "/prices": [httpx.Response(503), httpx.Response(429, headers={"Retry-After": "60"}, json={"detail": "too fast"})],
}
policy = RetryPolicy(max_retries=2, statuses={429, 502, 503, 504}, max_backoff=0.1, max_retry_after=30)
repeatable = replace(policy, retry_non_idempotent=True)


def serve(request: httpx.Request) -> httpx.Response:
    """Answer as the script says next for this path."""
    answer = script[request.url.path].pop(0)
    if isinstance(answer, Exception):
        raise answer
    return answer


def report(request: httpx.Request, attempt: Attempt) -> None:
    outcome = attempt.status_code or type(attempt.exception).__name__
    print(f"  {request.method}: {outcome}, again in {attempt.delay:.2f} s ({attempt.reason})")


async def main() -> None:
    transport = httpx.MockTransport(serve)
    async with PrefectHttpxClient(retry=policy, on_retry=report, transport=transport, base_url="http://shop") as client:
        print("The client's policy retries a 504:")
        print(" ", await client.get("/fruit"))
        print("A POST that may have reached the server is not retried:")
        try:
            await client.post("/order/1")
        except httpx.ReadTimeout as error:
            print(" ", *error.__notes__)
        print("Unless the policy of the request allows it:")
        print(" ", await client.post("/order/2", extensions={"retry": repeatable}))
        print("A Retry-After longer than max_retry_after raises at once:")
        try:
            await client.get("/prices")
        except PrefectHTTPStatusError as error:
            statuses = [attempt.status_code for attempt in error.attempts]
            print(f"  {error}\n  {statuses=}, {error.retry_after=}\n  {error.attempts[-1].reason}")


trio.run(main)
