"""What tests of event streams share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio

from prefect_http import EventStream, PrefectHttpxClient, RetryPolicy
from prefect_http.testing import FakeNetwork, FakeServer, Route

API = "https://api.example.com"
URL = f"{API}/events"
EVENT_STREAM = {"Content-Type": "text/event-stream"}
STEADY = RetryPolicy(jitter=0)
NEVER = RetryPolicy(max_retries=0)


def new_network() -> tuple[FakeNetwork, FakeServer]:
    """Return a network, and the server in it."""
    network = FakeNetwork()
    return network, network.serve(API)


def client_of(network: FakeNetwork, *, retry: RetryPolicy = STEADY, **arguments: Any) -> PrefectHttpxClient:
    """Return a client in a network."""
    return network.client(PrefectHttpxClient, retry=retry, **arguments)


def event(data: object, event_id: object = None, retry: int | None = None) -> bytes:
    """Return an event as it is sent."""
    lines = [f"data: {data}"]
    if event_id is not None:
        lines.append(f"id: {event_id}")
    if retry is not None:
        lines.append(f"retry: {retry}")
    return "\n".join([*lines, "", ""]).encode()


def send_events(route: Route, *parts: bytes, headers: Iterable[tuple[str, str]] = (), **arguments: Any) -> Route:
    """Add a step to a script that sends events, and then ends the response."""
    return route.reply(headers=[*EVENT_STREAM.items(), *headers], content=b"".join(parts), **arguments)


def break_off(route: Route, *parts: bytes) -> Route:
    """Add a step to a script that sends events, and then closes the connection in the middle of a long one."""
    return route.drop(20_000, headers=EVENT_STREAM, content=b"".join(parts) + b"data: " + b"x" * 50_000)


async def times_of(events: EventStream) -> list[tuple[str, float]]:
    """Return the data of all events, and when each of them came."""
    return [(each.data, anyio.current_time()) async for each in events]


async def data_of(events: EventStream) -> list[str]:
    """Return the data of all events."""
    return [each.data async for each in events]
