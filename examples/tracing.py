"""One call that takes three requests, traced with OpenTelemetry, and printed as a waterfall.

The first row is the span of the program. Below it are the attempts, each with a span of its own, and between them the
waits, which are events of the program's span: first as long as the server asks, then by the client's own rule. ``#2``
is the resend count: two requests came before it. The server is a fake one in memory.
"""

from __future__ import annotations

import anyio
from opentelemetry.sdk.trace import TracerProvider  # pip install opentelemetry-sdk
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from prefect_http import PrefectHttpxClient, RetryPolicy
from prefect_http.otel import OpenTelemetry
from prefect_http.testing import FakeNetwork

API = "https://api.example.com"
WIDTH = 40

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))


async def main() -> None:
    network = FakeNetwork()
    flows = network.serve(API).get("/flows")
    flows.reply(503, headers={"Retry-After-Ms": "150"}, delay=0.1).hang().reply(json=["etl"], delay=0.2)
    policy, telemetry = RetryPolicy(backoff_base=0.5), OpenTelemetry(provider)
    async with network.client(PrefectHttpxClient, telemetry=telemetry, retry=policy, timeout=0.3) as client:
        with provider.get_tracer("shop").start_as_current_span("list flows"):
            await client.get(f"{API}/flows")
    draw(rows())


def rows() -> list[tuple[float, float, str]]:
    """Return when each span and each wait began and how long it took, in ms, and what it was."""
    found: list[tuple[float, float, str]] = []
    for span in exporter.get_finished_spans():
        begin, end = span.start_time or 0, span.end_time or 0
        known = {name: str(value) for name, value in (span.attributes or {}).items()}
        resent = f"#{known['http.request.resend_count']} " if "http.request.resend_count" in known else ""
        outcome = known.get("error.type") or known.get("http.response.status_code", "")
        found.append((begin / 1e6, (end - begin) / 1e6, f"{span.name} {resent}{outcome}"))
        for event in span.events:
            seconds, reason = map(str, (event.attributes or {}).values())
            found.append((event.timestamp / 1e6, float(seconds) * 1e3, f"  wait: {reason}"))
    return sorted(found)


def draw(found: list[tuple[float, float, str]]) -> None:
    start, total, _ = found[0]
    for begin, took, name in found:
        bar = " " * round((begin - start) / total * WIDTH) + "=" * max(round(took / total * WIDTH), 1)
        print(f"|{bar:{WIDTH}.{WIDTH}}|{took:5.0f} ms  {name}")


anyio.run(main)
