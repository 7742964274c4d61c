"""OpenTelemetry for a PrefectHttpxClient; needs its API (``pip install 'prefect_http[otel]'``).

Spans, attributes and metrics are those of the conventions for HTTP clients:
https://opentelemetry.io/docs/specs/semconv/http/
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

import httpx

import prefect_http
from prefect_http._telemetry import AttemptObserver, ConnectionInfo, Telemetry
from prefect_http._version import __version__

try:
    from opentelemetry.context import get_current
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import TracerProvider, get_current_span, get_tracer
except ImportError as _error:
    raise ImportError(
        "prefect_http.otel needs the package opentelemetry-api; install it with: pip install 'prefect_http[otel]'"
    ) from _error

from prefect_http._otel.attempt import AttemptSpan, Instruments, current_attempt, is_suppressed
from prefect_http._otel.connections import OpenConnections
from prefect_http._otel.conventions import (
    CONNECTION_SECONDS,
    REQUEST_SECONDS,
    SCHEMA_URL,
    SENSITIVE_QUERY_PARAMETERS,
    known_methods,
)

__all__ = ["OpenTelemetry"]

_NAME = "prefect_http"


class OpenTelemetry(Telemetry):
    """A Telemetry that creates OpenTelemetry spans and metrics, and propagates the context with each request.

    Each attempt is a span of the kind CLIENT: retries, redirects and the requests of an auth flow have separate spans,
    with ``http.request.resend_count``. It is the current span until it ends, which is when the body has been read, or
    when the headers have arrived if the response is streamed. The headers of the global propagator, such as
    ``traceparent``, replace those that the request has. Waits are events of the span around the call, named
    ``prefect_http.wait``.

    Metrics are ``http.client.request.duration``, ``http.client.active_requests`` and ``http.client.open_connections``.

    In the context of ``suppress_instrumentation()`` or ``suppress_http_instrumentation()``, there are neither spans nor
    headers. While a request is sent, the latter is set for other instrumentation, so that an instrumentation of httpx
    does not create another span for the same request.

    The environment variable ``OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`` names the methods that are not reported as
    ``_OTHER``, separated by commas.

    Args:
        tracer_provider: creates the spans; None: the global one, even if that is set later.
        meter_provider: the same for the metrics.
        development: whether to report what the conventions have not declared stable as well: the template of a URL,
            from ``extensions={"url_template": "/flows/{id}"}``, in attributes and in the names of spans; the sizes of
            bodies; and the metric ``http.client.connection.duration``. In addition, ``prefect_http.throttle.events``
            counts the events of throttles.
        request_headers: the names of request headers to report as attributes of spans. The values of those that contain
            credentials, such as ``Authorization``, are replaced.
        response_headers: the same for responses.
        sensitive_query_parameters: the names of the URL parameters whose values are replaced by ``REDACTED``, instead
            of those that the conventions name. The userinfo of a URL is always replaced.

    Raises:
        TypeError: a provider is not one of its kind, or names are given as one string.
        ImportError: (on import) opentelemetry-api is not installed.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        development: bool = False,
        request_headers: Iterable[str] = (),
        response_headers: Iterable[str] = (),
        sensitive_query_parameters: Collection[str] = SENSITIVE_QUERY_PARAMETERS,
    ) -> None:
        _check_providers(tracer_provider, meter_provider)
        meter = get_meter(_NAME, __version__, meter_provider, SCHEMA_URL)
        self._instruments = Instruments(
            tracer=get_tracer(_NAME, __version__, tracer_provider, SCHEMA_URL),
            duration=meter.create_histogram(
                "http.client.request.duration",
                "s",
                "Duration of HTTP client requests.",
                explicit_bucket_boundaries_advisory=REQUEST_SECONDS,
            ),
            active=meter.create_up_down_counter(
                "http.client.active_requests", "{request}", "Number of active HTTP requests."
            ),
            known_methods=known_methods(os.environ),
            sensitive=frozenset(_names(sensitive_query_parameters, "sensitive_query_parameters")),
            request_headers=tuple(map(str.lower, _names(request_headers, "request_headers"))),
            response_headers=tuple(map(str.lower, _names(response_headers, "response_headers"))),
            development=development,
        )
        open_connections = meter.create_up_down_counter(
            "http.client.open_connections",
            "{connection}",
            "Number of outbound HTTP connections that are currently active or idle on the client.",
        )
        connection_duration = self._throttle_events = None
        if development:
            connection_duration = meter.create_histogram(
                "http.client.connection.duration",
                "s",
                "The duration of the successfully established outbound HTTP connections.",
                explicit_bucket_boundaries_advisory=CONNECTION_SECONDS,
            )
            self._throttle_events = meter.create_counter(
                "prefect_http.throttle.events", "{event}", "Number of changes in the state of throttles."
            )
        self._connections = OpenConnections(open_connections, connection_duration)

    def attempt(self, request: httpx.Request, resend_count: int) -> AttemptObserver:
        """Return what makes a span of an attempt; or nothing, if that is suppressed."""
        surrounding = get_current()
        if is_suppressed(surrounding):
            return AttemptObserver()
        return AttemptSpan(self._instruments, request, resend_count, surrounding)

    def wait(self, request: httpx.Request, delay: float, reason: str) -> None:
        """Add an event to the current span."""
        span = get_current_span()
        if span.is_recording() and not is_suppressed(get_current()):
            span.add_event("prefect_http.wait", {"prefect_http.wait.delay": delay, "prefect_http.wait.reason": reason})

    def connection_opened(self, info: ConnectionInfo) -> None:
        """Count a connection."""
        self._connections.opened(info)

    def connection_acquired(self, info: ConnectionInfo) -> None:
        """Count a connection as active, and add its other end to the span of the attempt."""
        self._connections.acquired(info)
        attempt = current_attempt()
        if attempt is not None:
            attempt.set_connection(info)

    def connection_released(self, info: ConnectionInfo) -> None:
        """Count a connection as idle."""
        self._connections.released(info)

    def connection_closed(self, info: ConnectionInfo) -> None:
        """Count a connection no longer."""
        self._connections.closed(info)

    def throttle_event(self, event: prefect_http.ThrottleEvent) -> None:
        """Count an event of a throttle, without its key, which may be a credential."""
        if self._throttle_events is not None:
            self._throttle_events.add(1, {"prefect_http.throttle.event": event.kind})


def _check_providers(tracer_provider: object, meter_provider: object) -> None:
    if not (tracer_provider is None or _has(tracer_provider, "get_tracer")):
        remedy = "; pass a meter provider as meter_provider=" if _has(tracer_provider, "get_meter") else ""
        raise TypeError(f"tracer_provider must be a TracerProvider of OpenTelemetry, not {tracer_provider!r}{remedy}")
    if not (meter_provider is None or _has(meter_provider, "get_meter")):
        raise TypeError(f"meter_provider must be a MeterProvider of OpenTelemetry, not {meter_provider!r}")


def _has(provider: object, method: str) -> bool:
    return hasattr(provider, method) and not isinstance(provider, type)


def _names(names: Iterable[str], argument: str) -> Iterable[str]:
    if isinstance(names, str):
        raise TypeError(f"{argument} must be names, such as [{names!r}], not the string {names!r}")
    return names
