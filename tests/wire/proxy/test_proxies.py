"""Requests through proxies of each kind, over loopback: what arrives where, and which connections are used again."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
from anyio.lowlevel import checkpoint
from support.proxies import SCHEMES, ProxyServer, running_proxy
from support.servers import Act, RawServer, answer, drop, raw_server, upgrade_to_echo
from support.sockets import open_sockets, sockets_closed
from support.systems import needs_local_addresses
from support.tls_servers import server_context, tls_server
from support.wire import HELD, figures, trusting_context, until, until_readable

from prefect_http import HTTPTransport
from prefect_http._wire.network_stream import NetworkStream

pytestmark = pytest.mark.anyio

NAME, OTHER = "origin.test", "other.test"
FINE = answer(body=b"fine")
KINDS = [(proxy, origin) for proxy in SCHEMES for origin in ("http", "https")]
"""Of the proxy and of the origin."""
SEVERAL = [("http", "http"), ("https", "https"), ("socks5", "http")]
"""Those that differ in what becomes of a connection."""


@dataclass
class Network:
    """An origin, and a proxy that knows its names.

    Attributes:
        origin: the origin.
        proxy: the proxy.
        url: that of the origin, with a name that only the proxy can resolve.
        is_forwarded: whether the proxy forwards the requests, and does not just open tunnels.
    """

    origin: RawServer
    proxy: ProxyServer
    url: str
    is_forwarded: bool

    def transport(self, scheme: str | None = None, **arguments: Any) -> HTTPTransport:
        """Make a transport that uses the proxy."""
        url = self.proxy.url().replace(self.proxy.scheme, scheme or self.proxy.scheme, 1)
        context = trusting_context() if url.startswith("https") else None
        return HTTPTransport(verify=trusting_context(), proxy=httpx.Proxy(url, ssl_context=context), **arguments)


@contextlib.asynccontextmanager
async def network(kind: tuple[str, str], *script: Act, credentials: str | None = None) -> AsyncGenerator[Network]:
    """Run an origin and a proxy."""
    proxy_scheme, scheme = kind[0].removesuffix("h"), kind[1]
    script = script or (FINE,)
    running = tls_server(*script, context=server_context(NAME, OTHER)) if scheme == "https" else raw_server(*script)
    async with running as origin:
        hosts = {NAME: origin.port, OTHER: origin.port}
        context = server_context() if proxy_scheme == "https" else None
        async with running_proxy(proxy_scheme, hosts, credentials=credentials, context=context) as proxy:
            is_forwarded = scheme == "http" and proxy_scheme != "socks5"
            yield Network(origin, proxy, f"{scheme}://{NAME}:{origin.port}/", is_forwarded)


def new_client(transport: HTTPTransport) -> httpx.AsyncClient:
    """Make a client."""
    return httpx.AsyncClient(transport=transport, timeout=5, trust_env=False)


async def parts() -> AsyncIterator[bytes]:
    """Generate a body."""
    for part in (b"one", b"two"):
        await checkpoint()
        yield part


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
async def test_requests(kind: tuple[str, str]) -> None:
    """Requests of each form go through one connection, and the credentials reach the proxy, and nobody else."""
    before = open_sockets()
    async with network(kind, FINE, FINE, FINE, answer(), credentials="user:p@ss") as net:
        transport = net.transport(kind[0])
        async with new_client(transport) as client:
            responses = [
                await client.get(net.url + "a%2Fb?c=d"),
                await client.post(net.url, content=b"onetwo"),
                await client.put(net.url, content=parts()),
                await client.head(net.url),
            ]
            assert [response.status_code for response in responses] == [200] * 4
            assert isinstance(responses[0].extensions["network_stream"], NetworkStream)
            assert figures(transport) == (1, 1, 0)
        await until(lambda: net.proxy.open == 0)
    assert net.proxy.connections == 1
    address = f"{NAME}:{net.origin.port}"
    if net.is_forwarded:
        root = f"http://{address}/"
        assert net.proxy.targets == [f"GET {root}a%2Fb?c=d", f"POST {root}", f"PUT {root}", f"HEAD {root}"]
    else:
        assert net.origin.connections == 1
        assert net.proxy.targets == [f"{'SOCKS5' if kind[0].startswith('socks') else 'CONNECT'} {address}"]
    received = [(each.method, each.target, each.body) for each in net.origin.requests]
    assert received == [
        ("GET", "/a%2Fb?c=d", b""),
        ("POST", "/", b"onetwo"),
        ("PUT", "/", b"onetwo"),
        ("HEAD", "/", b""),
    ]
    assert not [each for each in net.origin.requests if "proxy-authorization" in each.headers]
    assert {each.headers["host"] for each in net.origin.requests} == {address}
    await sockets_closed(before)


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_two_origins(kind: tuple[str, str]) -> None:
    """A tunnel serves one origin; what a proxy forwards shares connections, whichever origin it is for."""
    async with network(kind) as net, new_client(net.transport()) as client:
        for name in (NAME, OTHER, NAME, OTHER):
            assert (await client.get(net.url.replace(NAME, name))).text == "fine"
        assert net.proxy.connections == (1 if net.is_forwarded else 2)
        assert len(net.proxy.asked) == (4 if net.is_forwarded else 2)


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_a_stale_connection(kind: tuple[str, str]) -> None:
    """A connection that was closed while it was idle is replaced, and the credentials are there again."""
    async with network(kind, credentials="user:pw") as net:
        transport = net.transport()
        async with new_client(transport) as client:
            net.origin.script = (close_after_answer,)
            response = await client.get(net.url)
            if not net.is_forwarded:  # the proxy keeps the connection whatever the origin does
                await until_readable(response)
            net.origin.script = (FINE,)
            assert (await client.post(net.url)).text == "fine"  # which could not be repeated
            assert figures(transport) == (1, 1, 0)
        assert net.proxy.connections == (1 if net.is_forwarded else 2)


async def close_after_answer(stream: anyio.abc.ByteStream) -> None:
    """Respond, and close the connection without having said so."""
    await FINE(stream)
    await stream.aclose()


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_a_connection_that_is_closed_as_it_is_used(kind: tuple[str, str]) -> None:
    """If a kept-alive connection breaks as it is used, a GET is sent again through a fresh one."""
    async with network(kind, FINE, drop, FINE) as net, new_client(net.transport()) as client:
        assert (await client.get(net.url)).text == "fine"
        assert (await client.get(net.url)).text == "fine"
        assert len(net.origin.requests) == 3
        assert net.proxy.connections == 2


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_many_at_once(kind: tuple[str, str]) -> None:
    """Many requests share a few connections, and each gets its own answer."""

    async def echo(stream: anyio.abc.ByteStream) -> None:
        await answer(body=net.origin.requests[-1].target.encode())(stream)

    async with network(kind, echo) as net:
        transport = net.transport(limits=httpx.Limits(max_connections=3))
        async with new_client(transport) as client, anyio.create_task_group() as tasks:

            async def get(number: int) -> None:
                assert (await client.get(f"{net.url}{number}")).text == f"/{number}"

            for number in range(30):
                tasks.start_soon(get, number)
        assert net.proxy.connections == 3


@pytest.mark.parametrize("kind", [("http", "https"), ("https", "https"), ("socks5", "https")], ids="-".join)
async def test_the_certificate_must_be_for_the_origin(kind: tuple[str, str]) -> None:
    """TLS with the origin is checked against its name, and not the proxy's; the message names both."""
    before = open_sockets()
    async with network(kind) as net, new_client(net.transport()) as client:
        net.proxy.hosts = {**net.proxy.hosts, "127.0.0.1": net.origin.port}
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get(net.url.replace(NAME, "127.0.0.1"))
        assert f"with 127.0.0.1:{net.origin.port} through the proxy {net.proxy.url()}: " in str(caught.value)
        assert "certificate is not valid for '127.0.0.1'" in str(caught.value)
        # A name of the user's choice takes the place of the host's.
        response = await client.get(net.url.replace(NAME, "127.0.0.1"), extensions={"sni_hostname": OTHER})
        assert response.text == "fine"
        await until(lambda: net.proxy.open == 1)
    await sockets_closed(before)


@needs_local_addresses
async def test_the_certificate_of_a_proxy() -> None:
    """TLS with an https:// proxy is checked against its name, with its own context or the default one."""
    async with network(("https", "http")) as net:
        for proxy in (net.proxy.url(), httpx.Proxy(net.proxy.url())):
            async with new_client(HTTPTransport(verify=trusting_context(), proxy=proxy)) as client:
                with pytest.raises(httpx.ConnectError, match=f"handshake with the proxy {net.proxy.url()}: .*CERT"):
                    await client.get(net.url)
        wrong = httpx.Proxy(net.proxy.url().replace("127.0.0.1", "127.0.0.2"), ssl_context=trusting_context())
        async with new_client(HTTPTransport(verify=False, proxy=wrong)) as client:
            with pytest.raises(httpx.ConnectError, match="could not connect to the proxy https://127"):
                await client.get(net.url)
        assert net.proxy.connections == 0


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_an_upgrade(kind: tuple[str, str]) -> None:
    """A connection that changes to another protocol can be written to and read from, through a proxy as well."""
    async with network(kind, upgrade_to_echo) as net, new_client(net.transport()) as client:
        scheme = kind[1].replace("http", "ws")
        url = net.url.replace(kind[1], scheme)
        headers = {"Upgrade": "echo", "Connection": "upgrade"}
        async with client.stream("GET", url, headers=headers) as response:
            assert response.status_code == 101
            stream = response.extensions["network_stream"]
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
        assert net.proxy.asked[0].method == ("SOCKS5" if kind[0] == "socks5" else "CONNECT")


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_a_response_that_is_left_early(kind: tuple[str, str]) -> None:
    """A response that is closed before its end closes the connection, and one that is never closed does so later."""
    async with network(kind, answer(body=b"x" * 1_000_000), FINE) as net:
        transport = net.transport()
        async with new_client(transport) as client:
            async with client.stream("GET", net.url) as response:
                assert response.status_code == 200
            assert figures(transport) == (0, 0, 0)
            assert (await client.get(net.url)).text == "fine"


@needs_local_addresses
async def test_sockets() -> None:
    """Connections to a proxy come from ``local_address``, and have the socket options."""
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for kind in (("http", "http"), ("socks5", "http")):
        async with network(kind) as net:
            async with new_client(net.transport(local_address="127.0.0.3", socket_options=[option])) as client:
                stream = (await client.get(net.url)).extensions["network_stream"]
                assert stream.get_extra_info("client_addr")[0] == "127.0.0.3"
                assert stream.get_extra_info("socket").getsockopt(*option[:2]) == 1


@pytest.mark.parametrize("kind", SEVERAL, ids="-".join)
async def test_closing_the_transport(kind: tuple[str, str]) -> None:
    """Closing the transport closes what is in use as well; it may be used again."""
    before = open_sockets()
    async with network(kind) as net:
        transport = net.transport()
        client = new_client(transport)
        await client.get(net.url)
        async with client.stream("GET", net.url, extensions=dict(HELD)):
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
            await until(lambda: net.proxy.open == 0)
        assert (await client.get(net.url)).text == "fine"
        await client.aclose()
    await sockets_closed(before)


@pytest.mark.parametrize("kind", [*SEVERAL, ("http", "https")], ids="-".join)
async def test_wrong_credentials(kind: tuple[str, str]) -> None:
    """A proxy that does not know the client refuses a tunnel, and answers what it would forward with a 407."""
    before = open_sockets()
    async with network(kind, credentials="user:right") as net:
        for credentials in ("user:wr0ng", None):
            net.proxy.credentials = credentials
            transport = net.transport(kind[0])
            net.proxy.credentials = "user:right"
            async with new_client(transport) as client:
                if net.is_forwarded:
                    assert (await client.get(net.url)).status_code == 407
                    assert figures(transport) == (1, 1, 0)
                    continue
                with pytest.raises(httpx.ProxyError) as caught:
                    await client.get(net.url)
                assert figures(transport) == (0, 0, 0)
            message = str(caught.value)
            assert f"the proxy {kind[0].removesuffix('h')}://127.0.0.1:{net.proxy.port} " in message
            assert "wr0ng" not in message
            assert caught.value.request.url == net.url
            if kind[0].startswith("http"):
                assert message.endswith('407 Refused (Proxy-Authenticate: Basic realm="test")')
        assert net.origin.connections == 0
    await sockets_closed(before)


@pytest.mark.parametrize("kind", [*SEVERAL, ("http", "https")], ids="-".join)
async def test_an_origin_that_cannot_be_reached(kind: tuple[str, str]) -> None:
    """If the proxy cannot connect to the origin, the message says so; what it forwards is answered with a 502."""
    before = open_sockets()
    async with network(kind) as net, new_client(net.transport(kind[0])) as client:
        url = net.url.replace(NAME, "unknown.test")
        if net.is_forwarded:
            assert (await client.get(url)).status_code == 502
        else:
            with pytest.raises(httpx.ProxyError, match=r"could not connect to unknown\.test:\d+: (502|host unreach)"):
                await client.get(url)
        assert (await client.get(net.url)).text == "fine"
    await sockets_closed(before)
