import gzip
import hashlib
import io
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs

from kvcatalog.errors import InvalidValueError, ManifestError
from kvcatalog.migrate import ImportReport, Progress, import_manifest, importing, reading
from kvcatalog.migrate.attempts import Attempts
from kvcatalog.migrate.lines import BrokenLineError, parse
from kvcatalog.models import DocumentRecord
from kvcatalog.store import open_catalog
from kvcatalog.store.protocol import CatalogStore
from tests.manifests import (
    ATTEMPT,
    DIGEST,
    DOC_ID,
    GEN0,
    GEN0_EXISTS,
    GEN1,
    MISS,
    OTHER_DIGEST,
    OUTCOME,
    PLAIN,
    V2,
    V3,
    V4,
    V5,
    Fields,
    contents,
    encoded,
    write,
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[CatalogStore]:
    with open_catalog(tmp_path / "catalog.lmdb") as opened:
        yield opened


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "run" / "logs" / "manifest.jsonl"


def only(catalog: CatalogStore) -> DocumentRecord:
    (record,) = catalog.iter_records()
    return record


def reasons(report: ImportReport) -> dict[tuple[str, str], int]:
    return {(reason.line_class, reason.reason): reason.count for reason in report.reasons}


def notes(report: ImportReport) -> dict[str, int]:
    return {note.reason: note.count for note in report.notes}


def store(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("line", "artifact_id", "size", "digest", "run_id", "created_at"),
    [
        (GEN1, "W7001", 4321, DIGEST, None, datetime(2025, 3, 2, 8, 15, tzinfo=UTC)),
        (V2, "W7001", 4321, DIGEST, "run-a", datetime(2025, 3, 2, 8, 15, tzinfo=UTC)),
        (V3, "W7001", 4321, DIGEST, "run-a", datetime(2025, 3, 2, 8, 15, tzinfo=UTC)),
        (V4, "W7001", 4321, DIGEST, "run-a", datetime(2025, 3, 2, 8, 15, tzinfo=UTC)),
        (V5, "W7001", 4321, DIGEST, "run-a", datetime(2025, 3, 2, 8, 15, tzinfo=UTC)),
        (OUTCOME, "doi:10.5555/alpine", 998, None, "run-o", datetime(2025, 4, 1, microsecond=250_000, tzinfo=UTC)),
        (DOC_ID, "openalex:W7002", 77, None, "run-d", datetime(2025, 4, 30, 22, tzinfo=UTC)),
    ],
    ids=["gen1", "v2", "v3", "v4", "v5", "outcome", "doc_id"],
)
def test_a_success_of_each_generation_becomes_a_record(
    catalog: CatalogStore,
    manifest: Path,
    line: Fields,
    artifact_id: str,
    size: int,
    digest: str | None,
    run_id: str | None,
    created_at: datetime,
) -> None:
    report = import_manifest(write(manifest, line), catalog)
    record = only(catalog)
    assert (report.documents, report.registered, report.missing_files, report.understood) == (1, 1, 1, True)
    assert (record.artifact_id, record.source_url, record.resolver) == (artifact_id, line["url"], line["resolver"])
    assert (record.bytes, record.sha256, record.run_id, record.created_at) == (size, digest, run_id, created_at)
    assert record.content_type == (line.get("content_type") or line["mime"])
    path = Path(str(line["path"]))
    assert record.storage_uri == (path if path.is_absolute() else manifest.parent / path).as_uri()


def test_the_first_generation_takes_its_size_from_the_file(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "pdfs/7001.pdf", b"twelve bytes")
    report = import_manifest(write(manifest, GEN0), catalog, timezone=ZoneInfo("Europe/Berlin"))
    assert only(catalog).bytes == 12
    assert only(catalog).created_at == datetime(2025, 3, 2, 7, 15, tzinfo=UTC)
    assert report.missing_files == 0


def test_the_plain_format_needs_no_timestamp_and_takes_any_storage_uri(catalog: CatalogStore, manifest: Path) -> None:
    report = import_manifest(write(manifest, PLAIN), catalog)
    assert only(catalog).storage_uri == "s3://bucket/plain.pdf"
    assert report.missing_files == 0
    assert notes(report) == {"timestamp-absent": 1}


@pytest.mark.parametrize(
    "changes",
    [
        *({"classification": word} for word in ("pdf", "cached", "html", "xml", "pdf_unknown", "PDF ")),
        *({"classification": None, "status": word} for word in ("ok", "success")),
        {"classification": None, "outcome": "success"},
        {"classification": None, "ok": True},
        {"classification": "unknown", "ok": True},
        {"classification": "success", "path": "here.pdf"},
        {"classification": "unknown", "path": "here.pdf"},
        {"classification": "pdf", "dry_run": "false"},
    ],
)
def test_a_line_that_says_success_is_one(catalog: CatalogStore, manifest: Path, changes: Fields) -> None:
    store(manifest.parent / "here.pdf", b"x")
    assert import_manifest(write(manifest, V2 | changes), catalog).registered == 1


@pytest.mark.parametrize(
    ("changes", "line_class", "reason"),
    [
        ({"classification": "miss"}, "misses", "miss"),
        ({"classification": "skipped"}, "failures", "skipped"),
        ({"classification": "http_error"}, "failures", "http_error"),
        ({"classification": "html_too_large"}, "failures", "html_too_large"),
        ({"classification": "payload_too_large"}, "failures", "payload_too_large"),
        ({"classification": "video_too_large"}, "failures", "too_large"),
        ({"classification": "pdf_corrupt"}, "failures", "pdf_corrupt"),
        ({"classification": "pdf", "status": "error"}, "failures", "error"),
        ({"classification": "miss", "ok": True}, "misses", "miss"),
        ({"classification": None, "outcome": "skip"}, "failures", "skip"),
        ({"classification": None, "ok": False}, "failures", "not-a-success"),
        ({"dry_run": True}, "failures", "dry-run"),
        ({"classification": "unknown"}, "failures", "unknown-without-file"),
        ({"classification": "success"}, "failures", "unknown-without-file"),
        ({"classification": "unknown", "path": None}, "failures", "unknown-without-file"),
        ({"path": None}, "skipped", "no-location"),
        ({"path": ""}, "skipped", "no-location"),
        ({"content_length": None}, "skipped", "size-unknown"),
        ({"content_length": -1}, "skipped", "size-unknown"),
        ({"content_length": 1.5}, "skipped", "size-unknown"),
        ({"content_length": True}, "skipped", "size-unknown"),
        ({"content_length": 2**63}, "skipped", "size-unknown"),
        ({"content_length": 10**30}, "skipped", "size-unknown"),
        ({"content_length": "many"}, "skipped", "size-unknown"),
        ({"content_length": float("nan")}, "skipped", "size-unknown"),
        ({"content_length": float("inf")}, "skipped", "size-unknown"),
        ({"classification": None}, "broken", "no-outcome"),
        ({"classification": None, "work_id": None}, "broken", "not-a-manifest"),
        ({"classification": 5}, "broken", "invalid-classification"),
        ({"work_id": None}, "broken", "invalid-artifact-id"),
        ({"work_id": 5}, "broken", "invalid-artifact-id"),
        ({"work_id": "a\0b"}, "broken", "invalid-artifact-id"),
        ({"work_id": "\ud800"}, "broken", "invalid-artifact-id"),
        ({"url": ["x"]}, "broken", "invalid-source-url"),
        ({"resolver": {"a": 1}}, "broken", "invalid-resolver"),
        ({"run_id": "a\0b"}, "broken", "invalid-run-id"),
        ({"content_type": 7}, "broken", "invalid-content-type"),
        ({"path": "a\0b"}, "broken", "invalid-path"),
        ({"path": "\ud800"}, "broken", "invalid-path"),
        ({"path": 5}, "broken", "invalid-path"),
        *(
            ({field: value}, "broken", reason)
            for value in ([], {}, False, 0, ["x"], {"a": 1})
            for field, reason in (
                ("work_id", "invalid-artifact-id"),
                ("artifact_id", "invalid-artifact-id"),
                ("source_url", "invalid-source-url"),
                ("url", "invalid-source-url"),
                ("resolver", "invalid-resolver"),
                ("content_type", "invalid-content-type"),
                ("run_id", "invalid-run-id"),
                ("path", "invalid-path"),
                ("storage_uri", "invalid-path"),
                ("classification", "invalid-classification"),
                ("outcome", "invalid-outcome"),
                ("record_type", "invalid-record-type"),
            )
        ),
        ({"schema_version": "embeddings/1.0.0"}, "foreign", "other-tool"),
        ({"record_type": "summary"}, "other_records", "summary"),
        ({"record_type": "io_attempt"}, "other_records", "io_attempt"),
        ({"record_type": "tea_break"}, "other_records", "unknown-record-type"),
        ({"record_type": 5}, "broken", "invalid-record-type"),
        ({"record_type": "attempt"}, "attempts", "attempt"),
    ],
)
def test_what_is_not_imported_is_counted_under_its_reason(
    catalog: CatalogStore, manifest: Path, changes: Fields, line_class: str, reason: str
) -> None:
    rejects = io.BytesIO()
    report = import_manifest(write(manifest, V2 | changes), catalog, rejects=rejects)
    assert reasons(report) == {(line_class, reason): 1}
    assert report.reasons[0].lines == ("manifest.jsonl:1",)
    assert getattr(report, line_class) == 1
    assert report.understood is (line_class != "broken")
    assert rejects.getvalue() == (manifest.read_bytes() if line_class == "broken" else b"")
    assert list(catalog.iter_records()) == []


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"work_id": "W1", "classification": "pdf"', "not-json"),
        (b"\xff\xfe", "not-utf-8"),
        (b'{"title": "\xff", "classification": "miss"}', "not-utf-8"),
        (b"\0\0\0", "not-json"),
        (b"[]", "not-an-object"),
        (b"null", "not-an-object"),
        (b"{}", "not-a-manifest"),
        (b'{"path": ' + b"[" * 100_000, "too-deep"),
        (b'{"bytes": ' + b"9" * 5000 + b"}", "not-json"),
        (b'{"ok": true} {"ok": true}', "not-json"),
    ],
)
def test_a_broken_line_costs_only_itself(catalog: CatalogStore, manifest: Path, raw: bytes, reason: str) -> None:
    rejects = io.BytesIO()
    report = import_manifest(write(manifest, V2, raw + b"\r\n", b" \n", GEN1, raw), catalog, rejects=rejects)
    assert (report.lines, report.documents, report.blank, report.broken) == (5, 2, 1, 2)
    assert reasons(report) == {("broken", reason): 2, ("blank", "blank"): 1}
    assert report.reasons[-1].lines == ("manifest.jsonl:2", "manifest.jsonl:5")
    assert rejects.getvalue() == raw + b"\r\n" + raw + b"\n"
    assert not report.understood


def test_what_python_writes_beyond_json_is_read(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "caf\udce9.pdf", b"abc")
    line = V2 | {"elapsed_ms": float("nan"), "title": "\ud800", "path": "caf\udce9.pdf"}
    report = import_manifest(write(manifest, line), catalog)
    assert (report.registered, report.missing_files) == (1, 0)
    assert only(catalog).storage_uri.endswith("/caf%E9.pdf")


def test_a_line_that_is_too_long_is_passed_over(
    catalog: CatalogStore, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LINE_BYTES_MAX", 1000)
    long = b'{"path": "' + b"x" * 5000 + b'"}\n'
    rejects = io.BytesIO()
    report = import_manifest(write(manifest, V2, long, GEN1, long[:-1]), catalog, rejects=rejects)
    assert (report.lines, report.documents) == (4, 2)
    assert reasons(report) == {("broken", "too-long"): 2}
    assert rejects.getvalue() == long * 2


@pytest.mark.parametrize(("stated", "size"), [("1234", 1234), (1234.0, 1234), (" 0012.0 ", 12), (0, 0)])
def test_a_size_is_a_number_however_it_is_written(
    catalog: CatalogStore, manifest: Path, stated: object, size: int
) -> None:
    import_manifest(write(manifest, V2 | {"content_length": stated}), catalog)
    assert only(catalog).bytes == size


@pytest.mark.parametrize("digest", ["deadbeef", "sha256:" + DIGEST, 5, ["a"], "x" * 64, [], {}, 0, False])
def test_a_digest_that_is_none_is_dropped_and_counted(catalog: CatalogStore, manifest: Path, digest: object) -> None:
    report = import_manifest(write(manifest, V2 | {"sha256": digest}), catalog)
    assert only(catalog).sha256 is None
    assert report.dropped_digests == 1
    assert notes(report)["digest-dropped"] == 1


def test_a_digest_may_stand_under_its_short_name_and_in_capitals(catalog: CatalogStore, manifest: Path) -> None:
    report = import_manifest(write(manifest, OUTCOME | {"sha256": "12ab...", "sha": DIGEST.upper()}), catalog)
    assert only(catalog).sha256 == DIGEST
    assert report.dropped_digests == 0


@pytest.mark.parametrize(
    "timestamp", ["yesterday", 5, "0001-01-01T00:00:00+14:00", "", ["2025"], "2025-13-01", [], {}, 0]
)
def test_a_timestamp_that_is_none_costs_only_the_time(catalog: CatalogStore, manifest: Path, timestamp: object) -> None:
    report = import_manifest(write(manifest, V2 | {"timestamp": timestamp}), catalog)
    assert only(catalog).created_at > datetime(2026, 1, 1, tzinfo=UTC)
    assert notes(report)["timestamp-unparsable" if timestamp != "" else "timestamp-absent"] == 1


def test_a_naive_timestamp_is_in_the_given_zone(catalog: CatalogStore, manifest: Path) -> None:
    line = GEN0 | {"content_length": 1}
    import_manifest(write(manifest, line), catalog, timezone=timezone(timedelta(hours=-5)))
    assert only(catalog).created_at == datetime(2025, 3, 2, 13, 15, tzinfo=UTC)


def test_a_line_without_a_resolver_gets_the_given_one(catalog: CatalogStore, manifest: Path) -> None:
    import_manifest(write(manifest, V2 | {"resolver": None}), catalog, default_resolver="elsewhere")
    assert only(catalog).resolver == "elsewhere"
    with pytest.raises(InvalidValueError):
        import_manifest(manifest, catalog, default_resolver="")


def test_a_relative_path_is_looked_up_in_three_places(catalog: CatalogStore, manifest: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    places = {name: folder / f"{name}.pdf" for name, folder in [("a", base), ("b", manifest.parent)]}
    places["c"] = manifest.parent.parent / "c.pdf"
    for path in places.values():
        store(path, b"x")
    store(manifest.parent / "a.pdf", b"not this one")
    lines = [V2 | {"work_id": name, "path": f"./x/../{name}.pdf"} for name in "abcd"]
    report = import_manifest(write(manifest, *lines), catalog, base_dir=base)
    found = {record.artifact_id: record.storage_uri for record in catalog.iter_records()}
    assert found == {name: path.as_uri() for name, path in places.items()} | {"d": (base / "d.pdf").as_uri()}
    assert report.missing_files == 1


def test_missing_files_are_left_out_on_request(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "here.pdf", b"x")
    (manifest.parent / "folder.pdf").mkdir()
    lines = [V2 | {"work_id": name, "path": f"{name}.pdf"} for name in ("here", "gone", "folder")]
    report = import_manifest(write(manifest, *lines, PLAIN), catalog, require_files=True)
    assert {record.artifact_id for record in catalog.iter_records()} == {"here", "doi:10.5555/plain"}
    assert reasons(report) == {("skipped", "file-missing"): 2}


def test_pages_and_text_become_variants(catalog: CatalogStore, manifest: Path) -> None:
    for name in ("one.html", "two.html", "text.txt"):
        store(manifest.parent / name, name.encode())
    line = V2 | {
        "html_paths": ["one.html", "gone.html", "one.html", 7, "two.html", "pdfs/7001.pdf"],
        "extracted_text_path": "text.txt",
    }
    report = import_manifest(write(manifest, line), catalog)
    variants = {item.variant: item for item in catalog.get_variants(only(catalog).id)}
    assert set(variants) == {"html", "html-3", "text"}
    assert variants["html-3"].storage_uri == (manifest.parent / "two.html").as_uri()
    assert variants["html"].bytes == len("one.html")
    assert variants["text"].created_at == datetime(2025, 3, 2, 8, 15, tzinfo=UTC)
    assert (report.variants_registered, report.variants_left_out) == (3, 2)
    assert notes(report)["variant-path-invalid"] == 1
    assert notes(report)["variant-size-unknown"] == 2
    again = import_manifest(manifest, catalog)
    assert (again.variants_registered, again.variants_existing) == (0, 3)


@pytest.mark.parametrize("value", [[], {}, 0, False, ["x"], {"a": 1}])
def test_paths_of_variants_of_a_wrong_type_are_noted(catalog: CatalogStore, manifest: Path, value: object) -> None:
    report = import_manifest(write(manifest, V2 | {"extracted_text_path": value}), catalog)
    assert notes(report) == {"file-missing": 1, "variant-path-invalid": 1}
    if not isinstance(value, list):
        report = import_manifest(write(manifest, V2 | {"html_paths": value}), catalog)
        assert notes(report) == {"file-missing": 1, "variant-path-invalid": 1}


@pytest.mark.parametrize("value", [[], {}, 0, ["x"], {"a": 1}])
def test_an_attempt_with_values_of_a_wrong_type_breaks_its_result_only(
    catalog: CatalogStore, manifest: Path, value: object
) -> None:
    lines = [ATTEMPT | {"url": value}, MISS | {"html_paths": ["one.html"]}]
    report = import_manifest(write(manifest, *lines), catalog)
    assert reasons(report) == {("attempts", "attempt"): 1, ("broken", "invalid-source-url"): 1}


def test_a_document_is_no_variant_of_itself(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "page.html", b"x")
    report = import_manifest(write(manifest, V2 | {"path": "page.html", "html_paths": ["page.html"]}), catalog)
    assert catalog.get_variants(only(catalog).id) == []
    assert notes(report)["variant-is-the-document"] == 1


def test_a_page_stored_for_a_miss_is_the_document(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "second.html", b"second")
    lines = [
        ATTEMPT | {"run_id": "run-z", "url": "https://journal.example/other-run"},
        ATTEMPT | {"status": "skipped", "url": "https://journal.example/skipped"},
        ATTEMPT,
        ATTEMPT | {"url": "https://journal.example/later"},
        MISS | {"html_paths": ["first.html", "second.html"]},
        MISS | {"work_id": "W7009"},
    ]
    report = import_manifest(write(manifest, *lines), catalog)
    record = only(catalog)
    assert (record.artifact_id, record.source_url, record.resolver) == ("W7001", ATTEMPT["url"], "openalex")
    assert (record.bytes, record.sha256, record.content_type) == (314, OTHER_DIGEST, ATTEMPT["content_type"])
    assert record.run_id == "run-a"
    assert record.storage_uri == (manifest.parent / "first.html").as_uri()
    assert [item.variant for item in catalog.get_variants(record.id)] == ["html-2"]
    assert (report.documents, report.misses, report.attempts, report.missing_files) == (1, 1, 4, 1)


def test_a_page_without_its_attempt_is_known_by_its_file(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "page.html", b"page")
    report = import_manifest(write(manifest, MISS | {"html_paths": ["page.html"]}), catalog)
    uri = (manifest.parent / "page.html").as_uri()
    assert (only(catalog).source_url, only(catalog).storage_uri, only(catalog).bytes) == (uri, uri, 4)
    assert notes(report) == {"page-without-attempt": 1, "url-absent": 1}


def test_attempts_are_remembered_within_bounds() -> None:
    def line(work: int) -> bytes:
        return encoded([ATTEMPT | {"work_id": f"W{work}"}])

    attempts = Attempts(works_max=10)
    for work in range(100):
        attempts.remember(parse(line(work)))
    assert [work for work in range(100) if attempts.page_of(parse(line(work)))] == list(range(90, 100))
    attempts = Attempts(bytes_max=5_000)
    for work in range(100):
        attempts.remember(parse(line(work)))
    assert [work for work in range(100) if attempts.page_of(parse(line(work)))] == list(range(95, 100))


def traced_peak(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_attempt_takes_no_more_memory_than_is_counted() -> None:
    nested = b'"url": [' + b",".join([b"[]"] * 5_000) + b'], "content_length": {"a": [[]]}, "x": "'
    long = '"url": "https://journal.example/' + "\N{LATIN SMALL LETTER ETH}\N{PILE OF POO}" * 500
    lines = [
        b'{"record_type": "attempt", "status": "html", "work_id": "W%d-%d", %s"}' % (work, number, fields)
        for work in range(300)
        for number, fields in enumerate((nested, long.encode()))
    ]

    def remember() -> None:
        attempts = Attempts(bytes_max=200_000)
        for line in lines:
            attempts.remember(parse(line))

    assert traced_peak(remember) < 400_000


NESTED = b"[" + b",".join([b"[]"] * 300_000) + b"]"
REPEATED = b"[" + b",".join([b'"ab"'] * 100_000) + b"]"


@pytest.mark.parametrize("value", [NESTED, b'{"a": ' + NESTED + b"}", b"[" + b"0," * 400_000 + b"0]", REPEATED])
@pytest.mark.parametrize("field", ["url", "html_paths", "path", "content_length", "title"])
@pytest.mark.parametrize("end", [b"}", b', "elapsed": NaN, "title": "' + b"x" * (1 << 20) + b'"}', b"]"])
def test_a_line_takes_little_memory_whatever_it_holds(field: str, value: bytes, end: bytes) -> None:
    line = encoded([{**V2, field: None}]).rstrip(b"\n}") + b', "%s": %s%s' % (field.encode(), value, end)
    padding = b" " * (1 << 20)

    def read() -> None:
        with suppress(BrokenLineError):
            parse(line + padding)

    assert traced_peak(read) < len(line) + len(padding) + 500_000


def test_of_many_pages_the_first_thousand_count(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "0.html", b"first")
    pages: list[object] = [f"{number}.html" for number in range(1_000)]
    nan = {"elapsed": float("nan")}
    for work, (listed, note) in enumerate([(pages, {}), ([*pages, "more.html"], {"variants-too-many": 1})]):
        for line in (V2 | {"html_paths": listed}, V2 | nan | {"html_paths": listed}, MISS | {"html_paths": listed}):
            report = import_manifest(write(manifest, line | {"work_id": f"W{work}"}), catalog)
            assert (report.documents, report.variants_left_out) == (1, 999)
            assert notes(report).get("variants-too-many", 0) == note.get("variants-too-many", 0)


def test_variants_count_towards_the_size_of_a_batch(
    catalog: CatalogStore, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = catalog.register_many

    def counting(requests: list[object], **options: int) -> object:
        sizes.append(len(requests))
        return real(requests, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "register_many", counting)
    monkeypatch.setattr(importing, "BATCH_BYTES", 200_000)
    pages = [f"{number}" for number in range(500)]
    import_manifest(write(manifest, *[V2 | {"work_id": f"W{work}", "html_paths": pages} for work in range(9)]), catalog)
    assert max(sizes) < 3


def test_a_cached_repeat_is_a_sighting(catalog: CatalogStore, manifest: Path) -> None:
    later = {"run_id": "run-b", "timestamp": "2025-06-01T00:00:00Z"}
    lines = [
        V2,
        V2 | later | {"classification": "cached"},
        V2 | {"classification": "cached", "content_length": None, "run_id": "run-c"},
        V2 | {"classification": "cached", "content_length": None, "url": "https://journal.example/unknown"},
    ]
    report = import_manifest(write(manifest, *lines), catalog)
    record = only(catalog)
    assert (record.run_id, record.created_at) == ("run-a", datetime(2025, 3, 2, 8, 15, tzinfo=UTC))
    assert {sighting.run_id for sighting in catalog.get_sightings()} == {"run-b", "run-c"}
    assert (report.registered, report.existing, report.sightings, report.skipped) == (1, 2, 2, 1)


def test_an_existing_file_is_matched_to_its_artifact_and_path(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent.parent / "pdfs/7001.pdf", b"x")
    exists = V2 | {"classification": "exists", "resolver": "existing", "url": None, "run_id": "run-b"}
    elsewhere = exists | {"path": "/elsewhere/7001.pdf", "content_length": 9}
    other_work = exists | {"work_id": "W7003"}
    report = import_manifest(write(manifest, V2, exists, elsewhere, other_work, GEN0_EXISTS), catalog)
    keys = {(record.artifact_id, record.source_url, record.resolver) for record in catalog.iter_records()}
    assert keys == {
        ("W7001", V2["url"], "unpaywall"),
        ("W7001", "file:///elsewhere/7001.pdf", "existing"),
        ("W7003", (manifest.parent.parent / "pdfs/7001.pdf").as_uri(), "existing"),
    }
    (sighting,) = catalog.get_sightings()
    assert sighting.run_id == "run-b"
    assert sighting.document_id == catalog.get_by_url(str(V2["url"]))[0].id
    assert (report.registered, report.existing, report.sightings) == (3, 2, 1)
    before = contents(catalog)
    again = import_manifest(manifest, catalog)
    assert contents(catalog) == before
    assert (again.registered, again.existing) == (0, 5)


def test_an_existing_file_stays_with_its_key_when_another_document_comes_to_its_path(
    catalog: CatalogStore, manifest: Path
) -> None:
    moved = V2 | {"url": "https://journal.example/moved", "resolver": "existing"}
    exists = moved | {"classification": "exists", "path": "pdfs/here.pdf", "run_id": "run-b"}
    import_manifest(write(manifest, moved, exists, V2 | {"path": "pdfs/here.pdf"}), catalog)
    before = contents(catalog)
    import_manifest(manifest, catalog)
    assert contents(catalog) == before
    (sighting,) = catalog.get_sightings()
    assert sighting.document_id == catalog.get_by_url("https://journal.example/moved")[0].id


def test_an_existing_file_without_a_match_and_size_is_skipped(catalog: CatalogStore, manifest: Path) -> None:
    report = import_manifest(write(manifest, GEN0_EXISTS), catalog)
    assert reasons(report) == {("skipped", "size-unknown"): 1}


def test_other_bytes_under_a_key_are_a_conflict(catalog: CatalogStore, manifest: Path) -> None:
    other = V2 | {"sha256": OTHER_DIGEST}
    report = import_manifest(write(manifest, V2 | {"sha256": None}, V2, other), catalog)
    assert (report.registered, report.enriched, report.conflicts) == (1, 1, 1)
    before = contents(catalog)
    again = import_manifest(manifest, catalog)
    assert (again.existing, again.conflicts) == (2, 1)
    assert contents(catalog) == before


def test_digests_are_computed_where_they_are_missing(catalog: CatalogStore, manifest: Path) -> None:
    digest = store(manifest.parent / "pdfs/7001.pdf", b"a paper")
    page = store(manifest.parent / "page.html", b"a page")
    none = {"sha256": None, "html_paths": ["page.html"]}
    lines = [V2 | none, V2 | none, V2 | {"work_id": "W2"}, V2 | {"work_id": "W3", "path": "gone.pdf"} | none]
    report = import_manifest(write(manifest, *lines), catalog, compute_sha256=True)
    found = {record.artifact_id: (record.sha256, record.bytes) for record in catalog.iter_records()}
    assert found == {"W7001": (digest, 7), "W2": (DIGEST, 4321), "W3": (None, 4321)}
    variants = [item for record in catalog.iter_records() for item in catalog.get_variants(record.id)]
    assert [item.sha256 for item in variants] == [page, page]
    assert notes(report)["size-mismatch"] == 3
    assert (report.registered, report.existing, report.conflicts, report.hashed_files) == (3, 1, 0, 1)
    again = import_manifest(manifest, catalog, compute_sha256=True)
    assert (again.existing, again.hashed_files, again.conflicts) == (4, 0, 0)


def test_a_file_that_cannot_be_hashed_is_counted(
    catalog: CatalogStore, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(manifest.parent / "pdfs/7001.pdf", b"a paper")

    def refuse(_stream: object) -> tuple[str, int]:
        raise PermissionError

    monkeypatch.setattr("kvcatalog.migrate.hashing.sha256_stream", refuse)
    report = import_manifest(write(manifest, V2 | {"sha256": None}), catalog, compute_sha256=True)
    assert (report.registered, report.unhashed_files, report.hashed_files) == (1, 1, 0)
    assert only(catalog).sha256 is None


def test_digests_and_the_report_are_the_same_whichever_file_is_read_first(
    catalog: CatalogStore, manifest: Path, tmp_path: Path
) -> None:
    rng = random.Random(5)
    lines = []
    for number in range(120):
        name = f"{number}.pdf"
        if number % 7:
            store(manifest.parent / name, rng.randbytes(rng.choice((0, 10, 3_000_000))))
        lines.append(V2 | {"work_id": f"W{number % 50}", "path": name, "sha256": None, "html_paths": [name, "5.pdf"]})
    seen: list[Progress] = []
    report = import_manifest(write(manifest, *lines), catalog, compute_sha256=True, progress=seen.append)
    with open_catalog(tmp_path / "one.lmdb") as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)
        assert import_manifest(manifest, other, compute_sha256=True) == report
        assert contents(catalog) == contents(other)
    hashed = [item.hashed_files for item in seen]
    assert hashed == sorted(hashed)
    assert len(set(hashed)) > 50, "told while files are read"
    sizes = [(manifest.parent / f"{number}.pdf").stat().st_size for number in range(120) if number % 7]
    assert seen[-1].hashed_bytes == sum(sizes) + (manifest.parent / "5.pdf").stat().st_size, "each once, and a variant"


def test_segments_are_read_oldest_first(catalog: CatalogStore, manifest: Path) -> None:
    def run(number: int) -> Fields:
        return V2 | {"run_id": f"run-{number}"}

    write(manifest, run(12))
    for number in range(12):
        name = f"manifest.jsonl.{number:04}"
        if number % 2:
            write(manifest.with_name(name), run(number))
        else:
            manifest.with_name(name + ".gz").write_bytes(gzip.compress(encoded([run(number)])))
    write(manifest.with_name("manifest.jsonl.bak"), GEN1)
    manifest.with_name("manifest.jsonl.0001.gz").write_bytes(b"left over")
    report = import_manifest(manifest, catalog)
    assert only(catalog).run_id == "run-0"
    assert report.lines == 13
    assert report.segments[0] == "manifest.jsonl.0000.gz"
    assert report.segments[-2:] == ("manifest.jsonl.0011", "manifest.jsonl")
    one = import_manifest(manifest.with_name("manifest.jsonl.0003"), catalog)
    assert (one.lines, one.segments) == (1, ("manifest.jsonl.0003",))


def test_a_segment_is_named_with_each_line(catalog: CatalogStore, manifest: Path) -> None:
    write(manifest.with_name("manifest.jsonl.0000"), V2, b"x\n")
    report = import_manifest(write(manifest, b"y\n"), catalog)
    assert report.reasons[0].lines == ("manifest.jsonl.0000:2", "manifest.jsonl:1")


def test_gzip_is_read_in_all_its_members(catalog: CatalogStore, manifest: Path) -> None:
    path = manifest.with_name("manifest.jsonl.gz")
    manifest.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(encoded([V2])) + gzip.compress(encoded([GEN1, OUTCOME])))
    assert import_manifest(path, catalog).documents == 3
    assert import_manifest(manifest, catalog).documents == 3


def test_zstd_is_read_in_all_its_frames(catalog: CatalogStore, manifest: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    lines = [V2 | {"work_id": f"W{number}"} for number in range(5000)]
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    frames = compress(encoded(lines)) + compress(encoded([GEN1]))
    path = manifest.with_name("manifest.jsonl.zst")
    manifest.parent.mkdir(parents=True)
    path.write_bytes(frames)
    assert import_manifest(path, catalog).documents == 5001
    for damaged in (frames[:-9], frames[:200] + b"\xff" * 50 + frames[250:]):
        path.write_bytes(damaged)
        with pytest.raises(ManifestError):
            import_manifest(path, catalog)


def test_zstd_without_a_library_says_what_to_install(
    catalog: CatalogStore, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = write(manifest.with_name("manifest.jsonl.zst"), b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(ManifestError, match=r"kvcatalog\[zstd\]"):
        import_manifest(path, catalog)


@pytest.mark.parametrize(
    "content", [gzip.compress(encoded([V2] * 100))[:-12], b"", b"plain", b"\x1f\x8b\x08\0damaged!!!"]
)
def test_a_file_that_is_not_what_it_claims_is_an_error(catalog: CatalogStore, manifest: Path, content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.jsonl\.gz"):
        import_manifest(write(manifest.with_name("manifest.jsonl.gz"), content), catalog)


def test_what_cannot_be_opened_is_an_error(catalog: CatalogStore, manifest: Path, tmp_path: Path) -> None:
    for path in (manifest, tmp_path, write(tmp_path / "manifest.sqlite3", b"SQLite format 3\0...")):
        with pytest.raises(ManifestError):
            import_manifest(path, catalog)


@pytest.mark.parametrize("content", [encoded([V2]), gzip.compress(encoded([V2])), b"\xef\xbb\xbf" + encoded([V2])])
def test_standard_input_is_read(
    catalog: CatalogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    report = import_manifest("-", catalog)
    assert (report.registered, report.segments) == (1, ("-",))
    assert only(catalog).storage_uri == (tmp_path / "pdfs/7001.pdf").as_uri()


def test_progress_tells_lines_and_bytes(catalog: CatalogStore, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PROGRESS_LINES", 10)
    seen: list[Progress] = []
    write(manifest.with_name("manifest.jsonl.0000"), *[MISS] * 25)
    import_manifest(write(manifest, *[MISS] * 25), catalog, progress=seen.append)
    size = 50 * len(encoded([MISS]))
    assert [item.lines for item in seen] == [10, 20, 30, 40, 50, 50]
    assert seen[-1] == Progress(50, size, size)


def test_a_dry_run_writes_nothing_and_reports_the_same(catalog: CatalogStore, manifest: Path) -> None:
    store(manifest.parent / "one.html", b"x")
    exists = V2 | {"classification": "exists", "resolver": "existing", "url": None, "run_id": "run-b"}
    first = [V2, V2 | {"sha256": None, "html_paths": ["one.html"]}, exists, V2 | {"sha256": OTHER_DIGEST}, MISS]
    second = [V2 | {"run_id": "run-c"}, exists, V2 | {"content_length": 1}, *first, OUTCOME, PLAIN]
    for lines in (first, second, second):
        before = contents(catalog)
        rehearsed = import_manifest(write(manifest, *lines), catalog, dry_run=True)
        assert contents(catalog) == before
        assert rehearsed.dry_run
        assert structs.replace(rehearsed, dry_run=False) == import_manifest(manifest, catalog)


def test_a_request_that_the_catalog_refuses_costs_its_line_only(
    catalog: CatalogStore, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog.register_many

    def picky(requests: list[object], **options: int) -> object:
        if any(getattr(request, "artifact_id", None) == "W13" for request in requests):
            raise InvalidValueError("artifact_id", "is unlucky")
        return real(requests, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "register_many", picky)
    lines = [V2 | {"work_id": f"W{number}"} for number in range(20)]
    rejects = io.BytesIO()
    report = import_manifest(write(manifest, *lines), catalog, rejects=rejects)
    assert (report.registered, report.broken) == (19, 1)
    assert reasons(report) == {("broken", "invalid-artifact-id"): 1}
    assert rejects.getvalue() == encoded([lines[13]])
