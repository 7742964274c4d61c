"""FakeNetwork: servers in memory under the real wire."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.backend import checkpoint, clock
from prefect_http._redact import safe_url
from prefect_http._types import ASGIApp
from prefect_http._wire.transport import HTTPTransport
from prefect_http.testing._app import AppStep
from prefect_http.testing._log import Log
from prefect_http.testing._received import FakeConnection, ReceivedRequest
from prefect_http.testing._route import Route
from prefect_http.testing._server import FakeServer, new_server
from prefect_http.testing._server_script import ServerScript
from prefect_http.testing._stream import FakeStream
from prefect_http.testing._verdicts import left_over, pauses, wrong_order, wrong_waits

C = TypeVar("C")

_ASYNC_CLIENT = httpx.AsyncClient  # which a test may replace by clients of its network
_PORTS = {"http": 80, "https": 443}
# Of httpx.AsyncClient: they are for the transport that it would make, or for real networks.
_TRANSPORT_ARGUMENTS = ("http1", "http2", "limits")
_WITHOUT_USE = ("verify", "cert")


class FakeNetwork:
    """In-memory servers, and connections to them, for tests of clients.

    The real `HTTPTransport` runs on top of them: its pool, its parsers and its timeouts are those of production, over
    HTTP/1.1 and HTTP/2. Only the sockets and TLS are missing: https does not need certificates, and nothing waits for a
    network. So with a virtual clock (trio's ``autojump_clock``, or `virtual_time_loop` on asyncio) a test that waits an
    hour takes no time.

    A host without a server refuses connections. A request that is not in any script raises `UnexpectedRequest`, which
    clients do not retry; `check()` raises it once more, and an AssertionError for steps of scripts that were not used.
    Leaving ``async with`` calls `check()`, unless the block raised an exception. Entering is only needed for apps.

    Attributes:
        requests: the requests that have arrived at the servers, in order.
        connections: the connections that have been opened, in order.
    """

    def __init__(self) -> None:
        self._log = Log()
        self._servers: dict[tuple[str, int], ServerScript] = {}
        self._apps: list[AppStep] = []
        self._lifespans: contextlib.AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"<FakeNetwork({', '.join(safe_url(server.url) for server in self._servers.values())})>"

    @property
    def requests(self) -> Sequence[ReceivedRequest]:
        """What has arrived at the servers, in order."""
        return self._log.requests

    @property
    def connections(self) -> Sequence[FakeConnection]:
        """The connections that have been opened, in order."""
        return self._log.connections

    def serve(self, url: httpx.URL | str, app: ASGIApp | None = None, *, http2: bool = True) -> FakeServer:
        """Add a server to the network.

        Args:
            url: its URL, such as ``https://api.example.com``, with or without a port. If it has a path, all paths of
                the server's routes are below that.
            app: an ASGI app that serves the requests that no route matches. Its lifespan runs as long as
                ``async with``. It is called when the whole body of the request has arrived.
            http2: whether the server chooses HTTP/2 if a client offers that in the TLS handshake.

        Raises:
            ValueError: the URL is not that of a server, or there already is a server for it.
            RuntimeError: ``app`` is given, and the network has been entered already.
        """
        url = httpx.URL(url)
        if url.scheme not in _PORTS or not url.host or url.query or url.fragment or url.userinfo:
            raise ValueError(
                f"serve() takes a URL such as https://api.example.com or http://host:8000/v1, not {safe_url(url)}"
            )
        place = _place_of(url)
        if place in self._servers:
            raise ValueError(f"there is a server at {safe_url(self._servers[place].url)} already")
        script = ServerScript(url, self._log, accepts_http2=http2)
        if app is not None:
            if self._lifespans is not None:
                raise RuntimeError("the network has been entered: call serve(app=...) before `async with network`")
            script.app = step = AppStep(app)
            self._apps.append(step)
        self._servers[place] = script
        return new_server(script)

    # --- Clients

    def client(self, client_class: Callable[..., C], **arguments: Any) -> C:
        """Return a client that uses this network.

        Args:
            client_class: PrefectHttpxClient, httpx.AsyncClient or a subclass, or httpx2.AsyncClient or a subclass; it
                must take ``transport=``.
            **arguments: the arguments of the client. ``http1``, ``http2`` and ``limits`` apply to the connections;
                ``verify`` and ``cert`` are ignored.

        Raises:
            TypeError: the class is none of these, or ``transport``, ``app`` or ``proxy`` is given.
        """
        for name in ("transport", "app", "proxy"):
            if arguments.get(name) is not None:
                raise TypeError(f"client() makes a client whose network is this one, so {name}= cannot be given")
        transport_class = _transport_class(client_class)
        options = {name: arguments.pop(name) for name in _TRANSPORT_ARGUMENTS if name in arguments}
        for name in _WITHOUT_USE:
            arguments.pop(name, None)
        transport = transport_class(trust_env=False, connect=self.connect, **options)
        return client_class(transport=transport, **arguments)

    async def connect(self, host: str, port: int) -> ByteStream:
        """Open a connection: for the ``connect=`` of an HTTPTransport, if a client only accepts a transport.

        Raises:
            ConnectionRefusedError: there is no such server, or it refuses the connection.
        """
        await checkpoint()
        script = self._servers.get((_normalized(host), port))
        if script is None:
            known = ", ".join(safe_url(server.url) for server in self._servers.values()) or "none"
            raise ConnectionRefusedError(f"no server of the FakeNetwork is at {host}:{port}; there are: {known}")
        now = clock()
        if script.refuses(now()):
            raise ConnectionRefusedError(f"the FakeServer at {host}:{port} refuses the connection")
        record = FakeConnection(len(self._log.connections), host, port, now())
        self._log.connections.append(record)
        return FakeStream(record, script.url.scheme, script, now, accepts_http2=script.accepts_http2)

    # --- Verdicts

    def check(self) -> None:
        """Check that all scripts were used up, that no other requests arrived, and that nothing failed.

        Raises:
            AssertionError: one of these checks failed. The message has tables of what was expected and what arrived.
        """
        verdict = left_over(self._servers.values(), self._log.mistakes, self._log.requests)
        if verdict is not None:
            raise AssertionError(verdict)

    def assert_waits(
        self,
        waits: Sequence[float | tuple[float, float]],
        *,
        requests: Sequence[ReceivedRequest] | None = None,
        tolerance: float = 0.001,
    ) -> None:
        """Check the pauses between requests: from the end of each answer, or of its connection, to the next request.

        Args:
            waits: the pauses, in seconds; each is a number, or a pair of the least and the most.
            requests: the requests, such as those of a route; None: all.
            tolerance: how much a pause may differ from a number, in seconds.

        Raises:
            AssertionError: the pauses are different.
            TypeError: ``waits`` is not a sequence of numbers and pairs.
            ValueError: the least of a pair is more than the most.
        """
        _check_waits(waits)
        requests = self.requests if requests is None else requests
        found = pauses(requests)
        if len(found) != len(waits) or not all(
            least - tolerance <= pause <= most + tolerance
            for pause, (least, most) in zip(found, map(_range, waits), strict=True)
        ):
            raise AssertionError(wrong_waits(found, waits, requests))

    def assert_order(self, *routes: Route) -> None:
        """Check that requests have arrived in this order: one for the first route, later one for the next, and so on.

        Raises:
            AssertionError: they have not.
            TypeError: something else than a route is given.
        """
        for route in routes:
            if not isinstance(route, Route):
                raise TypeError(f"assert_order() takes routes, such as those that api.get(...) returns, not {route!r}")
        remaining = iter(self.requests)
        for route in routes:
            its_own = set(route.requests)
            if not any(request in its_own for request in remaining):
                raise AssertionError(wrong_order([str(route) for route in routes], self.requests))

    async def __aenter__(self) -> Self:
        if self._lifespans is not None:
            raise RuntimeError("the network has been entered already")
        await checkpoint()  # here, since nothing may be raised once the apps have started
        async with contextlib.AsyncExitStack() as lifespans:
            for app in self._apps:
                await lifespans.enter_async_context(app.running())
            self._lifespans = lifespans.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._lifespans is not None
        lifespans, self._lifespans = self._lifespans, None
        await lifespans.__aexit__(exc_type, exc, traceback)
        await checkpoint()
        if exc is None:
            self.check()


def _check_waits(waits: object) -> None:
    if isinstance(waits, Sequence) and not isinstance(waits, str):
        for wait in cast("Sequence[object]", waits):
            limits = cast("tuple[object, ...]", wait) if isinstance(wait, tuple) else (wait, wait)
            if len(limits) != 2 or not all(isinstance(limit, int | float) for limit in limits):
                raise TypeError(
                    f"a pause must be a number of seconds, or a pair of the least and the most, not {wait!r}"
                )
            least, most = cast("tuple[float, float]", limits)
            if least > most:
                raise ValueError(f"in a pair of pauses, the least must come first, not {wait!r}")
    else:
        raise TypeError(
            f"assert_waits() takes a list of pauses in seconds, such as [60] or [60, (1, 2)], not {waits!r}"
        )


def _range(wait: float | tuple[float, float]) -> tuple[float, float]:
    return wait if isinstance(wait, tuple) else (wait, wait)


def _place_of(url: httpx.URL) -> tuple[str, int]:
    return _normalized(url.raw_host.decode("ascii")), url.port or _PORTS[url.scheme]


def _normalized(host: str) -> str:
    """Return a host in one spelling. httpx has names in lower case already, but no IPv6 addresses."""
    return str(ipaddress.IPv6Address(host)) if ":" in host else host


def _transport_class(client_class: Callable[..., object]) -> type[HTTPTransport]:
    """Return the class of transports for a class of clients.

    Raises:
        TypeError: it is none of httpx's or httpx2's.
    """
    bases = client_class.__mro__ if isinstance(client_class, type) else ()
    if _ASYNC_CLIENT in bases:
        return HTTPTransport
    httpx2 = sys.modules.get("httpx2")
    if httpx2 is not None and httpx2.AsyncClient in bases:
        import prefect_http.httpx2

        return cast("type[HTTPTransport]", prefect_http.httpx2.HTTPTransport)
    if httpx.Client in bases:
        remedy = "sync clients are not supported"
    elif isinstance(client_class, _ASYNC_CLIENT):
        remedy = "pass the class, followed by its arguments"
    else:
        remedy = "for any other client, pass transport=HTTPTransport(connect=network.connect)"
    raise TypeError(
        f"client() takes httpx.AsyncClient, httpx2.AsyncClient or a subclass, not {client_class!r}; {remedy}"
    )
