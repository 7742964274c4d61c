"""Reading the beginning of a bad response's body, whatever the server does."""

from __future__ import annotations

import gzip
import itertools
import logging
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from support.compression import STAND_INS, gzip_bomb, gzip_of_nothing
from support.rows import each_row
from support.scripted_transport import Body, raising

from prefect_http import PrefectResponse, ResponseTooLarge
from prefect_http._bounded_body import read_whole_within
from prefect_http._client.error_body import close, discard, read_beginning, read_whole

KIB = 1024
LIMIT = 64 * KIB

Part = bytes | float | BaseException
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content),
    "deflate": lambda content: zlib.compress(content),
}


def response_of(parts: Iterable[Part], encoding: str | None = None, **more: Any) -> tuple[PrefectResponse, Body]:
    """Return a bad response with this body."""
    body = Body(parts, **more)
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    request = httpx.Request("GET", "http://server/")
    return PrefectResponse(500, headers=headers, stream=body, request=request), body


async def beginning_of(response: PrefectResponse, *, max_bytes: int = LIMIT, max_seconds: float = 5.0) -> str | None:
    """Read the beginning with the limits of a streamed error."""
    with anyio.fail_after(60):
        return await read_beginning(response, max_bytes=max_bytes, max_seconds=max_seconds)


# --- How much is read


@pytest.mark.anyio
@each_row(
    "parts",
    [
        [],
        [b""],
        [b"short"],
        [b"in ", b"", b"parts"],
        [b"x" * LIMIT],
        [b"x" * (LIMIT - 1), b"y"],
        [b"x" * LIMIT, b""],
    ],
    ids=["nothing", "empty", "short", "parts", "limit", "limit in two", "limit and nothing"],
)
async def test_a_body_within_the_limit_is_read_whole(parts: list[Part]) -> None:
    """A body of up to the limit is read whole, and the response is closed."""
    response, body = response_of(parts)
    assert await beginning_of(response) is None
    assert response.content == b"".join(part for part in parts if isinstance(part, bytes))
    assert response.is_closed
    assert body.is_closed


@pytest.mark.anyio
@each_row(
    "parts",
    [
        [b"x" * (LIMIT + 1)],
        [b"x" * LIMIT, b"y"],
        [b"x" * 10_000_000],
        [b"x" * (LIMIT - 1), b"xy", b"z"],
    ],
    ids=["one more", "one more after", "huge", "across"],
)
async def test_a_longer_body_is_cut_at_the_limit(parts: list[Part]) -> None:
    """Of a longer body exactly the limit is kept, the cut is reported, and the response is closed."""
    response, body = response_of(parts)
    cut = await beginning_of(response)
    assert cut is not None
    assert "too long" in cut
    assert response.content == b"x" * LIMIT
    assert response.is_closed
    assert body.is_closed


@pytest.mark.anyio
async def test_an_endless_body_is_cut() -> None:
    """An endless body is read up to the limit."""
    response, body = response_of(itertools.repeat(b"x" * 1000))
    assert await beginning_of(response) is not None
    assert len(response.content) == LIMIT
    assert body.given <= 2 * LIMIT
    assert body.is_closed


class Eager(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """A stream that always has the next chunk ready and never lets another task run."""

    def __init__(self) -> None:
        self.given = 0
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.given += 1000
        return b"x" * 1000

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.anyio
async def test_an_endless_body_that_never_waits_is_cut() -> None:
    """A stream that never reaches a checkpoint is read up to the limit as well."""
    body = Eager()
    response = PrefectResponse(500, stream=body)
    assert await beginning_of(response) is not None
    assert len(response.content) == LIMIT
    assert body.given <= 2 * LIMIT
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_encoded_body_is_decoded(encoding: str) -> None:
    """An encoded body is decoded, as in httpx."""
    response, _ = response_of([COMPRESS[encoding](b"told in short")], encoding)
    assert await beginning_of(response) is None
    assert response.content == b"told in short"


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_encoded_body_that_is_cut_shows_its_beginning(encoding: str) -> None:
    """The part of an encoded body that arrived before it broke off is decoded."""
    text = b" ".join(b"line %d" % number for number in range(10_000))
    response, body = response_of([COMPRESS[encoding](text)[:5000], httpx.ReadError("broken")], encoding)
    cut = await beginning_of(response)
    assert cut is not None
    assert "ReadError" in cut
    assert len(response.content) > 1000
    assert text.startswith(response.content)
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1_000_000, 10_000_000])
async def test_a_small_body_that_unpacks_to_a_large_one_is_bounded(size: int) -> None:
    """The limit is for what is kept, even if a few kilobytes of gzip unpack to megabytes."""
    response, body = response_of([gzip.compress(bytes(size))], "gzip")
    cut = await beginning_of(response)
    assert cut is not None
    assert 0 < len(response.content) <= LIMIT
    assert body.is_closed


@pytest.mark.anyio
async def test_a_body_that_cannot_be_decoded_is_told() -> None:
    """A body that does not match its Content-Encoding does not raise."""
    response, body = response_of([b"this is not gzip"], "gzip")
    cut = await beginning_of(response)
    assert cut is not None
    assert "decoded" in cut
    assert body.is_closed


# --- How long it is read


@pytest.mark.trio
@pytest.mark.parametrize(
    ("parts", "seconds", "content"),
    [
        ([b"a", 1.0, b"b", 1.0, b"c"], 2.0, b"abc"),
        ([4.9, b"late"], 4.9, b"late"),
    ],
    ids=["slow", "late"],
)
async def test_a_slow_body_is_read_whole(
    parts: list[Part], seconds: float, content: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """A slow body that is complete within 5 s is read whole."""
    response, _ = response_of(parts)
    started = trio.current_time()
    assert await beginning_of(response) is None
    assert trio.current_time() - started == pytest.approx(seconds)
    assert response.content == content


@pytest.mark.trio
@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([1e9], b""),
        ([b"a", 1e9], b"a"),
        (itertools.cycle([b"x", 0.9]), b"xxxxxx"),
        (itertools.cycle([b"", 0.9]), b""),
        (itertools.chain([b"start"], itertools.cycle([0.01])), b"start"),
    ],
    ids=["silent", "stuck", "drip", "empty drip", "endless pauses"],
)
async def test_a_body_that_takes_too_long_is_cut_after_5_seconds(
    parts: Iterable[Part], content: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Reading stops after 5 s with what has arrived by then, and the response is closed."""
    response, body = response_of(parts)
    started = trio.current_time()
    cut = await beginning_of(response)
    assert trio.current_time() - started == pytest.approx(5.0)
    assert cut is not None
    assert "too long" in cut
    assert response.content == content
    assert response.is_closed
    assert body.closed_at == trio.current_time()


@pytest.mark.trio
async def test_the_clock_runs_for_the_whole_body(autojump_clock: trio.testing.MockClock) -> None:
    """The limit is for the whole body, not for each chunk: a body that drips is cut as well."""
    response, body = response_of(itertools.cycle([b"x" * 100, 0.01]))
    started = trio.current_time()
    await beginning_of(response)
    assert trio.current_time() - started == pytest.approx(5.0)
    assert 40_000 < len(response.content) < 60_000
    assert body.is_closed


# --- How reading ends


@pytest.mark.anyio
@each_row("kind", [httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.CloseError])
async def test_a_body_that_breaks_off_is_kept_so_far(kind: type[httpx.TransportError]) -> None:
    """Of a body that breaks off the beginning is kept, and the reason is reported."""
    response, body = response_of([b"be", b"fore", kind("broken")])
    cut = await beginning_of(response)
    assert cut is not None
    assert kind.__name__ in cut
    assert response.content == b"before"
    assert body.is_closed


@pytest.mark.anyio
async def test_a_body_that_raises_something_else_is_cut() -> None:
    """Whatever a transport raises does not replace the status that came before; it is reported as the reason."""
    response, body = response_of([b"x", RuntimeError("bug")])
    cut = await beginning_of(response)
    assert cut is not None
    assert "RuntimeError: bug" in cut
    assert response.content == b"x"
    assert body.is_closed


@pytest.mark.anyio
async def test_a_credential_in_the_reason_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the reason nor the log shows a credential that the server has echoed where it broke off."""
    caplog.set_level(logging.DEBUG, "prefect_http")
    error = httpx.RemoteProtocolError("illegal chunk header: bytearray(b's3cret')")
    response, _ = response_of(
        [b"x", error], on_close=raising(httpx.LocalProtocolError("Illegal header value b's3cret'"))
    )
    response.request.headers["Authorization"] = "Bearer s3cret"
    cut = await beginning_of(response)
    assert cut == "reading it failed with RemoteProtocolError: illegal chunk header: bytearray(b'[secure]')"
    assert "s3cret" not in caplog.text
    assert len(caplog.messages) == 2


@pytest.mark.anyio
async def test_a_body_that_has_been_read_is_left_as_it_is() -> None:
    """What an event hook has read is kept, however long it is."""
    response, body = response_of([b"x" * (2 * LIMIT)])
    await response.aread()
    assert await beginning_of(response) is None
    assert len(response.content) == 2 * LIMIT
    assert body.is_closed


@pytest.mark.anyio
async def test_a_body_that_has_been_streamed_away_is_left_as_it_is() -> None:
    """What an event hook has streamed cannot be read again, and nothing is raised."""
    response, body = response_of([b"a", b"b"])
    async for _chunk in response.aiter_raw():
        pass
    assert await beginning_of(response) is None
    assert body.is_closed


@pytest.mark.anyio
async def test_a_body_that_is_being_streamed_is_closed() -> None:
    """A response that an event hook has begun to stream is closed."""
    response, body = response_of([b"a", b"b"])
    chunks = response.aiter_raw()
    assert isinstance(chunks, AsyncIterator)
    assert await anext(chunks) == b"a"
    assert await beginning_of(response) is None
    assert body.is_closed
    await chunks.aclose()  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_a_response_that_is_closed_is_left_as_it_is() -> None:
    """A response that an event hook has closed is not read."""
    response, body = response_of([b"a"])
    await response.aclose()
    assert await beginning_of(response) is None
    assert not body.is_started


# --- Cancellation


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 1.5, 2.5, 4.5])
async def test_a_cancelled_reading_closes_the_response(seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """Wherever reading is cancelled, it ends at that time with the response closed."""
    response, body = response_of(itertools.cycle([1.0, b"x", 0.0]))
    started = trio.current_time()
    with trio.move_on_after(seconds) as scope:
        await beginning_of(response)
    assert scope.cancelled_caught
    assert trio.current_time() - started == pytest.approx(seconds)
    assert body.closed_at == trio.current_time()


@pytest.mark.anyio
async def test_a_reading_under_a_cancelled_scope_does_not_begin() -> None:
    """In a cancelled scope nothing is read, and the response is closed."""
    response, body = response_of([b"x"])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await beginning_of(response)
    assert scope.cancelled_caught
    assert not body.is_started
    assert body.is_closed


@pytest.mark.anyio
async def test_closing_is_shielded() -> None:
    """Closing a response is completed even if the caller is cancelled."""
    finished = False

    async def on_close() -> None:
        nonlocal finished
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        finished = True

    response, _ = response_of([b"x"], on_close=on_close)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await close(response)
    assert finished


@pytest.mark.trio
async def test_closing_that_hangs_is_left_after_5_seconds(autojump_clock: trio.testing.MockClock) -> None:
    """A response whose closing hangs is given up after 5 s."""
    response, _ = response_of([b"x"], on_close=trio.sleep_forever)
    started = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await close(response)
    assert trio.current_time() - started == 5.0


# --- Discarding a response


class InStore(httpx.AsyncByteStream):
    """A body that has arrived already, so that reading it does not wait."""

    def __init__(self) -> None:
        self.is_exhausted = self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"short"
        yield b"body"
        self.is_exhausted = True

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.anyio
async def test_a_short_response_is_read_before_it_is_discarded() -> None:
    """A short body that has arrived is read to its end, so that the connection can be used again."""
    body = InStore()
    with anyio.fail_after(5):
        await discard(httpx.Response(503, stream=body), delay=30)
    assert (body.is_exhausted, body.is_closed) == (True, True)


@pytest.mark.anyio
async def test_a_long_response_is_discarded_half_read() -> None:
    """A long body is not read to its end, since a new connection costs less."""
    response, body = response_of(itertools.repeat(b"x" * 1000))
    with anyio.fail_after(5):
        await discard(response, delay=30)
    assert body.given <= 2 * LIMIT
    assert body.is_closed


@pytest.mark.trio
@pytest.mark.parametrize("delay", [30, 0.2, 0])
async def test_a_slow_response_is_discarded_at_once(delay: float, autojump_clock: trio.testing.MockClock) -> None:
    """A body that has not arrived is not waited for, since that would hold its connection."""
    response, body = response_of([1e9])
    started = trio.current_time()
    await discard(response, delay=delay)
    assert trio.current_time() == started
    assert body.closed_at == started


@pytest.mark.trio
@pytest.mark.parametrize(("delay", "seconds"), [(30, 5.0), (3, 3.0), (0, 1.0)])
async def test_a_discarded_response_that_hangs_while_closing(
    delay: float, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Closing takes at most as long as the wait that follows, or 1 s if that is shorter."""
    response, _ = response_of([b"x"], on_close=trio.sleep_forever)
    started = trio.current_time()
    await discard(response, delay=delay)
    assert trio.current_time() - started == seconds


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("parts", "encoding"),
    [([b"x", httpx.ReadError("broken")], None), ([b"this is not gzip"], "gzip")],
    ids=["broken", "undecodable"],
)
async def test_a_broken_response_is_thrown_away_like_any_other(parts: list[Part], encoding: str | None) -> None:
    """A discarded body that cannot be decoded does not raise."""
    response, body = response_of(parts, encoding)
    with anyio.fail_after(5):
        await discard(response, delay=30)
    assert body.is_closed


@pytest.mark.anyio
async def test_a_response_that_cannot_be_closed_is_discarded_like_any_other() -> None:
    """A discarded response that cannot be closed does not raise."""
    response, body = response_of([b"x"], on_close=raising(httpx.CloseError("gone")))
    with anyio.fail_after(5):
        await discard(response, delay=30)
    assert body.is_closed


# --- Reading a response whole


@pytest.mark.anyio
async def test_read_whole() -> None:
    """A response that is returned is read whole, however long it is."""
    response, body = response_of([b"x" * LIMIT, b"y" * LIMIT])
    await read_whole(response)
    assert len(response.content) == 2 * LIMIT
    assert body.is_closed


@pytest.mark.anyio
async def test_read_whole_closes_what_fails() -> None:
    """A response whose reading fails is closed."""
    response, body = response_of([b"x", httpx.ReadError("broken")])
    with pytest.raises(httpx.ReadError):
        await read_whole(response)
    assert body.is_closed


@pytest.mark.anyio
async def test_read_whole_leaves_a_101_alone() -> None:
    """A 101 hands over its stream, so it is neither read nor closed."""
    body = Body([b"x"])
    response = httpx.Response(101, stream=body)
    await read_whole(response)
    assert not body.is_started
    assert not body.is_closed


# --- Bombs

MIB = 1024 * KIB


class Ticker:
    """A task that looks at the clock whenever it may run, and so finds out for how long the loop was stalled."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await anyio.lowlevel.checkpoint()
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last), now


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "gzip": ("gzip", lambda: gzip_bomb(64 * MIB)),
    "gzip twice": ("gzip, gzip", lambda: gzip_bomb(64 * MIB, layers=2)),
    "three times": ("gzip, gzip, gzip", lambda: gzip_bomb(64 * MIB, layers=3)),
    "to nothing": ("gzip, gzip", lambda: gzip_of_nothing(64 * MIB)),
}


@pytest.mark.anyio
@each_row("kind", BOMBS)
async def test_a_bomb_neither_takes_memory_nor_stalls_the_loop(kind: str) -> None:
    """What a bomb unpacks to is bounded, and other tasks run meanwhile."""
    encoding, make = BOMBS[kind]
    response, body = response_of([make()], encoding)
    ticker = Ticker()
    tracemalloc.start()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ticker.run)
            cut = await beginning_of(response)
            tasks.cancel_scope.cancel()
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    assert cut is not None
    assert "too long" in cut
    assert len(response.content) == (0 if kind == "to nothing" else LIMIT)
    assert ticker.longest < 2.0  # 0.2 s on a machine that does nothing else
    assert body.is_closed


@pytest.mark.anyio
async def test_decoding_can_be_cancelled() -> None:
    """A cancellation ends the decoding, with the response closed."""
    response, body = response_of([gzip_of_nothing(64 * MIB)], "gzip, gzip")

    async def cancel() -> None:
        await anyio.lowlevel.checkpoint()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            await read_beginning(response, max_bytes=100 * MIB, max_seconds=1e9)
    assert scope.cancelled_caught
    assert body.is_closed


@pytest.mark.anyio
async def test_decoding_ends_in_time() -> None:
    """Decoding counts towards the time that reading may take."""
    response, body = response_of([gzip_bomb(64 * MIB)], "gzip")
    cut = await beginning_of(response, max_bytes=100 * MIB, max_seconds=0.01)
    assert cut is not None
    assert "took too long" in cut
    assert 0 < len(response.content) < 64 * MIB
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
async def test_what_is_discarded_is_not_decoded(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a response that is thrown away is decoded."""
    monkeypatch.setattr("prefect_http._bounded_body.ContentDecoder", None)
    response, body = response_of([gzip_bomb(MIB)], encoding)
    await discard(response, delay=0)
    assert body.is_closed


# --- Reading whole, within a limit


@pytest.mark.anyio
@each_row(
    ("parts", "encoding"),
    [([b"x" * LIMIT], None), ([b"x" * 1000, b"y" * 64], None), ([gzip.compress(b"x" * LIMIT)], "gzip"), ([], None)],
)
async def test_a_body_within_max_bytes(parts: list[bytes], encoding: str | None) -> None:
    """A body of at most ``max_bytes`` is read whole, decoded, and the response is closed, as in httpx."""
    limited, body = response_of(parts, encoding)
    unlimited, _ = response_of(parts, encoding)
    await read_whole_within(limited, LIMIT)
    await read_whole(unlimited)
    assert limited.content == unlimited.content
    assert limited.headers == unlimited.headers
    assert limited.is_closed
    assert body.is_closed


@pytest.mark.anyio
@each_row(
    ("make", "encoding"),
    [
        (lambda: [b"x" * (LIMIT + 1)], None),
        (lambda: [b"x" * LIMIT, b"y", b"z"], None),
        (lambda: itertools.repeat(b"x" * 1000), None),
        (lambda: [gzip.compress(b"x" * (LIMIT + 1))], "gzip"),
        (lambda: [gzip_bomb(64 * MIB, layers=2)], "gzip, gzip"),
        (lambda: [gzip_of_nothing(64 * MIB)], "gzip, gzip"),
    ],
    ids=["one more", "one more after", "endless", "gzip", "bomb", "bomb to nothing"],
)
async def test_a_body_beyond_max_bytes(make: Callable[[], Iterable[bytes]], encoding: str | None) -> None:
    """A longer one is a ResponseTooLarge, with the response closed and not much more than the limit read."""
    response, body = response_of(make(), encoding)
    with pytest.raises(ResponseTooLarge, match=f"max_response_bytes of {LIMIT} bytes") as caught:
        await read_whole_within(response, LIMIT)
    assert caught.value.request is response.request
    assert body.given <= 2 * LIMIT
    assert body.is_closed


@pytest.mark.anyio
@each_row(
    ("method", "status", "length", "is_refused"),
    [
        ("GET", 200, "65537", True),
        ("GET", 200, "65536", False),
        ("GET", 200, "9" * 30, False),
        ("GET", 200, "many", False),
        ("HEAD", 200, "65537", False),
        ("GET", 304, "65537", False),
        ("GET", 204, "65537", False),
    ],
)
async def test_a_content_length_beyond_max_bytes(method: str, status: int, length: str, *, is_refused: bool) -> None:
    """If the Content-Length says that the body is too long, it is not read."""
    body = Body([])
    request = httpx.Request(method, "http://server/")
    response = PrefectResponse(status, headers={"Content-Length": length}, stream=body, request=request)
    if is_refused:
        with pytest.raises(ResponseTooLarge):
            await read_whole_within(response, LIMIT)
    else:
        await read_whole_within(response, LIMIT)
    assert body.is_closed


@pytest.mark.anyio
async def test_a_response_that_a_hook_has_read_is_within_any_limit() -> None:
    """What an event hook has read already is kept."""
    response, _ = response_of([b"body"])
    await response.aread()
    await read_whole_within(response, 1)
    assert response.content == b"body"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("parts", "encoding", "kind"),
    [
        ([b"half", httpx.ReadError("broken")], None, httpx.ReadError),
        ([b"not gzip"], "gzip", httpx.DecodingError),
        ([gzip.compress(b"half")[:-1]], "zstd", httpx.DecodingError),
    ],
    ids=["broken", "undecodable", "incomplete"],
)
async def test_a_body_that_fails_within_max_bytes(
    parts: list[Part], encoding: str | None, kind: type[httpx.RequestError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong is raised as without a limit, with the request, and the response is closed."""
    monkeypatch.setitem(sys.modules, "compression.zstd", STAND_INS["compression.zstd"])
    response, body = response_of(parts, encoding)
    with pytest.raises(kind) as caught:
        await read_whole_within(response, LIMIT)
    assert caught.value.request is response.request
    assert body.is_closed
