"""client.stream(): it is lazy, retried on its status, and holds no connection that it does not use."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of
from trio.testing import MockClock

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient, PrefectResponse, RetryPolicy
from prefect_http._response import REJECTED

LIMIT = 64 * 1024


class Pool(httpx.AsyncBaseTransport):
    """A transport with one connection, which each response holds until it is closed, as in httpcore."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = iter(statuses)
        self.is_taken = False
        self.count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        if self.is_taken:
            raise httpx.PoolTimeout("no connection is free")
        self.is_taken = True

        async def release() -> None:
            self.is_taken = False

        return httpx.Response(next(self._statuses), stream=Body([b"body"], on_close=release))


# --- Lazy


@pytest.mark.anyio
async def test_a_stream_is_not_read_ahead() -> None:
    """A good response is returned unread, and each chunk is read on demand."""
    body = Body([b"one", b"two"])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(200, stream=body))) as client:
            async with client.stream("GET", URL) as response:
                assert not body.is_started
                given = [(chunk, body.given) async for chunk in response.aiter_bytes()]
    assert given == [(b"one", 3), (b"two", 6)]
    assert body.is_closed


@pytest.mark.anyio
async def test_an_endless_stream_can_be_read_for_a_while() -> None:
    """An endless stream can be left."""
    body = Body(itertools.repeat(b"x"))
    with anyio.fail_after(5):
        async with (
            PrefectHttpxClient(transport=Server(httpx.Response(200, stream=body))) as client,
            client.stream("GET", URL) as response,
        ):
            chunks = response.aiter_raw()
            assert [await anext(chunks) for _ in range(3)] == [b"x"] * 3
            await chunks.aclose()  # type: ignore[attr-defined]
    assert body.given == 3
    assert body.is_closed


@pytest.mark.anyio
async def test_a_stream_that_is_not_read_is_closed() -> None:
    """Leaving the block closes the response, read or not."""
    body = Body([b"x"])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(200, stream=body))) as client:
            async with client.stream("GET", URL):
                pass
    assert not body.is_started
    assert body.is_closed


@pytest.mark.anyio
async def test_a_stream_that_breaks_off_is_its_readers() -> None:
    """A stream that breaks off while it is read is not retried: the reader gets the exception."""
    body = Body([b"half", httpx.ReadError("broken")])
    server = Server(httpx.Response(200, stream=body), 200)
    seen: list[bytes] = []

    async def read() -> None:
        async with client.stream("GET", URL) as response:
            async for chunk in response.aiter_bytes():
                seen.append(chunk)  # noqa: PERF401  # a comprehension would lose what came

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.ReadError):
                await read()
    assert seen == [b"half"]
    assert server.count == 1
    assert body.is_closed


# --- Retried


@pytest.mark.anyio
@each_row("failure", [429, 502, 503, httpx.ReadTimeout("slow"), httpx.ConnectTimeout("no")])
async def test_a_stream_is_retried(failure: object) -> None:
    """A stream is retried on its status, and on what fails before it begins."""
    server = Server(failure, failure, httpx.Response(200, stream=Body([b"good"])))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            async with client.stream("GET", URL) as response:
                assert await response.aread() == b"good"
    assert server.count == 3


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_retry_never_holds_a_connection(stream: bool) -> None:
    """A pool of one connection is enough, because the previous response is closed before each attempt."""
    pool = Pool(503, 503, 429, 200)
    free: list[bool] = []
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=pool, retry=AT_ONCE, on_retry=lambda *_: free.append(not pool.is_taken)
        ) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert pool.is_taken is stream
            await response.aclose()
    assert free == [True] * 3
    assert pool.count == 4
    assert not pool.is_taken


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_giving_up_leaves_no_connection_taken(stream: bool) -> None:
    """The last response is closed before its error is raised."""
    pool = Pool(503, 503)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=pool, retry=RetryPolicy(max_retries=1, backoff_base=0, jitter=0)
        ) as client:
            with pytest.raises(PrefectHTTPStatusError):
                await client.send(client.build_request("GET", URL), stream=stream)
            assert not pool.is_taken


@pytest.mark.trio
async def test_no_connection_is_held_during_the_wait(autojump_clock: MockClock) -> None:
    """While a stream waits for its next attempt, another request can use the connection."""
    pool = Pool(503, 200, 200)
    with trio.fail_after(100):
        async with PrefectHttpxClient(transport=pool, retry=RetryPolicy(jitter=0)) as client:

            async def stream() -> None:
                async with client.stream("GET", URL) as response:
                    assert response.status_code == 200

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream)
                await trio.sleep(1)
                assert (await client.get(URL)).status_code == 200
    assert pool.count == 3


@pytest.mark.anyio
async def test_a_discarded_stream_is_closed_whatever_its_body_does() -> None:
    """Discarded bodies, whether endless, broken or empty, do not affect the next attempt."""
    bodies = [
        Body(itertools.repeat(b"x" * 1000)),
        Body([b"x", httpx.ReadError("broken")]),
        Body([b"x", httpx.RemoteProtocolError("illegal")]),
        Body(),
    ]
    server = Server(*(httpx.Response(503, stream=body) for body in bodies), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            async with client.stream("GET", URL) as response:
                assert response.status_code == 200
    assert all(body.is_closed for body in bodies)


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("last", [200, 404, 503])
@each_row("hook", ["none", "reads", "closes"])
async def test_every_response_is_closed_once(hook: str, last: int, stream: bool) -> None:
    """A stream is closed exactly once, as in httpx."""
    bodies = [Body([b"first"]), Body([b"last"])]
    server = Server(httpx.Response(503, stream=bodies[0]), httpx.Response(last, stream=bodies[1]))

    async def on_response(response: httpx.Response) -> None:
        if response.is_error and hook != "none":
            await (response.aread() if hook == "reads" else response.aclose())

    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server,
            retry=RetryPolicy(max_retries=1, backoff_base=0, jitter=0),
            event_hooks={"response": [on_response]},
        ) as client:
            with contextlib.suppress(PrefectHTTPStatusError):
                response = await client.send(client.build_request("GET", URL), stream=stream)
                await response.aclose()
    assert [body.close_count for body in bodies] == [1, 1]


# --- A bad status


@pytest.mark.anyio
@each_row("status", [302, 404, 500])
async def test_the_error_of_a_stream_carries_the_body(status: int) -> None:
    """If a stream's status is bad, the error has the body, and the response is closed."""
    body = Body([b'{"detail": ', b'"no such flow"}'])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(status, stream=body))) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                async with client.stream("GET", URL):
                    pytest.fail("a bad response was handed over")
    assert str(caught.value).endswith(": no such flow")
    assert caught.value.response.json() == {"detail": "no such flow"}
    assert caught.value.response.text == '{"detail": "no such flow"}'
    assert caught.value.response.is_closed
    assert body.is_closed
    assert len(caught.value.__notes__) == 1


@pytest.mark.anyio
async def test_the_error_of_a_stream_carries_the_beginning_of_a_long_body() -> None:
    """Of a gigabyte the error has the first 64 KiB, and a note says so."""
    body = Body(itertools.chain([b"why it failed "], itertools.repeat(b"x" * 10_000)))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(500, stream=body))) as client:
            with pytest.raises(PrefectHTTPStatusError, match="why it failed") as caught:
                async with client.stream("GET", URL):
                    pass
    assert len(caught.value.response.content) == LIMIT
    assert body.given <= 2 * LIMIT
    assert body.is_closed
    assert "incomplete" in notes_of(caught.value)


@pytest.mark.anyio
async def test_the_error_of_a_request_that_is_not_streamed_is_bounded_as_well() -> None:
    """Without streaming, the error has the first 1 MiB of a gigabyte."""
    body = Body(itertools.repeat(b"x" * 10_000))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(500, stream=body))) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.get(URL)
    assert len(caught.value.response.content) == 1024 * 1024
    assert body.is_closed


@pytest.mark.trio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (lambda: [1e9], ""),
        (lambda: [b"why", 1e9], "why"),
        (lambda: itertools.cycle([b"y", 0.9]), "yyyyyy"),
    ],
    ids=["silent", "stuck", "drip"],
)
async def test_the_error_comes_after_5_seconds(
    parts: Callable[[], Any], text: str, stream: bool, autojump_clock: MockClock
) -> None:
    """Whatever the server does, the error is raised after 5 s, with what has arrived by then."""
    body = Body(parts())
    started = trio.current_time()
    with trio.fail_after(60):
        async with PrefectHttpxClient(transport=Server(httpx.Response(500, stream=body))) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.send(client.build_request("GET", URL), stream=stream)
    assert trio.current_time() - started == pytest.approx(5)
    assert caught.value.response.text == text
    assert body.closed_at == trio.current_time()
    assert "incomplete" in notes_of(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_an_error_body_that_breaks_off_shows_its_beginning(stream: bool) -> None:
    """If the body breaks off, the bad status is raised nevertheless."""
    body = Body([b"why it ", httpx.ReadError("broken")])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(404, stream=body)), retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.send(client.build_request("GET", URL), stream=stream)
    assert body.is_closed
    assert str(caught.value).endswith(": why it")
    assert "ReadError" in notes_of(caught.value)


@pytest.mark.anyio
async def test_an_error_body_that_cannot_be_decoded_is_no_error_of_its_own() -> None:
    """If the body cannot be decoded, the bad status is raised nevertheless."""
    response = httpx.Response(404, headers={"Content-Encoding": "gzip"}, stream=Body([b"no gzip"]))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(response)) as client:
            with pytest.raises(PrefectHTTPStatusError, match="404 Not Found") as caught:
                async with client.stream("GET", URL):
                    pass
    assert "decoded" in notes_of(caught.value)


@pytest.mark.anyio
async def test_the_errors_response_is_like_one_that_was_read() -> None:
    """The response of the error has its elapsed time, and can be read again."""
    body = Body([b"why"])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(404, stream=body))) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                async with client.stream("GET", URL):
                    pass
    response = caught.value.response
    assert type(response) is PrefectResponse
    assert response.elapsed.total_seconds() > 0
    assert await response.aread() == b"why"
    assert [chunk async for chunk in response.aiter_bytes()] == [b"why"]


# --- Cancelled readers


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [0.5, 2.2, 3.5, 10.0])
async def test_a_cancelled_reader_leaves_nothing_open(seconds: float, autojump_clock: MockClock) -> None:
    """Wherever a stream with retries is cancelled (discarding, waiting, reading), everything is closed then."""
    bodies = [Body([b"x", 1e9]), Body(itertools.cycle([b"x", 1.0]))]
    server = Server(httpx.Response(503, stream=bodies[0]), httpx.Response(200, stream=bodies[1]))
    with trio.move_on_after(seconds) as scope, trio.CancelScope(shield=True):
        # The shield hides the deadline, which would otherwise make the client give up instead of waiting.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, nursery.cancel_scope, seconds)
            async with (
                PrefectHttpxClient(transport=server, retry=RetryPolicy(jitter=0)) as client,
                client.stream("GET", URL) as response,
            ):
                async for _chunk in response.aiter_bytes():
                    pass
    assert trio.current_time() == seconds
    assert not scope.cancelled_caught
    assert all(body.is_closed for body in bodies[: server.count])


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("last", [200, 404])
async def test_wherever_it_is_cancelled_nothing_is_left_open(last: int, stream: bool) -> None:
    """A request that is cancelled at any await leaves no response open and makes no further attempt."""

    async def use(server: Server) -> None:
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with contextlib.suppress(PrefectHTTPStatusError):
                response = await client.send(client.build_request("POST", URL, content=b"x"), stream=stream)
                try:
                    await response.aread()
                finally:
                    await response.aclose()

    async def cancel_after(steps: int) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
        counts.append(server.count)

    is_done, steps = False, 0
    while not is_done:
        bodies, counts = [Body([b"a", b"b"]), Body([b"c", b"d"])], list[int]()
        statuses = (503, last)
        server = Server(*(httpx.Response(status, stream=b) for status, b in zip(statuses, bodies, strict=True)))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_after, steps)
                await use(server)
                is_done = True
                group.cancel_scope.cancel()
        assert all(body.is_closed for body in bodies[: server.count])
        assert server.count == (2 if is_done else counts[0])
        steps += 1
    assert steps > 5


async def cancel_at(scope: trio.CancelScope, seconds: float) -> None:
    """Cancel a scope after a delay."""
    await trio.sleep(seconds)
    scope.cancel()


# --- 101


class NetworkStream:
    """A 101's network stream."""


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("raises", [True, False])
async def test_a_101_hands_over_its_stream(stream: bool, raises: bool) -> None:
    """A 101 is returned open and unread, in both modes, with its network stream."""
    body, network = Body([b"raw"]), NetworkStream()
    server = Server(httpx.Response(101, stream=body, extensions={"network_stream": network}))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, raise_on_all_errors=raises) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert type(response) is PrefectResponse
            assert response.status_code == 101
            assert response.extensions["network_stream"] is network
            assert not body.is_started
            assert not response.is_closed
            assert not body.is_closed
            await response.aclose()
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_101_comes_after_retries(stream: bool) -> None:
    """A handshake that was rejected first is retried, and its 101 is returned open."""
    body = Body()
    server = Server(503, httpx.Response(101, stream=body))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert response.status_code == 101
            assert not body.is_closed
            await response.aclose()
    assert server.count == 2


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_rejected_101_is_handed_over_at_the_end(stream: bool) -> None:
    """Even a 101 that a throttle rejects is returned open when the retries are used up."""
    bodies = [Body(), Body()]
    server = Server(*(httpx.Response(101, stream=body, extensions={REJECTED: True}) for body in bodies))
    policy = RetryPolicy(max_retries=1, backoff_base=0, jitter=0)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=policy) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert [body.is_closed for body in bodies] == [True, False]
            await response.aclose()


# --- Streamed request bodies


@pytest.mark.anyio
async def test_a_stream_may_go_both_ways() -> None:
    """A streamed request body and a streamed response work together."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"up "
        yield b"stream"

    server = Server(httpx.Response(200, stream=Body([b"down"])))
    with anyio.fail_after(5):
        async with (
            PrefectHttpxClient(transport=server) as client,
            client.stream("POST", URL, content=parts()) as response,
        ):
            assert await response.aread() == b"down"
    assert server.seen[0].body == b"up stream"
