"""Throttles that share a store, each of which stands for a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

from prefect_http import Throttle, ThrottledTransport, ThrottleEvent
from prefect_http._throttle.fleet_state import FleetState, from_text
from support.memory_store import MemoryStore, memory_backend
from support.timed_transport import KEY, Server, ask


class Process:
    """What stands for a process here: a throttle with a transport of its own.

    Attributes:
        throttle: the throttle.
        server: what its requests are sent to.
        transport: between these two.
        events: of the throttle.
    """

    def __init__(self, store: MemoryStore, server: httpx.AsyncBaseTransport, **arguments: Any) -> None:
        self.events: list[ThrottleEvent] = []
        arguments.setdefault("on_event", self.events.append)
        self.throttle = Throttle(shared=memory_backend(store), **arguments)
        self.server = server
        self.transport = ThrottledTransport(server, self.throttle)

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of all events."""
        return [event.kind for event in self.events]

    async def ask(self, url: str = "http://host/") -> int:
        """Send a request, and return the status of its response."""
        return (await ask(self.transport, url)).status_code

    async def ask_often(self, count: int, url: str = "http://host/") -> None:
        """Send so many requests at once, and wait for all."""
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.ask, url)

    @property
    def closed_until(self) -> float | None:
        """Return until when it sends nothing."""
        return self.throttle.statistics(KEY).closed_until


def own_tasks() -> list[str | None]:
    """Return the names of the package's tasks."""
    return [task.name for task in anyio.get_running_tasks() if (task.name or "").startswith("prefect_http")]


async def end(store: MemoryStore) -> None:
    """Wait until the throttles have nothing left to do, and check that there is nothing left of them."""
    await anyio.sleep(3)
    assert own_tasks() == []
    assert store.listeners == []


def state_of(store: MemoryStore) -> FleetState:
    """Return what the store has of its only key."""
    ((_, text),) = store.texts.values()
    return from_text(text)


@asynccontextmanager
async def in_use(*processes: Process) -> AsyncIterator[None]:
    """Have each of some processes send a request, of which the response takes an hour."""
    async with anyio.create_task_group() as tasks:
        for process in processes:
            transport = ThrottledTransport(Server(seconds=3600), process.throttle)
            tasks.start_soon(ask, transport)
        await anyio.sleep(0.1)
        yield
        tasks.cancel_scope.cancel()
