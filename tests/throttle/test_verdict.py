"""An is_throttled that is async and reads the body, or that fails; on both backends, in virtual time."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from support.asgi_apps import hello
from support.compression import gzip_bomb
from support.rows import each_row
from support.scripted_transport import ONCE, Body
from support.timed_transport import KEY, Server, ask
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient, Throttle, ThrottledTransport
from prefect_http._httpx_details import ReadyResponse, hold_body

pytestmark = pytest.mark.anyio

URL = "http://user:secret@host/"
LIMIT = 64 * 1024
TEXT = b"quota exceeded"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both backends, in virtual time."""
    return virtual_time_backend(str(request.param))


async def reads(response: httpx.Response) -> bool:
    """Tell a rejection by its body."""
    return TEXT in await response.aread()


async def stream_reads(response: httpx.Response) -> bool:
    """Tell a rejection by its lines."""
    return TEXT.decode() in [line async for line in response.aiter_lines()]


async def leaves_early(response: httpx.Response) -> bool:
    """Tell a rejection by its first line, and leave the loop there."""
    async for line in response.aiter_lines():
        return line == TEXT.decode()
    raise AssertionError


async def does_not_read(response: httpx.Response) -> bool:
    """Tell a rejection by its status."""
    await anyio.sleep(0.5)
    return response.status_code == 400


def returns_an_awaitable(response: httpx.Response) -> Awaitable[bool]:
    """Return the verdict of an async function."""
    return reads(response)


class Asks:
    """An object that is called like an async function."""

    async def __call__(self, response: httpx.Response) -> bool:
        return await reads(response)


async def consume(response: httpx.Response, how: str) -> bytes:
    """Read a response in one of the ways that users have."""
    if how == "aread":
        return await response.aread()
    chunks = response.aiter_raw() if how == "raw" else response.aiter_bytes(chunk_size=1000)
    return b"".join([chunk async for chunk in chunks])


def counts(throttle: Throttle) -> tuple[int, int, int]:
    """Return how many requests were accepted and rejected, and are in flight."""
    statistics = throttle.statistics(KEY)
    return statistics.accepted, statistics.rejected, statistics.in_flight


# --- Reading


@each_row(
    "is_throttled",
    [reads, stream_reads, leaves_early, returns_an_awaitable, partial(reads), Asks()],
    ids=["async", "stream", "beginning", "awaitable", "partial", "object"],
)
@each_row("how", ["aread", "raw", "bytes"])
@each_row("rest", [b"", b"x" * 200_000], ids=["short", "long"])
async def test_the_body_can_be_read_again(
    is_throttled: Callable[[httpx.Response], Awaitable[bool]], how: str, rest: bytes
) -> None:
    """An async is_throttled reads the beginning of the body, and the caller all of it, however either reads."""
    throttle = Throttle(is_throttled=is_throttled)
    body = Body([b"", TEXT, b"\n", rest])
    transport = ThrottledTransport(Server(httpx.Response(400, stream=body)), throttle)
    async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", URL) as response:
        assert counts(throttle) == (0, 1, 0)
        assert (response.is_stream_consumed, response.is_closed, body.close_count) == (False, False, 0)
        assert await consume(response, how) == TEXT + b"\n" + rest
    assert body.close_count == 1


@each_row("how", ["aread", "raw", "bytes"])
@each_row("text", [TEXT, TEXT + bytes(200_000)], ids=["short", "long"])
async def test_an_encoded_body(how: str, text: bytes) -> None:
    """It is decoded for is_throttled, and as it came for the caller, headers included."""
    seen = list[tuple[int, str | None]]()

    async def is_throttled(response: httpx.Response) -> bool:
        content = b"".join([chunk async for chunk in response.aiter_raw()])
        seen.append((len(content), response.headers.get("Content-Encoding")))
        return TEXT in content

    throttle = Throttle(is_throttled=is_throttled)
    encoded = gzip.compress(text)
    answer = httpx.Response(400, headers={"Content-Encoding": "gzip"}, stream=Body([encoded[:20], encoded[20:]]))
    async with httpx.AsyncClient(transport=ThrottledTransport(Server(answer), throttle)) as client:
        async with client.stream("GET", URL) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert await consume(response, how) == (encoded if how == "raw" else text)
    assert seen == [(min(len(text), LIMIT), None)]
    assert counts(throttle) == (0, 1, 0)


@pytest.mark.parametrize("layers", [1, 3])
async def test_a_bomb(layers: int) -> None:
    """A little body that unpacks to a lot is not unpacked beyond the limit."""
    sizes = list[int]()

    async def is_throttled(response: httpx.Response) -> bool:
        sizes.append(len(await response.aread()))
        return False

    bomb = gzip_bomb(64 * 1024 * 1024, layers=layers)
    headers = {"Content-Encoding": ", ".join(["gzip"] * layers)}
    answer = httpx.Response(400, headers=headers, stream=Body([bomb]))
    with anyio.fail_after(1):
        response = await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=is_throttled)))
        assert sizes == [LIMIT]
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == bomb


async def test_the_beginning_is_bounded() -> None:
    """After 64 KiB it ends, and no more is read than that and the rest of a chunk."""
    sizes = list[int]()

    async def is_throttled(response: httpx.Response) -> bool:
        sizes.append(len(await response.aread()))
        return False

    for size, given in ((1000, 66_000), (200_000, 200_000)):
        body = Body([bytes(size)] * 100)
        await ask(ThrottledTransport(Server(httpx.Response(400, stream=body)), Throttle(is_throttled=is_throttled)))
        assert body.given == given
    encoded = gzip.compress(b"", mtime=0)[:10]
    body = Body([encoded] + [b"\x00\x00\x00\xff\xff" * 1000] * 100)  # unpacks to nothing
    answer = httpx.Response(400, headers={"Content-Encoding": "gzip"}, stream=body)
    await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=is_throttled)))
    assert body.given == 70_010
    assert sizes == [LIMIT, LIMIT, 0]


@each_row("is_throttled", [None, lambda response: True, does_not_read], ids=["none", "sync", "async"])
async def test_nothing_is_read_ahead(is_throttled: Any) -> None:
    """A body is not touched unless is_throttled reads it: the response keeps its stream."""
    answer = httpx.Response(400, stream=(body := Body([TEXT])))
    response = await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=is_throttled)))
    assert response is answer
    assert response.stream is body
    assert not body.is_started


def ready() -> httpx.Response:
    """Return a response whose body has come along with its head."""
    response = ReadyResponse(400, stream=httpx.ByteStream(TEXT))
    hold_body(response, TEXT)
    return response


@pytest.mark.parametrize("make", [lambda: httpx.Response(400, content=TEXT), ready], ids=["read", "ready"])
async def test_a_body_that_is_there(make: Callable[[], httpx.Response]) -> None:
    """A response that has been read, or has come along with its head, is read like any other."""
    answer = make()
    throttle = Throttle(is_throttled=reads)
    async with httpx.AsyncClient(transport=ThrottledTransport(Server(answer), throttle)) as client:
        response = await client.get(URL)
    assert response.content == TEXT
    assert counts(throttle) == (0, 1, 0)
    assert type(response) is type(answer)


async def test_closing_is_left_to_the_caller() -> None:
    """If is_throttled closes the response, the caller can still read it."""

    async def closes(response: httpx.Response) -> bool:
        await response.aclose()
        return False

    answer = httpx.Response(400, stream=(body := Body([TEXT])))
    response = await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=closes)))
    assert not response.is_closed
    assert await response.aread() == TEXT
    assert body.close_count == 1


async def test_a_client_that_closes_unread() -> None:
    """A response of which only is_throttled has read something is closed with its stream."""
    body = Body([TEXT, b"more"])
    response = await ask(
        ThrottledTransport(Server(httpx.Response(400, stream=body)), Throttle(is_throttled=stream_reads))
    )
    await response.aclose()
    assert body.close_count == 1


async def test_the_client_reads_the_error() -> None:
    """A PrefectHttpxClient retries what is_throttled rejects, and its error shows the body."""
    answers = [httpx.Response(418, stream=Body([b'{"detail": "', TEXT, b'"}'])) for _ in range(2)]
    throttle, server = Throttle(is_throttled=reads), Server(*answers)
    async with PrefectHttpxClient(throttle=throttle, transport=server) as client:
        assert (await client.get(URL)).status_code == 200
    assert len(server.sent) == 3
    answer = httpx.Response(418, stream=Body([b'{"detail": "', TEXT, b'"}']))
    async with PrefectHttpxClient(
        throttle=Throttle(is_throttled=reads), transport=Server(answer), retry=ONCE
    ) as client:
        with pytest.raises(httpx.HTTPStatusError, match="418 I'm a teapot for GET http://host/: quota exceeded"):
            await client.get(URL)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_app_in_this_process(stream: bool) -> None:
    """The response of an in-process app is read like any other."""
    throttle = Throttle(is_throttled=reads)
    async with PrefectHttpxClient(app=hello, throttle=throttle, base_url="http://host", retry=ONCE) as client:
        request = client.build_request("GET", "/")
        response = await client.send(request, stream=stream)
        assert await response.aread() == b"hello"
    assert counts(throttle) == (1, 0, 0)


# --- In flight


async def test_two_at_once() -> None:
    """A response that is waited for is in flight, and so may be others."""
    throttle = Throttle(is_throttled=does_not_read, max_in_flight=2)
    transport = ThrottledTransport(Server(seconds=0.1), throttle)
    async with anyio.create_task_group() as nursery:
        for _ in range(4):
            nursery.start_soon(ask, transport)
        await anyio.sleep(0.25)
        assert throttle.statistics(KEY).in_flight == 2
    assert counts(throttle) == (4, 0, 0)


@each_row("verdict", [0, "", None, [], 1, "yes"])
@each_row("is_async", [False, True])
async def test_any_result_counts_as_true_or_false(verdict: Any, is_async: bool) -> None:
    """What is_throttled returns counts as bool() makes of it."""

    async def waits(response: httpx.Response) -> Any:
        return verdict

    throttle = Throttle(is_throttled=waits if is_async else lambda response: verdict)
    await ask(ThrottledTransport(Server(), throttle))
    assert throttle.statistics(KEY).rejected == bool(verdict)


# --- Failures


class Undecided:
    """A result that is neither true nor false."""

    def __bool__(self) -> bool:
        raise KeyError("undecided")


async def raises(response: httpx.Response) -> bool:
    """Fail."""
    raise KeyError("undecided")


async def hangs(response: httpx.Response) -> bool:
    """Never return."""
    await anyio.sleep_forever()
    return True


async def is_undecided(response: httpx.Response) -> Any:
    """Return neither true nor false."""
    return Undecided()


def raises_at_once(response: httpx.Response) -> bool:
    """Fail, with the caller's password in the message."""
    raise ValueError(f"undecided {response.request.url}\n or {response.request.headers}")


@pytest.mark.parametrize(
    ("is_throttled", "reason", "seconds"),
    [
        (raises, "KeyError: 'undecided'", 0.1),
        (is_undecided, "KeyError: 'undecided'", 0.1),
        (lambda response: Undecided(), "KeyError: 'undecided'", 0.1),
        (raises_at_once, "ValueError: undecided http://[secure]:[secure]@host/ or Headers", 0.1),
        (hangs, "it took longer than 10 s", 10.1),
    ],
    ids=["raises", "undecided", "undecided at once", "raises at once", "hangs"],
)
async def test_an_is_throttled_that_fails(
    is_throttled: Any, reason: str, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as no, and is told in one line without credentials; the response is as it would be otherwise."""
    throttle = Throttle(is_throttled=is_throttled)
    began = anyio.current_time()
    answer = httpx.Response(429, stream=Body([TEXT]))
    response = await ThrottledTransport(Server(answer), throttle).handle_async_request(httpx.Request("GET", URL))
    assert anyio.current_time() - began == pytest.approx(seconds)
    assert (response.status_code, await response.aread()) == (429, TEXT)
    assert counts(throttle) == (1, 0, 0)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("prefect_http.throttle", logging.WARNING)
    assert record.exc_info is None
    assert record.getMessage().startswith(
        "is_throttled failed for GET http://host/, so that the response of status 429 does not count as a rejection: "
        + reason
    )
    assert "secret" not in record.getMessage()


async def test_a_body_that_breaks_off(caplog: pytest.LogCaptureFixture) -> None:
    """If reading fails for is_throttled, it fails for the caller in the same place, and with the same error."""
    error = httpx.ReadError("broken")
    for is_throttled, told in ((reads, 1), (swallows, 0)):
        body = Body([TEXT, error])
        answer = httpx.Response(400, stream=body)
        response = await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=is_throttled)))
        assert error.__traceback__ is None
        chunks = list[bytes]()
        with pytest.raises(httpx.ReadError) as raised:
            async for chunk in response.aiter_raw():
                chunks.append(chunk)
        assert raised.value is error
        assert chunks == [TEXT]
        await response.aclose()
        assert body.close_count == 1
        assert len(caplog.records) == told
        caplog.clear()


async def swallows(response: httpx.Response) -> bool:
    """Ignore a body that breaks off."""
    try:
        return await reads(response)
    except httpx.ReadError:
        return False


async def test_a_body_that_stalls(caplog: pytest.LogCaptureFixture) -> None:
    """A body that does not arrive within the time of is_throttled never seems whole."""
    body = Body([TEXT, 60.0, b"more"])
    answer = httpx.Response(400, stream=body)
    response = await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=reads)))
    with pytest.raises(httpx.ReadTimeout, match="did not arrive within the time that is_throttled has"):
        await response.aread()
    assert len(caplog.records) == 1
    await response.aclose()
    assert body.close_count == 1


async def test_a_body_that_cannot_be_decoded(caplog: pytest.LogCaptureFixture) -> None:
    """A body that does not match its Content-Encoding, or has too many, counts as no, and is as it came."""
    for encoding in ("gzip", ", ".join(["gzip"] * 6)):
        answer = httpx.Response(400, headers={"Content-Encoding": encoding}, stream=Body([TEXT]))
        response = await ask(ThrottledTransport(Server(answer), Throttle(is_throttled=reads)))
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == TEXT
    assert ["DecodingError" in record.getMessage() for record in caplog.records] == [True, True]


# --- Cancellation


async def test_cancelled_while_asking(caplog: pytest.LogCaptureFixture) -> None:
    """The caller's cancellation ends it: the response is closed, the turn is free, and nothing is told."""
    throttle = Throttle(is_throttled=reads, max_in_flight=1)
    body = Body([TEXT, 60.0])
    transport = ThrottledTransport(Server(httpx.Response(400, stream=body)), throttle)
    with anyio.move_on_after(5) as scope:
        await ask(transport)
    assert scope.cancelled_caught
    assert body.close_count == 1
    assert counts(throttle) == (0, 0, 0)
    assert not caplog.records


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_is_no_exception_passes_through(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A KeyboardInterrupt is raised to the caller; the response is closed, and the turn is free."""

    class Interrupt(KeyboardInterrupt):
        pass

    async def waits(response: httpx.Response) -> bool:
        raise Interrupt

    def at_once(response: httpx.Response) -> bool:
        raise Interrupt

    throttle = Throttle(is_throttled=waits if is_async else at_once, max_in_flight=1)
    body = Body([TEXT])
    with pytest.raises(Interrupt):
        await ask(ThrottledTransport(Server(httpx.Response(400, stream=body)), throttle))
    assert body.close_count == 1
    assert counts(throttle) == (0, 0, 0)
    assert not caplog.records
