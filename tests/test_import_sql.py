"""What was exported, or kept in SQLite before, becomes a catalog again, and every row is accounted for."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings

from kvcatalog import open_catalog
from kvcatalog.errors import CatalogError, SqlSourceError, StorageFullError
from kvcatalog.sql_export import Format, export_sql
from kvcatalog.sql_import import import_sql
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests import support
from tests.invariants import assert_consistent
from tests.sql_exports import carry_out, catalog_at, exported, fill, histories, sqlite_shell
from tools.bench.workload import SCHEMA

WHOLE: tuple[Format, ...] = tuple(form for form in get_args(Format) if form != "csv")
VARIANTS = """
CREATE TABLE variants (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  variant TEXT NOT NULL,
  storage_uri TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  content_type TEXT,
  sha256 TEXT,
  created_at TEXT NOT NULL
);
"""
GOOD = (
    "a",
    "u",
    "r",
    "application/pdf",
    1,
    "A" * 64,
    "file:///x",
    "2025-01-01 10:00:00",
    "2025-01-02T10:00:00.5+01:00",
    None,
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        fill(opened)
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "other") as opened:
        yield opened


def original(path: Path, documents: list[tuple[Any, ...]], variants: list[tuple[Any, ...]] = []) -> Path:  # noqa: B006
    """Make a catalog as it was kept in SQLite before."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA + VARIANTS)
        for number, row in enumerate(documents, 1):
            connection.execute(f"INSERT INTO documents VALUES({','.join('?' * 11)})", (number, *row))
        for number, row in enumerate(variants, 1):
            connection.execute(f"INSERT INTO variants VALUES({','.join('?' * 8)})", (number, *row))
        connection.commit()
    return path


@pytest.mark.parametrize("form", WHOLE)
def test_a_round_trip_changes_nothing(catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path, form: Any) -> None:
    export_sql(catalog, tmp_path / "first", format=form)
    report = import_sql(tmp_path / "first", other)
    assert (report.format, report.kept_ids, report.refused) == (form, True, 0)
    assert report.documents == report.registered == catalog.stats().documents
    assert_consistent(other)
    export_sql(other, tmp_path / "second", format=form)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    again = import_sql(tmp_path / "first", other)
    assert (again.registered, again.existing, again.refused) == (0, report.documents, 0)
    assert exported(other) == exported(catalog)
    assert other.register(artifact_id="n", source_url="u", resolver="r", bytes=1, storage_uri="x").record.id == 17


@settings(max_examples=30, deadline=None)
@given(histories)
def test_any_catalog_survives_every_round_trip(history: list[Any]) -> None:
    with catalog_at() as catalog:
        carry_out(catalog, history)
        expected = exported(catalog)
        for form in WHOLE:
            with catalog_at() as other:
                path = other.path.parent / "export"
                export_sql(catalog, path, format=form)
                assert import_sql(path, other).refused == 0
                assert exported(other) == expected
                assert_consistent(other)


def test_csv_gives_documents(catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path) -> None:
    export_sql(catalog, tmp_path / "export.csv", format="csv")
    assert import_sql(tmp_path / "export.csv", other).registered == catalog.stats().documents
    assert list(other.iter_records()) == list(catalog.iter_records())


def test_what_sqlite3_dumps_is_read(
    catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    export_sql(catalog, tmp_path / "export")
    done = sqlite_shell(pytestconfig, tmp_path / "export", ".dump")
    (tmp_path / "dump").write_bytes(done.stdout)
    assert import_sql(tmp_path / "dump", other).refused == 0
    assert exported(other) == exported(catalog)


def test_a_catalog_of_before_is_read_and_left_as_it_is(other: LmdbCatalog, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    path = original(
        folder / "catalog.sqlite", [GOOD], [(1, "html", "file:///v", 2, None, None, "2025-01-01T00:00:00Z")]
    )
    before = path.read_bytes(), path.stat().st_mtime_ns
    folder.chmod(0o500)
    report = import_sql(path, other)
    assert (report.documents, report.variants, report.refused) == (1, 1, 0)
    assert list(folder.iterdir()) == [path]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    (row,) = exported(other)["documents"]
    assert row == (
        *(1, "a", "u", "r", "application/pdf", 1, "a" * 64, "file:///x"),
        *("2025-01-01T10:00:00.000000Z", "2025-01-02T09:00:00.500000Z", None),
    )


def test_what_a_crash_left_in_the_log_is_read(other: LmdbCatalog, tmp_path: Path) -> None:
    path = original(tmp_path / "catalog.sqlite", [GOOD])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "INSERT INTO documents SELECT 7, 'late', source_url, resolver, content_type, bytes, sha256,"
            " storage_uri, created_at, updated_at, run_id FROM documents"
        )
        connection.commit()
        crashed = tmp_path / "crashed.sqlite"
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", f"{crashed}{end}")
    assert import_sql(crashed, other).documents == 2
    assert (tmp_path / "crashed.sqlite-wal").stat().st_size
    assert not (tmp_path / "crashed.sqlite-shm").exists()


def test_rows_that_cannot_be_imported_are_counted_and_told(other: LmdbCatalog, tmp_path: Path) -> None:
    def changed(place: int, value: Any, artifact: str) -> tuple[Any, ...]:
        row = [artifact, *GOOD[1:]]
        row[place] = value
        return tuple(row)

    path = original(
        tmp_path / "catalog.sqlite",
        [
            GOOD,
            changed(0, "", "b"),
            changed(1, b"\xff", "c"),
            changed(4, -1, "d"),
            changed(4, "many", "e"),
            changed(5, "abc", "f"),
            changed(7, "yesterday", "g"),
            changed(8, 12, "h"),
            changed(0, "nul\0nul", "i"),
            changed(4, 2.5, "j"),
        ],
        [
            (1, "html", "file:///v", 2, None, None, "2025-01-01T00:00:00Z"),
            (2, "html", "file:///v", 2, None, None, "2025-01-01T00:00:00Z"),
            (99, "html", "file:///v", 2, None, None, "2025-01-01T00:00:00Z"),
            (1, "", "file:///v", 2, None, None, "2025-01-01T00:00:00Z"),
        ],
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO documents SELECT 50, CAST(X'ff' AS TEXT), source_url, resolver, content_type, 1,"
            " sha256, storage_uri, created_at, updated_at, run_id FROM documents WHERE id=1"
        )
        connection.execute("DROP INDEX idx_documents_unique")
        connection.execute(
            "INSERT INTO documents SELECT 60, artifact_id, source_url, resolver, content_type, 1,"
            " sha256, storage_uri, created_at, updated_at, run_id FROM documents WHERE id=1"
        )
        connection.commit()
    expected = {
        ("documents", "invalid-artifact-id"): (3, ("2", "9", "50")),
        ("documents", "invalid-source-url"): (1, ("3",)),
        ("documents", "invalid-bytes"): (3, ("4", "5", "10")),
        ("documents", "invalid-sha256"): (1, ("6",)),
        ("documents", "invalid-created-at"): (1, ("7",)),
        ("documents", "invalid-updated-at"): (1, ("8",)),
        ("documents", "key-is-taken"): (1, ("60",)),
        ("variants", "no-such-document"): (2, ("2", "3")),
        ("variants", "invalid-variant"): (1, ("4",)),
    }
    report = import_sql(path, other)
    assert {(each.table, each.reason): (each.count, each.rows) for each in report.refusals} == expected
    assert (report.documents, report.variants, report.refused) == (1, 1, 14)
    with catalog_at() as busy:
        busy.register(artifact_id="mine", source_url="u", resolver="r", bytes=1, storage_uri="x")
        report = import_sql(path, busy)
        del expected["documents", "key-is-taken"]  # it is the same document once more
        assert {(each.table, each.reason): (each.count, each.rows) for each in report.refusals} == expected


def test_into_a_catalog_with_documents_of_its_own_they_are_registered(
    catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path
) -> None:
    own = other.register(artifact_id="mine", source_url="u", resolver="r", bytes=1, storage_uri="x").record
    export_sql(catalog, tmp_path / "export")
    report = import_sql(tmp_path / "export", other)
    assert (report.kept_ids, report.refused) == (False, 0)
    assert (report.registered, report.documents) == (catalog.stats().documents, catalog.stats().documents)
    assert other.get_by_id(own.id) == own
    rows, expected = exported(other), exported(catalog)
    ids = {row[1]: row[0] for row in rows["documents"]}
    new_id = {row[0]: ids[row[1]] for row in expected["documents"]}

    def moved(table: str, place: int, end: int | None = None) -> list[Any]:
        return sorted(((new_id[row[place]], *row[place + 1 : end]) for row in expected[table]), key=repr)

    # The time of the last change is that of the registration.
    kept = slice(1, 9)
    assert {row[kept] for row in rows["documents"] if row[0] != own.id} == {row[kept] for row in expected["documents"]}
    assert sorted((row[1:] for row in rows["variants"]), key=repr) == moved("variants", 1)
    assert {row[:2] for row in rows["sightings"]} >= {row[:2] for row in moved("sightings", 0)}
    assert [row[:5] for row in rows["conflicts"]] == [row[:5] for row in moved("conflicts", 0)]
    assert rows["links"] == moved("links", 0)
    assert_consistent(other)
    again = import_sql(tmp_path / "export", other)
    assert (again.registered, again.refused) == (0, 0)
    assert exported(other) == rows


@pytest.mark.parametrize("is_empty", [True, False])
def test_an_import_that_was_killed_is_completed_by_the_next(
    catalog: LmdbCatalog, tmp_path: Path, is_empty: bool
) -> None:
    export_sql(catalog, tmp_path / "export")
    script = """
import os, signal, sys
from kvcatalog import import_sql, open_catalog
from kvcatalog.sql_import import importing
importing.BATCH_ROWS = 3
left = int(sys.argv[3])
def follow(_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
with open_catalog(sys.argv[1]) as catalog:
    import_sql(sys.argv[2], catalog, progress=follow)
"""
    with open_catalog(tmp_path / "other") as other:
        if not is_empty:
            other.register(artifact_id="mine", source_url="u", resolver="r", bytes=1, storage_uri="x")
        for left in (1, 2, 3):
            support.run(script, tmp_path / "other", tmp_path / "export", left, status=-signal.SIGKILL)
        report = import_sql(tmp_path / "export", other)
        assert report.kept_ids is is_empty
        assert report.documents == catalog.stats().documents
        assert report.existing >= 3
        assert_consistent(other)
        if is_empty:
            assert exported(other) == exported(catalog)
        else:
            assert other.stats().variants == catalog.stats().variants


def test_a_dump_can_do_nothing_but_make_tables(other: LmdbCatalog, tmp_path: Path) -> None:
    victim = tmp_path / "victim.sqlite"
    dump = tmp_path / "dump.sql"
    dump.write_text(
        "PRAGMA foreign_keys=OFF;\n"
        f"VACUUM INTO '{victim}';\n/* */ VACUUM INTO '{victim}';\n"
        "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"
        f"ATTACH '{victim}' AS v;\n"
        ".shell touch pwned\n"
        "PRAGMA writable_schema=ON;\n"
        + SCHEMA
        + "\nCREATE TRIGGER t AFTER INSERT ON documents BEGIN DELETE FROM documents; END;\n"
        "CREATE VIEW variants AS SELECT * FROM documents;\n"
        "INSERT INTO documents VALUES(1,'a','u','r',NULL,1,NULL,'file:///x','2025-01-01','2025-01-01',NULL);\nCOMMIT;\n"
    )
    assert import_sql(dump, other).documents == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dump.sql", "other"]


@pytest.mark.parametrize(("code", "expected"), [(errno.EMFILE, SqlSourceError), (errno.ENOSPC, StorageFullError)])
def test_what_the_system_refuses_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[CatalogError]
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "some.sqlite").touch()
    monkeypatch.setattr("kvcatalog.sql_import.sources.TemporaryDirectory", refuse)
    with open_catalog(tmp_path / "catalog") as catalog, pytest.raises(expected):
        import_sql(tmp_path / "some.sqlite", catalog)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"SQLite format 3\0" + b"\xff" * 4000,
        b"BEGIN;\nCREATE TABLE documents (id);\n",
        b"BEGIN;\nCREATE TABLE other (id);\nCOMMIT;\n",
        b"BEGIN;\nCREATE TABLE documents (id);\nINSERT INTO documents VALUES('",
        b"PRAGMA x;\nCREATE TABLE nonsense;\n",
        b"PRAGMA x;\nBEGIN; VACUUM INTO 'victim';\n",
        b"SET client_encoding = 'UTF8';\nCOPY documents (id, artifact_id) FROM stdin;\n1\ta\n",
        b"SET client_encoding = 'UTF8';\nSELECT 1;\n",
        b"SET client_encoding = 'UTF8';\nCOPY documents (id, artifact_id) FROM stdin;\n1\n\\.\n",
        b"id,artifact_id,source_url\n1\n",
        b"PRAGMA x;\nBEGIN;\nCREATE TABLE documents (id, artifact_id);\nCOMMIT;\n",
        b"BEGIN;\nINSERT INTO documents VALUES('\xff');\n",
    ],
)
def test_what_is_no_export_is_refused(other: LmdbCatalog, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source").write_bytes(content)
    with pytest.raises(SqlSourceError):
        import_sql(tmp_path / "source", other)
    assert other.stats().documents == 0


def test_what_is_not_there_is_refused(other: LmdbCatalog, tmp_path: Path) -> None:
    for name in ("missing", "."):
        with pytest.raises(SqlSourceError):
            import_sql(tmp_path / name, other)


def test_a_damaged_database_is_refused(catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path) -> None:
    path = tmp_path / "export"
    export_sql(catalog, path)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\x55" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(SqlSourceError):
        import_sql(path, other)


def test_a_source_that_changes_meanwhile_is_refused(catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path) -> None:
    path = tmp_path / "export"
    export_sql(catalog, path)
    with pytest.raises(SqlSourceError, match="changed"):
        import_sql(path, other, progress=lambda _: os.utime(path, (1, 1)))


def test_lines_that_are_no_rows_are_counted(catalog: LmdbCatalog, other: LmdbCatalog, tmp_path: Path) -> None:
    stream = io.BytesIO()
    export_sql(catalog, stream, format="jsonl")
    good = stream.getvalue()
    bad = [
        b"{",
        b'{"table":"other"}',
        b'{"table":7}',
        b'{"id":{"a":1},"artifact_id":"x"}',
        b'{"id":' + b"9" * 30 + b"}",
        b"[1]",
    ]
    bad.append(json.dumps({"id": 500, "artifact_id": "only this"}).encode())
    (tmp_path / "lines").write_bytes(good + b"\n" + b"\n".join(bad) + b"\n")
    report = import_sql(tmp_path / "lines", other)
    assert report.documents == catalog.stats().documents
    assert report.refused == len(bad)
    assert {each.reason for each in report.refusals if each.table == "lines"} == {
        "not-json",
        "unknown-table",
        "value-of-other-type",
    }
