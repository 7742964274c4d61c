"""What an OpenTelemetry of prefect_http has made, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from prefect_http.otel import OpenTelemetry


class Recorded:
    """Spans and metrics in memory.

    Args:
        sampler: decides which spans are recorded.
        **arguments: of the OpenTelemetry.

    Attributes:
        telemetry: for a client.
        tracer: for spans of a test.
    """

    def __init__(self, sampler: Sampler = ALWAYS_ON, **arguments: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.telemetry = OpenTelemetry(self.tracers, meters, **arguments)
        self.tracer = self.tracers.get_tracer("tests")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    @property
    def attributes(self) -> list[dict[str, Any]]:
        """The attributes of these spans."""
        return [dict(span.attributes or {}) for span in self.spans]

    def points(self, name: str) -> Mapping[tuple[tuple[str, Any], ...], NumberDataPoint | HistogramDataPoint]:
        """Return the data of a metric, by its attributes; nothing if there is no such metric."""
        data = self._reader.get_metrics_data()
        return {
            tuple(sorted((point.attributes or {}).items())): point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint | HistogramDataPoint)
        }

    def value(self, name: str, **attributes: Any) -> float:
        """Return the sum of the values of a counter whose attributes have these values; "_" stands for a dot."""
        wanted = {(key.replace("__", "."), value) for key, value in attributes.items()}
        return sum(
            point.value
            for key, point in self.points(name).items()
            if wanted <= set(key) and isinstance(point, NumberDataPoint)
        )
