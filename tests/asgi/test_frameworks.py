"""What frameworks rely on, beyond the messages of ASGI: with the frameworks themselves, in virtual time."""

from __future__ import annotations

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from support.asgi_apps import MakeClient, both_clients

pytestmark = pytest.mark.anyio


@both_clients
async def test_starlette_finds_out_that_its_reader_has_left(make_client: MakeClient) -> None:
    """``await request.is_disconnected()`` turns true when the caller has given up, and not before."""
    log: list[str] = []

    async def work(request: Request) -> Response:
        await request.body()
        while not await request.is_disconnected():  # noqa: ASYNC110  # this is how apps do it
            await anyio.sleep(0.1)
        log.append("stopped")
        return Response()

    async with make_client(Starlette(routes=[Route("/", work)])) as client:
        began = anyio.current_time()
        with pytest.raises(httpx.ReadTimeout):
            async with client.stream("GET", "/", timeout=0.25):
                pass
        assert not log
        await anyio.sleep(0.1)
        assert log == ["stopped"]
        assert anyio.current_time() - began == pytest.approx(0.35)


@both_clients
async def test_starlettes_background_task_may_wait_for_the_disconnect(make_client: MakeClient) -> None:
    """After the whole response, the reader counts as gone, so such a task does not keep ``get()`` waiting."""

    async def endpoint(request: Request) -> Response:
        async def until_the_reader_leaves() -> None:
            while not await request.is_disconnected():  # noqa: ASYNC110  # this is how apps do it
                await anyio.sleep(0.1)

        await request.body()
        return PlainTextResponse("hello", background=BackgroundTask(until_the_reader_leaves))

    with anyio.fail_after(5):
        async with make_client(Starlette(routes=[Route("/", endpoint)])) as client:
            assert (await client.get("/")).text == "hello"
