"""Entering and leaving the lifespan of an app that is already up, relative to an empty nursery."""

from __future__ import annotations

import anyio
import trio

from benchmarks._apps import lifespan
from benchmarks._measure import compare
from benchmarks._table import print_table
from prefect_http import app_lifespan_context

_OURS = "app_lifespan_context, app is up"
_CANCELLING = "the same, cancel_on_crash=True"
_TARGETS = {_OURS: 2.0}


async def run(backend: str) -> None:
    """Measure entering and leaving the context of an app that is held already."""
    empty, name = {
        "trio": (_empty_nursery, "trio.open_nursery()"),
        "asyncio": (_empty_task_group, "anyio.create_task_group()"),
    }[backend]
    async with app_lifespan_context(lifespan):
        results = await compare(empty, {_OURS: _hold, _CANCELLING: _hold_cancelling}, rounds=500, calls=50)
    print_table(f"Nested lifespan, {backend}", name, results, _TARGETS)


async def _hold() -> None:
    async with app_lifespan_context(lifespan):
        pass


async def _hold_cancelling() -> None:
    async with app_lifespan_context(lifespan, cancel_on_crash=True):
        pass


async def _empty_nursery() -> None:
    async with trio.open_nursery():
        pass


async def _empty_task_group() -> None:
    async with anyio.create_task_group():
        pass
