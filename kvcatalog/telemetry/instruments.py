"""What is measured: every counter and histogram, with its unit and its buckets."""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram

_SECONDS_BOUNDARIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
_LONG_SECONDS_BOUNDARIES = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0)
_BATCH_BOUNDARIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_000, 10_000, 100_000)


class Instruments(NamedTuple):
    """One of each for a process."""

    dedup_hits: Counter
    gc_removed: Counter
    verify_failures: Counter
    registration_seconds: Histogram
    batch_size: Histogram
    verification_seconds: Histogram
    gc_seconds: Histogram


def make_instruments() -> Instruments:
    """Make them; they bind to whatever provider is configured, now or later."""
    meter = metrics.get_meter("kvcatalog")
    return Instruments(
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
