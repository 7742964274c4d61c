"""Proxies on loopback: HTTP, HTTPS and SOCKS5, with and without credentials. They note what they were asked for."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import anyio
import anyio.abc
import h11
import httpx
from anyio.streams.buffered import BufferedByteStream

from support.tls_servers import listening

_MAX_HEAD = 65536


def _is_known(scheme: str) -> bool:
    try:
        httpx.Proxy(f"{scheme}://proxy")
    except ValueError:
        return False
    return True


SCHEMES = [scheme for scheme in ("http", "https", "socks5", "socks5h") if _is_known(scheme)]
"""Those of the proxies that httpx knows: ``"socks5h"`` is new in httpx 0.28."""


@dataclass(frozen=True)
class Asked:
    """What a proxy was asked for: of SOCKS5, the method is ``"SOCKS5"``, and the only header the credentials."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class ProxyServer:
    """A proxy.

    Attributes:
        scheme: ``"http"``, ``"https"`` or ``"socks5"``.
        hosts: where each name leads, a port on loopback; all others cannot be reached.
        credentials: what it wants to hear, as ``"user:password"``; None: nothing.
        port: where it listens.
        connections: the number of connections that it has accepted.
        open: how many of them are still open.
        asked: what it was asked for, in order.
        refusals: how to answer the next requests for a tunnel, but for SOCKS5's authentication.
    """

    scheme: str
    hosts: Mapping[str, int]
    credentials: str | None = None
    port: int = 0
    connections: int = 0
    open: int = 0
    asked: list[Asked] = field(default_factory=list[Asked])
    refusals: list[bytes] = field(default_factory=list[bytes])

    def url(self, credentials: str | None = None) -> str:
        """Return its URL, with the right credentials, or others."""
        credentials = credentials or self.credentials
        userinfo = "" if credentials is None else quote(credentials, safe=":") + "@"
        return f"{self.scheme}://{userinfo}127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """What it was asked for, in order, in short."""
        return [f"{asked.method} {asked.target}" for asked in self.asked]

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        try:
            async with stream:
                buffered = BufferedByteStream(stream)
                with contextlib.suppress(anyio.IncompleteRead):
                    await (self._serve_socks(buffered) if self.scheme == "socks5" else self._serve_http(buffered))
        finally:
            self.open -= 1

    async def _serve_http(self, stream: BufferedByteStream) -> None:
        while True:
            head = (await stream.receive_until(b"\r\n\r\n", _MAX_HEAD)).decode("latin-1")
            line, *lines = head.split("\r\n")
            method, target, _ = line.split(" ")
            headers = tuple((name, text) for name, _, text in (each.partition(": ") for each in lines))
            self.asked.append(Asked(method, target, headers))
            known = {name.lower(): text for name, text in headers}
            expected = self.credentials and "Basic " + base64.b64encode(self.credentials.encode()).decode()
            if expected is not None and known.get("proxy-authorization") != expected:
                await stream.send(_answer(407, b'Proxy-Authenticate: Basic realm="test"\r\n'))
            elif method == "CONNECT":
                if self.refusals:
                    await stream.send(self.refusals.pop(0))
                    continue
                host, _, _ = target.rpartition(":")
                if host not in self.hosts:
                    await stream.send(_answer(502, b""))
                    continue
                async with await anyio.connect_tcp("127.0.0.1", self.hosts[host]) as server:
                    await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await _join(stream, server)
                return
            else:
                await self._forward(stream, method, httpx.URL(target), headers, known)

    async def _forward(
        self,
        stream: BufferedByteStream,
        method: str,
        url: httpx.URL,
        headers: tuple[tuple[str, str], ...],
        known: Mapping[str, str],
    ) -> None:
        body = b""
        if length := int(known.get("content-length", "0")):
            body = await stream.receive_exactly(length)
        elif known.get("transfer-encoding"):
            while not body.endswith(b"0\r\n\r\n"):
                body += await stream.receive_until(b"\n", _MAX_HEAD) + b"\n"
        if url.host not in self.hosts:
            await stream.send(_answer(502, b""))
            return
        lines = [f"{name}: {text}" for name, text in headers if not name.lower().startswith("proxy-")]
        request = "\r\n".join([f"{method} {url.raw_path.decode()} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        async with await anyio.connect_tcp("127.0.0.1", self.hosts[url.host]) as server:
            await server.send(request)
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(data := await server.receive())
                    await stream.send(data)
                elif isinstance(event, h11.EndOfMessage):
                    return

    async def _serve_socks(self, stream: BufferedByteStream) -> None:
        version, count = await stream.receive_exactly(2)
        assert version == 5
        methods, login = await stream.receive_exactly(count), ""
        wanted = 0 if self.credentials is None else 2
        if wanted not in methods:
            await stream.send(b"\5\xff")
            return
        await stream.send(bytes([5, wanted]))
        if wanted:
            version, length = await stream.receive_exactly(2)
            assert version == 1
            user = await stream.receive_exactly(length)
            password = await stream.receive_exactly((await stream.receive_exactly(1))[0])
            login = (user + b":" + password).decode()
            await stream.send(bytes([1, login != self.credentials]))
            if login != self.credentials:
                return
        _, _, _, kind = await stream.receive_exactly(4)
        length = {1: 4, 3: 0, 4: 16}[kind] or (await stream.receive_exactly(1))[0]
        address = await stream.receive_exactly(length)
        host = address.decode() if kind == 3 else str(ipaddress.ip_address(address))
        port = int.from_bytes(await stream.receive_exactly(2), "big")
        self.asked.append(Asked("SOCKS5", f"{host}:{port}", (("login", login),) if login else ()))
        if self.refusals:
            await stream.send(self.refusals.pop(0))
            return
        if host not in self.hosts:
            await stream.send(b"\5\4\0\1\0\0\0\0\0\0")
            return
        async with await anyio.connect_tcp("127.0.0.1", self.hosts[host]) as server:
            await stream.send(b"\5\0\0\1\0\0\0\0\0\0")
            await _join(stream, server)


def _answer(status: int, headers: bytes) -> bytes:
    return b"HTTP/1.1 %d Refused\r\n%bContent-Length: 7\r\n\r\nrefused" % (status, headers)


async def _join(one: anyio.abc.ByteStream, other: anyio.abc.ByteStream) -> None:
    """Send what either side sends to the other one, until one of them ends."""

    async def copy(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError):
            while True:
                await target.send(await source.receive())
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(copy, one, other)
        tasks.start_soon(copy, other, one)


@contextlib.asynccontextmanager
async def running_proxy(
    scheme: str, hosts: Mapping[str, int], *, credentials: str | None = None, context: ssl.SSLContext | None = None
) -> AsyncGenerator[ProxyServer]:
    """Run a proxy during the block, which may take 10 s.

    Args:
        scheme: ``"http"``, ``"https"`` or ``"socks5"``.
        hosts: where each name leads.
        credentials: what it wants to hear, as ``"user:password"``.
        context: for ``"https"``.
    """
    proxy = ProxyServer(scheme, hosts, credentials)
    async with listening(proxy.serve, context) as proxy.port:
        yield proxy
