from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

USE = """
from kvcatalog import telemetry
telemetry.dedup_hit("unpaywall")
telemetry.gc_removed(3)
telemetry.verify_failed()
telemetry.registered(0.002, resolver="crossref", content_type="Text/HTML; charset=utf-8")
telemetry.batch_committed(64)
telemetry.gc_finished(90.0)
"""
LISTEN = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""
REPORT = """
print(reader.get_metrics_data().to_json())
"""


def run(script: str) -> str:
    """Run a script in a process of its own: a provider can be set only once in each."""
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def points(output: str) -> dict[str, dict[str, Any]]:
    (resource,) = json.loads(output)["resource_metrics"]
    (scope,) = resource["scope_metrics"]
    assert scope["scope"]["name"] == "kvcatalog"
    result = {}
    for metric in scope["metrics"]:
        (point,) = metric["data"]["data_points"]
        result[metric["name"]] = point | {"unit": metric["unit"], "monotonic": metric["data"].get("is_monotonic")}
    return result


def test_nothing_is_imported_and_nothing_happens_where_nobody_listens() -> None:
    script = USE + "import sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert run(script).strip() == "[]"


def test_the_counters_carry_the_given_names_and_labels() -> None:
    found = points(run(LISTEN + USE + USE + REPORT))
    counters = {name: point for name, point in found.items() if point["monotonic"]}
    assert {name: (point["value"], point["attributes"]) for name, point in counters.items()} == {
        "contentdownload_dedup_hits_total": (2, {"resolver": "unpaywall"}),
        "contentdownload_gc_removed_total": (6, {}),
        "contentdownload_verify_failures_total": (2, {}),
    }


def test_the_histograms_have_boundaries_that_fit_what_they_measure() -> None:
    found = points(run(LISTEN + USE + REPORT))
    latency = found["contentdownload_registration_seconds"]
    assert latency["attributes"] == {"resolver": "crossref", "content_type": "text/html"}
    assert (latency["unit"], latency["count"], latency["sum"]) == ("s", 1, 0.002)
    assert latency["explicit_bounds"][0] < 0.001
    batch = found["contentdownload_commit_batch_size"]
    assert (batch["count"], batch["sum"], batch["attributes"]) == (1, 64, {})
    assert batch["explicit_bounds"][-1] == 100_000
    collection = found["contentdownload_gc_seconds"]
    assert (collection["unit"], collection["sum"], collection["attributes"]) == ("s", 90.0, {})
    assert collection["explicit_bounds"][-1] >= 3600


def test_a_host_that_configures_later_hears_what_comes_after() -> None:
    late = "import opentelemetry.metrics\n" + USE + LISTEN + USE + REPORT
    assert points(run(late))["contentdownload_gc_removed_total"]["value"] == 3
    later_still = USE + LISTEN + USE + REPORT
    assert points(run(later_still))["contentdownload_gc_removed_total"]["value"] == 3


def test_a_registration_and_its_commit_are_measured() -> None:
    register = """
import tempfile
from kvcatalog import open_catalog
with tempfile.TemporaryDirectory() as folder, open_catalog(folder + "/catalog") as catalog:
    for size in (1, 1, 2):
        catalog.register(
            artifact_id="a", source_url="u", resolver="core", bytes=size, storage_uri="file:///x", content_type="a/b;c"
        )
"""
    found = points(run(LISTEN + register + REPORT))
    latency = found["contentdownload_registration_seconds"]
    assert (latency["count"], latency["attributes"]) == (3, {"resolver": "core", "content_type": "a/b"})
    assert (found["contentdownload_commit_batch_size"]["count"], latency["sum"] > 0) == (3, True)
