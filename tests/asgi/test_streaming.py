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
    app_client,
    hello,
    last,
    part,
    plain_client,
    read,
    sending,
    start,
    wait_until,
)

from prefect_http._types import Message, Receive, Scope, Send

pytestmark = pytest.mark.anyio

both_clients = pytest.mark.parametrize("make_client", [plain_client, app_client])


@both_clients
async def test_response_is_there_with_its_headers(make_client: MakeClient) -> None:
    """The response is there when the app has sent its headers, and each chunk when the app has sent it."""
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
    """BodyBuffer are neither joined nor split; empty ones say nothing."""
    app = FakeApp(sending(start(), part(b"a"), part(b""), part(b"bc"), {"type": "http.response.body", "body": None}))
    async with make_client(app) as client, client.stream("GET", "/") as response:
        assert await read(response) == [b"a", b"bc"]


@both_clients
@pytest.mark.parametrize("size", [1024, 64 * 1024, 1024 * 1024])
async def test_app_waits_while_nobody_reads(make_client: MakeClient, size: int) -> None:
    """An app can be 64 KiB ahead of its reader, or a chunk more, and goes on when it has been read."""
    sent = 0

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        for _ in range(200):
            await send(part(b"x" * size))
            sent += 1
        await send(last())

    with anyio.fail_after(20):
        async with make_client(FakeApp(handler)) as client, client.stream("GET", "/") as response:
            await anyio.sleep(0.02)
            ahead = sent
            assert ahead * size <= 64 * 1024
            assert (ahead + 2) * size > 64 * 1024
            chunks = response.aiter_raw()
            assert await anext(chunks) == b"x" * size
            await anyio.sleep(0.02)
            assert sent - ahead <= 1
            assert sum([len(chunk) async for chunk in chunks]) == 199 * size


async def test_request_body_streams_in() -> None:
    """A chunk of the request's body arrives while the caller still makes the next one."""
    log: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await arrived.wait()
        log.append("caller makes two")
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
    assert log == ["app has one", "caller makes two", "app has two"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back each chunk when it has come."""
    await send(start())
    while (message := await receive())["more_body"]:
        await send(part(message["body"].upper()))
    await send(last())


@both_clients
async def test_both_directions_at_once(make_client: MakeClient) -> None:
    """Caller and app can have a conversation within one request."""

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
    """The caller's stream is asked for no more than a chunk beyond what the app has taken."""
    made = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(10):
            made += 1
            yield b"x"

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for taken in range(10):
            await anyio.sleep(0.005)
            assert made <= taken + 1
            await receive()
        await hello(scope, receive, send)

    async with plain_client(FakeApp(handler)) as client:
        await client.post("/", content=body())
    assert made == 10


@both_clients
async def test_early_answer_ends_the_upload(make_client: MakeClient) -> None:
    """An app that answers without waiting for the rest of the request ends it, with what the caller's stream holds."""
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
async def test_one_task_makes_the_request_body(make_client: MakeClient) -> None:
    """A stream may have a cancel scope open across its chunks, whatever tasks the app receives in."""

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
@pytest.mark.parametrize("chunks_before", [0, 1, 3])
async def test_body_that_raises_is_a_disconnect_to_the_app(make_client: MakeClient, chunks_before: int) -> None:
    """A stream that raises in the middle raises in the caller, as it is; the app sees a disconnect."""
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
async def test_body_that_raises_after_the_headers_raises_in_the_reading(make_client: MakeClient) -> None:
    """A stream that raises while the response is read raises where the caller reads."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await go_on.wait()
        raise httpx.ReadError("of the caller's own making")

    go_on = anyio.Event()
    async with make_client(FakeApp(echo)) as client:
        with anyio.fail_after(5):
            async with client.stream("POST", "/", content=body()) as response:
                go_on.set()
                with pytest.raises(httpx.ReadError, match="of the caller's own making"):
                    await response.aread()


async def test_nested_generators_are_closed_with_the_request() -> None:
    """A request body that is not taken to its end leaves no generator to the garbage collector."""

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
    """The end of the body is the end of the app's call: its background work is done by then."""
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
async def test_background_work_goes_on_when_nobody_reads(make_client: MakeClient) -> None:
    """An app that has sent its whole response is not cancelled because the caller leaves without reading it."""

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
    """A hundred conversations on one transport do not mix."""

    async def converse(number: int) -> None:
        async def body() -> AsyncIterator[bytes]:
            for turn in range(5):
                yield b"%d-%d " % (number, turn)
                await anyio.lowlevel.checkpoint()

        response = await client.post("/", content=body())
        assert response.content == b"".join(b"%d-%d " % (number, turn) for turn in range(5))

    with anyio.fail_after(20):
        async with plain_client(FakeApp(echo)) as client, anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(converse, number)


async def test_body_that_never_waits_is_closed_with_the_request() -> None:
    """A stream that has chunks without end, and lets nobody else run between them, is closed as well."""
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
