"""AttemptSpan: one attempt, as a span and in metrics.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from opentelemetry import context, propagate
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, UpDownCounter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context

from prefect_http._internal_errors import full_name
from prefect_http._otel.conventions import (
    OTHER_METHOD,
    REDACTED,
    SECRET_HEADERS,
    Attributes,
    protocol_version,
    redacted_url,
    server_of,
)
from prefect_http._redact import safe_message
from prefect_http._telemetry import ON_APP_CALL, AttemptObserver, ConnectionInfo

# Set in a context by the functions suppress_instrumentation() and suppress_http_instrumentation() of the package
# opentelemetry-instrumentation. That has no public names for them, and may not be installed.
_SUPPRESS = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
_SUPPRESS_PLAIN = "suppress_instrumentation"
_SUPPRESS_HTTP = getattr(context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", "suppress_http_instrumentation")

# A request with this extension has been sent before: the names of the headers that were added, and the URL.
_SENT = "prefect_http.sent"
_URL_TEMPLATE = "url_template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruments:
    """What attempts are reported with, and what is reported of them.

    Attributes:
        tracer: makes the spans.
        duration: of attempts, in seconds.
        active: counts the attempts that are running.
        known_methods: the methods that are reported by their names.
        sensitive: the names of the parameters of URLs whose values are not reported.
        request_headers: the names of the headers that are reported, in lower case.
        response_headers: likewise.
        development: whether to report what is not stable.
    """

    tracer: Tracer
    duration: Histogram
    active: UpDownCounter
    known_methods: frozenset[str]
    sensitive: frozenset[str]
    request_headers: tuple[str, ...]
    response_headers: tuple[str, ...]
    development: bool


class AttemptSpan(AttemptObserver):
    """The span and the metrics of an attempt.

    In its context, it is the value of the key of suppress_http_instrumentation(). Because it is true, instrumentations
    of httpx make no span of their own for the request. Because it is not what users set there, a client that an event
    hook uses meanwhile is not suppressed.

    Args:
        instruments: what to report with.
        request: the request.
        resend_count: how many requests the ``send()`` has sent before.
        surrounding: the context of the caller.
    """

    def __init__(
        self, instruments: Instruments, request: httpx.Request, resend_count: int, surrounding: Context
    ) -> None:
        self._instruments = instruments
        self._request = request
        self._response: httpx.Response | None = None
        self._resend_count = resend_count
        self._surrounding = surrounding
        self._common: Attributes = {}  # those of the span and of the metrics
        self._found: Attributes = {}  # what is known only after the span has begun
        self._error_type: str | None = None
        self._error_message: str | None = None

    def __enter__(self) -> Self:
        """Begin the span, and make it the current one."""
        attributes, name = self._describe(self._request)
        self._started = time.perf_counter()
        self._started_at = time.time_ns()
        self._span = self._instruments.tracer.start_span(
            name, self._surrounding, SpanKind.CLIENT, attributes, start_time=self._started_at
        )
        self._within = set_span_in_context(self._span, self._surrounding)
        self._send_context(self._request)
        self._instruments.active.add(1, self._common)
        self._token = context.attach(context.set_value(_SUPPRESS_HTTP, self, self._within))
        return self

    def _describe(self, request: httpx.Request) -> tuple[Attributes, str]:
        """Return what is known at the creation of the span, where samplers see it: attributes and the name."""
        instruments, common = self._instruments, self._common
        method = request.method if request.method in instruments.known_methods else OTHER_METHOD
        authority = request.headers.get("Host") or request.url.netloc.decode("ascii")
        address, port = server_of(request.url.scheme, authority)
        common["http.request.method"] = method
        common["server.address"] = address
        if port is not None:
            common["server.port"] = port
        name = "HTTP" if method == OTHER_METHOD else method
        if instruments.development and (template := _template_for(request)) is not None:
            common["url.template"] = template
            name = f"{name} {template}"
        attributes = {**common, "url.full": redacted_url(request.url, instruments.sensitive)}
        if method != request.method:
            attributes["http.request.method_original"] = request.method
        if self._resend_count:
            attributes["http.request.resend_count"] = self._resend_count
        for header in instruments.request_headers:
            _add_header(attributes, "request", header, request.headers)
        if instruments.development and (length := request.headers.get("Content-Length", "")).isdecimal():
            attributes["http.request.body.size"] = int(length)
        return attributes, name

    def _send_context(self, request: httpx.Request) -> None:
        """Add the headers of the propagator, and remove those that it has added to the attempt before.

        https://opentelemetry.io/docs/specs/otel/context/api-propagators/#fields
        """
        added: dict[str, str] = {}
        propagate.inject(added, self._within)
        before: Iterable[str] = request.extensions.get(_SENT, ((),))[0]
        for name in before:
            if name not in added:
                request.headers.pop(name, None)
        for name, value in added.items():
            request.headers[name] = value
        sent = tuple(added), request.url
        request.extensions = {**request.extensions, _SENT: sent, ON_APP_CALL: self._on_app_call}

    def _on_app_call(self) -> None:
        """Let an app in this process make spans for the requests that it sends itself."""
        context.attach(self._within)  # __exit__ restores what was before the attempt

    def set_connection(self, info: ConnectionInfo) -> None:
        """Note the connection that the request is sent over."""
        self._found["network.protocol.version"] = protocol_version(info.protocol)
        if info.peer_address is not None:
            self._found["network.peer.address"] = info.peer_address
            if info.peer_port is not None:
                self._found["network.peer.port"] = info.peer_port

    def set_response(self, response: httpx.Response) -> None:
        """Note the status of the response, and what else is reported of it."""
        found = self._found
        found["http.response.status_code"] = response.status_code
        if response.status_code >= 400:
            self._error_type = str(response.status_code)
        if "http_version" in response.extensions:  # an app in this process has no version
            found["network.protocol.version"] = protocol_version(response.http_version)
        if self._span.is_recording():
            if "network.peer.address" not in found:
                _add_peer(found, response)
            for header in self._instruments.response_headers:
                _add_header(found, "response", header, response.headers)
            if self._instruments.development:
                self._response = response

    def set_error(self, error: BaseException) -> None:
        """Note an error, but for a cancellation; of its message only if that is known to hold no secrets."""
        if not isinstance(error, Exception):
            # https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status: a cancellation is not an error.
            return
        self._error_type = full_name(error)
        if isinstance(error, httpx.RequestError):
            self._error_message = safe_message(error)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        """End the span, and restore the context of the caller."""
        try:
            self._end()
        finally:
            context.detach(self._token)
            self._request.extensions.pop(ON_APP_CALL, None)
            # The context, and this with it, lives on in the task of an HTTP/2 connection that was opened in it.
            del self._request
            self._response = None

    def _end(self) -> None:
        # The duration is the same in the metric and the span, and not taken from a clock that may be set meanwhile.
        seconds = time.perf_counter() - self._started
        found = self._found
        if self._error_type is not None:
            found["error.type"] = self._error_type
        self._instruments.active.add(-1, self._common)
        measured = self._common.copy()
        for name in ("http.response.status_code", "error.type", "network.protocol.version"):
            if name in found:
                measured[name] = found[name]
        self._instruments.duration.record(seconds, measured, self._within)
        if self._span.is_recording():
            if self._response is not None and self._response.is_stream_consumed:
                found["http.response.body.size"] = self._response.num_bytes_downloaded
            self._span.set_attributes(found)
            if self._error_type is not None:
                # The status code of a response says it all, so it has no message. An exception does not become an event
                # of the span: it is handled by a retry, or raised to the caller, whose it is to record.
                # https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
                self._span.set_status(Status(StatusCode.ERROR, self._error_message))
        self._span.end(self._started_at + round(seconds * 1e9))


def is_suppressed(within: Context) -> bool:
    """Whether users have suppressed instrumentation, or that of HTTP."""
    if context.get_value(_SUPPRESS, within) or context.get_value(_SUPPRESS_PLAIN, within):
        return True
    suppressed = context.get_value(_SUPPRESS_HTTP, within)
    return bool(suppressed) and not isinstance(suppressed, AttemptSpan)


def current_attempt() -> AttemptSpan | None:
    """Return the attempt in whose context this is called."""
    attempt = context.get_value(_SUPPRESS_HTTP)
    return attempt if isinstance(attempt, AttemptSpan) else None


def _template_for(request: httpx.Request) -> str | None:
    """Return the template of the URL, which does not hold any more where a redirect has led to."""
    template = request.extensions.get(_URL_TEMPLATE)
    sent = request.extensions.get(_SENT)
    return template if isinstance(template, str) and (sent is None or sent[1] == request.url) else None


def _add_header(attributes: Attributes, kind: str, name: str, headers: httpx.Headers) -> None:
    if values := headers.get_list(name):
        attributes[f"http.{kind}.header.{name}"] = [REDACTED] if name in SECRET_HEADERS else values


def _add_peer(attributes: Attributes, response: httpx.Response) -> None:
    """Add the other end of the connection of a transport that tells nothing of it, such as httpx's own."""
    stream = response.extensions.get("network_stream")
    address = None if stream is None else stream.get_extra_info("server_addr")
    if isinstance(address, tuple):
        attributes["network.peer.address"], attributes["network.peer.port"] = address[:2]
