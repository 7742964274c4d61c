"""HTTPTransport compared with httpx.AsyncHTTPTransport: the same code does the same with the same servers."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import hashlib
import inspect
import io
import json
import pickle
import re
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from typing import Any, cast

import anyio
import anyio.abc
import h11
import httpx
import pytest
import uvicorn
from support.rows import each_row
from support.servers import hypercorn_on_trio, refusing_port
from support.wire import trusting_context

from prefect_http import HTTPTransport, PrefectHttpxClient, RetryPolicy
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

BIG = bytes(range(256)) * 2048  # 512 KiB
LINES = "one\ntwo\r\n\r\nthree\u2028four\rlast without an end"
TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 20
NONCE = "dcd98b7102dd2f0e8b11d0f600bfb0c093"

# --- The app


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond as the path says."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{stage}"
            await send({"type": f"lifespan.{stage}.complete"})
        return
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    match scope["path"].split("/")[1:]:
        case ["echo", *_]:
            await _echo(scope, receive, send)
        case ["back"]:
            await _answer(send, body=await _body(receive))
        case ["status", status]:
            await _answer(send, int(status), body=b"" if status in {"204", "304"} else b"status " + status.encode())
        case ["headers"]:
            more = [(b"x-twice", b"1"), (b"x-other", b"caf\xe9"), (b"x-twice", b"2, 3"), (b"x-empty", b"")]
            await _answer(send, 200, *more, body=b"headers")
        case ["redirect", status, *rest]:
            await _body(receive)
            await _answer(send, int(status), (b"location", ("/" + "/".join(rest)).encode()), body=b"elsewhere")
        case ["loop"]:
            await _answer(send, 302, (b"location", b"/loop"))
        case ["basic"]:
            is_known = headers.get("authorization") == "Basic " + base64.b64encode(b"user:pass").decode()
            await _answer(send, 200 if is_known else 401, (b"www-authenticate", b'Basic realm="r"'), body=b"basic")
        case ["digest", algorithm]:
            await _body(receive)
            challenge = f'Digest realm="r", nonce="{NONCE}", qop="auth", algorithm={algorithm}, opaque="o"'
            is_known = _is_digest(scope, headers.get("authorization", ""), algorithm)
            await _answer(send, 200 if is_known else 401, (b"www-authenticate", challenge.encode()), body=b"digest")
        case ["cookies", *_]:
            await _set_cookies(send)
        case ["coded", coding]:
            body, name = CODED[coding]
            await _answer(send, 200, (b"content-encoding", name.encode()), (b"content-type", b"text/plain"), body=body)
        case ["charset", charset]:
            await _answer(
                send, 200, (b"content-type", f"text/plain; charset={charset}".encode()), body=TEXT.encode(charset)
            )
        case ["lines"]:
            await _answer(send, 200, (b"content-type", b"text/plain; charset=utf-8"), body=LINES.encode())
        case ["chunks"]:
            await send(_start(200))
            for number in range(20):
                await send(_part(b"chunk %d;" % number, more=True))
            await send(_part(b""))
        case ["big"]:
            await _answer(send, body=BIG)
        case ["broken"]:
            await send(_start(200, (b"content-length", b"100")))
            await send(_part(b"0123456789", more=True))
            raise RuntimeError("the app crashed")
        case ["stall"]:
            await send(_start(200, (b"content-length", b"100")))
            await send(_part(b"0123456789", more=True))
            await _wait_for_disconnect(receive)
        case _:
            await _wait_for_disconnect(receive)


def _start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def _part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _answer(send: Send, status: int = 200, *headers: tuple[bytes, bytes], body: bytes = b"") -> None:
    lengths = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
    await send(_start(status, *lengths, *headers))
    await send(_part(body))


async def _body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Return what the request was; of a large body only the hash."""
    body = await _body(receive)
    shown = body.decode("latin-1") if len(body) < 1000 else hashlib.sha256(body).hexdigest()
    received = {
        "method": scope["method"],
        "path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "headers": [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]],
        "length": len(body),
        "body": shown,
    }
    await _answer(send, 200, (b"content-type", b"application/json"), body=json.dumps(received).encode())


async def _set_cookies(send: Send) -> None:
    await _answer(
        send,
        200,
        (b"set-cookie", b"one=1; Path=/"),
        (b"set-cookie", b'two="2 2"; Path=/; HttpOnly'),
        (b"set-cookie", b"three=3; Path=/elsewhere"),
        (b"set-cookie", b"gone=; Max-Age=0; Path=/"),
    )


def _is_digest(scope: Scope, authorization: str, algorithm: str) -> bool:
    """Check the credentials (RFC 7616 section 3.4.1)."""
    fields = {
        name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^", ]+))', authorization)
    }
    if not fields:
        return False

    def hashed(text: str) -> str:
        return hashlib.new("md5" if algorithm == "MD5" else "sha256", text.encode()).hexdigest()

    secret, request = hashed("user:r:pass"), hashed(f"{scope['method']}:{fields['uri']}")
    expected = hashed(":".join([secret, NONCE, fields["nc"], fields["cnonce"], fields["qop"], request]))
    return (fields["response"], fields["opaque"]) == (expected, "o")


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODED = {
    "gzip": (gzip.compress(TEXT.encode()), "gzip"),
    "x-gzip-big": (gzip.compress(BIG), "gzip"),
    "deflate": (zlib.compress(TEXT.encode()), "deflate"),
    "raw-deflate": (_raw_deflate(TEXT.encode()), "deflate"),
    "twice": (zlib.compress(gzip.compress(TEXT.encode())), "gzip, deflate"),
    "identity": (TEXT.encode(), "identity"),
    "unknown": (TEXT.encode(), "rot13"),
    "empty": (b"", "gzip"),
    "broken": (b"this is no gzip", "gzip"),
    "cut": (gzip.compress(TEXT.encode())[:-30], "gzip"),
}


# --- The servers and the clients


@contextlib.contextmanager
def uvicorn_with_httptools(app: ASGIApp) -> Generator[str, None, None]:
    """Run an app under uvicorn with its C parser, in a thread; yield its URL."""
    config = uvicorn.Config(app, loop="asyncio", http="httptools", ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio does so only for sockets of its own. Without it, many responses would take 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive(), "the server does not stop"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Serve the app twice; yield the URLs."""
    with hypercorn_on_trio(app) as one, uvicorn_with_httptools(app) as two:
        yield {"hypercorn": one, "uvicorn": two}


def httpx_client(**arguments: Any) -> httpx.AsyncClient:
    """Make a client with httpx's own transport."""
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(verify=trusting_context()), trust_env=False, **arguments
    )


def wire_client(**arguments: Any) -> httpx.AsyncClient:
    """Make the same client with ours."""
    return httpx.AsyncClient(transport=HTTPTransport(verify=trusting_context()), trust_env=False, **arguments)


def prefect_client(**arguments: Any) -> httpx.AsyncClient:
    """Make a PrefectHttpxClient that does nothing of its own."""
    headers = {"User-Agent": f"python-{httpx.__name__}/{httpx.__version__}", **arguments.pop("headers", {})}
    return PrefectHttpxClient(
        retry=RetryPolicy(max_retries=0),
        raise_on_all_errors=False,
        headers=headers,
        verify=trusting_context(),
        trust_env=False,
        **arguments,
    )


NewClient = Callable[..., httpx.AsyncClient]
Case = Callable[[NewClient, str], Awaitable[object]]
"""Uses a client with a server, whose URL it is given, and returns everything that a user could see."""

CASES: dict[str, Case] = {}


def case(do: Case) -> Case:
    """Add a function to the cases."""
    CASES[getattr(do, "__name__", "")] = do
    return do


def of(response: httpx.Response) -> dict[str, object]:
    """Return everything about a response except what differs each time."""
    seen: dict[str, object] = {
        "status": response.status_code,
        "reason": response.reason_phrase,
        "version": response.http_version,
        "headers": [(name, value) for name, value in response.headers.raw if name.lower() != b"date"],
        "encoding": response.encoding,
        "charset": response.charset_encoding,
        "history": [of(earlier) for earlier in response.history],
        "next": response.next_request and str(response.next_request.url),
        "url": str(response.url),
        "request": (response.request.method, str(response.request.url), _sent(response.request)),
        "extensions": {name: type(value) for name, value in response.extensions.items() if name != "network_stream"},
        "has_network_stream": "network_stream" in response.extensions,
        "bytes": response.num_bytes_downloaded,
        "is_closed": response.is_closed,
        "is_consumed": response.is_stream_consumed,
        "has_elapsed": response.is_closed and response.elapsed > datetime.timedelta(),
        "cookies": sorted(response.cookies.items()),
        "links": response.links,
    }
    with contextlib.suppress(httpx.ResponseNotRead):
        seen["content"] = response.content
        seen["text"] = response.text
    return seen


def _sent(request: httpx.Request) -> list[tuple[bytes, bytes]]:
    """Return the request's headers; of credentials, which have random parts, only the scheme."""
    return [
        (name, value.partition(b" ")[0] if name.lower() == b"authorization" else value)
        for name, value in request.headers.raw
    ]


async def outcome(do: Case, new_client: NewClient, url: str) -> object:
    """Return what a case results in, which may be an exception."""
    with anyio.fail_after(60):
        try:
            return await do(new_client, url)
        except TimeoutError:  # it hangs
            raise
        except Exception as error:
            return type(error), isinstance(error, httpx.RequestError) and str(error.request.url)


# --- Requests: methods, targets, headers, bodies


def simple(name: str, method: str, path: str, **arguments: Any) -> None:
    """Add a case of one request; an argument that is a function makes one."""

    async def do(new_client: NewClient, url: str) -> object:
        made: dict[str, Any] = {key: value() if callable(value) else value for key, value in arguments.items()}
        async with new_client() as client:
            return of(await client.request(method, url + path, **made))

    CASES[name] = do


async def _parts() -> AsyncIterator[bytes]:
    for part in (b"one", b"", b"two" * 10_000, b"three"):
        yield part


async def _big_parts() -> AsyncIterator[bytes]:
    for start in range(0, len(BIG), 50_000):
        yield BIG[start : start + 50_000]


async def _failing_parts() -> AsyncIterator[bytes]:
    yield b"one"
    raise KeyError("the body's own error")


for _method in ("GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH", "PROPFIND", "get", "X-Own"):
    simple(f"method {_method}", _method, "/echo")
for _status in (201, 204, 205, 300, 304, 404, 503, 599):
    simple(f"status {_status}", "GET", f"/status/{_status}")
    simple(f"HEAD of status {_status}", "HEAD", f"/status/{_status}")
for _coding in CODED:
    simple(f"coded {_coding}", "GET", f"/coded/{_coding}")
for _charset in ("utf-8", "latin-1", "utf-16", "cp1252"):
    simple(f"charset {_charset}", "GET", f"/charset/{_charset}")
for _code in (301, 302, 303, 307, 308):
    simple(f"{_code} of HEAD", "HEAD", f"/redirect/{_code}/echo", follow_redirects=True)
    simple(f"{_code} with a body", "POST", f"/redirect/{_code}/echo", content=b"body", follow_redirects=True)

simple("raw path", "GET", "/echo/%7Euser/a%2Fb/ä ö?q=%20+&q=ü&empty=&flag#fragment")
simple("params", "GET", "/echo?a=1", params={"b": ["2", "3"], "c": "x y/&=", "d": ""})
simple("target extension", "GET", "/echo", extensions={"target": b"/echo/other?x=1"})
simple("header kinds", "GET", "/echo", headers=[("X-B", "2"), ("x-a", "1"), ("X-b", "3"), ("X-Empty", "")])
simple("latin-1 header", "GET", "/echo", headers=[(b"X-Caf\xc3\xa9".replace(b"\xc3\xa9", b"e"), b"caf\xe9")])
simple("own host", "GET", "/echo", headers={"Host": "example.org:99", "User-Agent": "mine"})
simple("no defaults", "GET", "/echo", headers={"Accept": "", "Connection": "close"})
simple("expect", "POST", "/echo", headers={"Expect": "100-continue"}, content=b"body")
simple("response headers", "GET", "/headers")
simple("big down", "GET", "/big")
simple("HEAD of big", "HEAD", "/big")
simple("chunked down", "GET", "/chunks")
simple("broken off", "GET", "/broken")
simple("unread redirect", "GET", "/redirect/302/echo")
simple("redirect chain", "GET", "/redirect/301/redirect/302/redirect/307/echo", follow_redirects=True)
simple("redirect loop", "GET", "/loop", follow_redirects=True)
simple("redirect of a stream", "POST", "/redirect/307/echo", content=_parts, follow_redirects=True)
simple("bytes", "POST", "/echo", content=b"body")
simple("empty bytes", "POST", "/echo", content=b"")
simple("text", "POST", "/echo", content="grüße")
simple("json", "POST", "/echo", json={"a": [1, None, "ü"]})
simple("form", "POST", "/echo", data={"a": "1", "b": ["2", "3 ü"]})
simple("GET with a body", "GET", "/echo", content=b"body")
simple("big up", "POST", "/echo", content=BIG)
simple("both ways", "POST", "/back", content=BIG)
simple("stream up", "POST", "/echo", content=_parts)
simple("stream of a length", "POST", "/echo", content=_big_parts, headers={"Content-Length": str(len(BIG))})
simple("big stream up", "PUT", "/echo", content=_big_parts)
simple("stream both ways", "PUT", "/back", content=_big_parts)
simple("failing stream", "POST", "/echo", content=_failing_parts)
simple("sync iterator", "POST", "/echo", content=lambda: iter([b"one", b"two"]))
simple("file", "POST", "/echo", content=lambda: io.BytesIO(b"file" * 100))
simple(
    "multipart",
    "POST",
    "/echo",
    data={"field": "ü"},
    files=lambda: [
        ("one", ("a.txt", io.BytesIO(b"file" * 5000), "text/plain")),
        ("two", b"bytes"),
        ("two", (None, "no name")),
    ],
    headers={"Content-Type": "multipart/form-data; boundary=b0undary"},
)
simple("basic auth", "GET", "/basic", auth=("user", "pass"))
simple("wrong basic auth", "GET", "/basic", auth=("user", "wrong"))
simple("digest MD5", "GET", "/digest/MD5?q=1", auth=lambda: httpx.DigestAuth("user", "pass"))
simple("digest SHA-256", "POST", "/digest/SHA-256", content=b"x", auth=lambda: httpx.DigestAuth("user", "pass"))
simple("wrong digest", "GET", "/digest/MD5", auth=lambda: httpx.DigestAuth("user", "wrong"))
simple("digest of a stream", "POST", "/digest/MD5", content=_parts, auth=lambda: httpx.DigestAuth("user", "pass"))
simple("header with a line break", "GET", "/echo", headers={"X-A": "a\r\nX-B: b"})
simple("header name that is none", "GET", "/echo", headers={"X A": "a"})
simple("method that is none", "G\r\nET", "/echo")
simple("slow answer", "GET", "/silence", timeout=httpx.Timeout(5, read=0.03))
simple("slow body", "GET", "/stall", timeout=httpx.Timeout(5, read=0.03))


# --- Clients


@case
async def userinfo(new_client: NewClient, url: str) -> object:
    """Use the credentials in the URL."""
    async with new_client() as client:
        return of(await client.get(url.replace("//", "//user:pass@") + "/basic"))


@case
async def digest_twice(new_client: NewClient, url: str) -> object:
    """Use a challenge for the next request as well."""
    async with new_client(auth=httpx.DigestAuth("user", "pass")) as client:
        return [of(await client.get(url + "/digest/MD5")) for _ in range(3)]


@case
async def cookies(new_client: NewClient, url: str) -> object:
    """Keep the server's cookies, send them where they belong, and keep the client's own."""
    async with new_client(cookies={"own": "0"}) as client:
        first = await client.get(url + "/cookies/set")
        second = await client.get(url + "/echo")
        third = await client.get(url + "/elsewhere/../echo/elsewhere")
        return of(first), of(second), of(third), sorted(client.cookies.jar, key=str).__len__()


@case
async def defaults_of_the_client(new_client: NewClient, url: str) -> object:
    """Merge the client's defaults with the request's arguments."""
    async with new_client(base_url=url + "/echo", params={"p": "1"}, headers={"X-Own": "1"}) as client:
        return [
            of(await client.get("/more", params={"q": "2"})),
            of(await client.get("", headers={"X-Own": "2"})),
            of(await client.send(client.build_request("POST", "x", json=[1]))),
        ]


@case
async def event_hooks(new_client: NewClient, url: str) -> object:
    """Call the hooks in order, for redirects as well."""
    seen: list[object] = []

    async def on_request(request: httpx.Request) -> None:
        request.headers["X-Hooked"] = "yes"
        seen.append((request.method, str(request.url)))

    async def on_response(response: httpx.Response) -> None:
        seen.append((response.status_code, response.is_closed, response.is_stream_consumed))
        seen.append(await response.aread())

    hooks: Mapping[str, list[Any]] = {"request": [on_request], "response": [on_response]}
    async with new_client(event_hooks=hooks, follow_redirects=True) as client:
        return of(await client.get(url + "/redirect/302/echo")), seen


@case
async def failing_hook(new_client: NewClient, url: str) -> object:
    """Raise the exception of a hook, and go on."""

    async def on_response(response: httpx.Response) -> None:
        if response.status_code == 404:
            raise KeyError("not found")

    async with new_client(event_hooks={"response": [on_response]}) as client:
        with pytest.raises(KeyError):
            await client.get(url + "/status/404")
        return of(await client.get(url + "/echo"))


@case
async def timeouts(new_client: NewClient, url: str) -> object:
    """Accept timeouts in all their forms."""
    kinds: list[Any] = [None, 5, 5.0, (1, 2, 3, 4), httpx.Timeout(None), httpx.Timeout(5, pool=None, connect=3)]
    async with new_client(timeout=httpx.Timeout(7)) as client:
        responses = [await client.get(url + "/status/200", timeout=kind) for kind in kinds]
        responses.append(await client.get(url + "/status/200"))
        return [(of(each), each.request.extensions["timeout"]) for each in responses]


@case
async def environment_of_a_request(new_client: NewClient, url: str) -> object:
    """Leave the request unchanged."""
    async with new_client() as client:
        request = client.build_request("POST", url + "/echo", content=b"body", extensions={"own": 1})
        response = await client.send(request)
        assert response.request is request
        return of(response), request.content, sorted(request.extensions)


@case
async def request_twice(new_client: NewClient, url: str) -> object:
    """Send one request twice."""
    async with new_client() as client:
        request = client.build_request("POST", url + "/echo", content=b"body")
        return of(await client.send(request)), of(await client.send(request))


@case
async def stream_twice(new_client: NewClient, url: str) -> object:
    """Refuse to send a stream twice."""
    async with new_client() as client:
        request = client.build_request("POST", url + "/echo", content=_parts())
        return of(await client.send(request)), of(await client.send(request))


@case
async def pickled(new_client: NewClient, url: str) -> object:
    """Pickle a response."""
    async with new_client() as client:
        response = pickle.loads(pickle.dumps(await client.get(url + "/coded/gzip")))
        return response.content, response.status_code, response.headers.get("content-encoding"), response.is_closed


@case
async def many_at_once(new_client: NewClient, url: str) -> object:
    """Do not mix up many requests at once."""
    found: dict[int, object] = {}

    async def get(client: httpx.AsyncClient, number: int) -> None:
        response = await client.post(f"{url}/echo/{number}", content=b"%d" % number)
        found[number] = {**of(response), "headers": None}

    async with new_client(timeout=10) as client, anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(get, client, number)
    return sorted(found.items())


@case
async def closed_client(new_client: NewClient, url: str) -> object:
    """Refuse to send once closed."""
    async with new_client() as client:
        await client.get(url + "/echo")
    return of(await client.get(url + "/echo"))


@case
async def entered_twice(new_client: NewClient, url: str) -> object:
    """Work without being entered, until closed."""
    client = new_client()
    try:
        return of(await client.get(url + "/echo"))
    finally:
        await client.aclose()


# --- Streams


@case
async def whole_then_again(new_client: NewClient, url: str) -> object:
    """Return what has been read again, decoded, but not raw."""
    async with new_client() as client:
        response = await client.get(url + "/coded/gzip")
        again = b"".join([chunk async for chunk in response.aiter_bytes()])
        assert await response.aread() == again == response.read()
        with pytest.raises(httpx.StreamConsumed):
            await anext(aiter(response.aiter_raw()))
        with pytest.raises((RuntimeError, httpx.StreamConsumed)):
            next(iter(response.iter_raw()))
        return of(response), again


def streamed(name: str, path: str, read: Callable[[httpx.Response], Awaitable[object]], **arguments: Any) -> None:
    """Add a case of one streamed response, and of a request that follows it."""

    async def do(new_client: NewClient, url: str) -> object:
        async with new_client() as client:
            async with client.stream("GET", url + path, **arguments) as response:
                before = of(response)
                try:
                    result = await read(response)
                except Exception as error:
                    result = type(error)
                within = of(response)
            return before, result, within, of(response), of(await client.get(url + "/echo"))

    CASES[name] = do


async def _lines(response: httpx.Response) -> object:
    return [line async for line in response.aiter_lines()]


async def _text(response: httpx.Response) -> object:
    return "".join([text async for text in response.aiter_text()])


async def _raw(response: httpx.Response) -> object:
    return b"".join([chunk async for chunk in response.aiter_raw()])


async def _bytes(response: httpx.Response) -> object:
    return b"".join([chunk async for chunk in response.aiter_bytes()])


async def _pieces(response: httpx.Response) -> object:
    return [chunk async for chunk in response.aiter_bytes(chunk_size=1000)]


async def _raw_pieces(response: httpx.Response) -> object:
    return [(chunk, response.num_bytes_downloaded > 0) async for chunk in response.aiter_raw(chunk_size=7)]


async def _aread(response: httpx.Response) -> object:
    return await response.aread(), await response.aread()


async def _closed_then_read(response: httpx.Response) -> object:
    await response.aclose()
    return await response.aread()


async def _read_twice(response: httpx.Response) -> object:
    return await _raw(response), await _raw(response)


async def _unread_content(response: httpx.Response) -> object:
    return response.content


async def _sync(response: httpx.Response) -> object:
    return response.read()


async def _json(response: httpx.Response) -> object:
    await response.aread()
    return response.json()


async def _nothing(_: httpx.Response) -> object:
    return None


for _path in ("/coded/gzip", "/lines", "/chunks", "/status/204"):
    for _read in (_lines, _text, _raw, _bytes, _pieces, _aread, _nothing):
        streamed(f"{_read.__name__.strip('_')} of {_path}", _path, _read)
streamed("pieces of a big body", "/big", _pieces)
streamed("pieces of a big coded body", "/coded/x-gzip-big", _pieces)
streamed("nothing of a big body", "/big", _nothing)
for _read in (_raw_pieces, _closed_then_read, _read_twice, _unread_content, _sync, _json, _raw):
    streamed(f"{_read.__name__.strip('_')} of /echo", "/echo", _read)
    streamed(f"{_read.__name__.strip('_')} of /broken", "/broken", _read)


@case
async def left_early(new_client: NewClient, url: str) -> object:
    """Close a large body after a little of it, and go on."""
    async with new_client() as client:
        async with client.stream("GET", url + "/big") as response:
            chunks = response.aiter_raw(chunk_size=100)
            beginning = await anext(chunks)
            await cast("Any", chunks).aclose()
        seen = {**of(response), "bytes": None}  # how much has arrived by then depends on the network
        return beginning, seen, of(await client.get(url + "/echo"))


@case
async def network_stream(new_client: NewClient, url: str) -> object:
    """Return information about the connection."""
    async with new_client() as client, client.stream("GET", url + "/chunks") as response:
        network_stream = response.extensions["network_stream"]
        address: object = network_stream.get_extra_info("client_addr")
        known = [network_stream.get_extra_info(info) for info in ("server_addr", "ssl_object", "nonsense")]
        methods = [name for name in ("read", "write", "aclose", "start_tls") if hasattr(network_stream, name)]
        await response.aread()
        return (
            known,
            methods,
            type(address),
            len(cast("tuple[str, int]", address)),
            network_stream.get_extra_info("socket").fileno() >= 0,
        )


# --- Failures without a server


@pytest.mark.anyio
@each_row("new_client", [wire_client, prefect_client])
@each_row(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://name.invalid/",
        "http://127.0.0.1:{port}",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "/path",
        "",
        "http://",
        "http://" + "x" * 70 + ".invalid/",
        "http://[::1]:{port}/",
        "gopher:x",
        "ws://127.0.0.1:{port}/",
        "wss://127.0.0.1:{port}/",
    ],
)
async def test_urls_without_a_server(new_client: NewClient, url: str) -> None:
    """A URL that leads nowhere is the same error as in httpx."""

    async def get(new_client: NewClient, url: str) -> object:
        async with new_client() as client:
            return of(await client.get(url))

    url = url.format(port=refusing_port())
    expected = await outcome(get, httpx_client, url)
    if "x" * 70 in url and isinstance(expected, tuple) and expected[0] in (UnicodeError, UnicodeEncodeError):
        expected = httpx.ConnectError, url  # on trio, httpx lets Python's own error out
    assert await outcome(get, new_client, url) == expected
    assert isinstance(expected, tuple)


# --- All cases

Outcomes = dict[tuple[str, str], object]
"""The outcomes of cases, by their names and those of the servers."""

# If a response is left in the middle, httpx's clients leave generators to the garbage collector, with any transport,
# and trio warns of that.
LEFT_IN_THE_MIDDLE = {"coded broken", "left_early"}
# PrefectHttpxClient raises what a request failed with, and never StreamConsumed.
NOT_PREFECTS = {"redirect of a stream", "digest of a stream", "stream_twice"}

RUNS: list[tuple[str, NewClient, set[str]]] = [
    ("asyncio", wire_client, set()),
    ("trio", wire_client, {"hypercorn", *LEFT_IN_THE_MIDDLE}),
    ("asyncio", prefect_client, {"hypercorn", *NOT_PREFECTS}),
    ("trio", prefect_client, {"uvicorn", *NOT_PREFECTS, *LEFT_IN_THE_MIDDLE}),
]
"""Backends and clients; and without which servers and cases."""


async def all_outcomes(new_client: NewClient, servers: dict[str, str], without: set[str]) -> Outcomes:
    """Run all cases, many of them at once.

    How httpx decodes a body does not depend on the server, so those cases run only with the faster one.
    """
    found: Outcomes = {}
    limit = anyio.CapacityLimiter(20)

    async def find(name: str, server: str) -> None:
        async with limit:
            found[name, server] = await outcome(CASES[name], new_client, servers[server])

    async with anyio.create_task_group() as tasks:
        for name in CASES.keys() - without:
            for server in servers.keys() - without:
                if server != "hypercorn" or (not name.startswith(("coded", "charset")) and " of /" not in name):
                    tasks.start_soon(find, name, server)
    return found


@pytest.fixture(scope="module")
def expected(servers: dict[str, str]) -> Outcomes:
    """The outcomes with httpx's own transport; on asyncio, because of LEFT_IN_THE_MIDDLE."""
    return anyio.run(all_outcomes, httpx_client, servers, set[str](), backend="asyncio")


@pytest.mark.parametrize(("backend", "new_client", "without"), RUNS)
def test_the_same_as_httpx(
    backend: str, new_client: NewClient, without: set[str], servers: dict[str, str], expected: Outcomes
) -> None:
    """Whatever is requested from whatever server, a user sees the same as with httpx."""
    found = anyio.run(all_outcomes, new_client, servers, without, backend=backend)
    different = {each: (found[each], expected[each]) for each in found if found[each] != expected[each]}
    assert different == {}
    assert len(found) > 70


# --- What has been read whole


@pytest.mark.anyio
# httpx leaves a generator to the garbage collector, and trio warns of that.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_a_body_that_cannot_be_decoded(servers: dict[str, str]) -> None:
    """A response that cannot be decoded is closed, has an elapsed time, and releases its connection."""
    transport = HTTPTransport(verify=trusting_context())
    responses: list[httpx.Response] = []

    async def keep(response: httpx.Response) -> None:
        responses.append(response)

    with anyio.fail_after(10):
        async with httpx.AsyncClient(transport=transport, event_hooks={"response": [keep]}) as client:
            with pytest.raises(httpx.DecodingError):
                await client.get(servers["uvicorn"] + "/coded/broken")
            statistics = transport.statistics()
            assert statistics.connections == statistics.idle
    assert responses[0].is_closed
    assert responses[0].elapsed > datetime.timedelta()


# --- Differences on purpose


@pytest.mark.anyio
@pytest.mark.parametrize("length", [7, 70_000])
async def test_a_body_of_the_wrong_length(length: int, servers: dict[str, str]) -> None:
    """A body that is not as long as its Content-Length is httpx's LocalProtocolError; with httpx, it is h11's."""
    headers = {"Content-Length": str(length)}
    with anyio.fail_after(10):
        async with wire_client() as client:
            for url in servers.values():
                with pytest.raises(httpx.LocalProtocolError, match="Content-Length"):
                    await client.post(url + "/echo", content=_parts(), headers=headers)
                assert (await client.get(url + "/status/200")).status_code == 200


@pytest.mark.anyio
async def test_two_lengths(servers: dict[str, str]) -> None:
    """Two Content-Lengths are refused, even if they are the same; h11 merges them."""
    headers = [("Content-Length", "2"), ("Content-Length", "2")]
    with anyio.fail_after(10):
        async with wire_client() as client:
            with pytest.raises(httpx.LocalProtocolError, match="Content-Length"):
                await client.post(servers["uvicorn"] + "/echo", content=b"ab", headers=headers)


def test_the_arguments_are_httpxs() -> None:
    """The arguments are httpx's, whose order has changed, with the same defaults; and ``connect``."""
    ours, httpxs = (inspect.signature(each).parameters for each in (HTTPTransport, httpx.AsyncHTTPTransport))
    expected = {name: each.default for name, each in httpxs.items()} | {"connect": None}
    assert {name: each.default for name, each in ours.items()} == expected


# --- To the byte


RAW_REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"method": "GET", "url": "/a?b=c"},
    "cased": {
        "method": "GET",
        "url": "/",
        "headers": [("x-LOWER-upper", "V"), ("ACCEPT", "*/*"), ("x-lower-UPPER", "w")],
    },
    "json": {"method": "POST", "url": "/", "json": {"a": 1}},
    "empty post": {"method": "POST", "url": "/"},
    "form": {"method": "PUT", "url": "/", "data": {"a": "1 2"}},
    "chunked": {"method": "POST", "url": "/", "content": _parts},
    "chunked with a length": {"method": "POST", "url": "/", "content": _parts, "headers": {"Content-Length": "30008"}},
    "big": {"method": "POST", "url": "/", "content": BIG},
    "host": {"method": "GET", "url": "/", "headers": [("Accept", "x"), ("host", "other")]},
    "auth": {"method": "GET", "url": "/", "auth": ("user", "pass")},
    "cookies": {"method": "GET", "url": "/", "headers": {"Cookie": "a=b; c=d"}},
    "target": {"method": "OPTIONS", "url": "/", "extensions": {"target": b"*"}},
    "tab": {"method": "GET", "url": "/", "headers": {"X": "a\tb", "Y": "a  b", "Z": ""}},
}


@pytest.mark.anyio
@each_row("name", RAW_REQUESTS)
async def test_the_same_bytes_are_sent(name: str) -> None:
    """A request is sent in exactly the bytes that httpx sends."""
    received: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        connection, data = h11.Connection(h11.SERVER), b""
        async with stream:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    data += (part := await stream.receive())
                    connection.receive_data(part)
            received.append(data)
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with anyio.fail_after(10):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            for new_client in (httpx_client, wire_client, prefect_client):
                arguments: dict[str, Any] = {
                    key: each() if callable(each) else each for key, each in RAW_REQUESTS[name].items()
                }
                async with new_client(base_url=url) as client:
                    await client.request(**arguments)
            tasks.cancel_scope.cancel()
    httpxs, ours, prefects = received
    assert ours == httpxs
    assert prefects == httpxs
