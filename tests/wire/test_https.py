"""HTTPTransport over TLS: certificates, handshakes that fail, reused connections, and bodies."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from anyio.streams.tls import TLSStream
from support.rows import each_row
from support.scripted_servers import read_to_end
from support.servers import Act, answer, half_answer, upgrade_to_echo
from support.tls_ends import End
from support.tls_servers import (
    TLS_1_2,
    TLS_1_3,
    Serve,
    authority,
    certificate,
    client_context,
    listening,
    server_context,
    tls_server,
    url_of,
)
from support.wire import NOTHING, ONE_IDLE, until, until_readable

from prefect_http import HTTPTransport, InvalidResponse
from prefect_http._concurrency.connecting import connect_tcp
from prefect_http._wire import openers

pytestmark = pytest.mark.anyio

VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
BIG = bytes(range(256)) * 8192  # 2 MB
UPGRADE = {"Connection": "upgrade", "Upgrade": "echo"}


def new_transport(verify: ssl.SSLContext | bool | None = None) -> HTTPTransport:
    """Make a transport that trusts the servers of the tests."""
    return HTTPTransport(verify=client_context() if verify is None else verify)


async def error_of(transport: httpx.AsyncBaseTransport, url: str, connect: float = 5) -> type[Exception]:
    """Return the type of the exception that a request raises."""
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        with pytest.raises(httpx.TransportError) as caught:
            await client.get(url, timeout=httpx.Timeout(5, connect=connect))
    return type(caught.value)


# --- Handshakes


@VERSIONS
async def test_a_good_certificate(version: ssl.TLSVersion) -> None:
    """A server with a valid certificate is accepted, and its TLS can be inspected."""
    context = server_context(version=version)
    async with tls_server(answer(body=b"safe"), context=context) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.get(url_of(server))
        ssl_object = response.extensions["network_stream"].get_extra_info("ssl_object")
    assert response.text == "safe"
    assert isinstance(ssl_object, ssl.SSLObject)
    assert ssl_object.version() == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]


async def test_http11_is_negotiated() -> None:
    """HTTP/1.1 is negotiated, even if the server would prefer HTTP/2."""
    context = server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with tls_server(answer(), context=context) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.get(url_of(server))
            ssl_object = response.extensions["network_stream"].get_extra_info("ssl_object")
            assert ssl_object.selected_alpn_protocol() == "http/1.1"


def _expired() -> ssl.SSLContext:
    return server_context(not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))


def _newer() -> ssl.SSLContext:
    context = client_context()
    context.maximum_version = TLS_1_2
    return context


BAD_SERVERS: dict[str, tuple[Callable[[], ssl.SSLContext], Callable[[], ssl.SSLContext | bool]]] = {
    "wrong name": (lambda: server_context("other.test"), client_context),
    "expired": (_expired, client_context),
    "unknown authority": (lambda: server_context(issuer=authority("other")), client_context),
    "unknown to the system": (lambda: server_context(), lambda: True),
    "another version": (lambda: server_context(), _newer),
}


@each_row("name", BAD_SERVERS)
async def test_bad_certificates(name: str) -> None:
    """A handshake that fails is a ConnectError, as with httpx, and leaves nothing behind."""
    make_server_context, make_verify = BAD_SERVERS[name]
    async with tls_server(answer(), context=make_server_context()) as server:
        transport = HTTPTransport(verify=make_verify(), trust_env=False)
        theirs = httpx.AsyncHTTPTransport(verify=make_verify(), trust_env=False)
        assert await error_of(transport, url_of(server)) is httpx.ConnectError
        assert await error_of(theirs, url_of(server)) is httpx.ConnectError
        assert transport.statistics() == NOTHING
        assert server.requests == []


async def _speak_plain_http(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def _close(stream: anyio.abc.ByteStream) -> None:
    await stream.aclose()


async def _close_in_the_handshake(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()


async def _say_half(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"\x16\x03\x03\x00\x7a\x02\x00")


async def _alert(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"\x15\x03\x03\x00\x02\x02\x28")


async def _say_nothing(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        while True:
            await stream.receive()


@each_row(
    ("serve", "error"),
    [
        (_speak_plain_http, httpx.ConnectError),
        (_close, httpx.ConnectError),
        (_close_in_the_handshake, httpx.ConnectError),
        (_say_half, httpx.ConnectError),
        (_alert, httpx.ConnectError),
        (_say_nothing, httpx.ConnectTimeout),
    ],
)
async def test_servers_without_tls(serve: Serve, error: type[Exception]) -> None:
    """A server that does not complete the handshake is httpx's error, and leaves nothing behind."""
    connect = 0.05 if error is httpx.ConnectTimeout else 5
    async with listening(serve) as port:
        url, transport = f"https://127.0.0.1:{port}/", new_transport()
        assert await error_of(transport, url, connect) is error
        assert await error_of(httpx.AsyncHTTPTransport(verify=client_context()), url, connect) is error
        assert transport.statistics() == NOTHING


async def test_https_to_a_port_for_http() -> None:
    """If the server does not speak TLS, the error says what may be wrong with the URL."""
    hint = r"; if the server does not use TLS on this port, the URL must start with http://$"
    async with listening(_speak_plain_http) as port, new_transport() as transport:
        with pytest.raises(httpx.ConnectError, match=hint):
            await transport.handle_async_request(httpx.Request("GET", f"https://127.0.0.1:{port}/"))


async def test_https_to_a_proxy_for_http() -> None:
    """If that is a proxy, it is the URL of the proxy."""
    hint = r"; if the proxy does not use TLS on this port, the URL of the proxy must start with http://$"
    async with listening(_speak_plain_http) as port:
        proxy = httpx.Proxy(f"https://127.0.0.1:{port}", ssl_context=client_context())
        async with HTTPTransport(proxy=proxy) as transport:
            with pytest.raises(httpx.ConnectError, match=hint):
                await transport.handle_async_request(httpx.Request("GET", "https://server/"))


async def _stop_encrypting(stream: anyio.abc.ByteStream) -> None:
    assert isinstance(stream, TLSStream)
    async with stream:
        await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await stream.transport_stream.send(b"plain text")


async def test_a_server_that_stops_encrypting() -> None:
    """There is no advice to do without TLS, which the server does speak."""
    async with listening(_stop_encrypting, server_context()) as port, new_transport() as transport:
        response = await transport.handle_async_request(httpx.Request("GET", f"https://127.0.0.1:{port}/"))
        with pytest.raises(httpx.ReadError, match=r"receiving from .* failed: ") as caught:
            await response.aread()
        assert "http://" not in str(caught.value)


@pytest.mark.parametrize("serve", [_say_nothing])
async def test_a_cancelled_handshake(serve: Serve) -> None:
    """A cancellation during the handshake closes the connection."""
    began, ended = anyio.Event(), anyio.Event()

    async def serve_and_tell(stream: anyio.abc.ByteStream) -> None:
        began.set()
        try:
            await serve(stream)
        finally:
            ended.set()

    async with listening(serve_and_tell) as port, new_transport() as transport:
        async with anyio.create_task_group() as tasks:
            request = httpx.Request("GET", f"https://127.0.0.1:{port}/")
            tasks.start_soon(transport.handle_async_request, request)
            await began.wait()
            tasks.cancel_scope.cancel()
        await ended.wait()
        assert transport.statistics() == NOTHING


async def test_early_data() -> None:
    """A connection is not used if data has arrived along with the end of the handshake, before the request is sent."""
    context, heard = server_context(version=TLS_1_2), list[bytes]()

    async def greet(stream: anyio.abc.ByteStream) -> None:
        end = End(context, server_side=True)
        async with stream:
            while not end.shake_hands():
                if end.outgoing.pending:
                    await stream.send(end.outgoing.read())
                end.incoming.write(await stream.receive())
            end.tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
            await stream.send(end.outgoing.read())
            heard.append(await read_to_end(stream))

    async with listening(greet) as port, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises(InvalidResponse, match="sent data before the request was sent"):
                await client.post(f"https://127.0.0.1:{port}/", content=b"x")
            assert transport.statistics() == NOTHING
        await until(lambda: heard)
    assert heard == [b""]


# --- Trust


async def test_no_verification() -> None:
    """verify=False accepts any certificate."""
    context = server_context("other.test", issuer=authority("other"))
    async with tls_server(answer(), context=context) as server, new_transport(verify=False) as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(url_of(server))).status_code == 200


@pytest.mark.parametrize("trust_env", [True, False])
async def test_ssl_cert_file(trust_env: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE is used with trust_env, and only then."""
    file = tmp_path / "authority.pem"
    authority().cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    transport = HTTPTransport(trust_env=trust_env)
    async with tls_server(answer()) as server:
        if trust_env:
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get(url_of(server))).status_code == 200
        else:
            assert await error_of(transport, url_of(server)) is httpx.ConnectError


@VERSIONS
async def test_client_certificates(version: ssl.TLSVersion) -> None:
    """A context with a client certificate presents it to a server that asks for one."""
    context = server_context(version=version)
    authority().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    context.verify_mode = ssl.CERT_REQUIRED
    knowing = client_context()
    certificate("client.test", issuer=authority()).configure_cert(knowing)  # pyright: ignore[reportUnknownMemberType]
    async with tls_server(answer(), context=context) as server:
        async with httpx.AsyncClient(transport=new_transport(knowing)) as client:
            for _ in range(2):
                assert (await client.get(url_of(server))).status_code == 200
        assert server.connections == 1
    assert len(server.requests) == 2


@VERSIONS
async def test_missing_client_certificate(version: ssl.TLSVersion) -> None:
    """A server that asks for a client certificate and gets none is the same error as with httpx."""
    context = server_context(version=version)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(stream: anyio.abc.ByteStream) -> None:
        # By hand, because anyio does not send the alert when a handshake fails.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        ssl_object, is_refused = context.wrap_bio(incoming, outgoing, server_side=True), False
        async with stream:
            while True:
                if not is_refused:
                    try:
                        ssl_object.do_handshake()
                    except ssl.SSLWantReadError:
                        pass
                    except ssl.SSLError:
                        is_refused = True
                if outgoing.pending:
                    await stream.send(outgoing.read())
                incoming.write(await stream.receive())

    async with listening(serve) as port:
        transport = new_transport()
        # With TLS 1.3, the client's handshake is complete before the server has checked for a certificate.
        expected = httpx.ConnectError if version is TLS_1_2 else httpx.ReadError
        assert await error_of(transport, f"https://127.0.0.1:{port}/") is expected
        assert transport.statistics() == NOTHING


async def test_trailing_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate of a host with a trailing dot is asked for, and checked, without the dot."""
    asked: list[str | None] = []

    async def connect(host: str, port: int, *arguments: object) -> anyio.abc.ByteStream:
        assert host == "localhost."  # which not every resolver knows
        return await connect_tcp("localhost", port, None)

    monkeypatch.setattr(openers, "connect_tcp", connect)
    context = server_context("localhost")
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with tls_server(answer(), context=context) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(f"https://localhost.:{server.port}/")
    assert asked == ["localhost"]
    assert server.requests[0].headers["host"] == f"localhost.:{server.port}"


async def test_sni_hostname() -> None:
    """With sni_hostname, that name is requested and checked, and a connection for another name is never used."""
    asked: list[str | None] = []
    context = server_context("one.test", "two.test")
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with tls_server(answer(), context=context) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            for name in ("one.test", "two.test", "one.test", "two.test"):
                await client.get(url_of(server), extensions={"sni_hostname": name})
            for extensions in ({"sni_hostname": "three.test"}, None):
                with pytest.raises(httpx.ConnectError, match="certificate"):
                    await client.get(url_of(server), extensions=extensions)
    assert asked == ["one.test", "two.test", "three.test", None]
    assert server.connections == 2
    assert len(server.requests) == 4


async def test_schemes_are_separate() -> None:
    """Https and wss are two origins, and both use TLS; ws does not."""
    async with tls_server(answer()) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            for url in (url_of(server), url_of(server).replace("https:", "wss:")):
                assert (await client.get(url)).status_code == 200
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await client.get(url_of(server).replace("https:", "ws:"))
    assert len(server.requests) == 2


async def test_an_upgrade_over_tls() -> None:
    """After a 101 to a wss:// request, the network stream is encrypted."""
    async with tls_server(upgrade_to_echo) as server, new_transport() as transport:
        url = url_of(server).replace("https:", "wss:")
        async with (
            httpx.AsyncClient(transport=transport, headers=UPGRADE) as client,
            client.stream("GET", url) as response,
        ):
            network_stream = response.extensions["network_stream"]
            for data in (b"hello", b"again"):
                await network_stream.write(data, timeout=5)
                assert await network_stream.read(100, timeout=5) == data
            assert network_stream.get_extra_info("ssl_object") is not None
        assert transport.statistics() == NOTHING


async def test_alpn_is_set_for_each_handshake() -> None:
    """A context that is also used for HTTP/2 offers only HTTP/1.1 in each of our handshakes."""
    protocols: list[list[str]] = []

    class Context(ssl.SSLContext):
        def set_alpn_protocols(self, alpn_protocols: object) -> None:
            assert isinstance(alpn_protocols, list)
            protocols.append(alpn_protocols)

    async def hang_up(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.aclose()

    transport = HTTPTransport(verify=Context(ssl.PROTOCOL_TLS_CLIENT))
    with anyio.fail_after(5):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, hang_up)
            url = f"https://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
            async with httpx.AsyncClient(transport=transport) as client:
                for _ in range(2):
                    with pytest.raises(httpx.ConnectError):
                        await client.get(url)
            tasks.cancel_scope.cancel()
    assert protocols == [["http/1.1"]] * 2


# --- Reused connections


@VERSIONS
async def test_a_healthy_connection_is_kept(version: ssl.TLSVersion) -> None:
    """Ten requests use one connection, though TLS 1.3 sends session tickets in between."""
    context = server_context(version=version)
    context.num_tickets = 5 if version is TLS_1_3 else 2
    async with tls_server(answer(body=b"x"), context=context) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(10):
                await client.get(url_of(server))
            assert transport.statistics() == ONE_IDLE
    assert (server.connections, len(server.requests)) == (1, 10)


class IdleThen:
    """An act: a response, and something else once the connection is idle."""

    def __init__(self, then: Act, body: bytes = b"") -> None:
        self.then = then
        self.body = body
        self.is_idle = anyio.Event()

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        await answer(body=self.body)(stream)
        await self.is_idle.wait()
        await self.then(stream)


async def _leave_at_once(stream: anyio.abc.ByteStream) -> None:
    await anyio.aclose_forcefully(stream)


async def _write(stream: anyio.abc.ByteStream) -> None:
    await stream.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")


@VERSIONS
@each_row(
    ("then", "standard_compatible"),
    [(_close, True), (_leave_at_once, False), (_write, False)],
    ids=["close_notify", "closed", "written"],
)
async def test_input_on_an_idle_connection(then: Act, standard_compatible: bool, version: ssl.TLSVersion) -> None:
    """An idle connection that the server has closed or written to is dropped, before a POST could be lost on it."""
    act = IdleThen(then)
    context = server_context(version=version)
    async with tls_server(
        act, answer(body=b"fresh"), context=context, standard_compatible=standard_compatible
    ) as server:
        async with new_transport() as transport, httpx.AsyncClient(transport=transport) as client:
            response = await client.post(url_of(server), content=b"1")
            act.is_idle.set()
            await until_readable(response)
            assert (await client.post(url_of(server), content=b"2")).text == "fresh"
            assert transport.statistics() == ONE_IDLE
    assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize("in_one", [True, False], ids=["one record", "two records"])
async def test_trailing_data(in_one: bool) -> None:
    """Data after a response closes the connection, whether it is in TLS or in the socket."""
    is_sent = anyio.Event()

    async def act(stream: anyio.abc.ByteStream) -> None:
        answered, stray = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\n\r\nstray"
        for data in [answered + stray] if in_one else [answered, stray]:
            await stream.send(data)
        is_sent.set()

    async with tls_server(act, answer(body=b"fresh")) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.post(url_of(server), content=b"1")).text == "ok"
            await is_sent.wait()
            assert (await client.post(url_of(server), content=b"2")).text == "fresh"
    assert server.connections == 2


async def test_an_idle_connection_that_has_been_reset() -> None:
    """If a reused connection breaks just then, a GET is sent again."""

    async def break_off(stream: anyio.abc.ByteStream) -> None:
        await anyio.aclose_forcefully(stream)

    async with tls_server(answer(), break_off, answer(body=b"fresh")) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(url_of(server))
            assert (await client.get(url_of(server))).text == "fresh"
    assert (server.connections, len(server.requests)) == (2, 3)


# --- Bodies


async def _parts(times: int = 1) -> AsyncIterator[bytes]:
    for _ in range(times):
        for start in range(0, len(BIG), 100_000):
            yield BIG[start : start + 100_000]


@VERSIONS
@pytest.mark.parametrize("make_content", [lambda: BIG, _parts], ids=["bytes", "stream"])
async def test_big_bodies(make_content: Callable[[], bytes], version: ssl.TLSVersion) -> None:
    """Two megabytes are sent and received, and the connection is reused."""
    context = server_context(version=version)
    async with tls_server(answer(body=BIG), context=context) as server, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(2):
                response = await client.post(url_of(server), content=make_content())
                assert response.content == BIG
    assert [request.body for request in server.requests] == [BIG, BIG]
    assert server.connections == 1


@pytest.mark.parametrize("make_content", [lambda: BIG * 4, lambda: _parts(10)], ids=["bytes", "stream"])
async def test_an_early_answer(make_content: Callable[[], bytes]) -> None:
    """If the server refuses a large body and stops reading, its response is returned, and the connection closed."""
    is_gone = anyio.Event()

    async def refuse(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 413 Too Long\r\nContent-Length: 4\r\n\r\nlong")
            await is_gone.wait()

    context = server_context()
    async with listening(refuse, context) as port, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            content = make_content()
            headers: dict[str, str] = {} if isinstance(content, bytes) else {"Content-Length": str(len(BIG) * 10)}
            response = await client.post(f"https://127.0.0.1:{port}/", content=content, headers=headers)
            assert (response.status_code, response.text) == (413, "long")
            assert transport.statistics() == NOTHING
        is_gone.set()


@pytest.mark.parametrize("standard_compatible", [True, False], ids=["close_notify", "closed"])
async def test_a_body_until_the_end(standard_compatible: bool) -> None:
    """A body without a length ends where the server closes, with or without a close_notify, as with httpx."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n" + BIG)
        await (stream.aclose() if standard_compatible else anyio.aclose_forcefully(stream))

    async with tls_server(act, standard_compatible=standard_compatible) as server:
        transport = new_transport()
        for each in (transport, httpx.AsyncHTTPTransport(verify=client_context())):
            async with httpx.AsyncClient(transport=each) as client:
                assert (await client.get(url_of(server))).content == BIG
        assert transport.statistics() == NOTHING


async def test_half_a_body() -> None:
    """A truncated body is a RemoteProtocolError, as with httpx."""
    async with tls_server(half_answer()) as server:
        assert await error_of(new_transport(), url_of(server)) is httpx.RemoteProtocolError
        assert await error_of(httpx.AsyncHTTPTransport(verify=client_context()), url_of(server)) is (
            httpx.RemoteProtocolError
        )


async def test_many_at_once() -> None:
    """Fifty tasks share ten connections."""
    async with tls_server(answer(body=b"x" * 1000)) as server:
        transport = HTTPTransport(verify=client_context(), limits=httpx.Limits(max_connections=10))
        async with httpx.AsyncClient(transport=transport, timeout=10) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(client.get, url_of(server))
        assert transport.statistics() == NOTHING
    assert (server.connections, len(server.requests)) == (10, 50)


async def test_plain_connection_is_not_used_for_https() -> None:
    """A connection without TLS never serves an https request to the same port."""
    heard: list[bytes] = []

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            while True:
                heard.append(await stream.receive())
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with listening(serve) as port, new_transport() as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(f"http://127.0.0.1:{port}/")
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://127.0.0.1:{port}/")
    assert [data[:3] for data in heard] == [b"GET", b"\x16\x03\x01"]


# --- Uploads that are not read


MUCH = 20_000_000
LENGTH = {"Content-Length": str(MUCH)}


async def read_a_head(stream: anyio.abc.ByteStream) -> None:
    """Read no more than the head of a request."""
    async with stream:
        await stream.receive(100)
        await anyio.sleep_forever()


async def answer_early(stream: anyio.abc.ByteStream) -> None:
    """Answer when the head has arrived, and read no more."""
    async with stream:
        await stream.receive(100)
        await stream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nok")
        await anyio.sleep_forever()


async def much() -> AsyncIterator[bytes]:
    """Make a body of a single part, which no network takes at once."""
    yield bytes(MUCH)


async def test_write_timeout() -> None:
    """The last part of an upload has to be taken, too."""
    timeout = httpx.Timeout(5, write=0.01)
    async with (
        listening(read_a_head, server_context()) as port,
        new_transport() as transport,
        httpx.AsyncClient(transport=transport, timeout=timeout) as client,
    ):
        with pytest.raises(httpx.WriteTimeout):
            await client.post(f"https://127.0.0.1:{port}/", content=much(), headers=LENGTH)
        assert transport.statistics() == NOTHING


async def test_early_response_to_an_upload() -> None:
    """A connection whose request has not been sent to its end serves no other one."""
    async with (
        listening(answer_early, server_context()) as port,
        new_transport() as transport,
        httpx.AsyncClient(transport=transport) as client,
    ):
        for _ in range(2):
            response = await client.post(f"https://127.0.0.1:{port}/", content=much(), headers=LENGTH)
            assert response.status_code == 413
            assert transport.statistics() == NOTHING
