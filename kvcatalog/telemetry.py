"""The seam to OpenTelemetry: what the catalog measures, and the only module that imports it.

The library measures through the API and never configures it. Instruments are made on first use once the host has loaded
`opentelemetry.metrics`; until then nothing is imported and a call costs one dictionary lookup. The API binds its
instruments to a provider that is configured later, so the order makes no difference. Labels are `resolver` and
`content_type` at most, never an id or a URL.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from kvcatalog import values

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram

_SECONDS_BOUNDARIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
_LONG_SECONDS_BOUNDARIES = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0)
_BATCH_BOUNDARIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_000, 10_000, 100_000)


def listening() -> bool:
    """Tell whether anything may listen, so that callers need not read a timer for nothing."""
    return "opentelemetry.metrics" in sys.modules


def dedup_hit(resolver: str) -> None:
    """Count a stored document whose content was there already."""
    if instruments := _instruments():
        instruments.dedup_hits.add(1, {"resolver": resolver})


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
        labels = {"resolver": resolver}
        if media_type := values.media_type(content_type):
            labels["content_type"] = media_type
        instruments.registration_seconds.record(seconds, labels)


def batch_committed(size: int) -> None:
    """Record how many writing calls one transaction answered."""
    if instruments := _instruments():
        instruments.batch_size.record(size)


class _Instruments(NamedTuple):
    dedup_hits: Counter
    gc_removed: Counter
    verify_failures: Counter
    registration_seconds: Histogram
    batch_size: Histogram
    verification_seconds: Histogram
    gc_seconds: Histogram


_made: _Instruments | None = None


def _instruments() -> _Instruments | None:
    global _made  # noqa: PLW0603 - the API keeps one meter for a process, and so do we
    if _made is None and listening():
        _made = _make()
    return _made


def _make() -> _Instruments:
    from opentelemetry import metrics

    meter = metrics.get_meter("kvcatalog")
    return _Instruments(
        dedup_hits=meter.create_counter(
            "contentdownload_dedup_hits_total", description="Stored documents whose content was there already"
        ),
        gc_removed=meter.create_counter(
            "contentdownload_gc_removed_total", description="Blobs that garbage collection removed"
        ),
        verify_failures=meter.create_counter(
            "contentdownload_verify_failures_total",
            description="Blobs whose bytes no longer fit their record, or are gone",
        ),
        registration_seconds=meter.create_histogram(
            "contentdownload_registration_seconds",
            unit="s",
            description="Time from the call to register until the record was durable",
            explicit_bucket_boundaries_advisory=_SECONDS_BOUNDARIES,
        ),
        batch_size=meter.create_histogram(
            "contentdownload_commit_batch_size",
            description="Writing calls that one transaction answered",
            explicit_bucket_boundaries_advisory=_BATCH_BOUNDARIES,
        ),
        verification_seconds=meter.create_histogram(
            "contentdownload_verification_seconds",
            unit="s",
            description="Time that the check of one blob took",
            explicit_bucket_boundaries_advisory=(*_SECONDS_BOUNDARIES, 100.0, 1000.0),
        ),
        gc_seconds=meter.create_histogram(
            "contentdownload_gc_seconds",
            unit="s",
            description="Duration of a garbage collection that removed what it found",
            explicit_bucket_boundaries_advisory=_LONG_SECONDS_BOUNDARIES,
        ),
    )
