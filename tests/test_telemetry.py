from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import kvcatalog
from kvcatalog.errors import ConfigError
from kvcatalog.telemetry import LABEL_VALUES_MAX, wanted_exporters

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
    assert latency["sum"] > 0
    # A catalog that is opened for the first time may write down when its file was made.
    assert found["contentdownload_commit_batch_size"]["count"] in {3, 4}


def test_labels_are_bounded_whatever_comes_from_the_network() -> None:
    found = run(
        LISTEN
        + f"""
from kvcatalog import telemetry
for number in range({LABEL_VALUES_MAX} * 3):
    telemetry.registered(0.001, resolver=f"r{{number}}", content_type=f"text/t{{number}}")
    telemetry.dedup_hit(f"r{{number}}")
telemetry.registered(0.001, resolver="r0", content_type="x/" + "y" * 1000)
"""
        + REPORT
    )
    (resource,) = json.loads(found)["resource_metrics"]
    for metric in resource["scope_metrics"][0]["metrics"]:
        labels = [point["attributes"] for point in metric["data"]["data_points"]]
        assert set().union(*labels) <= {"resolver", "content_type"}
        for name in ("resolver", "content_type"):
            values = {each[name] for each in labels if name in each}
            assert len(values) <= LABEL_VALUES_MAX + 1
            assert not values or "other" in values
        assert len(labels) <= LABEL_VALUES_MAX + 2


SPANS = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
"""
WORK = """
import io, json, os, sys, tempfile
from kvcatalog import StorageConfig, finalize_candidate_download, import_manifest, open_catalog
from kvcatalog.sql_export import export_sql
from kvcatalog.gc import plan_garbage
from kvcatalog.models import RegistrationRequest
from kvcatalog.removal import Collection
from kvcatalog.verify import verify_blobs
os.chdir(tempfile.mkdtemp())
storage = StorageConfig(root_dir="docs")
secret = "secret"
with open_catalog("catalog") as catalog:
    for _ in range(2):
        finalize_candidate_download(
            io.BytesIO(b"bytes"), artifact_id=secret, source_url=f"https://{secret}/", resolver="core",
            catalog=catalog, cfg_storage=storage,
        )
    request = RegistrationRequest(artifact_id=secret, source_url="u", resolver="core", bytes=1, storage_uri="file:///secret/x")
    list(catalog.register_many([request] * 3))
    for _ in verify_blobs(catalog):
        pass
    with open("manifest.jsonl", "w") as manifest:
        manifest.write("")
    import_manifest("manifest.jsonl", catalog)
    with open("export", "wb") as output:
        export_sql(catalog, output, format="jsonl")
    with Collection(catalog, storage) as collection:
        plan_garbage(catalog, collection.roots, orphan_ttl_days=7, now=0)
        list(collection.execute("plan", []))
    try:
        finalize_candidate_download(
            "/nowhere/secret", artifact_id="a", source_url="u", resolver="core", catalog=catalog, cfg_storage=storage
        )
    except LookupError:
        pass
os.chdir("/")
"""
TELL_SPANS = "print(json.dumps([json.loads(span.to_json()) for span in spans.get_finished_spans()]))"


def test_long_work_is_followed_by_spans_that_name_nothing_stored() -> None:
    text = run(SPANS + WORK + TELL_SPANS)
    assert "secret" not in text
    spans = json.loads(text)
    names = {span["name"] for span in spans}
    assert names == {
        "kvcatalog.finalize",
        "kvcatalog.commit",
        "kvcatalog.register_many",
        "kvcatalog.verify",
        "kvcatalog.import_manifest",
        "kvcatalog.export",
        "kvcatalog.gc",
        "kvcatalog.gc.plan",
    }
    by_id = {span["context"]["span_id"]: span for span in spans}
    parents = {(span["name"], by_id[span["parent_id"]]["name"]) for span in spans if span["parent_id"] in by_id}
    assert {("kvcatalog.commit", "kvcatalog.finalize"), ("kvcatalog.commit", "kvcatalog.register_many")} <= parents
    verified = next(span for span in spans if span["name"] == "kvcatalog.verify")
    assert verified["attributes"] == {"blobs": 2, "bytes": 5}
    assert verified["parent_id"] is None
    failed = [span for span in spans if span["status"]["status_code"] == "ERROR"]
    assert [(span["name"], span["status"]["description"]) for span in failed] == [
        ("kvcatalog.finalize", "NotFoundError")
    ]
    assert not any(span["events"] for span in spans)


def test_a_generator_that_is_left_early_is_no_error() -> None:
    left = """
from kvcatalog import telemetry
def work():
    with telemetry.detached_span("work"):
        yield trace.get_current_span().get_span_context().is_valid
        yield
running = work()
assert next(running) is False, "what the caller does is no part of it"
running.close()
import json
"""
    (span,) = json.loads(run(SPANS + left + TELL_SPANS))
    assert (span["name"], span["status"]["status_code"]) == ("work", "UNSET")


@pytest.mark.parametrize(
    ("configured", "environment", "wanted"),
    [
        ("auto", {}, {}),
        ("none", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, {}),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, {"traces": {"otlp"}, "metrics": {"otlp"}}),
        ("auto", {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, {"metrics": {"otlp"}}),
        ("console", {}, {"traces": {"console"}, "metrics": {"console"}}),
        ("otlp", {"OTEL_TRACES_EXPORTER": "none"}, {"metrics": {"otlp"}}),
        ("none", {"OTEL_METRICS_EXPORTER": "console, otlp"}, {"metrics": {"console", "otlp"}}),
        ("otlp", {"OTEL_SDK_DISABLED": "TRUE"}, {}),
        ("auto", {"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {}),
    ],
)
def test_environment_and_configuration_decide_where_it_goes(
    configured: str, environment: dict[str, str], wanted: dict[str, set[str]]
) -> None:
    assert wanted_exporters(configured, environment) == wanted


def test_an_exporter_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="OTEL_TRACES_EXPORTER: 'zipkin' is none of none, console, otlp"):
        wanted_exporters("auto", {"OTEL_TRACES_EXPORTER": "zipkin"})


class Receiver(BaseHTTPRequestHandler):
    """Takes what OTLP sends over HTTP."""

    received: ClassVar[list[tuple[str, bytes]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/x-protobuf"
        self.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Run a receiver; gives its URL and what it gets."""
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Receiver,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def program(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "KVCATALOG_"))}
    return subprocess.run(
        [sys.executable, "-c", "from kvcatalog.cli import main; main()", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(Path(kvcatalog.__file__).parents[1])} | variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_real_receiver_gets_metrics_and_spans_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"abc")
    with receiver() as (url, received):
        ran = program(tmp_path, "add", "a.pdf", "--artifact-id", "W1", OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert (ran.returncode, ran.stderr) == (0, "1 registered\n")
    traces = ExportTraceServiceRequest()
    metrics = ExportMetricsServiceRequest()
    for path, body in received:
        {"/v1/traces": traces, "/v1/metrics": metrics}[path].MergeFromString(body)  # type: ignore[attr-defined]
    spans = [span for each in traces.resource_spans for scope in each.scope_spans for span in scope.spans]
    by_name = {span.name: span for span in spans}
    assert {"kvcatalog add", "kvcatalog.finalize", "kvcatalog.commit"} <= by_name.keys()
    assert by_name["kvcatalog.finalize"].parent_span_id == by_name["kvcatalog add"].span_id
    assert len({span.trace_id for span in spans}) == 1
    names = {
        metric.name for each in metrics.resource_metrics for scope in each.scope_metrics for metric in scope.metrics
    }
    assert {"contentdownload_registration_seconds", "contentdownload_commit_batch_size"} <= names
    facts = {fact.key: fact.value.string_value for fact in traces.resource_spans[0].resource.attributes}
    assert (facts["service.name"], facts["service.version"]) == ("kvcatalog", kvcatalog.__version__)


def test_the_console_is_standard_error_and_the_configuration_may_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"abc")
    (tmp_path / "c.toml").write_text('[telemetry]\nexporter = "console"\n')
    ran = program(tmp_path, "-c", "c.toml", "--json", "add", "a.pdf", "--artifact-id", "W1", OTEL_SERVICE_NAME="mine")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)[0]["outcome"] == "registered"
    assert '"name": "kvcatalog.finalize"' in ran.stderr
    assert "contentdownload_registration_seconds" in ran.stderr
    assert '"service.name": "mine"' in ran.stderr


def test_what_cannot_be_sent_changes_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"abc")
    add = ("add", "a.pdf", "--artifact-id", "W1")
    gone = program(tmp_path, *add, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert (gone.returncode, "Traceback" in gone.stderr) == (0, False)
    for variables in (
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ):
        ran = program(tmp_path, "show", "W1", **variables)
        assert ran.returncode == 0
        assert "No telemetry is sent: OTEL_" in ran.stderr
    (tmp_path / "c.toml").write_text('[telemetry]\nexporter = "otlp"\n')
    ran = program(tmp_path, "-c", "c.toml", "show", "W1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert ran.returncode == 2
    assert "only http/protobuf" in ran.stderr


def test_an_exporter_that_is_not_installed_is_named() -> None:
    hidden = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.startswith('opentelemetry.exporter'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from kvcatalog import telemetry\n"
        "from kvcatalog.errors import ConfigError\n"
        "try:\n"
        "    with telemetry.configure({'traces': {'otlp'}}, version='1'):\n"
        "        pass\n"
        "except ConfigError as error:\n"
        "    print(error.advice)\n"
    )
    assert "pip install 'kvcatalog[otlp]'" in run(hidden)
