"""In-process apps and asyncio's native cancellation, which no cancel scope knows of."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
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
from support.rows import each_row

from prefect_http import RetryPolicy
from prefect_http._types import ASGIApp, Receive, Scope, Send
from prefect_http.testing._virtual_time import virtual_time_loop


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in virtual time, for at most 50 s."""
    with asyncio.Runner(loop_factory=virtual_time_loop) as runner:
        runner.run(asyncio.wait_for(main(), 50))


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
@each_row("handler", [hang, listen, answer_half])
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
@each_row("complete", [False, True])
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
@each_row("complete", [False, True])
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
@each_row("goes_on", ["waits", "catches it", "returns"])
@each_row("times", [1, 2])
@each_row("answers", ["no", "before", "after"])
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


def test_app_that_cancels_its_own_task_is_not_retried() -> None:
    """Its cancellation counts as its own exception, which no repetition can mend."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            this_task().cancel()
            await asyncio.sleep(1)

        async with app_client(app := FakeApp(handler), RetryPolicy(max_retries=3)) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="the app's call was cancelled"):
                await client.get("/")
        assert len(app.scopes) == 1

    run(main)


@each_row("first", ["app", "caller"])
@each_row("goes_on", [False, True])
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


# An app that runs in its caller's task, and listens there or, like Django and Quart, in a task of its own.


async def listen_here(receive: Receive) -> None:
    """Wait for the disconnect in the task of the request."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def listen_in_a_task(receive: Receive) -> None:
    """Wait for the disconnect in a task, and for that task."""
    await asyncio.wait([asyncio.ensure_future(listen_here(receive))])


async def listen_beside_work(receive: Receive) -> None:
    """Wait for a disconnect and for work, each in a task, and cancel the work, as Django does."""
    tasks = [asyncio.ensure_future(listen_here(receive)), asyncio.ensure_future(asyncio.sleep(100))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def listen_in_a_group(receive: Receive) -> None:
    """Do the same in an asyncio.TaskGroup, which ends with an error; as newer versions of Django do."""

    async def raise_at_the_end() -> None:
        await listen_here(receive)
        raise LookupError

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(raise_at_the_end())
            await asyncio.sleep(100)
    except* LookupError:
        pass


each_way_to_listen = each_row("wait", [listen_here, listen_in_a_task, listen_beside_work, listen_in_a_group])


async def by_scope(get: Callable[[], Awaitable[object]]) -> None:
    """Cancel a request by the cancel scope around it."""
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(2, scope.cancel)
        await get()
    assert scope.cancelled_caught


async def by_deadline(get: Callable[[], Awaitable[object]]) -> None:
    """Cancel a request by the deadline of a cancel scope around it."""
    with pytest.raises(TimeoutError), anyio.fail_after(2):
        await get()


async def by_group(get: Callable[[], Awaitable[object]]) -> None:
    """Cancel a request by the task group that it is sent in."""

    async def send() -> None:
        await get()

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await asyncio.sleep(2)
        group.cancel_scope.cancel()


async def natively(get: Callable[[], Awaitable[object]]) -> None:
    """Cancel the task that sends a request."""
    task = asyncio.ensure_future(get())
    await asyncio.sleep(2)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelling() == 1


async def by_native_timeout(get: Callable[[], Awaitable[object]]) -> None:
    """Cancel a request by asyncio's own timeout."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await get()


Cancel = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]
each_way_to_cancel = each_row("cancel", [by_scope, by_deadline, by_group, natively, by_native_timeout])


@each_way_to_cancel
@each_way_to_listen
@each_row("needs", [0, 0.5, 5])
@each_row("failing", [False, True])
def test_app_that_listens_has_its_grace_period(
    cancel: Cancel, wait: Callable[[Receive], Awaitable[None]], needs: float, failing: bool
) -> None:
    """If the caller is cancelled, however that is, the app gets the disconnect and a second to end by itself."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await wait(receive)
            app.log.append(f"disconnected after {now() - began:g} s")
            await asyncio.sleep(needs)
            if failing:
                raise KeyError

        now = asyncio.get_running_loop().time
        began = now()
        app = FakeApp(handler)
        async with app_client(app) as client:
            await cancel(lambda: client.get("/"))
            assert now() - began == pytest.approx(2 + min(needs, 1))
            assert app.running == 0
            assert this_task().cancelling() == 0
        end = "cancelled" if needs > 1 else "raised" if failing else "returned"
        assert app.log == ["startup", "disconnected after 2 s", end, "shutdown"]

    run(main)


def test_second_native_cancellation_ends_the_grace_period() -> None:
    """If the caller is cancelled again, the app is cancelled at once."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await listen_beside_work(receive)
            await asyncio.sleep(5)

        async with app_client(app := FakeApp(handler)) as client:
            task = asyncio.ensure_future(client.get("/"))
            for pause in (1, 0.5):
                await asyncio.sleep(pause)
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert asyncio.get_running_loop().time() == pytest.approx(1.5)
            assert app.log[-1] == "cancelled"

    run(main)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_two_native_cancellations_at_once(rounds: int) -> None:
    """The same holds if the second one follows before the app has been disconnected."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await listen_beside_work(receive)

        async with app_client(app := FakeApp(handler)) as client:
            task = asyncio.ensure_future(client.get("/"))
            await asyncio.sleep(1)
            task.cancel()
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert task.cancelling() == 2
            assert asyncio.get_running_loop().time() == pytest.approx(1)
            assert app.running == 0

    run(main)


@pytest.mark.parametrize("first", ["the cancellation", "the response"])
def test_response_that_is_complete_as_the_caller_is_cancelled(first: str) -> None:
    """An app that has its whole response sent just then does not go on with its background work either."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            listener = asyncio.ensure_future(listen_here(receive))
            await asyncio.sleep(1)
            outside.run(lambda: asyncio.get_running_loop().call_soon(task.cancel))
            if first == "the cancellation":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await hello(scope, receive, send)
            await asyncio.sleep(100)
            await listener

        async with app_client(app := FakeApp(handler)) as client:
            task = asyncio.ensure_future(client.get("/"))
            await asyncio.wait([task])
            assert task.cancelled()
            assert asyncio.get_running_loop().time() <= 2
            assert app.log[-1] == "cancelled"

    run(main)


def own_native_timeout() -> AbstractAsyncContextManager[object]:
    """Return asyncio's own timeout."""
    return asyncio.timeout(1)


@contextlib.asynccontextmanager
async def own_scope() -> AsyncIterator[None]:
    """Cancel the block by its deadline."""
    with anyio.move_on_after(1):
        yield
    raise TimeoutError


@contextlib.asynccontextmanager
async def own_scope_cancelled_by_others() -> AsyncIterator[None]:
    """Cancel the block from code that has nothing to do with the app."""
    with anyio.CancelScope() as scope:
        outside.run(lambda: asyncio.get_running_loop().call_later(1, scope.cancel))
        yield
    raise TimeoutError


@contextlib.asynccontextmanager
async def own_task() -> AsyncIterator[None]:
    """Cancel the task of the request from another task of the app's."""
    task = this_task()

    async def cancel() -> None:
        await asyncio.sleep(1)
        task.cancel()

    canceller = asyncio.ensure_future(cancel())
    with contextlib.suppress(asyncio.CancelledError):
        yield
    await canceller
    raise TimeoutError


outside = contextvars.Context()


@each_row("patience", [own_native_timeout, own_scope, own_scope_cancelled_by_others, own_task])
@each_way_to_listen
def test_app_that_cancels_a_part_of_itself_while_it_listens(
    wait: Callable[[Receive], Awaitable[None]], patience: Callable[[], AbstractAsyncContextManager[object]]
) -> None:
    """An app's own timeouts and cancellations are not mistaken for those of its caller."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            with pytest.raises(TimeoutError):
                async with patience():
                    await wait(receive)
            await hello(scope, receive, send)

        async with app_client(FakeApp(handler)) as client:
            assert (await client.get("/")).text == "hello"
            assert asyncio.get_running_loop().time() == pytest.approx(1)
            assert this_task().cancelling() == 0
            await asyncio.sleep(0)

    run(main)


@each_way_to_cancel
def test_app_whose_task_group_listens_is_cancelled_as_a_whole(cancel: Cancel) -> None:
    """The caller's cancellation reaches all tasks of a group at once, so nothing of the app outlives it."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(listen_here, receive)
                group.start_soon(anyio.sleep, 100)

        app = FakeApp(handler)
        async with app_client(app) as client:
            await cancel(lambda: client.get("/"))
            assert asyncio.get_running_loop().time() <= 3
            assert app.running == 0

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
