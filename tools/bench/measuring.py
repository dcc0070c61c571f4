"""What it costs to be measured: durable registrations with telemetry off, on, and with the seam to it taken out."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from kvcatalog import telemetry
from tools.bench import contestants, durable
from tools.bench.parts import Bench, Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

Seam = Literal["none", "off", "on"]

_THREADS = 16


def measure(bench: Bench) -> list[Row]:
    """Return the rows; `on` is with spans and metrics of the SDK, which go nowhere."""
    rates: dict[Seam, list[float]] = {"none": [], "off": [], "on": []}
    for _ in range(bench.repeats):
        for seam, found in rates.items():
            found.append(durable.copied(bench, _rate, durable.base(bench), durable.new(bench), seam))
    work = f"durable registrations, {_THREADS} threads"
    return [
        Row(f"{work}, telemetry off", "records/s", rates["off"], "no seam to it", rates["none"]),
        Row(f"{work}, telemetry on", "records/s", rates["on"], "telemetry off", rates["off"]),
    ]


def _rate(folder: Path, positions: range, seam: Seam) -> float:
    if seam == "none":
        _take_out()
    elif seam == "on":
        _listen()
    calls = [durable.fields_at(position) for position in positions]
    with contestants.catalog_at(folder) as catalog:
        start, end = durable.hammer(lambda fields: catalog.register(**fields), calls, _THREADS, None)
    return len(calls) / (end - start)


def _take_out() -> None:
    nothing = nullcontext()
    telemetry.listening = lambda: False
    telemetry.batch_committed = lambda size: None  # noqa: ARG005
    telemetry.span = lambda _name, **_attributes: nothing


def _listen() -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - that is the point
            return SpanExportResult.SUCCESS

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(tracers)
