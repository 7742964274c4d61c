"""Starting and stopping an app, relative to asgi-lifespan."""

from __future__ import annotations

from asgi_lifespan import LifespanManager

from benchmarks._apps import lifespan
from benchmarks._measure import compare
from benchmarks._table import print_table
from prefect_http import app_lifespan_context


async def run(backend: str) -> None:
    """Measure a lifespan from startup to shutdown."""
    results = await compare(_theirs, {"app_lifespan_context": _ours}, rounds=200, calls=10)
    print_table(f"Start and stop of a lifespan, {backend}", "asgi_lifespan.LifespanManager", results)


async def _theirs() -> None:
    async with LifespanManager(lifespan):
        pass


async def _ours() -> None:
    async with app_lifespan_context(lifespan):
        pass
