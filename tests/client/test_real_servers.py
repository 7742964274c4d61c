"""The client against real servers: hypercorn on trio and uvicorn on asyncio, each from both backends."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import httpx
import pytest
from support.servers import hypercorn_on_trio, retrying_at_once, uvicorn_on_asyncio

from prefect_http import Message, PrefectHTTPStatusError, PrefectHttpxClient, PrefectResponse, Receive, Scope, Send

pytestmark = pytest.mark.anyio


class App:
    """An app that responds by path, and counts its calls."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.saw_disconnect = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        self.calls[scope["path"]] += 1
        match scope["path"].split("/"):
            case [_, "echo"]:
                await self._echo(receive, send)
            case [_, "flaky", *_]:
                await self._refuse_twice(scope, send)
            case [_, "crash"]:
                raise RuntimeError("the app crashed")
            case [_, "endless"]:
                await self._wait_for_the_end(receive, send)

    async def _echo(self, receive: Receive, send: Send) -> None:
        # Read whole before it answers: an HTTP/1.1 client does not read until it has sent everything.
        chunks = [message := await receive()]
        while message.get("more_body", False):
            chunks.append(message := await receive())
        await send(_start(200))
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk["body"], "more_body": True})
        await send(_END)

    async def _refuse_twice(self, scope: Scope, send: Send) -> None:
        if self.calls[scope["path"]] <= 2:
            await send(_start(503, (b"retry-after", b"0")))
        else:
            await send(_start(200))
        await send({**_END, "body": json.dumps({"port": scope["client"][1]}).encode()})

    async def _wait_for_the_end(self, receive: Receive, send: Send) -> None:
        await send(_start(200))
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.saw_disconnect.set()


_END: Message = {"type": "http.response.body", "body": b""}


def _start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


async def _live(receive: Receive, send: Send) -> None:
    for stage in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{stage}"
        await send({"type": f"lifespan.{stage}.complete"})


app = App()


@pytest.fixture(scope="module", params=[hypercorn_on_trio, uvicorn_on_asyncio], ids=["hypercorn", "uvicorn"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve the app; yield the server's URL."""
    app.calls.clear()
    with request.param(app) as url:
        yield url


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    app.calls.clear()
    app.saw_disconnect.clear()


def new_client(url: str) -> PrefectHttpxClient:
    """Return a client with a pool of one connection."""
    limits = httpx.Limits(max_connections=1)
    return PrefectHttpxClient(base_url=url, retry=retrying_at_once(), limits=limits, trust_env=False)


async def test_plain_request(url: str) -> None:
    """A response is a PrefectResponse that has been read, with its elapsed time."""
    with anyio.fail_after(10):
        async with new_client(url) as client:
            response = await client.post("/echo", json={"answer": 42})
    assert type(response) is PrefectResponse
    assert response.json() == {"answer": 42}
    assert response.elapsed.total_seconds() > 0


@pytest.mark.parametrize(("method", "connections"), [("PUT", 1), ("POST", 3)])
async def test_rejected_request_is_repeated(url: str, method: str, connections: int) -> None:
    """A request that gets a 503 twice is repeated over the same connection, if it is safe to send twice."""
    ports: list[int] = []

    async def note(response: httpx.Response) -> None:
        ports.append(json.loads(await response.aread())["port"])

    with anyio.fail_after(10):
        async with new_client(url) as client:
            client.event_hooks["response"].append(note)
            assert (await client.request(method, "/flaky")).status_code == 200
    assert len(ports) == 3
    assert len(set(ports)) == connections


async def test_streams_that_retry_share_one_connection(url: str) -> None:
    """Ten tasks that stream and retry through a pool of one connection all get their responses."""
    statuses: list[int] = []

    async def stream_one(client: PrefectHttpxClient, path: str) -> None:
        async with client.stream("GET", path) as response:
            statuses.append(response.status_code)

    with anyio.fail_after(10):
        async with new_client(url) as client, anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(stream_one, client, f"/flaky/{number}")
    assert statuses == [200] * 10
    assert set(app.calls.values()) == {3}


async def test_long_body_streams_both_ways(url: str) -> None:
    """A megabyte from a generator is sent and received whole."""
    block = bytes(range(256)) * 64

    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield block

    with anyio.fail_after(10):
        async with new_client(url) as client, client.stream("POST", "/echo", content=body()) as response:
            assert await response.aread() == block * 64


async def test_crash_of_the_app_is_not_repeated(url: str) -> None:
    """A 500 is raised at once: the server may have acted on the request."""
    with anyio.fail_after(10):
        async with new_client(url) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.post("/crash")
    assert caught.value.response.status_code == 500
    assert app.calls["/crash"] == 1


async def test_stream_that_is_left_early_disconnects_from_the_app(url: str) -> None:
    """A streamed response begins while the app still sends, and leaving it gives the app http.disconnect."""
    with anyio.fail_after(10):
        async with new_client(url) as client:
            async with client.stream("GET", "/endless") as response:
                assert response.status_code == 200
                assert not app.saw_disconnect.is_set()
            assert await anyio.to_thread.run_sync(app.saw_disconnect.wait, 5)
