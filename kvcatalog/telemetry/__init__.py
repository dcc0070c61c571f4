"""The seam to OpenTelemetry: what the catalog measures, and the only package that imports it.

The library measures through the API and never configures it: a host does, or `configure`, which the command line calls.
Instruments are made on first use once somebody has loaded `opentelemetry.metrics`; until then nothing is imported and a
call costs one dictionary lookup. The API binds its instruments to a provider that is configured later, so the order
makes no difference. Labels are `resolver` and `content_type` at most, and a process gives each of them a bounded number
of values, since they come from the network. Neither labels nor spans hold an id, a path or a URL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from kvcatalog import values
from kvcatalog.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from kvcatalog.telemetry.instruments import Instruments

SIGNALS = ("traces", "metrics")
EXPORTERS = ("none", "console", "otlp")
LABEL_VALUES_MAX = 200
"""Values that a label may have in one process; further ones are counted as `other`."""

_LABEL_CHARACTERS_MAX = 100
_nothing: AbstractContextManager[None] = nullcontext()
_label_values: dict[str, set[str]] = {}


def listening() -> bool:
    """Tell whether anything may listen, so that callers need not read a timer for nothing."""
    return "opentelemetry.metrics" in sys.modules


def wanted_exporters(configured: str = "auto", environment: Mapping[str, str] = os.environ) -> dict[str, set[str]]:
    """Return to where traces and metrics go, from the standard variables and a configuration; nothing is imported.

    OTEL_SDK_DISABLED=true switches both off. Else OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER decide (none, console,
    otlp, or several with commas), else what is configured, and with `auto` OTLP where one of the variables
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT says where to.
    ConfigError for any other exporter.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    wanted = {}
    for signal in SIGNALS:
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        named = environment.get(variable, "").strip()
        if not named:
            endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
            automatic = "otlp" if any(environment.get(name) for name in endpoints) else "none"
            named = automatic if configured == "auto" else configured
        exporters = {name.strip().lower() for name in named.split(",")} - {""}
        if unknown := exporters - set(EXPORTERS):
            raise ConfigError(f"{variable}: {min(unknown)!r} is none of {', '.join(EXPORTERS)}")
        if exporters := exporters - {"none"}:
            wanted[signal] = exporters
    return wanted


def configure(exporters: Mapping[str, set[str]], *, version: str) -> AbstractContextManager[None]:
    """Send what is measured where `wanted_exporters` says, from now on to the end of the context, which sends the rest.

    For programs; a library leaves it to its host. The console is standard error. OTLP goes over HTTP, as the
    OTEL_EXPORTER_OTLP_… variables say; ConfigError tells what to install where its exporter is not there. What cannot
    be sent is logged and nothing else. A process can do this once.
    """
    from kvcatalog.telemetry.configuring import sending

    return sending(exporters, version=version)


def span(name: str, **attributes: str | int) -> AbstractContextManager[Span | None]:
    """Follow some work with a span, in which spans of what it calls lie; its attributes name no id, path or URL.

    An error makes it one of an error, by its type alone: messages name what does not belong there.
    """
    return _current_span(name, attributes) if "opentelemetry.trace" in sys.modules else _nothing


@contextmanager
def detached_span(name: str, **attributes: str | int) -> Iterator[Span | None]:
    """Follow work that its caller interrupts, as a generator does, so that what the caller does is no part of it."""
    if "opentelemetry.trace" not in sys.modules:
        yield None
        return
    from opentelemetry import trace

    begun = trace.get_tracer("kvcatalog").start_span(name, attributes=attributes)
    try:
        yield begun
    except BaseException as error:
        _mark(begun, error)
        raise
    finally:
        begun.end()


def dedup_hit(resolver: str) -> None:
    """Count a stored document whose content was there already."""
    if instruments := _instruments():
        instruments.dedup_hits.add(1, {"resolver": _bounded("resolver", resolver)})


def gc_removed(count: int) -> None:
    """Count blobs that garbage collection removed."""
    if instruments := _instruments():
        instruments.gc_removed.add(count)


def gc_finished(seconds: float) -> None:
    """Record how long a garbage collection took that removed what it found."""
    if instruments := _instruments():
        instruments.gc_seconds.record(seconds)


def verify_failed(count: int = 1) -> None:
    """Count blobs whose bytes no longer fit their record, or are gone."""
    if instruments := _instruments():
        instruments.verify_failures.add(count)


def verified(seconds: float) -> None:
    """Record how long the check of one blob took."""
    if instruments := _instruments():
        instruments.verification_seconds.record(seconds)


def registered(seconds: float, *, resolver: str, content_type: str | None) -> None:
    """Record how long a call to register took until its record was durable."""
    if instruments := _instruments():
        labels = {"resolver": _bounded("resolver", resolver)}
        if media_type := values.media_type(content_type):
            labels["content_type"] = _bounded("content_type", media_type)
        instruments.registration_seconds.record(seconds, labels)


def batch_committed(size: int) -> None:
    """Record how many writing calls one transaction answered."""
    if instruments := _instruments():
        instruments.batch_size.record(size)


def _bounded(label: str, value: str) -> str:
    """Return a value that a label may have: those that come first keep their names."""
    known = _label_values.setdefault(label, set())
    if value in known:
        return value
    if len(known) >= LABEL_VALUES_MAX or len(value) > _LABEL_CHARACTERS_MAX:
        return "other"
    known.add(value)
    return value


@contextmanager
def _current_span(name: str, attributes: dict[str, Any]) -> Iterator[Span]:
    from opentelemetry import trace

    tracer = trace.get_tracer("kvcatalog")
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as begun:
        try:
            yield begun
        except BaseException as error:
            _mark(begun, error)
            raise


def _mark(begun: Span, error: BaseException) -> None:
    if isinstance(error, GeneratorExit):
        return
    from opentelemetry.trace import Status, StatusCode

    begun.set_status(Status(StatusCode.ERROR, type(error).__name__))


_made: Instruments | None = None


def _instruments() -> Instruments | None:
    global _made  # noqa: PLW0603 - the API keeps one meter for a process, and so do we
    if _made is None and listening():
        from kvcatalog.telemetry.instruments import make_instruments

        _made = make_instruments()
    return _made
