"""Tests of a FastAPI app, with pytest-trio and with anyio's pytest plugin. Run ``pytest testing_an_app.py``.

Look at the fixtures: entering a client runs the app's startup, and leaving it, after the test, runs the shutdown. With
pytest-trio the clock can be virtual, so a test that waits for a minute finishes at once. With anyio's plugin the test
runs twice, on asyncio and on trio.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from fastapi import FastAPI, HTTPException, Request  # pip install fastapi pytest-trio
from trio.testing import MockClock

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient, RetryPolicy


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, float]]:
    yield {"ready_at": anyio.current_time() + 60}


app = FastAPI(lifespan=lifespan)


@app.get("/flows/{name}")
async def read_flow(name: str, request: Request) -> str:
    if name != "etl":
        raise HTTPException(404, f"no flow is named {name}")
    if anyio.current_time() < request.state.ready_at:
        raise HTTPException(503, headers={"Retry-After": "30"})
    return "ready"


@pytest.fixture
async def trio_client() -> AsyncGenerator[PrefectHttpxClient]:
    async with PrefectHttpxClient(app=app, retry=RetryPolicy(jitter=0)) as client:
        yield client


@pytest.mark.trio
async def test_flow_is_ready_after_a_minute(trio_client: PrefectHttpxClient, autojump_clock: MockClock) -> None:
    response = await trio_client.get("/flows/etl")
    assert (response.json(), trio.current_time()) == ("ready", 60)


@pytest.fixture
async def anyio_client() -> AsyncGenerator[PrefectHttpxClient]:
    async with PrefectHttpxClient(app=app) as client:
        yield client


@pytest.mark.anyio
async def test_unknown_flow_is_an_error(anyio_client: PrefectHttpxClient) -> None:
    with pytest.raises(PrefectHTTPStatusError, match="no flow is named elt"):
        await anyio_client.get("/flows/elt")
