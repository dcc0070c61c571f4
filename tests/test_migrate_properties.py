"""What holds of an import whatever the manifest holds."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kvcatalog.migrate import ImportReport, import_manifest, importing
from kvcatalog.migrate.lines import SUCCESS, Line, is_foreign, parse, verdict
from kvcatalog.migrate.lines import claim as lines_claim
from kvcatalog.migrate.plain import plain_claim
from kvcatalog.store import open_catalog
from kvcatalog.store.protocol import CatalogStore
from tests.manifests import (
    ATTEMPT,
    DIGEST,
    DOC_ID,
    GEN0,
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
)

LINE_CLASSES = (
    "documents",
    "misses",
    "failures",
    "skipped",
    "attempts",
    "other_records",
    "foreign",
    "blank",
    "broken",
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "a\0b", "\ud800", "\udcff", "../..", "/", "file:///\0", "file://x/y", "s3://", "9" * 40]
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)
bases = st.sampled_from([GEN0, V2, V5, OUTCOME, DOC_ID, PLAIN, MISS, ATTEMPT, MISS | {"html_paths": ["a", "b"]}, {}])
odd_lines = st.builds(
    lambda base, changes: base | changes,
    bases,
    st.dictionaries(st.sampled_from(Line.__struct_fields__), values, max_size=4),
)


@contextmanager
def workplace() -> Iterator[tuple[Path, CatalogStore]]:
    """Give a folder with a few files for a manifest to name, and a catalog outside it."""
    with TemporaryDirectory() as folder, open_catalog(Path(folder) / "catalog.lmdb") as catalog:
        run = Path(folder) / "run"
        run.mkdir()
        (run / "ten.pdf").write_bytes(b"0123456789")
        (run / "page.html").write_bytes(b"a page")
        yield run, catalog


def check_sums(report: ImportReport, lines: int) -> None:
    assert report.lines == lines
    assert sum(getattr(report, name) for name in LINE_CLASSES) == lines
    assert report.documents == report.registered + report.existing + report.enriched + report.conflicts
    for name in set(LINE_CLASSES) - {"documents"}:
        assert sum(item.count for item in report.reasons if item.line_class == name) == getattr(report, name)
    assert report.understood is (report.broken == 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(odd_lines, max_size=8), st.booleans())
def test_any_value_in_any_field_is_accounted_for(lines: list[Fields], compute_sha256: bool) -> None:
    with workplace() as (run, catalog):
        path = run / "manifest.jsonl"
        path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        rehearsed = import_manifest(path, catalog, dry_run=True, compute_sha256=compute_sha256)
        report = import_manifest(path, catalog, compute_sha256=compute_sha256)
        check_sums(report, len(lines))
        assert structs.replace(rehearsed, dry_run=False) == report


plain_changes = st.fixed_dictionaries(
    {},
    optional={
        "work_id": st.sampled_from(["", "W\xe9", "a\0b", 5]) | scalars,
        "url": st.sampled_from(["", "\0", "https://journal.example/\u6587"]) | scalars,
        "sha256": st.sampled_from([DIGEST.upper(), DIGEST[:-1], DIGEST + "\n", " " * 64, ""]) | scalars,
        "timestamp": st.sampled_from(
            ["2025-03-02 08:15:00", "2025-03-02T08:15:00.123456+02:00", "2025-03-02T08:15", "20250302T081500Z", "now"]
        )
        | scalars,
        "path": st.sampled_from(["", "/a", "x\0"]) | scalars,
        "content_length": st.sampled_from([0, 2**63 - 1, 2**63, -1, 1.0, "12"]) | scalars,
        "dry_run": st.sampled_from([True, 0, 1, "true"]) | scalars,
        "html_paths": st.sampled_from([None, [], ["a"], [None], "a"]) | values,
        "record_type": st.sampled_from([None, "manifest", "attempt"]) | scalars,
        "schema_version": st.sampled_from([None, 5, "5", "embeddings/1.0.0"]) | scalars,
        "classification": st.sampled_from(["pdf", "html", "xml", "pdf_unknown", "PDF", "cached", "exists", "miss"]),
        "run_id": st.sampled_from(["", "r\0"]) | scalars,
        "content_type": st.sampled_from(["", "text/html"]) | scalars,
    },
)


@settings(max_examples=400, deadline=None)
@given(plain_changes, st.none() | st.tuples(st.sampled_from(Line.__struct_fields__), scalars), st.booleans())
def test_a_plain_line_says_what_any_line_says(
    changes: Fields, another: tuple[str, Any] | None, ascii_only: bool
) -> None:
    fields = V5 | changes | (dict([another]) if another else {})
    raw = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    zone = timezone(timedelta(hours=2))
    claim = plain_claim(raw, zone)
    if claim is not None:
        line = parse(raw)
        assert not is_foreign(line)
        assert line.record_type in {None, "manifest"}
        assert verdict(line) == SUCCESS
        assert claim == lines_claim(line, timezone=zone)


def test_the_usual_lines_are_plain() -> None:
    for line in (GEN1, V2, V3, V4, V5):
        assert plain_claim(encoded([line]), UTC) is not None


pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\n", b"{", b"}", b"\r\n", b" ", b"\0", b"[[", b'{"ok":true', b'"\\ud800"']),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces | odd_lines.map(lambda line: encoded([line])), max_size=12).map(b"".join))
def test_any_bytes_are_accounted_for(content: bytes) -> None:
    content = b"\n" + content
    with workplace() as (run, catalog):
        path = run / "manifest.jsonl"
        path.write_bytes(content)
        rejects = io.BytesIO()
        report = import_manifest(path, catalog, rejects=rejects)
        check_sums(report, len(io.BytesIO(content).readlines()))
        lines = iter([line if line.endswith(b"\n") else line + b"\n" for line in io.BytesIO(content)])
        rejected = list(io.BytesIO(rejects.getvalue()))
        assert len(rejected) == report.broken
        assert all(line in lines for line in rejected), "rejected lines stand in the manifest, in this order"


# A digest that comes later moves a record to where the digest was found, and then what lay at the old path is no longer
# known by it. So here each URL has digests always or never, and stated sizes differ from those of the files.
URLS = ("https://a.example/1", "https://a.example/2")
START = datetime(2025, 1, 1, tzinfo=UTC)
results = st.fixed_dictionaries(
    {
        "record_type": st.sampled_from(["manifest"] * 6 + ["attempt"]),
        "work_id": st.sampled_from(["W1", "W2"]),
        "url": st.sampled_from([*URLS, None]),
        "resolver": st.sampled_from(["unpaywall", "existing"]),
        "classification": st.sampled_from(["pdf", "pdf", "cached", "exists", "exists", "unknown", "miss"]),
        "status": st.sampled_from([None, "html"]),
        "run_id": st.sampled_from([None, "r1", "r2", "r3"]),
        "content_length": st.sampled_from([None, 20, 30]),
        "sha256": st.sampled_from([DIGEST, OTHER_DIGEST]),
        "path": st.sampled_from(["ten.pdf", "gone.pdf", "/gone/too.pdf"]),
        "html_paths": st.sampled_from([[], [], ["page.html"], ["ten.pdf", "page.html"], ["gone.html"]]),
    }
)


def timed(lines: list[dict[str, Any]]) -> list[Fields]:
    times = [(START + timedelta(hours=hour)).isoformat() for hour in range(len(lines))]
    return [
        line | {"timestamp": time, "sha256": line["sha256"] if line["url"] == URLS[0] else None}
        for time, line in zip(times, lines, strict=True)
    ]


class StoppedError(BaseException):
    """Stands for the end of the process."""


@contextmanager
def stopping_after(catalog: CatalogStore, calls: int) -> Iterator[None]:
    """Let only so many of the calls that write come through."""
    left = calls

    def counted(method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise StoppedError
            left -= 1
            return method(*args, **options)

        return call

    writing = {
        name: counted(getattr(catalog, name)) for name in ("register_many", "register_variants", "record_sightings")
    }
    with mock.patch.multiple(catalog, **writing):
        yield


@settings(max_examples=60, deadline=None)
@given(st.lists(results, max_size=14).map(timed), st.booleans())
def test_a_batch_has_the_effect_of_single_lines_and_repeating_has_none(
    lines: list[Fields],
    compute_sha256: bool,
) -> None:
    with workplace() as (run, catalog), open_catalog(run.parent / "single.lmdb") as single:
        path = run / "manifest.jsonl"
        path.write_bytes(encoded(lines))
        report = import_manifest(path, catalog, compute_sha256=compute_sha256)
        with mock.patch.multiple(importing, BATCH_LINES=1, BATCH_LINES_HASHED=1):
            alone = import_manifest(path, single, compute_sha256=compute_sha256)
        held = contents(catalog)
        assert held == contents(single)
        assert report == alone
        again = import_manifest(path, catalog, compute_sha256=compute_sha256)
        assert contents(catalog) == held
        assert (again.registered, again.enriched, again.variants_registered) == (0, 0, 0)
        assert (again.documents, again.skipped, again.sightings) == (report.documents, report.skipped, report.sightings)


@settings(max_examples=60, deadline=None)
@given(st.lists(results, max_size=14).map(timed), st.integers(0, 12), st.integers(1, 5))
def test_an_import_that_was_stopped_can_be_run_again(lines: list[Fields], calls: int, batch_lines: int) -> None:
    with workplace() as (run, catalog), open_catalog(run.parent / "undisturbed.lmdb") as undisturbed:
        path = run / "manifest.jsonl"
        path.write_bytes(encoded(lines))
        import_manifest(path, undisturbed)
        with mock.patch.object(importing, "BATCH_LINES", batch_lines):
            try:
                with stopping_after(catalog, calls):
                    import_manifest(path, catalog)
            except StoppedError:
                pass
            report = import_manifest(path, catalog)
        check_sums(report, len(lines))
        assert contents(catalog) == contents(undisturbed)


def test_the_harness_stops_an_import() -> None:
    with workplace() as (run, catalog):
        path = run / "manifest.jsonl"
        path.write_bytes(encoded([V2, V2 | {"work_id": "W2"}]))
        with (
            mock.patch.object(importing, "BATCH_LINES", 1),
            pytest.raises(StoppedError),
            stopping_after(catalog, 1),
        ):
            import_manifest(path, catalog)
        assert len(contents(catalog)) == 1
