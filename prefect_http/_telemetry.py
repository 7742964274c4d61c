"""Telemetry: what a client tells those who want to measure it. Users override the methods that they need."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, ParamSpec, Self, TypeVar

import httpx

import prefect_http

P = ParamSpec("P")
T = TypeVar("T")

# What begins the attempt of the request that is being sent. A throttle takes it away, and calls it with the request
# when it lets that through. It is not in the request, because several tasks may be sending the same one.
ON_ADMITTED = ContextVar[Callable[[httpx.Request], None] | None]("prefect_http.on_admitted", default=None)
# The function of a request with this extension is called before an app in this process is, in the same context.
ON_APP_CALL = "prefect_http.on_app_call"

_logger = logging.getLogger("prefect_http.telemetry")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """A connection of an HTTPTransport.

    The times are those of the successful attempt to open it, in seconds, on the event loop's clock. They do not include
    waiting for a place in the pool.

    Attributes:
        number: unique among the connections of this process.
        scheme: of the URLs that it serves: "http" or "https". If a proxy forwards requests instead of opening a tunnel,
            this, the host and the port are those of the proxy.
        host: the host that it connects to, as in the URL.
        port: likewise.
        peer_address: the IP address at its other end, which is that of the proxy if there is one; None if it is not
            known, as over a Unix socket. A stream that ``connect=`` has opened may have a name here.
        peer_port: likewise.
        protocol: "HTTP/1.1" or "HTTP/2".
        lookup_seconds: how long it took to look up the name; None if there was nothing to look up here, as with an IP
            address, a Unix socket or ``connect=``.
        connect_seconds: how long it took to connect after that: over TCP, to a Unix socket, or by ``connect=``.
        tunnel_seconds: how long it took to open a tunnel through a proxy, TLS with the proxy included; None without a
            proxy.
        tls_seconds: how long the TLS handshake with the server took; None without TLS.
        requests: how many requests have used it before.
        open_seconds: how long it has been open, when it is closed; None before.
        reason: why it was closed, as one of a few fixed phrases; None as long as it is open.
    """

    number: int
    scheme: str
    host: str
    port: int
    peer_address: str | None
    peer_port: int | None
    protocol: str
    lookup_seconds: float | None
    connect_seconds: float
    tunnel_seconds: float | None
    tls_seconds: float | None
    requests: int
    open_seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LifespanEvent:
    """A client with ``app=`` has entered or left the app's lifespan, or failed to.

    Attributes:
        kind: "entered" or "left", also if that failed.
        app: the app.
        seconds: how long that took. It includes the app's startup or shutdown, unless others use the app as well.
        error: what went wrong; None if nothing did.
    """

    kind: Literal["entered", "left"]
    app: object
    seconds: float
    error: BaseException | None


class AttemptObserver:
    """Follows one attempt, as a context manager around it. Does nothing; override what you need.

    It is entered and left in the task that sends the request, so it may set context variables. What ``__exit__``
    returns is ignored.
    """

    def __enter__(self) -> Self:
        """Called before the request is sent; its headers may still be changed."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        """Called at the end of the attempt: when the body has been read, unless the response is streamed or bad."""

    def set_response(self, response: httpx.Response) -> None:
        """Called when the headers of the response have arrived. Unless it is streamed, the body is read after that."""

    def set_error(self, error: BaseException) -> None:
        """Called if the attempt fails, before ``__exit__``; also after ``set_response()``, if reading the body fails.

        Args:
            error: what was raised, such as an httpx.RequestError, or the backend's cancellation.
        """


class Telemetry:
    """Receives what a PrefectHttpxClient does. The methods do nothing; override those that you need.

    They are called in the task that does what they report. They are not async, so they should not take long. If one of
    them raises an exception, the logger ``prefect_http.telemetry`` logs it, and nothing else changes. One object may
    serve several clients.

    It is notified of the connections of each HTTPTransport that the client creates or is given, including one behind a
    throttle: of all that are opened from then on, whichever client uses them. If several clients share the transport
    and the telemetry, it is notified once. ``connection_acquired()`` is called in the task of the request;
    ``connection_released()`` and ``connection_closed()`` may be called in another one, such as that of an HTTP/2
    connection.
    """

    def attempt(self, request: httpx.Request, resend_count: int) -> AttemptObserver:
        """Return an observer for the attempt that is about to begin.

        Args:
            request: the request.
            resend_count: how many requests the ``send()`` has sent before: retries, redirects, and those of an auth
                flow, as OpenTelemetry counts them.
        """
        return AttemptObserver()

    def wait(self, request: httpx.Request, delay: float, reason: str) -> None:
        """Called before the wait for the next attempt, and after a wait in the queue of a throttle.

        It is also called before the wait for the next connection of a ``client.sse()``.

        Args:
            request: the request.
            delay: how long the wait will be, or has been, in seconds.
            reason: why, in words.
        """

    def connection_opened(self, info: ConnectionInfo) -> None:
        """Called when a connection has been opened; not if that fails."""

    def connection_acquired(self, info: ConnectionInfo) -> None:
        """Called in a request's task when it begins to use a connection; ``info.requests`` is 0 if it is a new one.

        Over HTTP/2, several requests may use a connection at the same time. If the server closes a connection just as
        it is reused, or has not processed a request, that request may acquire another one.
        """

    def connection_released(self, info: ConnectionInfo) -> None:
        """Called when a request and its response no longer use a connection, or have failed, with the same object.

        Once for each ``connection_acquired()``, at the latest when the connection is closed.
        """

    def connection_closed(self, info: ConnectionInfo) -> None:
        """Called when a connection is closed; ``info.reason`` says why.

        Once for each ``connection_opened()``. If the server has closed the connection, the call may come later: over
        HTTP/1.1, that is noticed when the connection is about to be reused, or has expired.
        """

    def throttle_event(self, event: prefect_http.ThrottleEvent) -> None:
        """Called once with each event of the client's throttle, even if several clients share both."""

    def lifespan_event(self, event: LifespanEvent) -> None:
        """Called when a client with ``app=`` has entered or left the app's lifespan, or failed to."""


def call_safely(method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call a method of a telemetry, and return what it returns; None if it raises an exception, which is logged."""
    try:
        return method(*args, **kwargs)
    except Exception:
        _logger.exception("%s has raised an exception", _name(method))
        return None


def begin_safely(telemetry: Telemetry, request: httpx.Request, resend_count: int) -> AttemptObserver | None:
    """Call a telemetry's ``attempt()``, and enter what it returns.

    Returns:
        The observer; None if it failed, which is logged.
    """
    method: Callable[..., object] = telemetry.attempt
    try:
        attempt = method(request, resend_count)
        if isinstance(attempt, AttemptObserver):
            method = attempt.__enter__
            method()
            return attempt
    except Exception:
        _logger.exception("%s has raised an exception", _name(method))
    else:
        kind = type(attempt).__name__
        _logger.error("%s must return an AttemptObserver, not an object of the class %s", _name(method), kind)
    return None


def _name(method: Callable[..., object]) -> object:
    return getattr(method, "__qualname__", method)
