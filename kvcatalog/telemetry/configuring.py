"""Sends what is measured: the SDK and its exporters, for programs whose configuration or environment asks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvcatalog.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORT_SECONDS = 2.0
"""How long the end of a program may wait for each signal that cannot be sent, unless the environment says otherwise."""

_GOODBYE_MILLISECONDS = 30_000


@contextmanager
def sending(exporters: Mapping[str, set[str]], *, version: str) -> Iterator[None]:
    """See `kvcatalog.telemetry.configure`."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # All are made before anything is set, so that one that is not there leaves nothing half done.
    metric_exporters = [_metric_exporter(name) for name in sorted(exporters.get("metrics", ()))]
    span_exporters = [_span_exporter(name) for name in sorted(exporters.get("traces", ()))]
    resource = _resource(version)
    meters = MeterProvider(
        [PeriodicExportingMetricReader(each) for each in metric_exporters], resource, shutdown_on_exit=False
    )
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in span_exporters:
        tracers.add_span_processor(BatchSpanProcessor(exporter))
    if metric_exporters:
        metrics.set_meter_provider(meters)
    if span_exporters:
        trace.set_tracer_provider(tracers)
    try:
        yield
    finally:
        tracers.shutdown()
        meters.shutdown(_GOODBYE_MILLISECONDS)


def _resource(version: str) -> Resource:
    """Return what names this program, where the standard variables do not name it."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    return Resource.create({}).merge(
        Resource({"service.name": "kvcatalog", "service.version": version}).merge(OTELResourceDetector().detect())
    )


def _metric_exporter(name: str) -> MetricExporter:
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(out=sys.stderr)
    _refuse_other_protocols("METRICS")
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError as error:
        raise _not_installed() from error
    return OTLPMetricExporter(timeout=_timeout("METRICS"))


def _span_exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    _refuse_other_protocols("TRACES")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise _not_installed() from error
    return OTLPSpanExporter(timeout=_timeout("TRACES"))


def _timeout(signal: str) -> float | None:
    """Return how long an export may take, None where the environment says so."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return None if any(os.environ.get(variable) for variable in variables) else _EXPORT_SECONDS


def _refuse_other_protocols(signal: str) -> None:
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(variable)
        if protocol:
            if protocol != "http/protobuf":
                raise ConfigError(f"{variable}: {protocol!r} is not supported, only http/protobuf")
            return


def _not_installed() -> ConfigError:
    error = ConfigError("telemetry: OTLP needs an exporter that is not installed")
    return error.advising("pip install 'kvcatalog[otlp]'")
