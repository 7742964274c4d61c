"""In-process apps and asyncio's native cancellation, which no cancel scope knows of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from support.asgi_apps import (
    FakeApp,
    MakeClient,
    app_client,
    both_clients,
    hang,
    hello,
    last,
    listen,
    part,
    plain_client,
    start,
)
from support.virtual_time import VirtualTimeLoop

from prefect_http._types import ASGIApp, Receive, Scope, Send


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in virtual time, for at most 5 s."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.wait_for(main(), 5))


def this_task() -> asyncio.Task[Any]:
    """Return the current task."""
    task = asyncio.current_task()
    assert task is not None
    return task


async def answer_half(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a part of a response, then receive until the disconnect."""
    await send(start())
    await send(part(b"half"))
    await listen(scope, receive, send)


@both_clients
@pytest.mark.parametrize("handler", [hang, listen, answer_half])
def test_native_cancellation_of_the_caller_is_let_through(make_client: MakeClient, handler: ASGIApp) -> None:
    """A native cancellation or timeout of the caller's task has its effect whatever the app does, and nothing else."""

    async def main() -> None:
        app = FakeApp(handler)
        async with make_client(app) as client:
            task = asyncio.ensure_future(client.get("/"))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.get("/")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("/"), 0.01)
            assert this_task().cancelling() == 0
        assert app.running == 0

    run(main)


@both_clients
@pytest.mark.parametrize("complete", [False, True])
def test_app_cancels_a_task_that_receives(make_client: MakeClient, complete: bool) -> None:
    """An app may cancel a task of its own that waits in receive(), before its response or after it."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            listener = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            if complete:
                await hello(scope, receive, send)
            listener.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listener
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await (asyncio.sleep(1) if complete else receive())
            if not complete:
                await hello(scope, receive, send)

        async with make_client(FakeApp(handler)) as client:
            assert (await client.get("/")).text == "hello"

    run(main)


@both_clients
@pytest.mark.parametrize("complete", [False, True])
def test_stray_cancellation_is_not_the_callers(make_client: MakeClient, complete: bool) -> None:
    """A CancelledError out of a task that the app has cancelled breaks at most the response; it cancels no caller."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            if complete:
                await hello(scope, receive, send)
            task = asyncio.ensure_future(asyncio.sleep(1))
            await asyncio.sleep(0)
            task.cancel()
            await task

        async with make_client(FakeApp(handler)) as client:
            if complete:
                assert (await client.get("/")).text == "hello"
            else:
                with pytest.raises(httpx.RemoteProtocolError, match="the app's call was cancelled"):
                    await client.get("/")

    run(main)


def test_app_that_cancels_its_own_task() -> None:
    """If the app has a task of its own, and cancels it, that breaks at most the response; it cancels no caller."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/complete":
                await hello(scope, receive, send)
            this_task().cancel()
            await asyncio.sleep(1)

        async with plain_client(FakeApp(handler)) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="the app's call was cancelled"):
                await client.get("/")
            assert (await client.get("/complete")).text == "hello"

    run(main)


@both_clients
def test_task_that_outlives_the_call_is_disconnected(make_client: MakeClient) -> None:
    """A task of the app's that still waits in receive() when the app's call has ended receives the disconnect."""

    async def main() -> None:
        tasks: list[asyncio.Task[Any]] = []

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            tasks.append(asyncio.ensure_future(receive()))
            await asyncio.sleep(0)
            tasks.append(asyncio.ensure_future(send(last(b"not heard"))))
            raise KeyError

        async with make_client(FakeApp(handler)) as client:
            with pytest.raises(KeyError):
                await client.get("/")
            assert await tasks[0] == {"type": "http.disconnect"}
            await tasks[1]

    run(main)


def test_native_cancellation_of_closing_is_held_back() -> None:
    """A native cancellation of the task that closes a client takes effect when the requests and the app have ended."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start())
            await listen(scope, receive, send)
            await asyncio.sleep(0.05)

        client = app_client(app := FakeApp(handler))
        await client.__aenter__()
        await client.send(client.build_request("GET", "/"), stream=True)
        closing = asyncio.ensure_future(client.aclose())
        await asyncio.sleep(0.01)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert app.log == ["startup", "returned", "shutdown"]

    run(main)
