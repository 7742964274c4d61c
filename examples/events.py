"""Server-sent events: a feed whose connection breaks, and an answer that arrives word by word.

Look at the second connection: the client waits for as long as the server has asked, and sends the ID of the last event
it has received, so the server continues from there. With a 204, the server says that there is no more. The second half
reads the kind of stream that LLM APIs send: a POST is not repeated, so there is one connection. The server is one of
the test kit's, in memory, and the clock is virtual.
"""

from __future__ import annotations

import json

import trio
from trio.testing import MockClock

from prefect_http import PrefectHttpxClient, RetryPolicy
from prefect_http.testing import FakeNetwork, ReceivedRequest, Reply

EVENT_STREAM = {"Content-Type": "text/event-stream"}
RUNS = ["scheduled", "pending", "running", "completed"]


def serve_runs(request: ReceivedRequest) -> Reply:
    """Send the two events after the last one that the client has received, or say that there are no more."""
    first = int(request.headers.get("Last-Event-ID", 0))
    print(f"{trio.current_time():3.0f} s  the client connects, to continue after event {first}")
    if first == len(RUNS):
        return Reply(204)
    events = [f"id: {number}\nevent: run\ndata: {RUNS[number - 1]}\n\n" for number in (first + 1, first + 2)]
    return Reply(headers=EVENT_STREAM, content="retry: 10000\n\n" + "".join(events))


def serve_chat(request: ReceivedRequest) -> Reply:
    """Answer a prompt, one word at a time."""
    words = [json.dumps({"delta": f"{word} "}) for word in request.json()["prompt"].upper().split()]
    return Reply(headers=EVENT_STREAM, content="".join(f"data: {data}\n\n" for data in [*words, "[DONE]"]))


async def main() -> None:
    policy = RetryPolicy(jitter=0)
    async with FakeNetwork() as network, network.client(PrefectHttpxClient, retry=policy) as client:
        api = network.serve("https://api.example.com")
        api.get("/runs").call(serve_runs)
        api.post("/chat").call(serve_chat)

        async with client.sse("GET", "https://api.example.com/runs") as events:
            async for event in events:
                print(f"{trio.current_time():3.0f} s  {event.event} {event.id}: {event.data}")

        async with client.sse("POST", "https://api.example.com/chat", json={"prompt": "hello there"}) as events:
            async for event in events:
                if event.data == "[DONE]":
                    break
                print(json.loads(event.data)["delta"], end="")
        print()


trio.run(main, clock=MockClock(autojump_threshold=0))
