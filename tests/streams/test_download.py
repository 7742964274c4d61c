"""client.download(): what is sent and what is written, in virtual time, on both backends."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import itertools
import json
import logging
import re
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from support.compression import STAND_INS
from support.file_server import CONTENT, ETAG, FileServer, part_headers
from support.garbage import garbage_of
from support.rows import each_row
from support.systems import needs_posix_files
from support.virtual_time import virtual_time_backend

from prefect_http import (
    Attempt,
    Download,
    DownloadError,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RetryPolicy,
    Telemetry,
    Throttle,
)
from prefect_http._streams import download as download_module
from prefect_http._streams import part_file
from prefect_http._streams.part_file import PartFile
from prefect_http.testing import FakeNetwork, FakeServer, ReceivedRequest, Reply

pytestmark = pytest.mark.anyio
API = "https://files.example.com"
URL = f"{API}/flows.zip"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
STEADY = RetryPolicy(jitter=0)
HALF = len(CONTENT) // 2
TOTAL = len(CONTENT)
WITH_ETAG = {"ETag": ETAG}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file will be."""
    return tmp_path / "flows.zip"


@pytest.fixture
def network() -> FakeNetwork:
    """Return a network."""
    return FakeNetwork()


@pytest.fixture
def api(network: FakeNetwork) -> FakeServer:
    """Return the server of the files."""
    return network.serve(API)


class Calls:
    """A progress function that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int | None]] = []

    def __call__(self, received: int, total: int | None) -> None:
        self.calls.append((received, total))


def files(path: Path) -> set[str]:
    """Return the names of all files beside one."""
    return {each.name for each in path.parent.iterdir()}


def ranges(network: FakeNetwork) -> list[str | None]:
    """Return the ranges that were asked for."""
    return [request.headers.get("Range") for request in network.requests]


def leave(path: Path, content: bytes = CONTENT[:HALF], etag: str = ETAG, url: str = URL) -> None:
    """Let an earlier download leave something."""
    part = PartFile(path, download_module._source(httpx.URL(url)), overwrite=True, with_digest=False)
    assert part.open()
    part.begin(etag, TOTAL)
    part.write([content])
    part.close()


async def fetch(network: FakeNetwork, path: Path, **arguments: Any) -> Download:
    """Download the file; after that the scripts must be used up."""
    async with network, network.client(PrefectHttpxClient, retry=arguments.pop("policy", STEADY)) as client:
        return await client.download(arguments.pop("url", URL), path, **arguments)


# --- A whole file


async def test_small_file(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """The file is in its place, and nothing is beside it."""
    api.get("/flows.zip").reply(content=CONTENT, headers=WITH_ETAG)
    result = await fetch(network, path, sha256=DIGEST.upper())
    assert path.read_bytes() == CONTENT
    assert files(path) == {"flows.zip"}
    assert (result.path, result.bytes, result.resumed) == (path, TOTAL, False)
    assert type(result.response) is PrefectResponse
    assert (result.response.status_code, result.response.is_closed) == (200, True)
    assert network.requests[0].headers["Accept-Encoding"] == "identity"


async def test_arguments_of_the_request(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """All arguments of ``get()`` are those of each request."""
    hops = api.get("/a?v=1").reply(302, headers={"Location": URL})
    seen: list[object] = []

    def reply(request: ReceivedRequest) -> Reply:
        seen.extend((request.headers["X-Mine"], request.headers["Accept-Encoding"], request.headers["Authorization"]))
        return Reply(content=CONTENT)

    api.get("/flows.zip").call(reply)
    result = await fetch(
        network,
        path,
        url=f"{API}/a",
        params={"v": 1},
        headers={"X-Mine": "yes", "Accept-Encoding": "identity"},
        auth=("me", "secret"),
        follow_redirects=True,
        timeout=3,
        extensions={"retry": RetryPolicy(max_retries=0)},
    )
    assert len(hops.requests) == 1
    assert seen == ["yes", "identity", "Basic bWU6c2VjcmV0"]
    assert [each.status_code for each in result.response.history] == [302]


async def test_path_is_text(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A path may be text."""
    api.get("/flows.zip").reply(content=CONTENT)
    assert (await fetch(network, path, url=httpx.URL(URL))).path == path
    api.get("/flows.zip").reply(content=b"new")
    assert (await fetch(network, str(path), overwrite=True)).path == path  # type: ignore[arg-type]
    assert path.read_bytes() == b"new"


async def test_empty_file(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """An empty file is a file."""
    api.get("/flows.zip").reply(content=b"")
    assert (await fetch(network, path)).bytes == 0
    assert files(path) == {"flows.zip"}


async def test_unknown_size(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A body of which nobody said how long it is ends where it ends; then its size is known."""
    api.get("/flows.zip").reply(stream=[b"123", b"45"])
    calls = Calls()
    assert (await fetch(network, path, progress=calls)).bytes == 5
    assert path.read_bytes() == b"12345"
    assert calls.calls == [(0, None), (5, None), (5, 5)]


async def test_progress(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It is called at the beginning, and after each chunk."""
    api.get("/flows.zip").drip(every=10, size=4000, content=CONTENT)
    calls = Calls()
    await fetch(network, path, progress=calls, timeout=None)
    assert calls.calls == [(0, TOTAL), (4000, TOTAL), (8000, TOTAL), (TOTAL, TOTAL)]


async def test_over_http2(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It works the same, with a break in the middle."""
    content = CONTENT * 10
    api.get("/flows.zip").drop(after=50_000, content=content, headers=WITH_ETAG).call(FileServer(content), times=1)
    async with network, network.client(PrefectHttpxClient, retry=STEADY, http2=True) as client:
        result = await client.download(URL, path)
    assert result.resumed
    assert path.read_bytes() == content
    assert result.response.http_version == "HTTP/2"


# --- A break


async def test_goes_on_after_a_break(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It asks for the rest at once, since it got further, and only of the same version."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG).call(FileServer(), times=1)
    calls = Calls()
    result = await fetch(network, path, sha256=DIGEST, progress=calls)
    assert path.read_bytes() == CONTENT
    assert (result.bytes, result.resumed, result.response.status_code) == (TOTAL, True, 206)
    last = network.requests[1]
    start = int(last.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start < HALF
    assert last.headers["If-Range"] == ETAG
    assert last.headers["Accept-Encoding"] == "identity"
    assert calls.calls[-2:] == [(start, TOTAL), (TOTAL, TOTAL)]
    network.assert_waits([0])


async def test_timeout_in_the_middle(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A server that falls silent is asked for the rest."""
    api.get("/flows.zip").drip(every=100, size=TOTAL - 1, content=CONTENT, headers=WITH_ETAG, delay=0)
    api.get("/flows.zip").call(FileServer(), times=1)
    assert (await fetch(network, path, timeout=50)).bytes == TOTAL
    assert anyio.current_time() == 52  # without progress, after the first backoff


async def test_breaks_without_progress(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It waits longer each time, then raises the error, with a note that says what is left."""
    leave(path)
    size = HALF
    headers = part_headers(HALF, TOTAL, TOTAL)
    api.get("/flows.zip").drip(206, every=100, headers=headers, content=CONTENT[HALF:], times=3)
    with pytest.raises(httpx.ReadTimeout) as caught:
        await fetch(network, path, policy=RetryPolicy(jitter=0, max_retries=2))
    assert ranges(network) == [f"bytes={HALF}-"] * 3
    assert anyio.current_time() == 5 + 2 + 5 + 4 + 5
    (note,) = caught.value.__notes__
    assert note.startswith(f"prefect_http gave up the download of {path}: all retries are used up. {size} bytes of it ")
    assert note.endswith(f" are in {path}.part; another download of the same URL to the same path resumes there.")
    assert (path.parent / "flows.zip.part").read_bytes() == CONTENT[:size]
    assert files(path) == {"flows.zip.part", "flows.zip.part.json"}


async def test_a_telemetry_is_told_of_the_waits(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Each wait without progress is told, as those between attempts are."""
    waits: list[tuple[str, float, str]] = []

    class Waits(Telemetry):
        def wait(self, request: httpx.Request, delay: float, reason: str) -> None:
            waits.append((str(request.url), delay, reason))

    leave(path)
    headers = part_headers(HALF, TOTAL, TOTAL)
    api.get("/flows.zip").drip(206, every=100, headers=headers, content=CONTENT[HALF:], times=2)
    api.get("/flows.zip").call(FileServer(), times=1)
    async with network, network.client(PrefectHttpxClient, retry=STEADY, telemetry=Waits()) as client:
        await client.download(URL, path)
    assert waits == [(URL, 2.0, "backoff of 2 s"), (URL, 4.0, "backoff of 4 s")]


@each_row(
    "fail, error",
    [
        (lambda rule: rule.reset(times=None), httpx.ReadError),
        (lambda rule: rule.refuse(times=None), httpx.ConnectError),
        (lambda rule: rule.reply(503, times=None), PrefectHTTPStatusError),
    ],
)
async def test_note_of_a_request_that_fails(
    fail: Callable[[Any], object], error: type[Exception], tmp_path: Path
) -> None:
    """When the request for the rest fails, a note says what is left as well; without anything left there is none."""
    path = tmp_path / "flows.zip"
    for raise_on_all_errors in (True, False):
        for is_something_left in (False, True):
            if is_something_left:
                leave(path)
            network = FakeNetwork()
            fail(network.serve(API).get("/flows.zip"))
            async with network.client(
                PrefectHttpxClient, retry=RetryPolicy(max_retries=1), raise_on_all_errors=raise_on_all_errors
            ) as client:
                with pytest.raises(error) as caught:
                    await client.download(URL, path)
            notes = [note for note in getattr(caught.value, "__notes__", []) if "gave up the download" in note]
            assert len(notes) == is_something_left
            if is_something_left:
                assert notes[0].startswith(
                    f"prefect_http gave up the download of {path}. {HALF} bytes of it are in {path}.part; "
                )
        (tmp_path / "flows.zip.part").unlink()


async def test_max_retries_0(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Without retries it does not go on at all, but leaves what is there."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG)
    with pytest.raises(httpx.RemoteProtocolError) as caught:
        await fetch(network, path, retry=RetryPolicy(max_retries=0))
    assert "max_retries is 0" in caught.value.__notes__[0]
    assert files(path) == {"flows.zip.part", "flows.zip.part.json"}


async def test_break_that_cannot_be_continued(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Without a strong validator it begins anew."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers={"ETag": 'W/"v1"'}).reply(content=CONTENT)
    calls = Calls()
    result = await fetch(network, path, progress=calls)
    assert not result.resumed
    assert path.read_bytes() == CONTENT
    assert ranges(network) == [None, None]
    assert calls.calls[-2:] == [(0, TOTAL), (TOTAL, TOTAL)]


async def test_deadline_of_the_caller(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A wait that does not fit the caller's deadline is not begun."""
    api.get("/flows.zip").drop(after=0, content=CONTENT, headers=WITH_ETAG, times=None)
    api.get("/b").drop(after=200, content=CONTENT, headers={**WITH_ETAG, "X-Pad": "x" * 150}, times=None)
    with anyio.fail_after(1), pytest.raises(httpx.RemoteProtocolError) as caught:
        async with network.client(PrefectHttpxClient, retry=STEADY) as client:
            await client.download(f"{API}/b", path)
    assert "deadline" in "".join(caught.value.__notes__)
    assert anyio.current_time() == 0


async def test_server_without_ranges(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It begins anew, but not for ever, and waits where it gets no further than before."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG, times=5)
    with pytest.raises(DownloadError, match=r"sent the whole file again, and the download has started again 3 times"):
        await fetch(network, path, policy=RetryPolicy(jitter=0, max_retries=3))
    assert anyio.current_time() == 2 + 4 + 8


@each_row("status", [404, 403, 503, 304, 302, 416])
async def test_bad_status(status: int, tmp_path: Path) -> None:
    """A status that is not good is an error, as for any request, and leaves nothing."""
    for raise_on_all_errors in (True, False):
        network = FakeNetwork()
        network.serve(API).get("/flows.zip").reply(status, content=b"", headers={"Location": "/b"})
        async with network.client(
            PrefectHttpxClient, retry=RetryPolicy(max_retries=0), raise_on_all_errors=raise_on_all_errors
        ) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.download(URL, tmp_path / "flows.zip")
        assert caught.value.response.status_code == status
        assert caught.value.response.is_closed
        assert len(caught.value.attempts) == 1
    assert list(tmp_path.iterdir()) == []


async def test_retries_of_a_request(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Each of its requests is retried as any other; hooks are called."""
    api.get("/flows.zip").reply(503, headers={"Retry-After": "60"}).drop(after=HALF, content=CONTENT, headers=WITH_ETAG)
    api.get("/flows.zip").reply(503, headers={"Retry-After": "30"}).call(FileServer(), times=1)
    seen: list[int | None] = []

    def note(_: httpx.Request, attempt: Attempt) -> None:
        seen.append(attempt.status_code)

    async with network, network.client(PrefectHttpxClient, retry=STEADY, on_attempt=note) as client:
        await client.download(URL, path, sha256=DIGEST)
    assert seen == [503, 200, 503, 206]
    network.assert_waits([60, 0, 30])


@each_row("error", [httpx.DecodingError("bad"), httpx.UnsupportedProtocol("bad")])
async def test_error_that_is_final(error: Exception, tmp_path: Path) -> None:
    """An error that no repetition can mend is raised at once."""

    class Stream(httpx.AsyncByteStream):
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            raise error

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Stream()))
    async with PrefectHttpxClient(transport=transport) as client:
        with pytest.raises(type(error)):
            await client.download(URL, tmp_path / "f")


async def test_body_that_ends_short(path: Path) -> None:
    """A transport that does not notice it does not make a short file a whole one."""
    replies = iter(
        [
            httpx.Response(200, headers={**WITH_ETAG, "Content-Length": str(TOTAL)}, stream=httpx.ByteStream(b"")),
            httpx.Response(
                200, headers={**WITH_ETAG, "Content-Length": str(TOTAL)}, stream=httpx.ByteStream(CONTENT[:HALF])
            ),
            httpx.Response(206, headers=part_headers(HALF, TOTAL, TOTAL), stream=httpx.ByteStream(CONTENT[HALF:])),
        ]
    )
    async with PrefectHttpxClient(transport=httpx.MockTransport(lambda _: next(replies)), retry=STEADY) as client:
        assert (await client.download(URL, path, sha256=DIGEST)).resumed
    assert anyio.current_time() == 2


async def test_error_of_an_app(path: Path) -> None:
    """An app that fails in the middle is not asked again."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"etag", b'"v1"')]})
        await send({"type": "http.response.body", "body": b"123", "more_body": True})
        raise httpx.ReadError("of the app itself")

    async with PrefectHttpxClient(app=app, retry=STEADY) as client:
        with pytest.raises(httpx.ReadError, match="itself"):
            await client.download("/f", path)
    assert anyio.current_time() == 0


# --- An earlier download


async def test_continues_an_earlier_download(
    network: FakeNetwork, api: FakeServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the rest is asked for, and the digest is that of the whole file."""
    monkeypatch.setattr(part_file, "_HASHED_AT_ONCE", 1000)
    leave(path)
    api.get("/flows.zip").call(FileServer(), times=1)
    calls = Calls()
    result = await fetch(network, path, sha256=DIGEST, progress=calls)
    assert result.resumed
    assert path.read_bytes() == CONTENT
    assert files(path) == {"flows.zip"}
    assert ranges(network) == [f"bytes={HALF}-"]
    assert calls.calls == [(HALF, TOTAL), (TOTAL, TOTAL)]


async def test_all_of_it_is_there(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """If the process was killed just before the end, the server confirms that nothing is missing."""
    for raise_on_all_errors in (True, False):
        leave(path, CONTENT)
        api.get("/flows.zip").call(FileServer(), times=1)
        calls = Calls()
        async with network.client(PrefectHttpxClient, raise_on_all_errors=raise_on_all_errors) as client:
            result = await client.download(URL, path, sha256=DIGEST, progress=calls, overwrite=True)
        assert (result.bytes, result.resumed, result.response.status_code) == (TOTAL, True, 416)
        assert path.read_bytes() == CONTENT
        assert calls.calls == [(TOTAL, TOTAL)]


async def test_other_url(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """What another URL has left is not continued."""
    leave(path, b"other", url=f"{API}/other")
    api.get("/flows.zip").call(FileServer(), times=1)
    assert not (await fetch(network, path, sha256=DIGEST)).resumed
    assert ranges(network) == [None]


async def test_same_url_with_other_credentials(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Credentials and fragments do not make it another URL, and are not in the record."""
    url = "https://me:secret@files.example.com/flows.zip"
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG)
    with pytest.raises(httpx.RemoteProtocolError):
        await fetch(network, path, url=url, retry=RetryPolicy(max_retries=0))
    record = json.loads((path.parent / "flows.zip.part.json").read_text())
    assert record == {"url": hashlib.sha256(URL.encode()).hexdigest(), "validator": ETAG, "total": TOTAL}
    api.get("/flows.zip").call(FileServer(), times=1)
    assert (await fetch(network, path, url=f"{URL}#part")).resumed


async def test_cannot_connect(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """What is there stays if the server cannot be reached, also if it is of no use."""
    leave(path, url="https://elsewhere.example.com")
    api.get("/flows.zip").refuse()
    with pytest.raises(httpx.ConnectError):
        await fetch(network, path)
    assert (path.parent / "flows.zip.part").read_bytes() == CONTENT[:HALF]


# --- Servers that change the file, or misread Range


@each_row(
    "replies",
    [
        pytest.param([Reply(content=b"new", headers={"ETag": '"v2"'})], id="changed"),
        pytest.param([Reply(content=b"new")], id="no ranges"),
        pytest.param(
            [Reply(206, content=b"w", headers=part_headers(HALF, HALF + 1, HALF + 1)), Reply(content=b"new")],
            id="other total",
        ),
        pytest.param(
            [Reply(206, content=b"x" * HALF, headers=part_headers(HALF, TOTAL, TOTAL, '"v2"')), Reply(content=b"new")],
            id="other validator",
        ),
        pytest.param(
            [Reply(206, content=CONTENT, headers=part_headers(0, TOTAL, TOTAL)), Reply(content=b"new")],
            id="other start",
        ),
        pytest.param(
            [
                Reply(206, content=b"--x", headers={"Content-Type": "multipart/byteranges; boundary=x"}),
                Reply(content=b"new"),
            ],
            id="multipart",
        ),
        pytest.param([Reply(206, content=b"x"), Reply(content=b"new")], id="no Content-Range"),
        pytest.param([Reply(416, content=b"x" * 5000), Reply(content=b"new")], id="416"),
        pytest.param([Reply(416, headers={"Content-Range": "bytes */3"}), Reply(content=b"new")], id="shorter"),
    ],
)
async def test_begins_anew(replies: list[Reply], tmp_path: Path) -> None:
    """What cannot be continued for certain is downloaded anew, even without retries."""
    network, path = FakeNetwork(), tmp_path / "flows.zip"
    leave(path)
    rest = iter(replies)
    network.serve(API).get("/flows.zip").call(lambda _: next(rest), times=len(replies))
    result = await fetch(network, path, overwrite=True, retry=RetryPolicy(max_retries=0))
    assert (path.read_bytes(), result.bytes, result.resumed) == (b"new", 3, False)
    assert files(path) == {"flows.zip"}
    assert ranges(network) == [f"bytes={HALF}-", None][: len(replies)]


async def test_file_that_keeps_changing(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It begins anew at most ``max_retries`` times."""
    for version in range(3):
        api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers={"ETag": f'"{version}"'})
    with pytest.raises(DownloadError, match=r"has changed on the server, and the download has started again 1 time,"):
        await fetch(network, path, policy=RetryPolicy(jitter=0, max_retries=1))
    assert anyio.current_time() == 0
    assert len(network.requests) == 3


async def test_server_that_always_misreads(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A server that breaks off, and sends nonsense when it is asked for the rest, is not asked for ever."""
    route = api.get("/flows.zip")
    for _ in range(3):
        route.drop(after=HALF, content=CONTENT, headers=WITH_ETAG).reply(206, content=b"x")
    with pytest.raises(
        DownloadError, match=r"without a valid Content-Range, and the download has started again 2 times"
    ):
        await fetch(network, path, policy=RetryPolicy(jitter=0, max_retries=2))
    assert not path.exists()


async def test_rest_in_parts(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A server may send less than the rest, as often as it likes, and need not say how much there is."""
    leave(path)

    def reply(request: ReceivedRequest) -> Reply:
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = min(start + 1000, TOTAL)
        return Reply(206, content=CONTENT[start:end], headers=part_headers(start, end, TOTAL))

    api.get("/flows.zip").call(reply, times=5)
    assert (await fetch(network, path, sha256=DIGEST)).bytes == TOTAL


async def test_rest_without_a_total(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Where the size is never said, a 416 says that nothing is missing."""
    api.get("/flows.zip").drop(after=HALF, stream=[CONTENT], headers=WITH_ETAG)

    def reply(request: ReceivedRequest) -> Reply:
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        return Reply(206, content=CONTENT[start:], headers=part_headers(start, TOTAL, "*"))

    api.get("/flows.zip").call(reply, times=1)
    api.get("/flows.zip").call(FileServer(), times=1)
    calls = Calls()
    result = await fetch(network, path, sha256=DIGEST, progress=calls)
    assert result.response.status_code == 416
    assert calls.calls[-2:] == [(TOTAL, None), (TOTAL, TOTAL)]


@each_row("status", [201, 202, 204, 206])
async def test_response_without_a_file(status: int, tmp_path: Path) -> None:
    """A good status with which no file comes, or only a part that was not asked for, is an error."""
    network = FakeNetwork()
    network.serve(API).get("/flows.zip").reply(status, headers=part_headers(0, 3, 10))
    with pytest.raises(DownloadError, match=str(status)) as caught:
        await fetch(network, tmp_path / "flows.zip")
    assert str(caught.value).startswith(f"cannot download {URL} to {tmp_path / 'flows.zip'}: the server ")
    assert str(caught.value.request.url) == URL
    assert list(tmp_path.iterdir()) == []


async def test_rejection_with_a_good_status(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """What the throttle takes for a rejection is not the file, whatever its status."""
    api.get("/flows.zip").reply(text="slow down")
    throttle = Throttle(is_throttled=lambda _: True)
    async with network.client(PrefectHttpxClient, retry=RetryPolicy(max_retries=0), throttle=throttle) as client:
        with pytest.raises(DownloadError, match="rejected"):
            await client.download(URL, path)
    assert files(path) == set()


# --- What must not be left


@each_row(
    "reply",
    [
        pytest.param(Reply(content=CONTENT, headers=WITH_ETAG), id="announced"),
        pytest.param(Reply(stream=[CONTENT[:HALF], CONTENT[HALF:]], headers=WITH_ETAG), id="not announced"),
        pytest.param(Reply(content=gzip.compress(CONTENT * 9), headers={"Content-Encoding": "gzip"}), id="encoded"),
    ],
)
async def test_too_large(reply: Reply, tmp_path: Path) -> None:
    """A file that is larger than ``max_bytes`` is an error, and nothing of it is left."""
    network, path = FakeNetwork(), tmp_path / "flows.zip"
    network.serve(API).get("/flows.zip").call(lambda _: reply)
    with pytest.raises(DownloadError, match=r"larger than max_bytes of 9999 bytes"):
        await fetch(network, path, max_bytes=TOTAL - 1)
    assert files(path) == set()


async def test_request_of_an_error(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """The request of an error is the one that got the response, after redirects."""
    api.get("/a").reply(302, headers={"Location": URL})
    api.get("/flows.zip").reply(content=CONTENT)
    with pytest.raises(DownloadError) as caught:
        await fetch(network, path, url=f"{API}/a", follow_redirects=True, max_bytes=1)
    assert caught.value.request.url == URL


async def test_what_is_there_is_too_large(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """An earlier download may have had no limit."""
    for content in (CONTENT[:HALF], CONTENT):
        leave(path, content)
        api.get("/flows.zip").call(FileServer(), times=1)
        async with network.client(PrefectHttpxClient) as client:
            with pytest.raises(DownloadError, match=r"larger than max_bytes"):
                await client.download(URL, path, max_bytes=100)
        assert files(path) == set()


async def test_just_small_enough(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A file may be as large as ``max_bytes``."""
    api.get("/flows.zip").reply(content=CONTENT)
    await fetch(network, path, max_bytes=TOTAL)


async def test_wrong_digest(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A file with another digest is an error, and nothing of it is left; the old file is."""
    path.write_text("old")
    api.get("/flows.zip").reply(content=CONTENT, headers=WITH_ETAG)
    with pytest.raises(DownloadError, match=f"the SHA-256 of the file is {DIGEST}, not {'0' * 64}"):
        await fetch(network, path, sha256="0" * 64, overwrite=True)
    assert files(path) == {"flows.zip"}
    assert path.read_text() == "old"


async def test_too_long(path: Path) -> None:
    """A transport that does not notice a body beyond its length does not make it a file."""
    reply = httpx.Response(200, headers={**WITH_ETAG, "Content-Length": "5"}, stream=httpx.ByteStream(CONTENT))
    async with PrefectHttpxClient(transport=httpx.MockTransport(lambda _: reply)) as client:
        with pytest.raises(DownloadError, match=r"more than the 5 bytes"):
            await client.download(URL, path)
    assert files(path) == set()


# --- Encoded bodies


def gzip_members(content: bytes) -> bytes:
    """Compress a content in two members, with an empty one between them."""
    return gzip.compress(content[:HALF]) + gzip.compress(b"") + gzip.compress(content[HALF:])


@each_row(
    "coding, encode",
    [
        ("gzip", gzip.compress),
        ("GZip", gzip_members),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
async def test_encoded(coding: str, encode: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A body that is encoded, though that was declined, is decoded like any other."""
    network, path = FakeNetwork(), tmp_path / f"file {coding}"
    headers = {**WITH_ETAG, "Content-Encoding": coding}
    network.serve(API).get("/flows.zip").reply(content=encode(CONTENT), headers=headers)
    await fetch(network, path, sha256=DIGEST)
    assert path.read_bytes() == CONTENT


async def test_encoded_and_broken_off(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It cannot be continued."""
    headers = {**WITH_ETAG, "Content-Encoding": "gzip"}
    content = gzip.compress(CONTENT)
    api.get("/flows.zip").drop(after=HALF, content=content, headers=headers).reply(content=content, headers=headers)
    assert not (await fetch(network, path, sha256=DIGEST)).resumed
    assert ranges(network) == [None, None]


@each_row("coding, encode", [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", gzip.compress)])
async def test_encoded_and_cut_off(coding: str, encode: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A body that lacks the end of its coding has broken off, also if the connection does not say so."""
    network, path = FakeNetwork(), tmp_path / coding
    headers, content = {**WITH_ETAG, "Content-Encoding": coding}, encode(CONTENT)
    script = network.serve(API).get("/flows.zip").reply(content=content[:-20], headers=headers, times=2)
    script.reply(content=content, headers=headers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "brotli", STAND_INS["brotli"])
        assert not (await fetch(network, path, sha256=DIGEST)).resumed
    assert ranges(network) == [None, None, None]


async def test_always_cut_off(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """If it always breaks off there, the error says so in the end, and there is no file."""
    headers, content = {"Content-Encoding": "gzip"}, gzip.compress(CONTENT)
    api.get("/flows.zip").reply(content=content[:-1], headers=headers, times=4)
    ending = "the last connection ended with RemoteProtocolError: the body ended in the middle of its compressed data"
    with pytest.raises(DownloadError, match=f"started again 2 times, .*; {ending}$"):
        await fetch(network, path, policy=RetryPolicy(max_retries=2))
    assert not path.exists()


async def test_cut_off_without_retries(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """Without retries, a body that lacks the end of its coding is an error of the request."""
    api.get("/flows.zip").reply(content=gzip.compress(CONTENT)[:-1], headers={"Content-Encoding": "gzip"})
    with pytest.raises(httpx.RemoteProtocolError, match="in the middle of its compressed data") as caught:
        await fetch(network, path, policy=RetryPolicy(max_retries=0))
    assert str(caught.value.request.url) == URL
    assert not path.exists()


@each_row(
    "coding, text",
    [
        ("br", "with Content-Encoding: br, which needs a package: pip install 'brotli>=1.2'"),
        ("gzip, ZSTD", "with Content-Encoding: zstd, which needs a package: pip install 'zstandard'"),
        ("rot13", "with the unknown Content-Encoding 'rot13', although the request asked for none"),
    ],
)
async def test_encoding_that_cannot_be_decoded(coding: str, text: str, tmp_path: Path) -> None:
    """What would be another file is refused, and what an earlier download has left stays."""
    path = tmp_path / coding
    leave(path)
    network = FakeNetwork()
    network.serve(API).get("/flows.zip").reply(content=CONTENT, headers={"Content-Encoding": coding})
    with pytest.MonkeyPatch.context() as patch:
        for name in STAND_INS:
            patch.setitem(sys.modules, name, None)
        with pytest.raises(DownloadError, match=re.escape(text)):
            await fetch(network, path)
    assert not path.exists()
    assert (tmp_path / f"{coding}.part").read_bytes() == CONTENT[:HALF]


async def test_encoding_that_echoes_a_credential(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It is shown without the credential."""
    api.get("/flows.zip").reply(content=CONTENT, headers={"Content-Encoding": "t0ken"})
    with pytest.raises(DownloadError, match=r"unknown Content-Encoding '\[secure\]'"):
        await fetch(network, path, headers={"Authorization": "Bearer t0ken"})


async def test_not_what_its_encoding_says(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A body that cannot be decoded is an error."""
    api.get("/flows.zip").reply(content=CONTENT, headers={"Content-Encoding": "gzip"})
    with pytest.raises(httpx.DecodingError):
        await fetch(network, path)
    assert not path.exists()


async def test_read_by_an_event_hook(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A body that an event hook has read is written as well; but httpx decodes one without looking for its end."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    api.get("/flows.zip").reply(content=CONTENT)
    api.get("/flows.zip").reply(content=gzip.compress(CONTENT)[:-20], headers={"Content-Encoding": "gzip"})
    async with network, network.client(PrefectHttpxClient, event_hooks={"response": [read]}) as client:
        assert (await client.download(URL, path, sha256=DIGEST)).bytes == TOTAL
        with pytest.raises(DownloadError, match="it has been read before, by an event hook or the transport"):
            await client.download(URL, path, overwrite=True)
    assert path.read_bytes() == CONTENT


async def test_mock_with_an_encoding(tmp_path: Path) -> None:
    """The body of a mock, which httpx decodes when it is made, is decoded for a file like any other."""
    headers, body = {"Content-Encoding": "gzip"}, gzip.compress(b"one ") + gzip.compress(b"two")
    for content in (body, body[:-10], b""):
        path = tmp_path / f"{len(content)}"
        mock = httpx.MockTransport(lambda _, content=content: httpx.Response(200, headers=headers, content=content))
        async with PrefectHttpxClient(transport=mock, retry=RetryPolicy(max_retries=0)) as client:
            if content == body[:-10]:
                with pytest.raises(httpx.RemoteProtocolError, match="in the middle of its compressed data"):
                    await client.download(URL, path)
            else:
                await client.download(URL, path)
                assert path.read_bytes() == (b"one two" if content else b"")


async def test_mock_whose_body_can_be_read_once(path: Path) -> None:
    """A body without an encoding is not read again if an event hook has read it."""

    class Once(httpx.ByteStream):
        has_been_read = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            assert not self.has_been_read
            self.has_been_read = True
            yield CONTENT

    async def read(response: httpx.Response) -> None:
        await response.aread()

    mock = httpx.MockTransport(lambda _: httpx.Response(200, stream=Once(b"")))
    async with PrefectHttpxClient(transport=mock, event_hooks={"response": [read]}) as client:
        assert (await client.download(URL, path, sha256=DIGEST)).bytes == TOTAL


async def test_too_many_encodings(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """They are refused before what an earlier download has left is given up."""
    leave(path)
    api.get("/flows.zip").reply(content=CONTENT, headers={"Content-Encoding": ", ".join(["gzip"] * 6)})
    with pytest.raises(DownloadError, match="gzip: the body has 6 encodings, more than the limit of 5"):
        await fetch(network, path)
    assert path.with_name("flows.zip.part").read_bytes() == CONTENT[:HALF]


# --- Arguments


@each_row(
    "error, arguments",
    [
        (ValueError, {"sha256": "abc"}),
        (ValueError, {"sha256": "g" * 64}),
        (ValueError, {"sha256": b"0" * 64}),
        (ValueError, {"max_bytes": -1}),
        (ValueError, {"max_bytes": True}),
        (ValueError, {"max_bytes": 1.5}),
        (TypeError, {"progress": 3}),
        (TypeError, {"progress": anyio.sleep}),
        (TypeError, {"retry": 3}),
        (ValueError, {"headers": {"range": "bytes=0-"}}),
        (ValueError, {"headers": {"If-Range": ETAG}}),
        (ValueError, {"headers": {"Accept-Encoding": "gzip"}}),
    ],
)
async def test_invalid_arguments(error: type[Exception], arguments: dict[str, Any], tmp_path: Path) -> None:
    """Arguments are checked before anything else happens."""
    name = next(iter(arguments))
    async with PrefectHttpxClient() as client:
        with pytest.raises(error, match=name if name != "headers" else r"Range|Accept-Encoding"):
            await client.download(URL, tmp_path / "missing" / "f", **arguments)


@each_row("name", ["Range", "If-Range"])
async def test_headers_of_the_client(name: str, tmp_path: Path) -> None:
    """Nor can the client have headers that the download sets."""
    async with PrefectHttpxClient(headers={name: "bytes=0-"}) as client:
        with pytest.raises(ValueError, match=f"the header {name} cannot"):
            await client.download(URL, tmp_path / "f")


async def test_progress_that_turns_out_to_be_async(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """An async function in disguise is refused when it is called."""
    api.get("/flows.zip").reply(content=CONTENT)

    async def report(received: int, total: int | None) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="progress must be a sync function"):
        await fetch(network, path, progress=lambda *arguments: report(*arguments))


async def test_error_of_the_progress_function(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """It ends the download, and is raised; what was received stays."""
    api.get("/flows.zip").reply(content=CONTENT, headers=WITH_ETAG)

    def stop(received: int, total: int | None) -> None:
        if received:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fetch(network, path, progress=stop)
    assert (path.parent / "flows.zip.part").read_bytes() == CONTENT


@each_row("error", [httpx.ConnectError("a dashboard"), DownloadError("a dashboard")])
async def test_error_of_httpx_in_the_progress_function(error: httpx.RequestError, tmp_path: Path) -> None:
    """An error of another request, which it sends, is raised as it is as well, and at once."""
    network, path = FakeNetwork(), tmp_path / type(error).__name__
    network.serve(API).get("/flows.zip").reply(content=CONTENT, headers=WITH_ETAG)
    error.request = request = httpx.Request("POST", "https://dashboard.example.com")

    def post(received: int, total: int | None) -> None:
        if received:
            raise error

    with pytest.raises(type(error)) as caught:
        await fetch(network, path, progress=post)
    assert caught.value is error
    assert error.request is request
    assert not hasattr(error, "__notes__")
    assert ranges(network) == [None]
    assert path.with_suffix(".part").read_bytes() == CONTENT


async def test_closed_client(path: Path) -> None:
    """A client that has been closed downloads nothing."""
    client = PrefectHttpxClient()
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.download(URL, path)
    assert files(path) == set()


# --- The file system


@needs_posix_files
async def test_refused_before_a_request(network: FakeNetwork, api: FakeServer, tmp_path: Path) -> None:
    """What can be known before is an error before anything is sent."""
    api.any().reply(times=None)
    (tmp_path / "there").write_text("old")
    async with network.client(PrefectHttpxClient) as client:
        for error, target, overwrite in (
            (FileExistsError, tmp_path / "there", False),
            (IsADirectoryError, tmp_path, False),
            (IsADirectoryError, tmp_path, True),
            (IsADirectoryError, Path(), True),
            (FileNotFoundError, tmp_path / "missing" / "f", False),
            (NotADirectoryError, tmp_path / "there" / "f", False),
        ):
            with pytest.raises(error):
                await client.download(URL, target, overwrite=overwrite)
    assert not network.requests
    assert files(tmp_path / "x") == {"there"}


async def test_disk_is_full(network: FakeNetwork, api: FakeServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised, and what has been written stays, for a later download."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG).call(FileServer(), times=2)
    write = PartFile.write

    def fail(part: PartFile, blocks: list[bytes]) -> None:
        if part.size:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(part, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            async with network.client(PrefectHttpxClient) as client:
                await client.download(URL, path)
    left = (path.parent / "flows.zip.part").read_bytes()
    assert left
    assert CONTENT.startswith(left)
    assert (await fetch(network, path, sha256=DIGEST)).resumed


async def test_disk_is_full_at_a_break(
    network: FakeNetwork, api: FakeServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the error to be raised, then, since there is nothing to go on with."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG)

    def fail(part: PartFile, blocks: list[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartFile, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        await fetch(network, path)


async def test_file_that_appears_meanwhile(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """A file that somebody else puts there meanwhile is not replaced."""

    def appear(received: int, total: int | None) -> None:
        path.write_text("theirs")

    api.get("/flows.zip").reply(content=CONTENT, headers=WITH_ETAG)
    with pytest.raises(FileExistsError):
        await fetch(network, path, progress=appear)
    assert path.read_text() == "theirs"
    assert (path.parent / "flows.zip.part").read_bytes() == CONTENT


async def test_old_file_stays_until_the_end(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """With ``overwrite=True`` it is replaced when the new one is whole."""
    path.write_text("old")
    api.get("/flows.zip").reply(content=CONTENT)
    seen: list[str] = []
    await fetch(network, path, overwrite=True, progress=lambda *_: seen.append(path.read_text()))
    assert seen == ["old", "old"]
    assert path.read_bytes() == CONTENT


async def test_another_working_directory(
    network: FakeNetwork, api: FakeServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is one of the folder in which the download has begun."""
    monkeypatch.chdir(path.parent)
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG).call(FileServer(), times=1)
    result = await fetch(network, Path("flows.zip"), sha256=DIGEST, progress=lambda *_: monkeypatch.chdir("/"))
    assert result.path == path
    assert files(path) == {"flows.zip"}


async def test_two_at_once(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """The second download to a path is an error at once, and does not disturb the first."""
    api.get("/flows.zip").drip(every=1, size=1000, content=CONTENT)
    async with network, network.client(PrefectHttpxClient) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.download, URL, path)
        await anyio.sleep(2.5)
        with pytest.raises(DownloadError, match=r"another download to this path is running"):
            await client.download(URL, path)
        assert anyio.current_time() == 2.5
    assert path.read_bytes() == CONTENT


async def test_many_at_once(network: FakeNetwork, api: FakeServer, tmp_path: Path) -> None:
    """Downloads to different paths do not disturb each other."""
    api.get("/{name}").call(FileServer())
    async with network, network.client(PrefectHttpxClient) as client, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(partial(client.download, f"{API}/{number}", tmp_path / str(number), sha256=DIGEST))
    assert files(tmp_path / "x") == {str(number) for number in range(10)}


# --- When it is written


async def test_slow_file(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """What arrives slowly is not held for longer than a second, in case the process is killed."""
    api.get("/flows.zip").drip(every=0.5, size=10, content=CONTENT[:100])
    sizes: list[int] = []
    part = path.parent / "flows.zip.part"
    await fetch(network, path, progress=lambda received, _: sizes.append(received - part.stat().st_size))
    assert max(sizes) <= 20
    assert sizes[-1] <= 20


async def test_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are written together, and with them the one that there is no more room for."""

    async def chunks() -> AsyncIterator[bytes]:
        for size in [2000, 2000, 2000, 1000, 4000, 1, 9000, 1, 1, 1]:
            yield b"x" * size

    written: list[list[int]] = []
    write = PartFile.write

    def note(part: PartFile, blocks: list[bytes]) -> None:
        written.append([len(block) for block in blocks])
        write(part, blocks)

    monkeypatch.setattr(PartFile, "write", note)
    monkeypatch.setattr(download_module, "_BLOCK", 5000)
    async with PrefectHttpxClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=chunks()))
    ) as client:
        result = await client.download(URL, path)
    assert written == [[4000, 2000], [5000, 1], [0, 9000], [3]]
    assert result.bytes == path.stat().st_size == 20_004


@each_row("sizes", [[700, 300, 64], [1, 999, 1500, 24], [1001], [3, 2500]])
async def test_breaks_anywhere(sizes: list[int], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the connection breaks, in a chunk, in a block or between two, what has arrived is there, and no more."""
    monkeypatch.setattr(download_module, "_BLOCK", 1000)
    edges = [edge for edge in itertools.accumulate(sizes * 5) if edge < TOTAL]
    edges += range(1000, TOTAL, 1000)
    cut = 0

    async def body() -> AsyncIterator[bytes]:
        start = 0
        for size in itertools.cycle(sizes):
            yield CONTENT[start : min(start + size, cut)]
            start += size
            if start >= cut:
                raise httpx.ReadError("broken off")

    def answer(request: httpx.Request) -> httpx.Response:
        if "Range" in request.headers:
            start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            return httpx.Response(206, headers=part_headers(start, TOTAL, TOTAL), content=CONTENT[start:])
        return httpx.Response(200, headers={"Content-Length": str(TOTAL), **WITH_ETAG}, content=body())

    policy = RetryPolicy(max_retries=0)
    async with PrefectHttpxClient(transport=httpx.MockTransport(answer), retry=policy) as client:
        for cut in sorted({edge + more for edge in edges for more in (-1, 0, 1)} - {0}):
            with pytest.raises(httpx.ReadError):
                await client.download(URL, path)
            assert (path.parent / "flows.zip.part").read_bytes() == CONTENT[:cut]
            assert (await client.download(URL, path, sha256=DIGEST)).resumed
            path.unlink()


async def test_cancelled(network: FakeNetwork, api: FakeServer, path: Path) -> None:
    """What has been received by then is kept."""
    api.get("/flows.zip").drip(every=0.1, size=1000, content=CONTENT, headers=WITH_ETAG)
    async with network.client(PrefectHttpxClient) as client:
        with anyio.move_on_after(0.45) as scope:
            await client.download(URL, path)
    assert scope.cancelled_caught
    assert anyio.current_time() == 0.45
    assert (path.parent / "flows.zip.part").read_bytes() == CONTENT[:4000]
    api.get("/flows.zip").call(FileServer(), times=1)
    assert (await fetch(network, path, sha256=DIGEST)).resumed


async def test_log(network: FakeNetwork, api: FakeServer, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong, and what follows, is logged, without credentials."""
    api.get("/flows.zip").drop(after=HALF, content=CONTENT, headers=WITH_ETAG).reply(content=CONTENT)
    with caplog.at_level(logging.DEBUG, "prefect_http"):
        await fetch(network, path, url="https://me:secret@files.example.com/flows.zip")
    lines = [record.getMessage() for record in caplog.records if "download" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith(f"GET {URL}: the download broke off at ")
    assert lines[0].endswith("; it resumes in 0 s")
    assert lines[1] == f"GET {URL}: the download starts again: the server sent the whole file again"
    assert "secret" not in caplog.text


async def test_leaves_no_garbage(path: Path) -> None:
    """A download that breaks off, gives up or is discarded leaves nothing to the garbage collector."""

    class Breaking(httpx.AsyncByteStream):
        def __init__(self) -> None:
            self.chunks = iter([CONTENT])

        def __aiter__(self) -> Breaking:
            return self

        async def __anext__(self) -> bytes:
            for chunk in self.chunks:
                return chunk
            raise httpx.ReadError("broken off")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/fine":
            return httpx.Response(200, content=CONTENT)
        return httpx.Response(200, headers={"Content-Length": "99999", **WITH_ETAG}, stream=Breaking())

    def fail(received: int, total: int | None) -> None:
        raise httpx.ConnectError("of another request")

    policy = RetryPolicy(jitter=0, max_retries=1)
    async with PrefectHttpxClient(transport=httpx.MockTransport(answer), retry=policy) as client:

        async def succeed() -> None:
            await client.download(f"{API}/fine", path, overwrite=True)

        async def give_up() -> None:
            with contextlib.suppress(httpx.HTTPError):
                await client.download(f"{API}/breaks", path.parent / "other")

        async def discard() -> None:
            with contextlib.suppress(DownloadError):
                await client.download(f"{API}/fine", path.parent / "large", max_bytes=5)

        async def stop() -> None:
            with contextlib.suppress(httpx.ConnectError):
                await client.download(f"{API}/fine", path.parent / "stopped", progress=fail)

        for do in (succeed, give_up, discard, stop):
            assert set(await garbage_of(do)) == {0}, do
