"""In-process apps and asyncio's native cancellation, which no cancel scope knows of."""

from __future__ import annotations

import asyncio
import contextlib
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


@both_clients
@pytest.mark.parametrize("goes_on", ["waits", "catches it", "returns"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("answers", ["no", "before", "after"])
def test_app_that_cancels_its_own_task(make_client: MakeClient, goes_on: str, times: int, answers: str) -> None:
    """An app that cancels the task it runs in breaks at most its response; its caller never learns of it."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(0)
            if answers == "before":
                await hello(scope, receive, send)
            for _ in range(times):
                this_task().cancel()
            if goes_on != "returns":
                with contextlib.suppress(asyncio.CancelledError if goes_on == "catches it" else KeyError):
                    await asyncio.sleep(1)
            if answers == "after":
                await hello(scope, receive, send)

        async with make_client(FakeApp(handler)) as client:
            for _ in range(2):
                if answers == "no" or (answers == "after" and goes_on == "waits"):
                    with pytest.raises(httpx.RemoteProtocolError, match="the app"):
                        await client.get("/")
                else:
                    assert (await client.get("/")).text == "hello"
                assert this_task().cancelling() == 0
                await asyncio.sleep(0)

    run(main)


@both_clients
def test_app_that_cancels_its_own_task_as_it_starts(make_client: MakeClient) -> None:
    """That is so also before the app has waited for anything, and for a caller that has been cancelled before."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            this_task().cancel()
            await asyncio.sleep(1)

        async with make_client(FakeApp(handler)) as client:
            this_task().cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
            with pytest.raises(httpx.RemoteProtocolError, match="the app's call was cancelled"):
                await client.get("/")
            assert this_task().uncancel() == 0

    run(main)


@pytest.mark.parametrize("first", ["app", "caller"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_caller_is_cancelled_as_well(first: str, goes_on: bool) -> None:
    """If the app cancels its caller's task, and somebody else does too, the caller is cancelled."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            if first == "caller":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
            this_task().cancel()
            if first == "app":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
            if goes_on:
                raise asyncio.CancelledError

        async with app_client(FakeApp(handler)) as client:
            task = asyncio.ensure_future(client.get("/"))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelling() == 1

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
