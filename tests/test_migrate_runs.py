"""What a run leaves beside its manifest, and folders of runs."""

import csv
import gzip
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcatalog.errors import ManifestError
from kvcatalog.migrate import import_manifest, side_files
from kvcatalog.migrate.places import Places
from kvcatalog.migrate.reading import opened
from kvcatalog.store import open_catalog
from kvcatalog.store.protocol import CatalogStore
from tests.manifests import ATTEMPT, DIGEST, GEN1, MISS, OTHER_DIGEST, V2, V4, V5, Fields, contents, encoded, write

TABLE = ("work_id", "run_id", "title", "resolver", "url", "classification", "path", "sha256", "content_length")
PAGE = MISS | {"work_id": "W7002", "html_paths": ["page.html"]}
LINES: list[Fields] = [
    V2,
    V5 | {"work_id": "W7003", "html_paths": ["page.html"], "extracted_text_path": "text.txt"},
    V4 | {"run_id": "run-b", "classification": "cached"},
    ATTEMPT | {"work_id": "W7002"},
    PAGE,
    V5 | {"work_id": "W7004", "dry_run": True},
    V5 | {"work_id": "W7005", "classification": "exists", "url": None, "resolver": "existing", "path": "text.txt"},
]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[CatalogStore]:
    with open_catalog(tmp_path / "catalog.lmdb") as opened_catalog:
        yield opened_catalog


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "page.html").write_bytes(b"a page")
    (folder / "text.txt").write_bytes(b"a text")
    return folder


def write_database(path: Path, lines: Iterable[Fields], version: int = 8) -> Path:
    """Write lines as a run writes them into SQLite: results and attempts in tables of their own, lists as JSON."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        for table, is_attempt in (("manifests", False), ("attempts", True)):
            rows = [line for line in lines if (line.get("record_type") == "attempt") is is_attempt]
            columns = list(dict.fromkeys(name for line in rows for name in line if name != "record_type"))
            if not columns:
                continue
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {', '.join(columns)})")
            for line in rows:
                values = [line.get(name) for name in columns]
                cells = [json.dumps(value) if isinstance(value, list) else value for value in values]
                names, marks = ", ".join(columns), ", ".join("?" * len(columns))
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", cells)
        connection.commit()
    return path


def table_text(lines: Iterable[Fields]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, TABLE, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def index_of(lines: Iterable[Fields]) -> bytes:
    entries = {
        str(line["work_id"]): {
            "classification": line["classification"],
            "pdf_path": line["path"],
            "sha256": line["sha256"],
            "original_url": line["url"],
        }
        for line in lines
    }
    return json.dumps(entries, indent=2, sort_keys=True).encode()


@pytest.mark.parametrize("version", range(2, 9))
def test_the_database_says_what_the_lines_say(catalog: CatalogStore, run: Path, tmp_path: Path, version: int) -> None:
    database = write_database(run / "manifest.sqlite3", LINES, version)
    before = database.read_bytes(), sorted(run.iterdir())
    report = import_manifest(database, catalog)
    with open_catalog(tmp_path / "lines.lmdb") as other:
        lines = import_manifest(write(run / "lines.jsonl", *LINES), other)
        assert contents(catalog) == contents(other)
    (run / "lines.jsonl").unlink()
    assert (report.documents, report.failures, report.attempts, report.sightings) == (5, 1, 1, 1)
    for name in ("documents", "registered", "existing", "failures", "variants_registered", "sightings", "notes"):
        if name != "notes":
            assert getattr(report, name) == getattr(lines, name), name
    assert (database.read_bytes(), sorted(run.iterdir())) == before
    again = import_manifest(database, catalog)
    assert (again.registered, again.variants_registered, again.documents) == (0, 0, report.documents)


def test_a_row_of_a_database_that_is_broken_costs_itself_only(catalog: CatalogStore, run: Path) -> None:
    database = write_database(run / "manifest.sqlite", [V2, V2 | {"work_id": 7}, V2 | {"work_id": "W2"}])
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("INSERT INTO manifests (work_id, classification) VALUES (CAST(x'57ff' AS TEXT), 'pdf')")
        connection.execute("INSERT INTO manifests (work_id, classification) VALUES (x'5733', 'miss')")
        connection.execute("UPDATE manifests SET html_paths = '[\"page.html\"' WHERE work_id = 'W2'")
        connection.commit()
    rejects = io.BytesIO()
    report = import_manifest(database, catalog, rejects=rejects)
    assert (report.lines, report.documents, report.misses, report.broken) == (5, 2, 1, 2)
    assert [reason.lines for reason in report.reasons if reason.line_class == "broken"] == [
        ("manifest.sqlite:2", "manifest.sqlite:4")
    ]
    assert [json.loads(line)["work_id"] for line in rejects.getvalue().splitlines()] == [7, "W\udcff"]


def test_a_database_that_cannot_be_read_is_an_error(catalog: CatalogStore, run: Path) -> None:
    database = write_database(run / "manifest.sqlite3", [V2 | {"work_id": f"W{number}"} for number in range(500)])
    whole = database.read_bytes()
    for damage in (whole[:4096], whole[:8192] + b"\xff" * 8192 + whole[16384:]):
        database.write_bytes(damage)
        with pytest.raises(ManifestError, match=r"manifest\.sqlite3"):
            import_manifest(database, catalog)
    database.write_bytes(whole)
    (run / "manifest.sqlite3-wal").write_bytes(b"not folded in")
    with pytest.raises(ManifestError, match="-wal"):
        import_manifest(database, catalog)
    other = run / "other.sqlite3"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE manifests (x)")
    with pytest.raises(ManifestError, match="no table manifests"):
        import_manifest(other, catalog)


@pytest.mark.parametrize("name", ["last.csv", "manifest.last.csv", "last.csv.gz"])
def test_the_last_table_is_read(catalog: CatalogStore, run: Path, name: str) -> None:
    lines = [V2, V5 | {"work_id": "W2", "title": 'a "quoted"\nand broken title'}, MISS | {"work_id": "W3"}]
    text = table_text(lines).encode()
    (run / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    report = import_manifest(run / name, catalog)
    assert (report.lines, report.registered, report.misses, report.understood) == (3, 2, 1, True)
    (record,) = catalog.get_by_artifact("W7001")
    assert (record.source_url, record.resolver, record.run_id) == (V2["url"], "unpaywall", "run-a")
    assert (record.sha256, record.bytes) == (DIGEST, 4321)
    before = contents(catalog)
    other = [line | {"sha256": OTHER_DIGEST} for line in lines]
    (run / name).write_bytes(
        gzip.compress(table_text(other).encode())
        if name.endswith(".gz")
        else b"".join(table_text(other).encode().splitlines(keepends=True))
    )
    for _ in range(2):
        report = import_manifest(run / name, catalog)
        assert (report.registered, report.conflicts) == (0, 2)
    assert [conflict.count for conflict in catalog.get_conflicts()] == [1, 1]
    assert len(before) == len(contents(catalog))


def test_a_broken_row_of_a_table_costs_itself_only(catalog: CatalogStore, run: Path) -> None:
    rows = table_text([V2, V2 | {"work_id": "W2"}, V2 | {"work_id": "W3"}]).encode().splitlines(keepends=True)
    bad = [rows[1].replace(b"W7001", b"W\xff"), b"W9,short\r\n", b"\r\n", b"W5,a\rb\r\n"]
    rejects = io.BytesIO()
    (run / "last.csv").write_bytes(b"".join([*rows[:2], *bad, *rows[2:]]))
    report = import_manifest(run / "last.csv", catalog, rejects=rejects)
    assert {record.artifact_id for record in catalog.iter_records()} == {"W7001", "W2", "W3"}
    found = {reason.reason: reason.lines for reason in report.reasons}
    assert found == {
        "blank": ("last.csv:5",),
        "invalid-artifact-id": ("last.csv:3",),
        "not-csv": ("last.csv:6",),
        "wrong-columns": ("last.csv:4",),
    }
    assert rejects.getvalue().count(b"\n") == 3
    (run / "last.csv").write_bytes(b"a,b\r\n")
    with pytest.raises(ManifestError, match="no header"):
        import_manifest(run / "last.csv", catalog)


def test_an_endless_quote_costs_no_more_than_a_field_may_hold(catalog: CatalogStore, run: Path) -> None:
    rows = table_text(V2 | {"work_id": f"W{number}"} for number in range(5_000)).encode().splitlines(keepends=True)
    rows.insert(1_000, b'"W,\r\n')
    (run / "last.csv").write_bytes(b"".join(rows))
    report = import_manifest(run / "last.csv", catalog)
    assert report.broken == 1
    assert report.registered > 5_000 - 140_000 // len(rows[-1])


@pytest.mark.parametrize("name", ["index.json", "manifest.index.json"])
def test_the_index_adds_what_nothing_else_has_told(catalog: CatalogStore, run: Path, name: str) -> None:
    known = V2 | {"path": "page.html"}
    alone = V2 | {"work_id": "W2", "path": "text.txt", "sha256": OTHER_DIGEST}
    gone = V2 | {"work_id": "W3", "path": "gone.pdf"}
    import_manifest(write(run / "lines.jsonl", known), catalog)
    (run / name).write_bytes(index_of([known, alone, gone, MISS | {"work_id": "W4"}]))
    for registered in (1, 0):
        report = import_manifest(run / name, catalog)
        assert (report.lines, report.documents, report.misses, report.skipped) == (4, 2, 1, 1)
        assert (report.registered, report.sightings, report.conflicts) == (registered, 0, 0)
    (record,) = catalog.get_by_artifact("W2")
    assert (record.bytes, record.sha256, record.storage_uri) == (6, OTHER_DIGEST, (run / "text.txt").as_uri())
    assert len(catalog.get_by_artifact("W7001")) == 1


def test_a_broken_member_of_an_index_costs_itself_only(catalog: CatalogStore, run: Path) -> None:
    good = b'{"classification": "pdf", "pdf_path": "text.txt", "sha256": null}'
    members = [b'"W1": ' + good, b'"W2": 5', b'"W3": {"classification": tru}', b'"W4": ' + good, b'"W5": {}']
    (run / "index.json").write_bytes(b"{" + b",\n ".join(members) + b"}\n")
    rejects = io.BytesIO()
    report = import_manifest(run / "index.json", catalog, rejects=rejects)
    assert {record.artifact_id for record in catalog.iter_records()} == {"W1", "W4"}
    assert {reason.reason: reason.lines for reason in report.reasons} == {
        "no-outcome": ("index.json:5",),
        "not-an-object": ("index.json:2",),
        "not-json": ("index.json:3",),
    }
    for content in (b"[]", b"", b'{"W1": ' + good, b"{" + members[0] + b"} x", b'{"W1": "'):
        (run / "index.json").write_bytes(content)
        with pytest.raises(ManifestError, match=r"index\.json"):
            import_manifest(run / "index.json", catalog)


names = st.text(max_size=6)
entries = st.dictionaries(
    names,
    st.recursive(
        st.none() | st.integers() | names,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)


@settings(max_examples=100, deadline=None)
@given(
    index=st.dictionaries(names, entries, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    piece=st.integers(1, 40),
)
def test_an_index_is_read_member_by_member_however_it_is_cut(
    index: dict[str, dict[str, object]], indent: int | None, ascii_only: bool, piece: int
) -> None:
    raw = json.dumps(index, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_files, "_PIECE_BYTES", piece)
        rows = [row for _, row in side_files.index_rows(io.BufferedReader(io.BytesIO(raw)), "index")]
    found = [json.loads(row.decode("utf-8", "surrogatepass")) for row in rows if isinstance(row, bytes)]
    assert found == [{"work_id": work, **entry} for work, entry in index.items()]


def test_a_folder_stands_for_its_runs_each_read_once(catalog: CatalogStore, tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def at(name: str) -> Path:
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        return runs / name

    def line(work: str, **changes: object) -> Fields:
        return V2 | {"work_id": work, **changes}

    write(at("a/manifest.jsonl.0000"), line("segment", run_id="first"))
    at("a/manifest.jsonl.0001.gz").write_bytes(gzip.compress(encoded([line("segment", run_id="second")])))
    write(at("a/manifest.jsonl"), line("newest"))
    write_database(at("a/manifest.sqlite3"), [line("not this")])
    at("a/last.csv").write_text(table_text([line("not this")]))
    at("a/index.json").write_bytes(index_of([line("not this")]))
    write_database(at("b/manifest.sqlite"), [line("database")])
    at("b/manifest.last.csv").write_text(table_text([line("not this")]))
    at("c/last.csv").write_text(table_text([line("table")]))
    at("c/manifest.index.json").write_bytes(index_of([line("not this")]))
    at("d/text.txt").write_bytes(b"x")
    at("d/index.json").write_bytes(index_of([line("index", path="text.txt")]))
    write(at("e/other-name.jsonl"), GEN1 | {"work_id": "other name"})
    write(at("e/embeddings.jsonl"), {"schema_version": "embeddings/1.0.0"})
    write(at("e/wanted.jsonl"), {"url": "https://journal.example/x", "artifact": "W1"})
    at("e/site/index.json").write_text('{"a": {"b": 1}}')
    write(at(".hidden/manifest.jsonl"), line("not this"))
    write(at("catalog/manifest.jsonl"), line("not this"))
    at("catalog/data.mdb").write_bytes(b"")

    report = import_manifest(runs, catalog)
    works = {record.artifact_id for record in catalog.iter_records()}
    assert works == {"segment", "newest", "database", "table", "index", "other name"}
    assert report.segments == (
        "a/manifest.jsonl.0000",
        "a/manifest.jsonl.0001.gz",
        "a/manifest.jsonl",
        "b/manifest.sqlite",
        "c/last.csv",
        "d/index.json",
        "e/other-name.jsonl",
    )
    assert set(report.passed_over) == {
        *("a/manifest.sqlite3", "a/last.csv", "a/index.json", "b/manifest.last.csv", "c/manifest.index.json"),
        *("e/embeddings.jsonl", "e/wanted.jsonl", "e/site/index.json"),
    }
    assert catalog.get_by_artifact("segment")[0].run_id == "first"
    before = contents(catalog)
    again = import_manifest(runs, catalog)
    assert contents(catalog) == before
    assert (again.registered, again.documents) == (0, report.documents)


def test_runs_do_not_share_their_attempts_nor_their_folders(catalog: CatalogStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "page.html").write_text(name * 5)
    write(tmp_path / "runs/one/manifest.jsonl", ATTEMPT | {"run_id": None})
    write(tmp_path / "runs/two/manifest.jsonl", MISS | {"run_id": None, "html_paths": ["page.html"]})
    import_manifest(tmp_path / "runs", catalog)
    (record,) = catalog.iter_records()
    assert record.storage_uri == record.source_url == (tmp_path / "runs/two/page.html").as_uri()


def test_a_folder_without_a_manifest_is_an_error(catalog: CatalogStore, run: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest"):
        import_manifest(run, catalog)


def test_a_file_is_opened_once(run: Path) -> None:
    """A pipe can be read but once, so nothing looks into it before."""
    path = write(run / "manifest.jsonl", V2)
    with opened(path) as (stream, position):
        assert stream.read() == path.read_bytes()
        assert position() == path.stat().st_size


def test_a_missing_folder_is_remembered_only_while_it_is_missing_itself(tmp_path: Path) -> None:
    places = Places([str(tmp_path)])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "b").write_bytes(b"12")
    names = ["gone/a", "gone/b", "there/a", "there/b", "gone/c", "there/b", "/no such file", "/etc/passwd"]
    sizes = [places.find(name).size for name in names]
    assert sizes == [None, None, None, 2, None, 2, None, Path("/etc/passwd").stat().st_size]
