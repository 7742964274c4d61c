"""A picture of one call with two retries, as a trace viewer would show it, drawn from a real run.

The run is that of a client on a fake network, with the clock of the machine. The picture needs no library, and has two
sets of colors: the one for dark pages is used where the reader prefers that.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import anyio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks._pictures import DIRECTORY
from prefect_http import PrefectHttpxClient, RetryPolicy
from prefect_http.otel import OpenTelemetry
from prefect_http.testing import FakeNetwork

_API = "https://api.example.com"

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 860, 190, 150, 30, 46
# With a light background, as the charts have one: a picture cannot know whether the page around it is dark.
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.line { stroke: #d1d9e0; fill: none }
.call { fill: #8250df } .good { fill: #2166ac } .bad { fill: #d6604d }
.wait { fill: none; stroke: #818b98; stroke-dasharray: 3 3 }
"""


@dataclass(frozen=True)
class Row:
    """A span, or a wait.

    Attributes:
        begin: in seconds from the beginning of the call.
        seconds: how long it took.
        kind: "call", "good", "bad" or "wait".
        name: what it is.
        note: how it ended, or why it was.
    """

    begin: float
    seconds: float
    kind: str
    name: str
    note: str


def run() -> None:
    """Trace a call, and draw it; nothing else is measured."""
    directory = DIRECTORY.get()
    if directory is None:
        return
    file = directory / "waterfall.svg"
    file.write_text(_drawn(_rows(anyio.run(_traced))), "utf-8")
    print(f"Drawn: {file}")


async def _traced() -> tuple[ReadableSpan, ...]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    network = FakeNetwork()
    flows = network.serve(_API).get("/flows")
    flows.reply(204, times=1).reply(503, headers={"Retry-After": "1"}, delay=0.18).hang()
    flows.reply(json=["etl"], delay=0.35)
    policy, telemetry = RetryPolicy(backoff_base=0.7, jitter=0), OpenTelemetry(provider)
    async with network.client(PrefectHttpxClient, telemetry=telemetry, retry=policy, timeout=1) as client:
        await client.get(f"{_API}/flows")  # the first connection, and what is imported for it
        exporter.clear()
        with provider.get_tracer("shop").start_as_current_span("list flows"):
            await client.get(f"{_API}/flows")
    return exporter.get_finished_spans()


def _rows(spans: tuple[ReadableSpan, ...]) -> list[Row]:
    start = min(span.start_time or 0 for span in spans)
    rows: list[Row] = []
    for span in spans:
        begin, end = span.start_time or 0, span.end_time or 0
        known = {name: str(value) for name, value in (span.attributes or {}).items()}
        kind = "call" if span.parent is None else "bad" if "error.type" in known else "good"
        resent = known.get("http.request.resend_count")
        name = span.name if resent is None else f"{span.name}, resent: {resent}"
        note = known.get("error.type") or known.get("http.response.status_code", "")
        rows.append(Row((begin - start) / 1e9, (end - begin) / 1e9, kind, name, note))
        for event in span.events:
            seconds, reason = map(str, (event.attributes or {}).values())
            rows.append(Row((event.timestamp - start) / 1e9, float(seconds), "wait", "wait", reason))
    return sorted(rows, key=lambda row: row.begin)


def _drawn(rows: list[Row]) -> str:
    total = rows[0].seconds
    scale = (_WIDTH - _LEFT - _RIGHT) / total
    bottom = _TOP + _ROW * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 8}" role="img">',
        "<title>One call with two retries, as spans: three attempts, and the waits between them</title>",
        f"<style>{_STYLE}</style>",
        '<rect fill="#fff" width="100%" height="100%"/>',
    ]
    for tenths in range(0, int(total * 10) + 1, 5):
        x = _LEFT + tenths / 10 * scale
        lines.append(f'<path class="line" d="M{x:.1f} {_TOP - 12}V{bottom}"/>')
        lines.append(f'<text class="small" x="{x:.1f}" y="{_TOP - 18}" text-anchor="middle">{tenths / 10:g} s</text>')
    for number, row in enumerate(rows):
        y, x = _TOP + _ROW * number, _LEFT + row.begin * scale
        indent = 0 if row.kind == "call" else 16
        width = max(row.seconds * scale, 2)
        lines += [
            f'<text x="{8 + indent}" y="{y + 15}">{escape(row.name)}</text>',
            f'<rect class="{row.kind}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="16" rx="3"/>',
            f'<text class="small" x="{x + width + 6:.1f}" y="{y + 15}">{escape(_label(row))}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _label(row: Row) -> str:
    return row.note if row.kind == "wait" else f"{row.seconds:.2f} s {row.note}".rstrip()
