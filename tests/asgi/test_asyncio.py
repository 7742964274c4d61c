"""In-process apps and asyncio's own cancellation, which no scope knows of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from support.asgi_apps import FakeApp, MakeClient, app_client, hang, hello, last, listen, part, plain_client, start

from prefect_http._types import ASGIApp, Receive, Scope, Send

both_clients = pytest.mark.parametrize("make_client", [plain_client, app_client])


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test, for 5 s at most."""
    asyncio.run(asyncio.wait_for(main(), 5))


async def answer_half(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a part of a response, and listen."""
    await send(start())
    await send(part(b"half"))
    await listen(scope, receive, send)


@both_clients
@pytest.mark.parametrize("handler", [hang, listen, answer_half])
def test_native_cancellation_of_the_caller_is_let_through(make_client: MakeClient, handler: ASGIApp) -> None:
    """A task that is cancelled, or times out, in the asyncio way ends so, wherever the app is, and leaves nothing."""

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
            this = asyncio.current_task()
            assert this is not None
            assert this.cancelling() == 0
        assert app.running == 0

    run(main)


@both_clients
@pytest.mark.parametrize("whole", [False, True])
def test_app_cancels_its_own_listener(make_client: MakeClient, whole: bool) -> None:
    """A task of the app's that waits in receive() can be cancelled by the app, before the response or after it."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            listener = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            if whole:
                await hello(scope, receive, send)
            listener.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listener
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    if whole:
                        await asyncio.sleep(1)
                    await receive()
            if not whole:
                await hello(scope, receive, send)

        async with make_client(FakeApp(handler)) as client:
            assert (await client.get("/")).text == "hello"

    run(main)


@both_clients
@pytest.mark.parametrize("complete", [False, True])
def test_stray_cancellation_is_not_the_callers(make_client: MakeClient, complete: bool) -> None:
    """A CancelledError out of a task that the app has cancelled spoils the response at most, and cancels nobody."""

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
def test_sub_task_that_outlives_the_call_is_told(make_client: MakeClient) -> None:
    """A task of the app's that still waits in receive() when the app's call has ended gets the disconnect."""

    async def main() -> None:
        tasks: list[asyncio.Task[Any]] = []

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            tasks.append(asyncio.ensure_future(receive()))
            await asyncio.sleep(0)
            tasks.append(asyncio.ensure_future(send(last(b"unheard"))))
            raise KeyError

        async with make_client(FakeApp(handler)) as client:
            with pytest.raises(KeyError):
                await client.get("/")
            assert await tasks[0] == {"type": "http.disconnect"}
            await tasks[1]

    run(main)
