"""Request bodies that are files of anyio or trio."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Callable
from typing import Any, cast

import anyio
import httpx
import pytest
import trio
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Server

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient
from prefect_http._client.file_body import FileBody, as_file_body
from prefect_http.testing import FakeNetwork

FRAMING = ("content-length", "transfer-encoding")
WHOLE = b"line\n" * 40_000  # 200 kB


class Pipe(io.BytesIO):
    """A file that cannot be rewound."""

    def seekable(self) -> bool:
        return False


class WithoutEnd(io.BytesIO):
    """A file that cannot tell where it ends, as those in /proc."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise OSError("invalid argument")
        return super().seek(offset, whence)


class Broken(io.BytesIO):
    """A file that cannot be read beyond its beginning."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError("the disk is gone")
        return super().read(size)


def half_read() -> io.BytesIO:
    """Return a file that has been read up to its second byte."""
    file = io.BytesIO(b"x" + WHOLE)
    file.read(1)
    return file


FILES: dict[str, Callable[[], Any]] = {
    "anyio": lambda: anyio.wrap_file(io.BytesIO(WHOLE)),
    "half read": lambda: anyio.wrap_file(half_read()),
}


# --- Which files


@each_row("wrap", [anyio.wrap_file, trio.wrap_file])
def test_files_of_anyio_and_trio(wrap: Callable[[Any], Any]) -> None:
    """A file of either library, however it was made, is a body that can be sent again."""
    with tempfile.TemporaryFile() as file, tempfile.NamedTemporaryFile() as named:
        for each in (file, named, io.BytesIO()):
            assert isinstance(as_file_body(wrap(each)), FileBody)


@each_row(
    "content",
    [None, b"bytes", io.BytesIO(b"sync"), [b"parts"]],
    ids=["nothing", "bytes", "sync file", "list"],
)
def test_other_bodies(content: object) -> None:
    """Anything else is left to httpx."""
    assert as_file_body(content) is None


def test_what_only_looks_like_a_file() -> None:
    """An object that wraps what is no file is left to httpx."""

    class Wrapper:
        wrapped = object()

        def read(self) -> None: ...

        def seek(self) -> None: ...

        def __aiter__(self) -> None: ...

    assert as_file_body(Wrapper()) is None


def test_a_text_file_is_an_error() -> None:
    """A file that is open in text mode is refused at once, and the message says what to do."""
    client = PrefectHttpxClient()
    with tempfile.TemporaryFile("w+") as file, tempfile.NamedTemporaryFile("w+") as named:
        for each in (io.StringIO("text"), file, named):
            content: Any = anyio.wrap_file(each)
            with pytest.raises(TypeError, match="open it in binary mode, 'rb'"):
                client.build_request("PUT", URL, content=content)


@each_row(
    "given, expected",
    [
        ({}, {"content-length": "200000"}),
        ({"Content-Length": "200000"}, {"content-length": "200000"}),
        ({"Transfer-Encoding": "chunked"}, {"transfer-encoding": "chunked"}),
    ],
)
@each_row("of_client", [True, False])
def test_length(given: dict[str, str], expected: dict[str, str], of_client: bool) -> None:
    """The length is announced, unless the headers of the request or of the client say something else."""
    client = PrefectHttpxClient(headers=given if of_client else None)
    request = client.build_request("PUT", URL, content=FILES["half read"](), headers=None if of_client else given)
    framing = {name: value for name, value in request.headers.items() if name in FRAMING}
    assert framing == expected


# --- Through the client


@pytest.mark.anyio
@each_row("failure", [503, httpx.WriteError("broken"), httpx.Response(307, headers={"Location": "/there"})])
@each_row("name", FILES)
async def test_is_sent_whole_again(name: str, failure: object) -> None:
    """After a rejection, a failure or a redirect, a file is sent again from where it was at first."""
    server = Server(failure, failure, 200)
    async with (
        PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client,
        FILES[name]() as file,
    ):
        await client.put(URL, content=file)
    assert [seen.body for seen in server.seen] == [WHOLE] * 3


@pytest.mark.anyio
async def test_a_pipe_is_sent_once() -> None:
    """A file that cannot be rewound is sent only once, in pieces and without a length."""
    server = Server(503)
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
        with pytest.raises(PrefectHTTPStatusError) as raised:
            await client.put(URL, content=anyio.wrap_file(Pipe(WHOLE)))
    assert [(seen.body, seen.headers["transfer-encoding"]) for seen in server.seen] == [(WHOLE, "chunked")]
    assert "one-shot" in raised.value.__notes__[0]


@pytest.mark.anyio
async def test_a_file_of_unknown_size() -> None:
    """A file without a known end is sent without a length, and again after a rejection."""
    server = Server(503, 200)
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
        await client.put(URL, content=anyio.wrap_file(WithoutEnd(WHOLE)))
    assert [(seen.body, seen.headers.get("transfer-encoding")) for seen in server.seen] == [(WHOLE, "chunked")] * 2


@pytest.mark.anyio
async def test_is_read_in_large_pieces() -> None:
    """It is read in pieces of 64 KiB, and not line by line, up to the end that it had when the request was built."""
    raw = io.BytesIO(WHOLE)
    async with PrefectHttpxClient() as client:
        request = client.build_request("PUT", URL, content=anyio.wrap_file(raw))
    raw.seek(0, io.SEEK_END)
    raw.write(b"more")
    assert isinstance(request.stream, httpx.AsyncByteStream)
    assert [len(piece) async for piece in aiter(request.stream)] == [65_536, 65_536, 65_536, 3_392]


@pytest.mark.anyio
@pytest.mark.parametrize("http2", [False, True])
async def test_over_the_wire(http2: bool) -> None:
    """A server gets the same body and the same length each time."""
    network = FakeNetwork()
    network.serve("https://api").put("/file").reply(503).early_answer(503).reply(201)
    async with network.client(PrefectHttpxClient, retry=AT_ONCE, http2=http2) as client:
        await client.put("https://api/file", content=FILES["anyio"]())
    first, _, third = network.requests
    assert first.body == third.body == WHOLE
    assert first.headers["content-length"] == third.headers["content-length"] == "200000"


@pytest.mark.anyio
@pytest.mark.parametrize("http2", [False, True])
async def test_a_file_that_cannot_be_read(http2: bool) -> None:
    """What the file raises is raised plain, and the request is not retried."""
    network = FakeNetwork()
    network.serve("https://api").put("/file").reply(201, times=None)
    async with network.client(PrefectHttpxClient, retry=AT_ONCE, http2=http2) as client:
        with pytest.raises(OSError, match="the disk is gone"):
            await client.put("https://api/file", content=anyio.wrap_file(Broken(WHOLE)))
    assert len(network.connections) == 1


@pytest.mark.anyio
async def test_a_file_that_has_become_shorter() -> None:
    """A file that is shorter than it was is an error, and no server takes it for a whole one."""
    network = FakeNetwork()
    network.serve("http://api").put("/file").reply(201, times=None)
    raw = io.BytesIO(WHOLE)
    async with network.client(PrefectHttpxClient) as client:
        request = client.build_request("PUT", "http://api/file", content=anyio.wrap_file(raw))
        raw.truncate(1000)
        with pytest.raises(httpx.LocalProtocolError):
            await client.send(request)
    assert not network.requests[0].is_complete


@pytest.mark.anyio
async def test_a_compressed_file_is_not_decompressed_to_find_out_its_size() -> None:
    """That would take long, in the event loop."""

    class Compressed(gzip.GzipFile):
        def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
            assert whence != io.SEEK_END
            return super().seek(offset, whence)

    file: Any = Compressed(fileobj=io.BytesIO(gzip.compress(WHOLE)))
    body = as_file_body(anyio.wrap_file(file))
    assert body is not None
    assert body.size is None
    assert b"".join([part async for part in body]) == WHOLE


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
async def test_bytes_as_data_are_sent_in_place_of_a_file() -> None:
    """As with httpx."""
    client = PrefectHttpxClient()
    file = anyio.wrap_file(io.BytesIO(WHOLE))
    request = client.build_request("POST", "http://server/", content=file, data=cast("Any", b"raw"))
    assert (request.headers["Content-Length"], request.content) == ("3", b"raw")
