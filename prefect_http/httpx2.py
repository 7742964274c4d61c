"""The transports for an ``httpx2.AsyncClient``; needs httpx2 (``pip install 'prefect_http[httpx2]'``).

``prefect_http`` itself works with httpx, or with httpx2 in its place where the application calls
``httpx2.alias_httpx()`` first. These transports need no alias: their requests, responses, streams and exceptions are
httpx2's, so they fit a client that another library makes, such as the SDK of an HTTP API.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from types import ModuleType, TracebackType
from typing import Any, Self, cast

import httpx

from prefect_http._asgi.transport import ASGITransport as _HttpxASGITransport
from prefect_http._foreign_errors import is_foreign, mark_foreign
from prefect_http._httpx_requests import library_of
from prefect_http._throttle.admission import Admissions
from prefect_http._throttle.replayed_body import Library
from prefect_http._throttle.throttle import Throttle, gates_of
from prefect_http._types import ASGIApp, Certificate, SocketOption
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.openers import Connect
from prefect_http._wire.replaced import StandIn
from prefect_http._wire.statistics import TransportStatistics
from prefect_http._wire.transport import Arguments, new_wire

try:
    import httpcore2
    import httpx2
except ImportError as _error:
    raise ImportError(
        "prefect_http.httpx2 needs the package httpx2; install it with: pip install 'prefect_http[httpx2]'"
    ) from _error

__all__ = ["ASGITransport", "HTTPTransport", "ThrottledTransport"]

# The same as httpx2's.
_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)


# --- The transports


class HTTPTransport(httpx2.AsyncBaseTransport):
    """``prefect_http.HTTPTransport`` for an ``httpx2.AsyncClient``, in place of ``httpx2.AsyncHTTPTransport``.

    It has the same arguments. While something has replaced the ``handle_async_request`` of httpx2.AsyncHTTPTransport or
    of its pool, requests go through an httpx2.AsyncHTTPTransport. The ``network_stream`` of a response raises
    httpcore2's exceptions, as httpx2's does.

    Requests raise:
        TypeError: the transport is in a client of httpx.
        httpx2.TransportError: the httpx2 class with the same name as the exception of ``prefect_http.HTTPTransport``,
            which is the cause.
    """

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: Certificate | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = _LIMITS,
        proxy: httpx2.URL | str | httpx2.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        connect: Connect | None = None,
    ) -> None:
        if isinstance(proxy, str | httpx2.URL):
            proxy = httpx2.Proxy(proxy)
        arguments = Arguments(
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            proxy=proxy,
            uds=uds,
            local_address=local_address,
            retries=retries,
            socket_options=None if socket_options is None else list(socket_options),  # it may be needed twice
        )
        self._wire = new_wire(arguments, connect)
        self._stand_in = StandIn(
            httpx2, lambda: httpx2.AsyncHTTPTransport(**arguments), has_connect=connect is not None
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return its response, with the body still to be read."""
        _check_request(request, "HTTPTransport")
        stand_in = self._stand_in.find()
        if stand_in is None:
            return await _send(self._wire, request)
        return await stand_in.handle_async_request(request)

    def statistics(self) -> TransportStatistics:
        """Return the number of connections, of waiting requests, and of streams."""
        return self._wire.statistics()

    async def aclose(self) -> None:
        """Close all connections; see ``prefect_http.HTTPTransport.aclose()``."""
        try:
            await self._wire.aclose()
        finally:
            await self._stand_in.aclose()


class ASGITransport(httpx2.AsyncBaseTransport):
    """``prefect_http.ASGITransport`` for an ``httpx2.AsyncClient``; with the same arguments.

    Requests raise:
        TypeError: the transport is in a client of httpx.
        httpx2.TransportError: the httpx2 class with the same name as the exception of ``prefect_http.ASGITransport``,
            which is the cause.
        Exception: what the app raises, unchanged.
    """

    def __init__(
        self,
        app: ASGIApp,
        raise_app_exceptions: bool = True,
        root_path: str = "",
        client: tuple[str, int] = ("127.0.0.1", 123),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._transport = _HttpxASGITransport(app, raise_app_exceptions, root_path, client, state)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Call the app, and return its response as soon as the headers are there."""
        _check_request(request, "ASGITransport")
        return await _send(self._transport, request)

    async def aclose(self) -> None:
        """End all requests that are still running; see ``prefect_http.ASGITransport.aclose()``."""
        await self._transport.aclose()


class ThrottledTransport(httpx2.AsyncBaseTransport):
    """``prefect_http.ThrottledTransport`` for an ``httpx2.AsyncClient``: sends requests when a throttle lets them.

    Args:
        transport: any transport of httpx2. It is entered and closed with this one.
        throttle: may be shared with other transports and clients, including those of httpx.

    Raises:
        TypeError: ``throttle`` is not a Throttle.
        ValueError: ``transport`` is already behind the same throttle.

    Requests raise:
        TypeError: the transport is in a client of httpx.
        httpx2.PoolTimeout: the request could not be sent in time. The cause is a ``ThrottleTimeout``.
        httpx2.ConnectError: the transport was closed while the request waited; it was not sent.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport, throttle: Throttle) -> None:
        gates = gates_of(throttle)
        if isinstance(transport, ThrottledTransport) and transport._throttle is throttle:
            raise ValueError("the transport already uses this throttle: each request would wait for itself")
        self._transport = transport
        self._throttle: Throttle = throttle
        # It uses only what the requests, responses and transports of both libraries have.
        self._admissions = Admissions(cast(httpx.AsyncBaseTransport, transport), gates, _LIBRARY)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Wait for the request's turn, and send it."""
        _check_request(request, "ThrottledTransport")
        return cast(httpx2.Response, await self._admissions.send(cast(httpx.Request, request)))

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        async with self._admissions.closing():
            await self._transport.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> None:
        """Close the other transport; requests that still wait for their turn are not sent."""
        async with self._admissions.closing():
            await self._transport.aclose()


# --- From one library to the other and back


def _check_request(request: object, name: str) -> None:
    if not isinstance(request, httpx2.Request):
        raise TypeError(
            f"prefect_http.httpx2.{name} takes requests of httpx2, not of {library_of(request)}; "
            f"an httpx.AsyncClient takes prefect_http.{name}"
        )


class _ErrorsOf:
    """A context that turns httpx's exceptions into those of another library that have the same names.

    Exceptions that an app or the body of the request has raised are left as they are.

    Args:
        library: httpx2, or httpcore2 for a network stream.
        request: the request, for a transport that calls apps and reads bodies.
    """

    __slots__ = ("_kinds", "_library", "_request")

    def __init__(self, library: ModuleType, request: httpx.Request | None = None) -> None:
        self._library = library
        self._request = request
        # Where the application has put httpx2 in the place of httpx, they are httpx2's already.
        self._kinds = () if library.__name__ == httpx.__name__ else (httpx.RequestError, httpx.StreamClosed)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(exc, self._kinds) and not (self._request is not None and is_foreign(exc, self._request)):
            raise self._translated(exc) from exc

    def _translated(self, error: Exception) -> Exception:
        """Return an exception of the class with the same name, or with the name of the nearest base."""
        names = (base.__name__ for base in type(error).__mro__)
        kind = next(getattr(self._library, name) for name in names if hasattr(self._library, name))
        new = kind() if isinstance(error, httpx.StreamClosed) else kind(str(error))
        for note in getattr(error, "__notes__", ()):
            new.add_note(note)
        return cast(Exception, new)


_HTTPCORE2_ERRORS = _ErrorsOf(httpcore2)
_LIBRARY = Library(
    failure=httpx2.TransportError,
    stream=cast("type[httpx.AsyncByteStream]", httpx2.AsyncByteStream),
    read_timeout=httpx2.ReadTimeout,
    errors=_ErrorsOf(httpx2),
)


async def _send(transport: httpx.AsyncBaseTransport, request: httpx2.Request) -> httpx2.Response:
    """Send a request of httpx2 through a transport of httpx."""
    stream = request.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    translated = httpx.Request(
        request.method,
        str(request.url),
        headers=request.headers.raw,
        stream=httpx.ByteStream(b""),  # with None, it would have a length of its own
        extensions=request.extensions,
    )
    if type(stream) is httpx2.ByteStream:  # and no subclass, which may want to know how much of it has been sent
        translated.stream = httpx.ByteStream(b"".join(stream))
    else:
        translated.stream = _RequestBody(stream, translated)
    errors = _ErrorsOf(httpx2, translated)
    with errors:
        response = await transport.handle_async_request(translated)
    extensions = response.extensions
    if isinstance(network_stream := extensions.get("network_stream"), NetworkStream):
        extensions = {**extensions, "network_stream": _NetworkStream(network_stream)}
    return httpx2.Response(
        response.status_code,
        headers=response.headers.raw,
        stream=_ResponseBody(cast(httpx.AsyncByteStream, response.stream), errors),
        extensions=extensions,
    )


class _RequestBody(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a request of httpx2, for a request of httpx. What it raises is marked as not httpx's."""

    def __init__(self, stream: httpx2.AsyncByteStream, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        assert self._chunks is not None
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except Exception as error:
            mark_foreign(error, self._request)
            raise


class _ResponseBody(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response of httpx, for a client of httpx2."""

    def __init__(self, stream: httpx.AsyncByteStream, errors: _ErrorsOf) -> None:
        self._stream = stream
        self._errors = errors
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        assert self._chunks is not None
        with self._errors:
            return await anext(self._chunks)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _NetworkStream(httpcore2.AsyncNetworkStream):
    """A network stream that raises httpcore2's exceptions, which httpx2's WebSockets expect.

    Args:
        stream: raises httpx's.
    """

    def __init__(self, stream: NetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _HTTPCORE2_ERRORS:
            return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _HTTPCORE2_ERRORS:
            await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _NetworkStream:
        with _HTTPCORE2_ERRORS:
            return _NetworkStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
