"""The transports for an httpx2.AsyncClient: its users see nothing but httpx2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import anyio
import anyio.abc
import httpcore2
import httpx
import httpx2
import pytest
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream
from support.h2_peers import Peer, h2_server, respond
from support.rows import each_row
from support.scripted_servers import byte_server, read_head, read_to_end, settle
from support.servers import answer, drop, half_answer, raw_server, refusing_port, stall, stay_silent
from support.tls_servers import server_context
from support.wire import trusting_context

import prefect_http
from prefect_http import Receive, Scope, Send, Throttle, ThrottleTimeout
from prefect_http.httpx2 import ASGITransport, HTTPTransport, ThrottledTransport

pytestmark = pytest.mark.anyio

IS_ALIASED = httpx.__name__ == "httpx2"
COMPLETION = (
    b'{"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "finish_reason":'
    b' "stop", "message": {"role": "assistant", "content": "Hello"}}]}'
)


def new_client(transport: httpx2.AsyncBaseTransport | None = None, **timeouts: float) -> httpx2.AsyncClient:
    """Make a client of httpx2 with one of the transports."""
    timeout = httpx2.Timeout(5, **cast(Any, timeouts))
    return httpx2.AsyncClient(
        transport=transport or HTTPTransport(verify=trusting_context()), timeout=timeout, trust_env=False
    )


async def parts() -> AsyncIterator[bytes]:
    """Generate a body."""
    for part in (b"one", b"two"):
        await checkpoint()
        yield part


async def failing_parts() -> AsyncIterator[bytes]:
    """Fail in the middle of a body."""
    yield b"one"
    raise LookupError("the body's own")


# --- HTTPTransport


@each_row("content", [None, b"onetwo", parts], ids=["none", "bytes", "stream"])
async def test_request_and_response(content: bytes | Callable[[], AsyncIterator[bytes]] | None) -> None:
    """A request arrives as it is, over a connection of ours, and the response is one of httpx2."""
    async with raw_server(answer(201, b"fine", x_own="1")) as server, new_client() as client:
        for _ in range(2):
            body = content() if callable(content) else content
            response = await client.post(server.url + "a%2Fb?c=d", content=body, headers={"X-Own": "1"})
            assert type(response) is httpx2.Response
            assert (response.status_code, response.text, response.headers["X-Own"]) == (201, "fine", "1")
            assert response.http_version == "HTTP/1.1"
            assert response.elapsed
        assert server.connections == 1
    for received in server.requests:
        assert (received.method, received.target) == ("POST", "/a%2Fb?c=d")
        assert received.body == (b"" if content is None else b"onetwo")


async def test_streams() -> None:
    """A response can be streamed, and left in the middle, which closes its connection."""
    transport = HTTPTransport(verify=trusting_context())
    async with raw_server(answer(body=b"x" * 100_000), stall) as server, new_client(transport) as client:
        async with client.stream("GET", server.url) as response:
            assert b"".join([chunk async for chunk in response.aiter_bytes()]) == b"x" * 100_000
        assert transport.statistics() == prefect_http.TransportStatistics(connections=1, idle=1, waiting=0)
        async with client.stream("GET", server.url):
            assert transport.statistics().idle == 0
        assert transport.statistics().connections == 0


CAUSES: dict[str, tuple[Any, type[httpx2.RequestError]]] = {
    "closed": (drop, httpx2.RemoteProtocolError),
    "silent": (stay_silent, httpx2.ReadTimeout),
    "half a body": (half_answer(), httpx2.RemoteProtocolError),
    "stalling body": (stall, httpx2.ReadTimeout),
}


@pytest.mark.parametrize(("act", "expected"), CAUSES.values(), ids=CAUSES)
async def test_failures(act: Any, expected: type[httpx2.RequestError]) -> None:
    """What fails raises httpx2's exception, with the request, and with the other one as its cause."""
    async with raw_server(act) as server, new_client(read=0.05) as client:
        with pytest.raises(expected) as caught:
            await client.post(server.url)
    assert type(caught.value) is expected
    assert caught.value.request.url == server.url
    if not IS_ALIASED:
        cause = caught.value.__cause__
        assert isinstance(cause, httpx.RequestError)
        assert (type(cause).__name__, str(cause)) == (expected.__name__, str(caught.value))


async def test_no_server() -> None:
    """A connection that is refused is httpx2's ConnectError; a header that cannot be sent, its LocalProtocolError."""
    async with new_client() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"http://127.0.0.1:{refusing_port()}/")
        with pytest.raises(httpx2.LocalProtocolError):
            await client.get("http://127.0.0.1/", headers={"X": "a\nb"})


async def test_body_that_fails() -> None:
    """What the body of a request raises is raised as it is."""
    async with raw_server(answer()) as server, new_client() as client:
        with pytest.raises(LookupError, match="own"):
            await client.post(server.url, content=failing_parts())


async def test_body_that_fails_with_httpx() -> None:
    """So is an exception of httpx: it may be about another request, whose response is the body."""
    error = httpx.ReadError("the other server's")

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        raise error

    async with raw_server(answer()) as server, new_client() as client:
        with pytest.raises(httpx.ReadError) as caught:
            await client.post(server.url, content=body())
    assert caught.value is error


async def test_body_that_counts() -> None:
    """The body of a request that is a subclass of httpx2's is read through its own iterator."""
    sizes = list[int]()

    class Counted(httpx2.ByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in super().__aiter__():
                sizes.append(len(part))
                yield part

    async with raw_server(answer()) as server, new_client() as client:
        headers = {"Host": "server", "Content-Length": "6"}
        await client.send(httpx2.Request("POST", server.url, headers=headers, stream=Counted(b"onetwo")))
    assert server.requests[0].body == b"onetwo"
    assert sizes == [6]


async def test_stream_that_is_closed_meanwhile() -> None:
    """Reading on from a stream that has been closed is httpx2's StreamClosed."""
    async with raw_server(answer(body=b"x" * 500_000)) as server, new_client() as client:
        async with client.stream("GET", server.url) as response:
            chunks = response.aiter_raw()
            await anext(chunks)
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            await response.stream.aclose()
            with pytest.raises(httpx2.StreamClosed):
                await anext(chunks)
            await cast(Any, chunks).aclose()


async def test_notes() -> None:
    """The notes of an exception stay with it."""

    async def trace(name: str, info: Any) -> None:
        if name.endswith("receive_response_headers.failed"):
            info["exception"].add_note("a note")

    async with raw_server(drop) as server, new_client() as client:
        with pytest.raises(httpx2.RemoteProtocolError) as caught:
            await client.post(server.url, extensions={"trace": trace})
    assert caught.value.__notes__ == ["a note"]


async def echo(stream: anyio.abc.ByteStream) -> None:
    """Switch the protocol, send back what comes first, and then read to the end."""
    await read_head(stream)
    await stream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    await stream.send(await stream.receive())
    await read_to_end(stream)


async def echo_in_tls(stream: anyio.abc.SocketStream) -> None:
    """Switch the protocol to TLS, and send back what comes first."""
    await read_head(stream)
    await stream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context(), standard_compatible=False)
    await tls.send(await tls.receive())
    await read_to_end(tls)


UPGRADE = {"Connection": "upgrade", "Upgrade": "echo"}


async def test_network_stream() -> None:
    """After a 101, the network stream has httpcore2's exceptions, which httpx2's WebSockets expect."""
    async with byte_server(echo) as server, new_client() as client:
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            stream = response.extensions["network_stream"]
            assert isinstance(stream, httpcore2.AsyncNetworkStream)
            assert not stream.get_extra_info("is_readable")
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
            with pytest.raises(httpcore2.ReadTimeout):
                await stream.read(100, timeout=0.05)
            await stream.aclose()
            with pytest.raises(httpcore2.WriteError):
                await stream.write(b"hello")


async def test_tls_on_a_network_stream() -> None:
    """So has starting TLS on it, which leads to another one."""
    async with byte_server(echo_in_tls, echo) as server, new_client() as client:
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            stream = await response.extensions["network_stream"].start_tls(trusting_context(), "localhost", timeout=5)
            assert isinstance(stream, httpcore2.AsyncNetworkStream)
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
            await stream.aclose()
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            with pytest.raises(httpcore2.ConnectError):
                await response.extensions["network_stream"].start_tls(trusting_context(), "localhost", timeout=5)


async def test_http2() -> None:
    """HTTP/2 is our own here as well, with httpx2's exceptions."""

    async def refuse(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id, b"fine"))
        await peer.request()

    async with h2_server(refuse) as server:
        transport = HTTPTransport(http1=False, http2=True)
        async with new_client(transport) as client:
            response = await client.get(server.url)
            assert (response.http_version, response.text) == ("HTTP/2", "fine")
            assert transport.statistics().idle == 1
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.post(server.url)


@each_row("kind", [str, httpx2.URL, httpx2.Proxy])
async def test_proxy(kind: type[Any]) -> None:
    """A proxy, in each form, gets the requests over connections of ours, and refuses with httpx2's error."""
    async with raw_server(answer(body=b"proxied"), answer(403)) as proxy:
        transport = HTTPTransport(proxy=kind(f"http://user:pw@127.0.0.1:{proxy.port}"))
        async with new_client(transport) as client:
            assert (await client.get("http://api.example/")).text == "proxied"
            assert transport.statistics() == prefect_http.TransportStatistics(connections=1, idle=1, waiting=0)
            with pytest.raises(httpx2.ProxyError, match=r"refused a tunnel to api\.example:443: 403"):
                await client.get("https://api.example/")
    assert [request.target for request in proxy.requests] == ["http://api.example/", "api.example:443"]
    assert [request.headers["proxy-authorization"] for request in proxy.requests] == ["Basic dXNlcjpwdw=="] * 2


async def test_connect() -> None:
    """A function opens the connections in the place of TCP."""

    async def connect(host: str, port: int) -> ByteStream:
        assert (host, port) == ("api.example", 80)
        return await anyio.connect_tcp("127.0.0.1", server.port)

    async with raw_server(answer(body=b"fine")) as server, new_client(HTTPTransport(connect=connect)) as client:
        assert (await client.get("http://api.example/")).text == "fine"


async def test_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock or a tracer of httpx2 sees the requests; where it is httpx's, they go over the wire."""

    async def mock(self: object, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text="mock")

    transport = HTTPTransport(verify=trusting_context())
    async with raw_server(answer(body=b"real")) as server, new_client(transport) as client:
        with monkeypatch.context() as patch:
            patch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", mock)
            assert [(await client.get(server.url)).text for _ in range(2)] == ["mock", "mock"]
        if not IS_ALIASED:
            monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", mock)
        assert (await client.get(server.url)).text == "real"
        assert transport.statistics().connections == 1


async def test_openai() -> None:
    """The SDK of OpenAI, which retries by itself, works on the wire and behind a throttle."""
    import openai  # takes a second, and only this test needs it

    script = (answer(503, retry_after="0"), answer(body=COMPLETION, content_type="application/json"))
    throttle = Throttle()
    async with raw_server(*script) as server:
        http_client = openai.DefaultAsyncHttpxClient(transport=ThrottledTransport(HTTPTransport(), throttle))
        async with openai.AsyncOpenAI(api_key="key", base_url=server.url, http_client=http_client) as client:
            completion = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert completion.choices[0].message.content == "Hello"
    assert len(server.requests) == 2
    assert server.requests[0].headers["authorization"] == "Bearer key"
    assert throttle.statistics(("http", "127.0.0.1", server.port)).accepted == 1


# --- ASGITransport


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the path and the body back; or fail, or stay silent, as the path says."""
    body = (await receive())["body"]
    if scope["path"] == "/crash":
        raise LookupError("the app's own")
    if scope["path"] == "/silent":
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-state", scope["state"]["name"])]})
    await send({"type": "http.response.body", "body": scope["path"].encode() + body, "more_body": True})
    if scope["path"] != "/half":
        await send({"type": "http.response.body"})


async def test_app() -> None:
    """An app is called, and what fails is httpx2's exception, or the app's."""
    async with new_client(ASGITransport(app, state={"name": b"etl"}), read=0.05) as client:
        response = await client.post("http://app/path", content=b"body")
        assert type(response) is httpx2.Response
        assert (response.text, response.headers["X-State"]) == ("/pathbody", "etl")
        with pytest.raises(LookupError, match="own"):
            await client.get("http://app/crash")
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("http://app/silent")
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("http://app/half")


@pytest.mark.parametrize("is_throttled", [False, True])
async def test_app_that_fails_with_httpx(*, is_throttled: bool) -> None:
    """An app's own exception is raised as it is, even if it is one of httpx, before the headers and after them."""
    error = httpx.ConnectError("the app's own")

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise error

    transport: httpx2.AsyncBaseTransport = ASGITransport(failing)
    async with new_client(ThrottledTransport(transport, Throttle()) if is_throttled else transport) as client:
        for path in ("early", "late"):
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(f"http://app/{path}")
            assert caught.value is error


async def test_closing_ends_the_app() -> None:
    """Closing a response, or the client, ends the app's call."""
    messages = list[str]()

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        messages.append((await receive())["type"])

    client = new_client(ASGITransport(listening))
    async with client.stream("GET", "http://app/"):
        pass
    response = await client.send(client.build_request("GET", "http://app/"), stream=True)
    await client.aclose()
    assert messages == ["http.disconnect"] * 2
    with pytest.raises(httpx2.ReadError):
        await response.aread()


# --- ThrottledTransport


class Scripted(httpx2.AsyncBaseTransport):
    """Responds as a script says."""

    def __init__(self, *script: httpx2.Response | Exception) -> None:
        self.script = list(script)
        self.is_open: bool | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await checkpoint()
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def __aenter__(self) -> Scripted:
        self.is_open = True
        return self

    async def aclose(self) -> None:
        self.is_open = False


async def test_throttle() -> None:
    """A throttle learns from httpx2's responses, closes its gate, and raises httpx2's PoolTimeout."""
    inner = Scripted(httpx2.Response(200), httpx2.Response(429, headers={"Retry-After": "60"}))
    throttle = Throttle(max_wait=1)
    async with new_client(ThrottledTransport(inner, throttle)) as client:
        assert inner.is_open
        assert (await client.get("http://api/")).status_code == 200
        assert (await client.get("http://api/")).status_code == 429
        with pytest.raises(httpx2.PoolTimeout) as caught:
            await client.get("http://api/")
    assert inner.is_open is False
    if not IS_ALIASED:
        assert isinstance(caught.value.__cause__, ThrottleTimeout)
    statistics = throttle.statistics(("http", "api", 80))
    assert (statistics.accepted, statistics.rejected, statistics.in_flight) == (1, 1, 0)


async def test_transport_that_fails() -> None:
    """What the other transport raises is raised as it is, and the turn is given back."""
    error, throttle = httpx2.ReadError("broken"), Throttle()
    transport = ThrottledTransport(Scripted(error, httpx2.Response(200)), throttle)
    async with new_client(transport) as client:
        with pytest.raises(httpx2.ReadError) as caught:
            await client.get("http://api/")
        assert caught.value is error
        assert caught.value.__cause__ is None
        assert (await client.get("http://api/")).status_code == 200
    assert throttle.statistics(("http", "api", 80)).in_flight == 0


async def test_is_throttled_that_reads(caplog: pytest.LogCaptureFixture) -> None:
    """An async ``is_throttled`` gets httpx2's response, reads its beginning, and leaves all of it to the caller."""
    seen = list[type]()

    async def is_throttled(response: httpx.Response) -> bool:
        seen.append(type(response))
        return b"limit" in await response.aread()

    body, throttle = b"rate limit" + bytes(100_000), Throttle(is_throttled=is_throttled)
    async with raw_server(answer(403, body)) as server:
        async with new_client(ThrottledTransport(HTTPTransport(), throttle)) as client:
            async with client.stream("GET", server.url) as response:
                assert [chunk async for chunk in response.aiter_bytes(chunk_size=200_000)] == [body]
            assert (await client.get(server.url)).content == body
    assert seen == [httpx2.Response] * 2
    assert throttle.statistics(("http", "127.0.0.1", server.port)).rejected == 2
    assert not caplog.records


async def test_body_that_stalls() -> None:
    """If is_throttled gives up reading the body, reading it raises httpx2's ReadTimeout."""

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"one"
            has_stalled.set()
            await anyio.sleep_forever()

    async def is_throttled(response: httpx.Response) -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(response.aread)
            await has_stalled.wait()
            tasks.cancel_scope.cancel()
        return False

    has_stalled = anyio.Event()

    transport = ThrottledTransport(Scripted(httpx2.Response(200, stream=Body())), Throttle(is_throttled=is_throttled))
    async with new_client(transport) as client:
        with anyio.fail_after(10), pytest.raises(httpx2.ReadTimeout, match="within the time that is_throttled has"):
            await client.get("http://api/")


async def test_function_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If ``is_throttled`` raises, the response is no rejection."""

    def is_throttled(response: httpx.Response) -> bool:
        raise LookupError(type(response).__name__)

    transport = ThrottledTransport(Scripted(httpx2.Response(200)), Throttle(is_throttled=is_throttled))
    async with new_client(transport) as client:
        assert (await client.get("http://api/")).status_code == 200
    assert "LookupError: Response" in caplog.text


async def test_closed_while_waiting() -> None:
    """A request that still waits when the transport is closed fails, and is not sent."""
    errors = list[Exception]()
    inner = Scripted(httpx2.Response(429, headers={"Retry-After": "60"}))
    client = new_client(ThrottledTransport(inner, Throttle()))

    async def get() -> None:
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get("http://api/")
        errors.append(caught.value)

    await client.get("http://api/")
    with anyio.fail_after(90):  # a throttle does not wait for what comes after the deadline
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await settle()
            await client.aclose()
    assert ["was not sent" in str(error) for error in errors] == [True]


@pytest.mark.parametrize("throttle", [None, 50])
async def test_no_throttle(throttle: Any) -> None:
    """Something that is no Throttle is refused."""
    with pytest.raises(TypeError, match="throttle must be a Throttle"):
        ThrottledTransport(HTTPTransport(), throttle)


async def test_throttled_twice() -> None:
    """A transport that is behind the same throttle already is refused: each request would wait for itself."""
    throttle = Throttle()
    with pytest.raises(ValueError, match="already uses this throttle"):
        ThrottledTransport(ThrottledTransport(Scripted(), throttle), throttle)


# --- The wrong library

OURS: dict[str, Callable[[], httpx.AsyncBaseTransport]] = {
    "HTTPTransport": prefect_http.HTTPTransport,
    "ASGITransport": lambda: prefect_http.ASGITransport(app),
    "ThrottledTransport": lambda: prefect_http.ThrottledTransport(prefect_http.HTTPTransport(), Throttle()),
}
THEIRS: dict[str, Callable[[], httpx2.AsyncBaseTransport]] = {
    "HTTPTransport": HTTPTransport,
    "ASGITransport": lambda: ASGITransport(app),
    "ThrottledTransport": lambda: ThrottledTransport(HTTPTransport(), Throttle()),
}


@pytest.mark.skipif(IS_ALIASED, reason="httpx and httpx2 are one")
@pytest.mark.parametrize("name", OURS)
async def test_client_of_the_wrong_library(name: str) -> None:
    """A transport in the other library's client is an error that names the right one."""
    async with httpx2.AsyncClient(transport=cast(Any, OURS[name]())) as client:
        with pytest.raises(TypeError) as caught:
            await client.get("http://127.0.0.1/")
    assert str(caught.value) == (
        f"prefect_http.{name} takes requests of httpx, not of httpx2; "
        f"an httpx2.AsyncClient takes prefect_http.httpx2.{name}"
    )
    async with httpx.AsyncClient(transport=cast(Any, THEIRS[name]())) as other:
        with pytest.raises(TypeError) as caught:
            await other.get("http://127.0.0.1/")
    assert str(caught.value) == (
        f"prefect_http.httpx2.{name} takes requests of httpx2, not of httpx; "
        f"an httpx.AsyncClient takes prefect_http.{name}"
    )


@pytest.mark.skipif(IS_ALIASED, reason="httpx and httpx2 are one")
async def test_subclasses_in_the_wrong_client() -> None:
    """The error names the public class, and not one that a user has derived from it."""

    class Own(prefect_http.HTTPTransport):
        pass

    class Own2(HTTPTransport):
        pass

    for transport, request in (
        (Own(), httpx2.Request("GET", "http://a/")),
        (Own2(), httpx.Request("GET", "http://a/")),
    ):
        with pytest.raises(TypeError) as caught:
            await transport.handle_async_request(cast(Any, request))
        assert "Own" not in str(caught.value)
        assert "prefect_http.httpx2.HTTPTransport" in str(caught.value)


@pytest.mark.skipif(IS_ALIASED, reason="httpx and httpx2 are one")
@pytest.mark.parametrize("content", [None, b"bytes", iter([b"sync"]), parts()], ids=["none", "bytes", "sync", "async"])
async def test_request_of_the_wrong_library(content: Any) -> None:
    """A request of httpx2 in a PrefectHttpxClient is an error that says so, whatever its body."""
    request: Any = httpx2.Request("POST", "http://127.0.0.1/", content=content)
    async with prefect_http.PrefectHttpxClient() as client:
        with pytest.raises(TypeError) as caught:
            await client.send(request)
    assert str(caught.value) == (
        "the client takes requests of httpx, not of httpx2; create them with client.build_request()"
    )


async def test_no_request() -> None:
    """Something that is no request at all is an error as well."""
    with pytest.raises(TypeError, match=r"takes requests of httpx2?, not of builtins$"):
        await prefect_http.HTTPTransport().handle_async_request(cast(Any, "http://127.0.0.1/"))


def test_httpx2_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without httpx2, the import says what to install."""
    monkeypatch.delitem(sys.modules, "prefect_http.httpx2")
    monkeypatch.setitem(sys.modules, "httpcore2", None)
    with pytest.raises(ImportError, match=r"httpx2; install it with: pip install 'prefect_http\[httpx2\]'$"):
        importlib.import_module("prefect_http.httpx2")
