"""ASGITransport: streaming in both directions, back-pressure, and background work."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.asgi_apps import (
    FakeApp,
    MakeClient,
    both_clients,
    hello,
    last,
    part,
    plain_client,
    read,
    sending,
    start,
    wait_until,
)
from support.rows import each_row

from prefect_http._types import Message, Receive, Scope, Send

pytestmark = pytest.mark.anyio


@both_clients
async def test_response_is_returned_with_its_headers(make_client: MakeClient) -> None:
    """The response is returned when the app has sent its headers, and each chunk arrives when the app has sent it."""
    log: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await seen["head"].wait()
        log.append("app sends one")
        await send(part(b"one"))
        await seen["one"].wait()
        log.append("app sends two")
        await send(last(b"two"))

    seen = {name: anyio.Event() for name in ("head", "one")}
    with anyio.fail_after(5):
        async with make_client(FakeApp(handler)) as client, client.stream("GET", "/") as response:
            log.append("caller has the head")
            seen["head"].set()
            async for chunk in response.aiter_raw():
                log.append(f"caller has {chunk.decode()}")
                seen["one"].set()
    assert log == ["caller has the head", "app sends one", "caller has one", "app sends two", "caller has two"]


@both_clients
async def test_chunks_stay_as_they_were_sent(make_client: MakeClient) -> None:
    """Chunks are neither joined nor split; empty ones are left out."""
    app = FakeApp(sending(start(), part(b"a"), part(b""), part(b"bc"), {"type": "http.response.body", "body": None}))
    async with make_client(app) as client, client.stream("GET", "/") as response:
        assert await read(response) == [b"a", b"bc"]


@both_clients
@each_row("size", [1024, 64 * 1024, 1024 * 1024])
async def test_app_waits_for_its_reader(make_client: MakeClient, size: int) -> None:
    """An app can be 64 KiB and a chunk ahead of its reader, and goes on when the reader has read some of it."""
    sent, chunk = 0, b"x" * size

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        for _ in range(100):
            await send(part(chunk))
            sent += 1
        await send(last())

    with anyio.fail_after(5):
        async with make_client(FakeApp(handler)) as client, client.stream("GET", "/") as response:
            await anyio.wait_all_tasks_blocked()
            ahead = sent
            assert ahead * size <= 64 * 1024
            assert (ahead + 2) * size > 64 * 1024
            chunks = response.aiter_raw()
            assert await anext(chunks) == chunk
            await anyio.wait_all_tasks_blocked()
            assert sent - ahead <= 1
            assert [len(chunk) async for chunk in chunks] == [size] * 99


async def test_request_body_streams_in() -> None:
    """A chunk of the request body arrives while the caller still produces the next one."""
    log: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await arrived.wait()
        log.append("caller produces two")
        yield b""
        yield b"two"

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            log.append(f"app has {message['body'].decode()}")
            arrived.set()
        assert message == {"type": "http.request", "body": b"", "more_body": False}
        await hello(scope, receive, send)

    arrived = anyio.Event()
    with anyio.fail_after(5):
        async with plain_client(FakeApp(handler)) as client:
            await client.post("/", content=body())
    assert log == ["app has one", "caller produces two", "app has two"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back each chunk as it arrives, in upper case."""
    await send(start())
    while (message := await receive())["more_body"]:
        await send(part(message["body"].upper()))
    await send(last())


@both_clients
async def test_both_directions_at_once(make_client: MakeClient) -> None:
    """Caller and app can hold a conversation within one request."""

    async def body() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"q%d" % number
            await answered.pop(0).wait()

    events = [anyio.Event() for _ in range(5)]
    answered = list(events)
    answers: list[bytes] = []
    with anyio.fail_after(5):
        async with make_client(FakeApp(echo)) as client, client.stream("POST", "/", content=body()) as response:
            async for chunk in response.aiter_raw():
                answers.append(chunk)
                events.pop(0).set()
    assert answers == [b"Q0", b"Q1", b"Q2", b"Q3", b"Q4"]


async def test_caller_is_one_chunk_ahead_at_most() -> None:
    """The caller's stream is read at most one chunk beyond what the app has taken."""
    produced = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(10):
            produced += 1
            yield b"x"

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for taken in range(10):
            await anyio.sleep(0.005)
            assert produced <= taken + 1
            await receive()
        await hello(scope, receive, send)

    async with plain_client(FakeApp(handler)) as client:
        await client.post("/", content=body())
    assert produced == 10


@both_clients
async def test_early_response_ends_the_upload(make_client: MakeClient) -> None:
    """If an app responds without waiting for the rest of the request body, the caller's stream is closed."""
    log: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await anyio.sleep_forever()
        finally:
            log.append("closed")

    async with make_client(FakeApp(hello)) as client:
        with anyio.fail_after(5):
            assert (await client.post("/", content=body())).text == "hello"
    assert log == ["closed"]


@both_clients
async def test_one_task_reads_the_request_body(make_client: MakeClient) -> None:
    """The caller's stream may have a cancel scope open across its chunks, in whichever tasks the app receives."""

    async def body() -> AsyncIterator[bytes]:
        with anyio.CancelScope():
            async with anyio.create_task_group():
                for _ in range(3):
                    yield b"x"
                    await anyio.lowlevel.checkpoint()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def receive_one() -> None:
            messages.append(await receive())

        while not messages or messages[-1]["more_body"]:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive_one)
        assert [message["body"] for message in messages] == [b"x", b"x", b"x", b""]
        await hello(scope, receive, send)

    async with make_client(FakeApp(handler)) as client:
        with anyio.fail_after(5):
            await client.post("/", content=body())


@both_clients
@each_row("chunks_before", [0, 1, 3])
async def test_body_that_raises_disconnects_the_app(make_client: MakeClient, chunks_before: int) -> None:
    """What the caller's stream raises is raised unwrapped in the caller; the app receives a disconnect."""
    mine = KeyError("mine")

    async def body() -> AsyncIterator[bytes]:
        for _ in range(chunks_before):
            yield b"x"
        raise mine

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            app.log.append(f"{message['type']} {message['more_body']}")
        app.log.append(message["type"])

    app = FakeApp(handler)
    async with make_client(app) as client:
        with anyio.fail_after(5), pytest.raises(KeyError) as raised:
            await client.post("/", content=body())
        await wait_until(lambda: not app.running)
    assert raised.value is mine
    assert [line for line in app.log if line.startswith("http")] == [
        *["http.request True"] * chunks_before,
        "http.disconnect",
    ]


@both_clients
async def test_body_that_raises_after_the_headers(make_client: MakeClient) -> None:
    """What the caller's stream raises while the response is read is raised by the read."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await go_on.wait()
        raise httpx.ReadError("the caller's own")

    go_on = anyio.Event()
    async with make_client(FakeApp(echo)) as client:
        with anyio.fail_after(5):
            async with client.stream("POST", "/", content=body()) as response:
                go_on.set()
                with pytest.raises(httpx.ReadError, match="the caller's own"):
                    await response.aread()


async def test_nested_generators_are_closed_with_the_request() -> None:
    """A request body that is not read to its end leaves no generator to the garbage collector."""

    async def inner() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await anyio.lowlevel.checkpoint()

    async def body() -> AsyncIterator[bytes]:
        async for chunk in inner():
            yield chunk

    async with plain_client(FakeApp(hello)) as client:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert (await client.post("/", content=body())).text == "hello"
            gc.collect()
            await anyio.sleep(0.01)
            gc.collect()
    assert [str(warning.message) for warning in caught] == []


@both_clients
async def test_reading_to_the_end_waits_for_background_work(make_client: MakeClient) -> None:
    """The body ends when the app's call has returned, so its background work is done by then."""
    log: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        await anyio.sleep(0.02)
        log.append("background work")

    async with make_client(FakeApp(handler)) as client:
        await client.get("/")
        assert log == ["background work"]
        async with client.stream("GET", "/") as response:
            await response.aread()
            assert log == ["background work"] * 2


@both_clients
async def test_leaving_a_complete_response_leaves_background_work_alone(make_client: MakeClient) -> None:
    """An app that has sent its whole response is not cancelled if the caller leaves without reading it."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        await go_on.wait()

    app, go_on = FakeApp(handler), anyio.Event()
    with anyio.fail_after(5):
        async with make_client(app) as client:
            async with client.stream("GET", "/"):
                pass
            assert app.running == 1
            go_on.set()
            await wait_until(lambda: not app.running)
    assert "returned" in app.log


async def test_many_streams_at_once() -> None:
    """Many conversations on one transport are independent."""

    async def converse(number: int) -> None:
        async def body() -> AsyncIterator[bytes]:
            for turn in range(5):
                yield b"%d-%d " % (number, turn)
                await anyio.lowlevel.checkpoint()

        response = await client.post("/", content=body())
        assert response.content == b"".join(b"%d-%d " % (number, turn) for turn in range(5))

    with anyio.fail_after(5):
        async with plain_client(FakeApp(echo)) as client, anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(converse, number)


async def test_body_that_never_waits_is_closed_with_the_request() -> None:
    """A stream that yields chunks endlessly without ever waiting is closed as well."""
    log: list[str] = []

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x"
            finally:
                log.append("closed")

    async with plain_client(FakeApp(hello)) as client:
        with anyio.fail_after(5):
            response = await client.send(httpx.Request("POST", "http://app/", stream=Endless()))
    assert (response.text, log) == ("hello", ["closed"])
