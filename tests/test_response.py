"""PrefectResponse, and the message of the error that it raises."""

from __future__ import annotations

import gzip
import http.cookiejar
import json
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import each_row
from support.scripted_transport import Body, Server

from prefect_http import Attempt, PrefectHTTPStatusError, PrefectHttpxClient, PrefectResponse
from prefect_http._httpx_details import ReadyResponse, hold_body
from prefect_http._response import note_attempts, take_over

REQUEST = httpx.Request("GET", "https://server/path?q=1")


class OddResponse(httpx.Response):
    """Somebody else's response class."""


def response_of(status: int = 500, **more: Any) -> PrefectResponse:
    """Return a response with a request."""
    more.setdefault("request", REQUEST)
    return PrefectResponse(status, **more)


def message_of(response: httpx.Response) -> str:
    """Return the message of the response's error."""
    with pytest.raises(PrefectHTTPStatusError) as caught:
        response.raise_for_status()
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.isprintable()
    return message


def detail_of(**more: Any) -> str:
    """Return the part of the message that comes from the body."""
    head = "500 Internal Server Error for GET https://server/path?q=1"
    message = message_of(response_of(**more))
    assert message.startswith(head)
    return message.removeprefix(head)


# --- raise_for_status


@each_row("status", [101, 200, 201, 204, 299])
def test_raise_for_status_returns_the_response(status: int) -> None:
    """For a 2xx or a 101 the response is returned."""
    response = response_of(status)
    assert response.raise_for_status() is response


@each_row("status", [100, 102, 199, 300, 302, 304, 400, 404, 429, 500, 503, 599])
def test_raise_for_status_raises(status: int) -> None:
    """Any other status raises PrefectHTTPStatusError, a subclass of httpx's error."""
    response = response_of(status)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    error = caught.value
    assert type(error) is PrefectHTTPStatusError
    assert error.response is response
    assert error.request is REQUEST
    assert error.attempts == ()


def test_raise_for_status_without_a_request() -> None:
    """As in httpx, a response without a request is a RuntimeError."""
    with pytest.raises(RuntimeError, match="request"):
        PrefectResponse(500).raise_for_status()


@each_row(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 30.0),
        ([("Retry-After", "7"), ("Retry-After", "8")], 8.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT"}, None),
    ],
    ids=["absent", "seconds", "malformed", "negative", "date", "twice", "past"],
)
def test_the_error_has_the_retry_after(headers: Any, seconds: float | None) -> None:
    """The error has the response's Retry-After, whatever its status."""
    with pytest.raises(PrefectHTTPStatusError) as caught:
        response_of(404, headers=headers).raise_for_status()
    assert caught.value.retry_after == seconds


# --- The message


def test_the_message_without_a_body() -> None:
    """The message has the status, the method and the URL."""
    assert message_of(response_of(404)) == "404 Not Found for GET https://server/path?q=1"


@pytest.mark.parametrize("status", [499, 599])
def test_the_message_of_an_unknown_status(status: int) -> None:
    """A status without a name is shown as a number."""
    assert message_of(response_of(status)) == f"{status} for GET https://server/path?q=1"


def test_the_message_has_the_servers_own_phrase() -> None:
    """The reason phrase is the server's own."""
    response = response_of(404, extensions={"reason_phrase": b"Nowhere"})
    assert message_of(response) == "404 Nowhere for GET https://server/path?q=1"


def test_the_message_has_the_usual_phrase_if_the_server_sends_none() -> None:
    """Many servers leave it out."""
    for status, words in (404, "404 Not Found"), (499, "499"):
        response = response_of(status, extensions={"reason_phrase": b""})
        assert message_of(response) == f"{words} for GET https://server/path?q=1"


def test_the_message_hides_what_the_reason_phrase_echoes() -> None:
    """Credentials that a server echoes in its reason phrase are not shown, a password in clear text included."""
    headers = {"Authorization": "Basic dXNlcjpzM2NyZXQ="}
    response = httpx.Response(
        401,
        request=httpx.Request("GET", "http://server/", headers=headers),
        extensions={"reason_phrase": b"No s3cret, dXNlcjpzM2NyZXQ="},
    )
    with pytest.raises(PrefectHTTPStatusError, match=r"^401 No \[secure\], \[secure\] for GET http://server/$"):
        PrefectResponse.from_httpx_response(response).raise_for_status()


def test_a_strange_phrase_is_one_line() -> None:
    """A strange reason phrase neither breaks the line nor fills it."""
    response = response_of(404, extensions={"reason_phrase": b"No\r\n\x1b[31m" + b"x" * 1000})
    assert len(message_of(response)) < 400


@pytest.mark.parametrize(
    "url",
    ["https://user:s3cret@server/path?q=1", "https://s3cret@server/path?q=1", "https://:s3cret@server/path?q=1"],
)
def test_the_message_has_no_userinfo(url: str) -> None:
    """The message does not contain the URL's credentials."""
    response = response_of(404, request=httpx.Request("GET", url))
    assert message_of(response) == "404 Not Found for GET https://server/path?q=1"


@each_row(
    ("body", "detail"),
    [
        ({"detail": "Flow not found"}, ": Flow not found"),
        ({"detail": "two\nlines\t"}, ": two lines"),
        ({"detail": ["a", 1]}, ': ["a", 1]'),
        ({"detail": [{"loc": ["body", "name"], "msg": "missing"}]}, ': [{"loc": ["body", "name"], "msg": "missing"}]'),
        ({"detail": {"code": 7}}, ': {"code": 7}'),
        ({"detail": 42}, ": 42"),
        ({"detail": True}, ": true"),
        ({"detail": 1e400}, ": Infinity"),
        ({"detail": ""}, ': {"detail":""}'),
        ({"detail": None}, ': {"detail":null}'),
        ({"detail": []}, ': {"detail":[]}'),
        ({"error": "no detail"}, ': {"error":"no detail"}'),
        (["no", "object"], ': ["no","object"]'),
        ("text", ': "text"'),
        (None, ": null"),
        ({}, ": {}"),
    ],
)
def test_the_message_has_the_json_detail(body: object, detail: str) -> None:
    """The detail of a JSON body is shown, of whatever type; without one, the start of the text."""
    content = json.dumps(body, separators=(",", ":")).encode()
    assert detail_of(content=content) == detail


def test_the_json_detail_needs_no_content_type() -> None:
    """JSON is recognized whatever the Content-Type."""
    response = {"content": b'{"detail": "why"}', "headers": {"Content-Type": "text/html"}}
    assert detail_of(**response) == ": why"


@each_row("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_may_be_in_any_unicode_encoding(encoding: str) -> None:
    """JSON is decoded in any Unicode encoding."""
    assert detail_of(content='{"detail": "Größe"}'.encode(encoding)) == ": Größe"


def test_the_message_has_the_start_of_the_text() -> None:
    """A body that is not JSON is shown as text, in one line."""
    assert detail_of(text="<h1>Bad\n gateway</h1>\n\n") == ": <h1>Bad gateway</h1>"


def test_a_long_text_is_cut() -> None:
    """Of a long text the start is shown, with an ellipsis."""
    detail = detail_of(text="word " * 1_000_000)
    assert detail.startswith(": word word")
    assert detail.endswith("…")
    assert len(detail) <= 502


def test_a_long_detail_is_cut() -> None:
    """Of a long detail the start is shown, with an ellipsis."""
    detail = detail_of(json={"detail": ["x" * 100_000]})
    assert detail.startswith(': ["xxx')
    assert detail.endswith("…")
    assert len(detail) <= 502


@each_row(
    "content",
    [bytes(range(256)), b"\xff\xfe\x00", b"\x00" * 100, b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xed\xa0\x80"],
    ids=["all bytes", "marks", "zeros", "image", "surrogate"],
)
def test_a_binary_body_does_no_harm(content: bytes) -> None:
    """A body that is not text gives one printable line of limited length."""
    assert len(detail_of(content=content)) <= 502


@each_row("charset", ["latin-1", "ISO-8859-1", '"latin-1"', "cp1252"])
def test_the_text_is_read_in_its_charset(charset: str) -> None:
    """The text is decoded with the server's charset."""
    headers = {"Content-Type": f"text/plain; charset={charset}"}
    assert detail_of(content="Größe".encode("latin-1"), headers=headers) == ": Größe"


@each_row(
    "charset",
    [
        "nonsense",
        "",
        '"',
        "base64",
        "hex",
        "zlib",
        "bz2",
        "rot13",
        "idna",
        "punycode",
        "undefined",
        "unicode_escape",
        "raw_unicode_escape",
        "utf-7",
        "mbcs",
        "é",
        "a\x00b",
        "..",
        "x" * 10_000,
    ],
)
def test_an_odd_charset_does_no_harm(charset: str) -> None:
    """With an unknown charset, or one that is not a text encoding, the ASCII characters are shown."""
    content = b"told \\d plainly \xff"
    headers = [(b"Content-Type", f"text/plain; charset={charset}".encode())]
    assert "plainly" in detail_of(content=content, headers=headers)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_whatever_comes_the_message_is_one_line(content: bytes, charset: str) -> None:
    """The message is one line of limited length, whatever the body and the charset."""
    headers = [(b"Content-Type", b"text/plain; charset=" + charset.encode("utf-8", "surrogatepass"))]
    assert len(detail_of(content=content, headers=headers)) <= 502


@pytest.mark.parametrize("start", ["[", '{"a":', '{"detail":', '{"detail":['], ids=ascii)
def test_deep_json_does_no_harm(start: str) -> None:
    """JSON that is nested too deeply for Python is shown as text, and so is JSON at the limit."""
    closing = {"[": "]", '{"a":': "}", '{"detail":': "}", '{"detail":[': "]}"}[start]
    # Python's limit is 1000, minus what is on the stack.
    for depth in (*range(100, 900, 50), *range(900, 1010, 3), 5_000, 200_000):
        content = (start * depth + "1" + closing * depth).encode()
        assert detail_of(content=content).startswith((": [", ": {"))


@pytest.mark.parametrize("number", ["9" * 10_000, "1" + "0" * 5_000])
def test_a_huge_number_does_no_harm(number: str) -> None:
    """JSON with a number that Python refuses to parse is shown as text."""
    assert detail_of(content=f'{{"detail": {number}}}'.encode()).startswith(': {"detail": ')


def test_the_message_of_an_unread_response() -> None:
    """The message of a response that has not been read has no body."""
    response = response_of(404, stream=Body([b"unread"]))
    assert message_of(response) == "404 Not Found for GET https://server/path?q=1"


def test_the_message_names_the_method() -> None:
    """The method is in the message."""
    assert " for DELETE " in message_of(response_of(404, request=httpx.Request("DELETE", "http://server/")))


# --- from_httpx_response


def original_of(**more: Any) -> httpx.Response:
    """Return a response of httpx's own class, as a transport does."""
    return httpx.Response(404, request=REQUEST, **more)


def test_it_has_the_class() -> None:
    """The new response is a PrefectResponse, and a new object."""
    original = original_of(text="body")
    response = PrefectResponse.from_httpx_response(original)
    assert type(response) is PrefectResponse
    assert response is not original


def test_it_keeps_the_originals_class() -> None:
    """The original's class is not changed."""
    for original in (original_of(), OddResponse(404, request=REQUEST)):
        kind = type(original)
        PrefectResponse.from_httpx_response(original)
        assert type(original) is kind


def test_a_prefect_response_is_returned_unchanged() -> None:
    """A PrefectResponse is returned itself."""
    response = response_of()
    assert PrefectResponse.from_httpx_response(response) is response


def test_something_else_is_an_error() -> None:
    """What is not a response is a TypeError that says so."""
    text: Any = "body"
    with pytest.raises(TypeError, match=r"^from_httpx_response\(\) takes an httpx.Response, not 'body'$"):
        PrefectResponse.from_httpx_response(text)


def test_a_subclass_gets_its_own_kind() -> None:
    """A subclass makes responses of its own class, even from a PrefectResponse."""

    class Ours(PrefectResponse):
        pass

    assert type(Ours.from_httpx_response(original_of())) is Ours
    assert type(Ours.from_httpx_response(response_of(text="x"))) is Ours


def test_it_has_everything_of_a_read_response() -> None:
    """The copy of a response that has been read has everything."""
    earlier = httpx.Response(302, request=REQUEST)
    original = original_of(
        headers={"X-A": "1", "Set-Cookie": "c=1"},
        text="Größe",
        extensions={"http_version": b"HTTP/2", "reason_phrase": b"Nowhere"},
        history=[earlier],
        default_encoding="latin-1",
    )
    original.elapsed = timedelta(seconds=3)
    response = PrefectResponse.from_httpx_response(original)
    assert response.status_code == 404
    assert response.headers == original.headers
    assert response.content == original.content
    assert response.text == "Größe"
    assert response.request is REQUEST
    assert response.url == REQUEST.url
    assert response.history == [earlier]
    assert response.http_version == "HTTP/2"
    assert response.reason_phrase == "Nowhere"
    assert response.elapsed == timedelta(seconds=3)
    assert response.cookies["c"] == "1"
    assert response.default_encoding == "latin-1"
    assert response.is_closed
    assert response.is_stream_consumed


def test_it_keeps_the_originals_extensions() -> None:
    """The extensions are the same objects in another dictionary."""
    stream = object()
    original = original_of(extensions={"network_stream": stream})
    response = PrefectResponse.from_httpx_response(original)
    assert response.extensions == {"network_stream": stream}
    response.extensions["more"] = 1
    assert original.extensions == {"network_stream": stream}


def test_it_keeps_the_originals_headers_and_history() -> None:
    """Changes to the new response's headers and history do not affect the original."""
    original = original_of(headers={"X-A": "1"})
    response = PrefectResponse.from_httpx_response(original)
    response.headers["X-A"] = "2"
    response.history.append(original)
    assert original.headers["X-A"] == "1"
    assert original.history == []


def test_it_keeps_the_originals_stream() -> None:
    """The original keeps its stream."""
    body = Body([b"x"])
    original = original_of(stream=body)
    PrefectResponse.from_httpx_response(original)
    assert original.stream is body
    assert not original.is_closed
    assert not original.is_stream_consumed


def test_a_response_without_a_request() -> None:
    """A response without a request can be copied."""
    response = PrefectResponse.from_httpx_response(httpx.Response(200, text="x"))
    with pytest.raises(RuntimeError, match="request"):
        _ = response.request


@pytest.mark.anyio
async def test_an_unread_stream_can_be_read() -> None:
    """A response that has not been read can be read through the new one, and is closed with it."""
    body = Body([b"one ", b"two"])
    original = original_of(stream=body)
    response = PrefectResponse.from_httpx_response(original)
    assert not body.is_started
    assert await response.aread() == b"one two"
    assert response.is_closed
    assert original.is_closed
    assert body.is_closed


@pytest.mark.anyio
async def test_an_unread_stream_can_be_streamed() -> None:
    """A response that has not been read can be streamed through the new one, chunk by chunk."""
    body = Body([b"one ", b"two"])
    response = PrefectResponse.from_httpx_response(original_of(stream=body))
    given = [(chunk, body.given) async for chunk in response.aiter_raw()]
    assert given == [(b"one ", 4), (b"two", 7)]
    assert response.num_bytes_downloaded == 7


@pytest.mark.anyio
async def test_an_unread_stream_is_decoded_once() -> None:
    """An encoded body is decoded through the new response, once."""
    body = Body([gzip.compress(b"plain")])
    response = PrefectResponse.from_httpx_response(original_of(stream=body, headers={"Content-Encoding": "gzip"}))
    assert await response.aread() == b"plain"


@pytest.mark.anyio
async def test_an_unread_stream_can_be_closed() -> None:
    """Closing the new response closes the original's stream."""
    body = Body([b"x"])
    original = original_of(stream=body)
    response = PrefectResponse.from_httpx_response(original)
    await response.aclose()
    assert body.is_closed
    assert original.is_closed
    assert response.is_closed


@pytest.mark.anyio
async def test_the_error_of_an_unread_stream() -> None:
    """If the new response is read later, the message has its text."""
    response = PrefectResponse.from_httpx_response(original_of(stream=Body([b"no such flow"])))
    await response.aread()
    assert message_of(response) == "404 Not Found for GET https://server/path?q=1: no such flow"


@pytest.mark.anyio
async def test_a_stream_that_is_streamed_away_stays_so() -> None:
    """What has been streamed from the original cannot be read from the new response, as in httpx."""
    original = original_of(stream=Body([b"x"]))
    async for _chunk in original.aiter_raw():
        pass
    response = PrefectResponse.from_httpx_response(original)
    with pytest.raises(httpx.StreamConsumed):
        await response.aread()


@pytest.mark.anyio
async def test_a_stream_that_was_closed_under_it() -> None:
    """If the original is closed, the new response cannot be read, as in httpx."""
    original = original_of(stream=Body([b"x"]))
    response = PrefectResponse.from_httpx_response(original)
    await original.aclose()
    with pytest.raises(httpx.StreamClosed):
        await response.aread()


@pytest.mark.anyio
async def test_a_stream_that_breaks_off() -> None:
    """What the original's stream raises is raised with the request, and the new response can be closed."""
    error = httpx.ReadError("broken")
    body = Body([b"x", error])
    response = PrefectResponse.from_httpx_response(original_of(stream=body))
    with pytest.raises(httpx.ReadError) as caught:
        await response.aread()
    assert caught.value is error
    assert caught.value.request is REQUEST
    await response.aclose()
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("read", [False, True], ids=["closed", "read"])
async def test_elapsed_of_a_streamed_response(read: bool) -> None:
    """Both responses have the elapsed time once they are read or closed."""
    with anyio.fail_after(5):
        async with httpx.AsyncClient(transport=Server(httpx.Response(200, stream=Body([b"x"])))) as client:
            original = await client.send(client.build_request("GET", "http://server/"), stream=True)
            response = PrefectResponse.from_httpx_response(original)
            with pytest.raises(RuntimeError):
                _ = response.elapsed
            await (response.aread() if read else response.aclose())
    assert response.elapsed > timedelta()
    assert original.elapsed == response.elapsed


@pytest.mark.anyio
async def test_a_sync_stream_is_refused_as_in_httpx() -> None:
    """A sync stream cannot be read by an async call."""
    response = PrefectResponse.from_httpx_response(original_of(content=iter([b"x"])))
    with pytest.raises(RuntimeError):
        await response.aread()


# --- In place of a transport's response


def read_already() -> httpx.Response:
    """Return a response that has been read before it is returned."""
    response = httpx.Response(200, stream=httpx.ByteStream(b"body"))
    response.read()
    return response


def held(cls: type[ReadyResponse]) -> ReadyResponse:
    """Return a response whose body has come along with its head."""
    response = cls(200, stream=Body([b"body"]))
    hold_body(response, b"body")
    return response


RESPONSES: dict[str, Callable[[], httpx.Response]] = {
    "content": lambda: httpx.Response(200, content=b"body"),
    "text": lambda: httpx.Response(200, text="body"),
    "bytes": lambda: httpx.Response(200, stream=httpx.ByteStream(b"body")),
    "stream": lambda: httpx.Response(200, stream=Body([b"bo", b"dy"])),
    "read": read_already,
    "ready": lambda: held(ReadyResponse),
    "ours": lambda: PrefectResponse(200, stream=Body([b"body"])),
    "ours, held": lambda: held(PrefectResponse),
    "ours, read": lambda: PrefectResponse(200, content=b"body"),
    "another class": lambda: OddResponse(200, stream=Body([b"body"])),
    "another class, read": lambda: OddResponse(200, content=b"body"),
    "encoded": lambda: httpx.Response(200, stream=Body([gzip.compress(b"body")]), headers={"Content-Encoding": "gzip"}),
    "encoded bytes": lambda: httpx.Response(
        200, stream=httpx.ByteStream(gzip.compress(b"body")), headers={"Content-Encoding": "gzip"}
    ),
}


@pytest.mark.anyio
@each_row("max_bytes", [None, 4], ids=["any size", "limited"])
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("name", RESPONSES)
async def test_responses_of_a_transport(name: str, stream: bool, max_bytes: int | None) -> None:
    """Whatever a transport returns, the caller gets a PrefectResponse with its request, its body and its time."""
    answer = RESPONSES[name]()
    answer.headers["X-A"] = "1"
    answer.extensions["b"] = 2
    async with PrefectHttpxClient(
        transport=httpx.MockTransport(lambda _: answer), max_response_bytes=max_bytes, default_encoding="ascii"
    ) as client:
        request = client.build_request("GET", "http://server/")
        response = await client.send(request, stream=stream)
        was_read = response.is_closed
        assert await response.aread() == response.content == b"body"
        assert b"".join([chunk async for chunk in response.aiter_bytes(3)]) == b"body"
    assert type(response) is PrefectResponse
    assert response.request is request
    assert (response.text, response.default_encoding) == ("body", "ascii")
    assert (response.headers["X-A"], response.extensions["b"]) == ("1", 2)
    assert (response.is_closed, response.is_stream_consumed, response.history) == (True, True, [])
    assert was_read or stream
    assert [attempt.status_code for attempt in response.attempts] == [200]
    if not was_read:
        assert response.elapsed >= timedelta()
    again = pickle.loads(pickle.dumps(response))
    assert (again.content, again.attempts) == (b"body", response.attempts)


@pytest.mark.anyio
@each_row("name", ["ours", "ours, held", "another class", "stream"])
async def test_what_becomes_of_the_transports_own_response(name: str) -> None:
    """One of ours is returned itself, one of another class is closed as well, and the stream is closed once."""
    original = RESPONSES[name]()
    stream = original.stream
    assert isinstance(stream, Body)
    taken = take_over(original, REQUEST, 0.0, None)
    assert (taken is original) is name.startswith("ours")
    assert await taken.aread() == b"body"
    await taken.aclose()
    assert stream.close_count == 1
    assert original.is_closed is (name != "stream")


@pytest.mark.anyio
async def test_one_response_for_several_requests() -> None:
    """A mock may return the same response each time; each request has a response of its own."""
    answer = httpx.Response(200, json={"a": 1})
    async with PrefectHttpxClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        first, second = [await client.get(f"http://server/{number}") for number in range(2)]
    assert first.json() == second.json() == {"a": 1}
    assert (first.url.path, second.url.path) == ("/0", "/1")
    assert first is not second


# --- The attempts of a response


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_the_attempts(seconds: float | None) -> None:
    """They are those before, and the last one if that was good; they are kept when the response is pickled."""
    assert response_of(200).attempts == ()
    earlier = (Attempt(1, 503, None, 2.0, "backoff of 2 s", 0.1),)
    response = response_of(200, content=b"")
    note_attempts(response, earlier, seconds)
    good = Attempt(2, 200, None, None, "the response was accepted", 0.5)
    assert response.attempts == (earlier if seconds is None else (*earlier, good))
    assert pickle.loads(pickle.dumps(response)).attempts == response.attempts


# --- The same for sync responses


class SyncBody(httpx.SyncByteStream):
    """A body of a sync transport."""

    def __init__(self) -> None:
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    "read",
    [lambda response: response.read(), lambda response: b"".join(response.iter_bytes())],
    ids=["read", "streamed"],
)
def test_a_sync_stream_can_be_read(read: Callable[[httpx.Response], bytes]) -> None:
    """A response of a sync client is read and streamed the sync way."""
    body = SyncBody()
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=body))) as client:
        original = client.send(client.build_request("GET", "http://server/"), stream=True)
        response = PrefectResponse.from_httpx_response(original)
        assert read(response) == b"one two"
    assert body.is_closed
    assert original.is_closed
    assert response.elapsed == original.elapsed


def test_a_sync_stream_can_be_closed() -> None:
    """Closing the new response closes a sync stream as well."""
    body = SyncBody()
    response = PrefectResponse.from_httpx_response(httpx.Response(200, stream=body))
    response.close()
    assert body.is_closed


def test_an_async_stream_is_refused_by_sync_calls_as_in_httpx() -> None:
    """An async stream cannot be read by a sync call."""
    response = PrefectResponse.from_httpx_response(original_of(stream=Body([b"x"])))
    with pytest.raises(RuntimeError):
        response.read()


# --- Pickling


def test_a_read_response_can_be_pickled() -> None:
    """A response that has been read keeps its class, status, headers and content."""
    response = PrefectResponse.from_httpx_response(original_of(json={"detail": "no"}, headers={"Retry-After": "3"}))
    again = pickle.loads(pickle.dumps(response))
    assert type(again) is PrefectResponse
    assert again.json() == {"detail": "no"}
    assert again.request.url == REQUEST.url
    assert message_of(again) == "404 Not Found for GET https://server/path?q=1: no"


def test_an_unread_response_can_be_pickled() -> None:
    """A response that has not been read is pickled without its stream, as in httpx."""
    body = Body([b"x"])
    response = PrefectResponse.from_httpx_response(original_of(stream=body))
    again = pickle.loads(pickle.dumps(response))
    assert type(again) is PrefectResponse
    assert again.is_closed
    assert message_of(again) == "404 Not Found for GET https://server/path?q=1"
    assert not body.is_started


@pytest.mark.anyio
async def test_a_response_can_be_pickled_while_it_is_read() -> None:
    """A response that is being read is pickled without what is left of its body, and can be read to its end."""
    response = PrefectResponse.from_httpx_response(original_of(stream=Body([b"one", b"two"])))
    chunks = response.aiter_bytes()
    assert await anext(chunks) == b"one"
    again = pickle.loads(pickle.dumps(response))
    assert (again.is_closed, again.is_stream_consumed, again.num_bytes_downloaded) == (True, True, 3)
    assert [chunk async for chunk in chunks] == [b"two"]


def test_pickling_leaves_the_response_alone() -> None:
    """A response that has been pickled can still be read."""
    response = PrefectResponse.from_httpx_response(httpx.Response(200, content=iter([b"x"])))
    pickle.dumps(response)
    assert response.read() == b"x"


def test_the_elapsed_time_and_the_history_are_pickled() -> None:
    """The elapsed time and the history are pickled, as in httpx."""
    original = original_of(text="x", history=[httpx.Response(302, request=REQUEST, text="moved")])
    original.elapsed = timedelta(seconds=2)
    again = pickle.loads(pickle.dumps(PrefectResponse.from_httpx_response(original)))
    assert again.elapsed == timedelta(seconds=2)
    assert [response.status_code for response in again.history] == [302]


def test_cookies_are_shared() -> None:
    """The cookies of a response are copied, whether or not they were read before."""
    original = original_of(headers={"Set-Cookie": "a=1"})
    assert isinstance(original.cookies.jar, http.cookiejar.CookieJar)
    assert PrefectResponse.from_httpx_response(original).cookies["a"] == "1"
