"""Which protocol a connection has, over TLS and without; and what real servers make of it. On both backends."""

from __future__ import annotations

import gc

import anyio
import httpx
import pytest
from support.h2_peers import h2_server, h2_transport, secure_server, serve_paths
from support.servers import answer, hypercorn_on_trio, upgrade_to_echo
from support.sockets import open_sockets
from support.tls_servers import authority, certificate
from support.wire import fetch, fetch_at_once, new_request, trusting_context, until

from prefect_http import HTTPTransport, PrefectHttpxClient
from prefect_http._types import Receive, Scope, Send

ONE = answer(body=b"one")


def both() -> HTTPTransport:
    """Make a transport that speaks HTTP/1.1 and HTTP/2."""
    return HTTPTransport(verify=trusting_context(), http2=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("protocols", "version", "body"),
    [(("h2", "http/1.1"), "HTTP/2", b"/"), (("http/1.1",), "HTTP/1.1", b"one"), ((), "HTTP/1.1", b"one")],
)
async def test_burst(protocols: tuple[str, ...], version: str, body: bytes) -> None:
    """A burst to an unknown origin opens one connection first; if that is HTTP/2, no more; and so it is remembered."""
    async with secure_server(*protocols, script=serve_paths, act=ONE) as server, both() as transport:
        for count in (8, 3):
            assert await fetch_at_once(transport, server.url, count) == [(version, body)] * count
        assert (len(server.versions) == 1) is (version == "HTTP/2")
        assert transport.statistics().connections == len(server.versions)


@pytest.mark.anyio
async def test_only_http2() -> None:
    """Without HTTP/1.1, a server that has chosen nothing is taken to speak HTTP/2."""
    async with secure_server(script=serve_paths, act=None) as server, h2_transport() as transport:
        assert await fetch_at_once(transport, server.url, 3) == [("HTTP/2", b"/")] * 3
        assert server.versions == [None]


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["upgrade", "connect"])
async def test_what_only_http1_can_do(how: str) -> None:
    """A request that switches protocols, or opens a tunnel, goes over HTTP/1.1, on a connection of its own."""
    method, sent = ("CONNECT", {}) if how == "connect" else ("GET", {"Connection": "Upgrade", "Upgrade": "echo"})
    act = ONE if how == "connect" else upgrade_to_echo
    async with secure_server("h2", "http/1.1", script=serve_paths, act=act) as server, both() as transport:
        await fetch(transport, server.url)
        request = httpx.Request(method, server.url, headers=sent, extensions={"target": "a:1"})
        response = await transport.handle_async_request(request)
        if how == "upgrade":
            stream = response.extensions["network_stream"]
            await stream.write(b"hello")
            assert (response.status_code, await stream.read(10)) == (101, b"hello")
        await response.aclose()
        assert server.versions == ["h2", "http/1.1"]


@pytest.mark.anyio
async def test_context_is_shared() -> None:
    """Transports that share a context each offer their own protocols."""
    context = trusting_context()
    async with secure_server("h2", "http/1.1", script=serve_paths, act=ONE) as server:
        for http2 in (True, False, True):
            async with HTTPTransport(verify=context, http2=http2) as transport:
                assert await fetch(transport, server.url) == (b"/" if http2 else b"one")


@pytest.mark.anyio
async def test_plain_http() -> None:
    """Without TLS, HTTP/2 is only used if HTTP/1.1 may not be."""
    async with h2_server(serve_paths) as server, h2_transport() as transport:
        assert await fetch_at_once(transport, server.url, 3) == [("HTTP/2", b"/")] * 3
        assert server.bytes_server.connections == 1


@pytest.mark.anyio
async def test_failing_handshake() -> None:
    """If the first connection of a burst cannot be opened, each request fails by itself, with the reason."""
    failures: list[Exception] = []
    async with both() as transport, anyio.create_task_group() as tasks:

        async def get() -> None:
            try:
                await fetch(transport, "https://127.0.0.1:1/")
            except httpx.ConnectError as error:
                failures.append(error)

        for _ in range(5):
            tasks.start_soon(get)
        await until(lambda: len(failures) == 5)
    assert all("could not connect to 127.0.0.1:1" in str(error) for error in failures)


@pytest.mark.anyio
async def test_slow_handshake() -> None:
    """A request that waits for another one's handshake is limited by its own connect timeout."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    url = f"https://127.0.0.1:{port}/"
    async with listener, both() as transport:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch, transport, url)
                await until(lambda: transport.statistics().connections == 1)
                with pytest.raises(httpx.ConnectTimeout, match="another request is still opening a connection"):
                    await fetch(transport, new_request(url, connect=0.05))
                tasks.cancel_scope.cancel()
        assert transport.statistics().waiting == 0


# --- A real server


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the version, and the size of the request body."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['http_version']} {size} ".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"x" * size})


@pytest.mark.anyio
async def test_hypercorn(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hypercorn on trio takes requests of any size over HTTP/2, many at once, on one connection."""
    folder = tmp_path_factory.mktemp("tls")
    issued = certificate("127.0.0.1", "localhost", issuer=authority())
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    path = str(folder / "server.pem")
    sizes = [0, 1, 1000, 65_536, 300_000]
    with hypercorn_on_trio(echo, certfile=path, keyfile=path) as url, anyio.fail_after(20):
        context = trusting_context()
        async with PrefectHttpxClient(verify=context, http2=True, trust_env=False) as client:
            found: list[tuple[str, bool]] = []

            async def post(size: int) -> None:
                response = await client.post(url, content=b"x" * size)
                found.append((response.http_version, response.content == b"2 %d " % size + b"x" * size))

            async with anyio.create_task_group() as tasks:
                for size in sizes * 2:
                    tasks.start_soon(post, size)
            assert found == [("HTTP/2", True)] * 10


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Python warns of what is left open
@pytest.mark.parametrize("backends", [("asyncio", "trio"), ("trio", "asyncio"), ("trio", "trio")], ids="-then-".join)
def test_another_event_loop(backends: tuple[str, str]) -> None:
    """A transport can be used in another event loop when the first one has ended; its connections are dropped."""
    transport, before = h2_transport(), open_sockets()

    async def use(should_close: bool) -> None:
        with anyio.fail_after(5):
            assert await fetch(transport, url) == b"2 0 "
            assert transport.statistics().connections == 1
            if should_close:
                await transport.aclose()

    with hypercorn_on_trio(echo) as url:
        anyio.run(use, False, backend=backends[0])
        anyio.run(use, True, backend=backends[1])
    assert transport.statistics().connections == 0
    gc.collect()  # which closes the sockets of asyncio
    assert not open_sockets() - before
