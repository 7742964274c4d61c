"""Responses with a bad status, over real sockets: waits, connections, and bodies that are too long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import httpx
import pytest
from support.rows import each_row
from support.servers import (
    Act,
    Flood,
    answer,
    drop,
    half_answer,
    raw_server,
    retrying_at_once,
    stay_silent,
    upgrade_to_echo,
)

from prefect_http import Attempt, PrefectHTTPStatusError, PrefectHttpxClient, PrefectResponse, RetryPolicy

pytestmark = pytest.mark.anyio

NOW = "Sun, 06 Nov 1994 08:49:37 GMT"
ONE_CONNECTION = httpx.Limits(max_connections=1)


def new_client(max_retries: int = 5) -> PrefectHttpxClient:
    """Return a client that waits only if the server asks for it."""
    return PrefectHttpxClient(retry=retrying_at_once(max_retries), trust_env=False)


def client_with_one_connection(attempts: list[Attempt]) -> PrefectHttpxClient:
    """Return a client with a pool of one connection that appends its failed attempts to a list."""

    def note(_: httpx.Request, attempt: Attempt) -> None:
        attempts.append(attempt)

    timeout = httpx.Timeout(5, pool=0.5)
    return PrefectHttpxClient(
        retry=retrying_at_once(), on_retry=note, limits=ONE_CONNECTION, timeout=timeout, trust_env=False
    )


@each_row(
    ("status", "headers"),
    [
        (429, {}),
        (502, {"retry_after": "0"}),
        (503, {"retry_after": NOW, "date": NOW}),
        (503, {"retry_after": "soon"}),
    ],
    ids=["no-Retry-After", "seconds", "date", "malformed"],
)
async def test_rejected_post_is_repeated_whole(status: int, headers: dict[str, str]) -> None:
    """A POST that is rejected is sent again with its whole body, after a 5xx over another connection."""
    refusal = answer(status, b"busy", **headers)
    async with raw_server(refusal, refusal, answer(body=b"fine")) as server, new_client() as client:
        response = await client.post(server.url, content=b"pay")
    assert type(response) is PrefectResponse
    assert response.content == b"fine"
    assert [request.body for request in server.requests] == [b"pay"] * 3
    assert server.connections == (1 if status < 500 else 3)


async def test_a_retry_after_that_is_too_long() -> None:
    """A Retry-After above max_retry_after ends the request at once, and the error has it."""
    async with raw_server(answer(503, retry_after="3600")) as server, new_client() as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            await client.get(server.url)
    assert caught.value.retry_after == 3600
    assert len(caught.value.attempts) == len(server.requests) == 1


async def test_last_response_is_raised() -> None:
    """Once the retries are used up, the last response is raised, with every attempt and its own body."""
    async with raw_server(answer(503), answer(502), answer(429, b"go away")) as server, new_client(2) as client:
        with pytest.raises(PrefectHTTPStatusError, match="go away") as caught:
            await client.get(server.url)
    assert str(caught.value) == f"429 Whatever for GET {server.url}: go away"
    assert [attempt.status_code for attempt in caught.value.attempts] == [503, 502, 429]


async def test_one_shot_body_is_not_sent_again() -> None:
    """A one-shot body that has been read is not sent again: the status is raised, with a note that says why."""

    async def body() -> AsyncIterator[bytes]:
        yield b"only "
        yield b"once"

    async with raw_server(answer(503), answer()) as server, new_client() as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            await client.post(server.url, content=body())
    assert any("one-shot stream" in note for note in caught.value.__notes__)
    assert [request.body for request in server.requests] == [b"only once"]


@each_row(
    "make_refusal",
    [lambda: answer(503, b"busy"), lambda: half_answer(503), lambda: Flood(503)],
    ids=["short", "half", "endless"],
)
async def test_retried_stream_holds_no_connection(make_refusal: Callable[[], Act]) -> None:
    """Retries of a stream need only a pool of one connection, whatever the discarded bodies."""
    attempts: list[Attempt] = []
    refusal = make_refusal()
    async with raw_server(refusal, refusal, answer(body=b"fine")) as server:
        async with client_with_one_connection(attempts) as client, client.stream("GET", server.url) as response:
            assert await response.aread() == b"fine"
    assert [attempt.status_code for attempt in attempts] == [503, 503]


async def test_streams_share_one_connection() -> None:
    """Twenty tasks that stream and retry through a pool of one connection all get their responses."""
    bodies: list[bytes] = []
    attempts: list[Attempt] = []

    async def stream_one(client: PrefectHttpxClient, url: str) -> None:
        async with client.stream("GET", url, timeout=5) as response:
            bodies.append(await response.aread())

    async with raw_server(*[answer(503, b"busy")] * 20, answer(body=b"fine")) as server:
        async with client_with_one_connection(attempts) as client, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(stream_one, client, server.url)
    assert bodies == [b"fine"] * 20
    assert [attempt.status_code for attempt in attempts] == [503] * 20
    assert server.connections == 1


async def test_streamed_error_leaves_its_connection_usable() -> None:
    """A streamed response with a bad status and a short body returns its connection before the error is raised."""
    async with raw_server(answer(404, b"gone"), answer()) as server, new_client() as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            async with client.stream("GET", server.url):
                pytest.fail("a bad status reached the caller")
        await client.get(server.url)
    assert caught.value.response.content == b"gone"
    assert server.connections == 1


async def test_endless_streamed_error_is_closed() -> None:
    """The body of a streamed error is read up to 64 KiB, then the server sees the connection closed."""
    async with raw_server(flood := Flood(500)) as server, new_client() as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            async with client.stream("GET", server.url):
                pytest.fail("a bad status reached the caller")
        assert 0 < len(caught.value.response.content) <= 2**16
        await flood.refused.wait()


async def test_gigabyte_of_error_is_not_read() -> None:
    """Of an error body of a gigabyte at most 1 MiB is read, and the server sees the connection closed."""
    async with raw_server(flood := Flood(500, size=2**30)) as server, new_client() as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            await client.get(server.url)
        await flood.refused.wait()
    assert 0 < len(caught.value.response.content) <= 2**20
    assert flood.sent < 2**26


@pytest.mark.parametrize("backoff", [0, 0.05], ids=["at-once", "with-time-to-read"])
async def test_gigabyte_of_rejection_is_not_read(backoff: float) -> None:
    """A rejection with a body of a gigabyte is dropped with its connection, and another one is used."""
    policy = RetryPolicy(backoff_base=backoff, jitter=0)
    async with raw_server(flood := Flood(503, size=2**30), answer()) as server:
        async with PrefectHttpxClient(retry=policy, trust_env=False) as client:
            await client.get(server.url)
        await flood.refused.wait()
    assert server.connections == 2
    assert flood.sent < 2**26


async def test_stream_is_lazy() -> None:
    """A streamed response is returned before its body has come, and leaving it early closes the connection."""
    async with raw_server(flood := Flood(200)) as server, new_client() as client:
        async with client.stream("GET", server.url) as response:
            assert response.status_code == 200
            assert not flood.refused.is_set()
        await flood.refused.wait()


@pytest.mark.parametrize("scheme", ["stream", "request"])
async def test_switching_protocols_hands_over_the_stream(scheme: str) -> None:
    """A 101 is returned, and its network stream carries the new protocol."""
    headers = {"Connection": "upgrade", "Upgrade": "echo"}
    async with raw_server(upgrade_to_echo) as server, new_client() as client:
        request = client.build_request("GET", server.url, headers=headers)
        response = await client.send(request, stream=scheme == "stream")
        assert response.status_code == 101
        network_stream = response.extensions["network_stream"]
        await network_stream.write(b"hello")
        assert await network_stream.read(max_bytes=100, timeout=5) == b"hello"
        await response.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_request_returns_its_connection(stream: bool) -> None:
    """A request that is cancelled while it waits for its response frees its place in the pool."""
    asked = anyio.Event()

    async def ask_and_wait(network: anyio.abc.ByteStream) -> None:
        asked.set()
        await stay_silent(network)

    async with raw_server(ask_and_wait, answer()) as server, client_with_one_connection([]) as client:
        async with anyio.create_task_group() as tasks:
            request = client.build_request("GET", server.url)
            tasks.start_soon(lambda: client.send(request, stream=stream))
            await asked.wait()
            tasks.cancel_scope.cancel()
        await client.get(server.url)
    assert server.connections == 2


async def test_rejections_and_dropped_connections_count_together() -> None:
    """Rejections and dropped connections are attempts of one request, and the policy counts them together."""
    refuse = answer(503, connection="close")  # on a reused connection, HTTPTransport would repeat the request by itself
    async with raw_server(refuse, drop, refuse, drop) as server, new_client(3) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
    assert len(server.requests) == 4
