"""The transports for an ``httpx2.AsyncClient``; needs httpx2 (``pip install 'prefect_http[httpx2]'``).

``prefect_http`` itself works with httpx, or with httpx2 in its place where the application calls
``httpx2.alias_httpx()`` first. These transports need no alias: their requests, responses, streams and exceptions are
httpx2's, so they fit a client that another library makes, such as the SDK of an HTTP API.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypedDict, cast

import httpx
import httpx2

from prefect_http._asgi.transport import ASGITransport as _HttpxASGITransport
from prefect_http._throttle.admission import Admissions
from prefect_http._throttle.throttle import Throttle, gates_of
from prefect_http._types import ASGIApp, Certificate, SocketOption
from prefect_http._wire.replaced import StandIn
from prefect_http._wire.transport import new_wire
from prefect_http._wire.wire import TransportStatistics

__all__ = ["ASGITransport", "HTTPTransport", "ThrottledTransport"]

# The same as httpx2's.
_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)


# --- The transports


class HTTPTransport(httpx2.AsyncBaseTransport):
    """``prefect_http.HTTPTransport`` for an ``httpx2.AsyncClient``, in place of ``httpx2.AsyncHTTPTransport``.

    It has the same arguments. With those that ``prefect_http.HTTPTransport`` leaves to httpx, and while something has
    replaced the ``handle_async_request`` of httpx2.AsyncHTTPTransport or of its pool, requests go to httpx2's own.

    Requests raise:
        TypeError: the transport is in a client of httpx.
        httpx2.TransportError: the httpx2 class that is named like the exception of ``prefect_http.HTTPTransport``,
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
    ) -> None:
        arguments = _Arguments(
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
        self._wire = new_wire(
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            limits=httpx.Limits(
                max_connections=limits.max_connections,
                max_keepalive_connections=limits.max_keepalive_connections,
                keepalive_expiry=limits.keepalive_expiry,
            ),
            local_address=local_address,
            retries=retries,
            socket_options=arguments["socket_options"],
        )
        self._stand_in = StandIn(httpx2, lambda: httpx2.AsyncHTTPTransport(**arguments))
        self._httpx2_transport: httpx2.AsyncHTTPTransport | None = None  # does what the wire does not do yet
        if http2 or not http1 or proxy is not None or uds is not None:
            self._httpx2_transport = httpx2.AsyncHTTPTransport(**arguments)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return its response, with the body still to be read."""
        _check_request(request, self)
        transport = self._stand_in.find() or self._httpx2_transport
        if transport is not None:
            return await transport.handle_async_request(request)
        return await _send(self._wire, request)

    def statistics(self) -> TransportStatistics:
        """Return the number of connections and of waiting requests, without those that are left to httpx2."""
        return self._wire.statistics()

    async def aclose(self) -> None:
        """Close all connections; see ``prefect_http.HTTPTransport.aclose()``."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._stand_in.aclose)
            if self._httpx2_transport is not None:
                stack.push_async_callback(self._httpx2_transport.aclose)
            await self._wire.aclose()


class ASGITransport(httpx2.AsyncBaseTransport):
    """``prefect_http.ASGITransport`` for an ``httpx2.AsyncClient``; with the same arguments.

    Requests raise:
        TypeError: the transport is in a client of httpx.
        httpx2.TransportError: the httpx2 class that is named like the exception of ``prefect_http.ASGITransport``,
            which is the cause.
        Exception: what the app raises, as it is.
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
        _check_request(request, self)
        return await _send(self._transport, request)

    async def aclose(self) -> None:
        """End all requests that are still running; see ``prefect_http.ASGITransport.aclose()``."""
        await self._transport.aclose()


class ThrottledTransport(httpx2.AsyncBaseTransport):
    """``prefect_http.ThrottledTransport`` for an ``httpx2.AsyncClient``: sends requests when a throttle lets them.

    Args:
        transport: any transport of httpx2. It is entered and closed with this one.
        throttle: may be shared with other transports and clients, also with those of httpx.

    Requests raise:
        TypeError: the transport is in a client of httpx.
        httpx2.PoolTimeout: the request cannot leave in time. The cause is a ``ThrottleTimeout``.
        httpx2.ConnectError: the transport was closed while the request waited; it was not sent.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport, throttle: Throttle) -> None:
        self._transport = transport
        self._admissions = Admissions(gates_of(throttle), failures=httpx2.TransportError)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Wait for the request's turn, and send it."""
        _check_request(request, self)
        try:
            # A throttle uses only what the requests and responses of both libraries have.
            async with self._admissions.admit(cast(httpx.Request, request)) as permit:
                response = await self._transport.handle_async_request(request)
                response.request = request
                try:
                    permit.record(cast(httpx.Response, response))
                except BaseException:
                    await response.aclose()
                    raise
        except _HTTPX_ERRORS as error:
            raise _to_httpx2(error) from error
        return response

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        self._admissions.end_waits()
        await self._transport.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> None:
        """Close the other transport; requests that still wait for their turn are not sent."""
        self._admissions.end_waits()
        await self._transport.aclose()


class _Arguments(TypedDict):
    verify: ssl.SSLContext | str | bool
    cert: Certificate | None
    trust_env: bool
    http1: bool
    http2: bool
    limits: httpx2.Limits
    proxy: httpx2.URL | str | httpx2.Proxy | None
    uds: str | None
    local_address: str | None
    retries: int
    socket_options: list[SocketOption] | None


# --- From one library to the other and back

# None where the application has put httpx2 in the place of httpx: they are httpx2's already.
_HTTPX_ERRORS = () if httpx.__name__ == "httpx2" else (httpx.RequestError, httpx.StreamError)


def _check_request(request: object, transport: httpx2.AsyncBaseTransport) -> None:
    if not isinstance(request, httpx2.Request):
        library, name = type(request).__module__.partition(".")[0], type(transport).__name__
        raise TypeError(
            f"prefect_http.httpx2.{name} takes requests of httpx2, not of {library}; "
            f"an httpx.AsyncClient takes prefect_http.{name}"
        )


async def _send(transport: httpx.AsyncBaseTransport, request: httpx2.Request) -> httpx2.Response:
    """Send a request of httpx2 through a transport of httpx."""
    stream = request.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    translated = httpx.Request(
        request.method,
        str(request.url),
        headers=request.headers.raw,
        stream=httpx.ByteStream(b"".join(stream)) if isinstance(stream, httpx2.ByteStream) else _RequestBody(stream),
        extensions=request.extensions,
    )
    try:
        response = await transport.handle_async_request(translated)
    except _HTTPX_ERRORS as error:
        raise _to_httpx2(error) from error
    return httpx2.Response(
        response.status_code,
        headers=response.headers.raw,
        stream=_ResponseBody(cast(httpx.AsyncByteStream, response.stream)),
        extensions=response.extensions,
    )


def _to_httpx2(error: Exception) -> Exception:
    """Return the exception of httpx2 for one of httpx: of the class with the same name, or of the nearest base's."""
    kind = next(getattr(httpx2, base.__name__) for base in type(error).__mro__ if hasattr(httpx2, base.__name__))
    return cast(Exception, kind(*error.args))


class _RequestBody(httpx.AsyncByteStream):
    """The body of a request of httpx2, for a transport of httpx."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)


class _ResponseBody(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response of httpx, for a client of httpx2."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        assert self._chunks is not None
        try:
            return await anext(self._chunks)
        except _HTTPX_ERRORS as error:
            raise _to_httpx2(error) from error

    async def aclose(self) -> None:
        await self._stream.aclose()
