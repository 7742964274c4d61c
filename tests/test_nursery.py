"""The seam between trio and asyncio: a root task of its own, the primitives around it, and shielded waiting."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import textwrap
import weakref

import anyio
import anyio.lowlevel
import pytest
import trio
from lifespan_apps import steps

from prefect_http._nursery import (
    Event,
    current_time,
    new_cancel_scope,
    new_event,
    new_lock,
    open_nursery,
    spawn_root_task,
    wait_shielded,
)

BACKENDS = ["asyncio", "trio"]

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


@pytest.mark.anyio
async def test_primitives_are_the_backends_own(anyio_backend: str) -> None:
    """Under trio they are trio's own objects, under asyncio anyio's."""
    home = trio if anyio_backend == "trio" else anyio
    assert isinstance(new_event(), home.Event)
    assert isinstance(new_lock(), home.Lock)
    assert isinstance(new_cancel_scope(), home.CancelScope)
    async with open_nursery() as nursery:
        assert isinstance(nursery, trio.Nursery if anyio_backend == "trio" else anyio.abc.TaskGroup)


@pytest.mark.anyio
async def test_time_is_the_loops() -> None:
    """The clock is that of the running loop, also for asyncio in a process that knows trio."""
    assert "trio" in sys.modules
    before, now, after = anyio.current_time(), current_time(), anyio.current_time()
    assert before <= now <= after


async def test_time_without_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the loop's in a process that has never heard of trio."""
    monkeypatch.delitem(sys.modules, "trio")
    before, now, after = anyio.current_time(), current_time(), anyio.current_time()
    assert before <= now <= after


test_time_without_trio.pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]  # type: ignore[attr-defined]
