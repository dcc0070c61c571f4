"""What an export writes is the catalog of one moment, in whatever form, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kvcatalog import open_catalog, parse_filter
from kvcatalog.clock import to_text
from kvcatalog.errors import InvalidValueError, OutputExistsError, SqlSourceError, StorageFullError
from kvcatalog.models import RegistrationRequest
from kvcatalog.sql_export import Format, export_sql
from kvcatalog.sql_schema import tables
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests import support
from tests.sql_exports import (
    HOSTILE,
    Rows,
    carry_out,
    catalog_at,
    exported,
    fill,
    histories,
    rows_of,
    sqlite_shell,
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        fill(opened)
        yield opened


def flat(record: Any) -> tuple[Any, ...]:
    return tuple(to_text(value) if hasattr(value, "tzinfo") else value for value in structs.astuple(record))


def text_of(catalog: LmdbCatalog, **options: Any) -> bytes:
    stream = io.BytesIO()
    export_sql(catalog, stream, **options)
    return stream.getvalue()


def answers(catalog: LmdbCatalog) -> Rows:
    """Return what the catalog itself says, in the form of an export."""
    records = list(catalog.iter_records())
    rows = {
        "documents": [flat(record) for record in records],
        "variants": [flat(variant) for record in records for variant in catalog.get_variants(record.id)],
        "sightings": [(each.document_id, each.run_id, to_text(each.seen_at)) for each in catalog.get_sightings()],
        "conflicts": [flat(conflict) for conflict in catalog.get_conflicts()],
        "roots": [flat(root) for root in catalog.roots()],
        "journal": [
            (*flat(entry)[:-1], json.dumps(entry.changes, ensure_ascii=False, separators=(",", ":")))
            for entry in catalog.journal()
        ],
    }
    return {name: sorted(found, key=repr) for name, found in rows.items()}


def test_a_sqlite_file_holds_what_the_catalog_says(catalog: LmdbCatalog, tmp_path: Path) -> None:
    path = tmp_path / "export.sqlite"
    report = export_sql(catalog, path)
    rows = rows_of(path)
    links = rows.pop("links")
    last = rows.pop("sqlite_sequence")
    assert rows == answers(catalog)
    assert sorted(document for document, _ in links) == [1, 6, 11]
    stats = catalog.stats()
    journal = max(entry.sequence for entry in catalog.journal())
    assert sorted(last) == [("documents", 16), ("journal", journal), ("variants", 16)]
    assert stats.last_document_id == stats.last_variant_id == 16
    assert {name: getattr(report, name) for name in tables()} == {
        **{name: len(found) for name, found in rows.items()},
        "links": len(links),
    }
    assert report.bytes == path.stat().st_size
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='index'")}
        assert made == {index.name for table in tables().values() for index in table.indexes}
        connection.execute("PRAGMA foreign_keys=ON")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute(
                "INSERT INTO documents SELECT NULL, " + ", ".join(tables()["documents"].names[1:]) + " FROM documents"
            )
        connection.execute("INSERT INTO documents VALUES(NULL,'a','u','r',NULL,1,NULL,'x','t','t',NULL)")
        assert connection.execute("SELECT max(id) FROM documents").fetchone() == (17,)
        connection.execute("DELETE FROM documents WHERE id=1")
        assert connection.execute("SELECT count(*) FROM variants WHERE document_id=1").fetchone() == (0,)


def test_a_dump_loads_in_sqlite3_without_a_word(
    catalog: LmdbCatalog, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    script = text_of(catalog, format="sqlite-dump")
    assert script.decode().replace("\n", "").isprintable()
    database = tmp_path / "loaded.sqlite"
    done = sqlite_shell(pytestconfig, database, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert rows_of(database) == exported(catalog)
    again = sqlite_shell(pytestconfig, database, script)
    assert again.returncode != 0
    assert rows_of(database) == exported(catalog)


def test_json_lines_and_csv_hold_every_value(catalog: LmdbCatalog) -> None:
    rows = exported(catalog)
    lines = [json.loads(line) for line in text_of(catalog, format="jsonl").splitlines()]
    assert lines.pop() == {"table": "sequences", **dict(rows.pop("sqlite_sequence"))}
    for name, table in tables().items():
        found = [line for line in lines if line["table"] == name]
        assert sorted((tuple(line[column] for column in table.names) for line in found), key=repr) == rows[name]
        cells = list(csv.reader(io.StringIO(text_of(catalog, format="csv", table=name).decode(), newline="")))
        assert tuple(cells[0]) == table.names
        expected = [tuple("" if value is None else str(value) for value in row) for row in rows[name]]
        assert sorted(map(tuple, cells[1:])) == sorted(expected)


def test_a_filter_takes_what_belongs_to_its_documents(catalog: LmdbCatalog) -> None:
    whole = exported(catalog)
    part = exported(catalog, where=parse_filter(["bytes>=5", "bytes<9"]))
    ids = {6, 7, 8, 9}
    owner = {"documents": 0, "variants": 1, "sightings": 0, "conflicts": 0, "links": 0, "journal": 3}
    for name, place in owner.items():
        assert part[name] == [row for row in whole[name] if row[place] in ids]
    assert part["roots"] == whole["roots"]
    assert part["sqlite_sequence"] == whole["sqlite_sequence"]


@settings(max_examples=40, deadline=None)
@given(histories)
def test_any_catalog_arrives_unchanged(history: list[Any]) -> None:
    with catalog_at() as catalog:
        carry_out(catalog, history)
        rows = exported(catalog)
        assert {name: found for name, found in rows.items() if name not in {"links", "sqlite_sequence"}} == answers(
            catalog
        )
        script = text_of(catalog, format="sqlite-dump").decode()
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(script.removeprefix(".bail on\n"))
            for name, expected in rows.items():
                assert sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) == expected


@settings(max_examples=40, deadline=None)
@given(histories, histories, st.booleans())
def test_what_changed_since_brings_an_earlier_export_up_to_date(
    before: list[Any], after: list[Any], filtered: bool
) -> None:
    where = parse_filter(["artifact=a"]) if filtered else None
    with catalog_at() as catalog:
        folder = catalog.path.parent
        carry_out(catalog, before)
        position = export_sql(catalog, folder / "file", where=where).position
        script = text_of(catalog, format="sqlite-dump", where=where).decode()
        carry_out(catalog, after)
        changes = text_of(catalog, format="sqlite-dump", where=where, since=position).decode()
        export_sql(catalog, folder / "file", where=where, since=position)
        expected = exported(catalog, where=where)
        assert rows_of(folder / "file") == expected
        with closing(sqlite3.connect(folder / "loaded", isolation_level=None)) as connection:
            for each in (script, changes, changes):  # whoever applies them twice does no harm
                connection.executescript(each.removeprefix(".bail on\n"))
        assert rows_of(folder / "loaded") == expected


def test_changes_are_refused_by_an_export_from_before_them(
    catalog: LmdbCatalog, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    first, stale = tmp_path / "first.sqlite", tmp_path / "stale.sqlite"
    export_sql(catalog, first)
    export_sql(catalog, stale)
    catalog.delete(1)
    position = export_sql(catalog, first, force=True).position
    catalog.delete(2)
    unchanged = rows_of(stale)
    with pytest.raises(InvalidValueError, match="before"):
        export_sql(catalog, stale, since=position)
    done = sqlite_shell(pytestconfig, stale, text_of(catalog, format="sqlite-dump", since=position))
    assert b"is_recent_enough" in done.stderr
    assert done.returncode
    assert rows_of(stale) == unchanged


@pytest.mark.parametrize("since", ["", "1-2-3", "00000000-1-0-0-0", "{name}-2-0-0-0", "{name}-1-9999-0-0"])
def test_a_position_of_anything_else_is_refused(catalog: LmdbCatalog, since: str) -> None:
    name = catalog.identity.uuid.replace("-", "")[:8]
    with pytest.raises(InvalidValueError, match="since"):
        text_of(catalog, format="postgres", since=since.format(name=name))


def test_a_journal_that_was_cut_off_is_noticed(catalog: LmdbCatalog) -> None:
    from kvcatalog.schema import JOURNAL, id_key

    position = export_sql(catalog, catalog.path.parent / "one").position
    first = catalog.journal_end() + 1
    catalog.delete(1)
    catalog.delete(2)
    with catalog._environment.write() as transaction:
        transaction.delete(JOURNAL, id_key(first))
    with pytest.raises(InvalidValueError, match="does not reach back"):
        text_of(catalog, format="postgres", since=position)


@pytest.mark.parametrize("form", get_args(Format))
def test_a_file_that_is_there_is_replaced_on_demand_only(catalog: LmdbCatalog, tmp_path: Path, form: Any) -> None:
    path = tmp_path / "export"
    path.write_text("mine")
    with pytest.raises(OutputExistsError):
        export_sql(catalog, path, format=form)
    assert path.read_text() == "mine"
    export_sql(catalog, path, format=form, force=True)
    assert path.stat().st_size > 1000
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["catalog", "export"]


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("kind", ["folder", "device", "pipe"])
def test_only_regular_files_are_replaced(catalog: LmdbCatalog, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "export"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    with pytest.raises(OutputExistsError, match="no regular file"):
        export_sql(catalog, path, force=True)


def test_a_file_that_appears_meanwhile_is_not_replaced(
    catalog: LmdbCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export"
    with pytest.raises(OutputExistsError):
        export_sql(catalog, path, format="jsonl", progress=lambda _: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["catalog", "export"]


def test_an_export_that_was_killed_leaves_no_half_file(catalog: LmdbCatalog, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from kvcatalog import open_catalog, export_sql
with open_catalog(sys.argv[1], read_only=True) as catalog:
    export_sql(catalog, sys.argv[2], format=sys.argv[3], progress=lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""
    for form in ("sqlite", "postgres"):
        support.run(script, catalog.path, tmp_path / "export", form, status=-9)
        assert not (tmp_path / "export").exists()
        assert list(tmp_path.glob(".export.*.part"))
    export_sql(catalog, tmp_path / "export")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["catalog", "export"]


def test_what_another_export_is_writing_is_left_alone(catalog: LmdbCatalog, tmp_path: Path) -> None:
    script = """
import sys
from kvcatalog import open_catalog, export_sql
def wait(_):
    print("writing", flush=True)
    sys.stdin.readline()
with open_catalog(sys.argv[1], read_only=True) as catalog:
    export_sql(catalog, sys.argv[2], force=True, progress=wait)
"""
    other = support.child(script, catalog.path, tmp_path / "export")
    assert support.said(other) == "writing"
    export_sql(catalog, tmp_path / "export")
    support.tell(other, "go on")
    support.finished(other)
    assert rows_of(tmp_path / "export") == exported(catalog)


@pytest.mark.parametrize("form", ["sqlite", "postgres"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, small_disk: Path, form: Any) -> None:
    support.need_root()
    with catalog_at() as catalog:
        requests = [
            RegistrationRequest(
                artifact_id=f"{number}", source_url="u" * 400, resolver="r", bytes=1, storage_uri="s3://b/k"
            )
            for number in range(3000)
        ]
        assert len(list(catalog.register_many(requests))) == 3000
        with pytest.raises(StorageFullError):
            export_sql(catalog, small_disk / "export", format=form)
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_is_told_wherever_it_fills(
    catalog: LmdbCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageFullError):
                export_sql(catalog, tmp_path / "export")
        assert sorted(each.name for each in tmp_path.iterdir()) == ["catalog"]


def test_where_there_are_no_links_a_file_is_renamed(
    catalog: LmdbCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    export_sql(catalog, tmp_path / "export")
    assert rows_of(tmp_path / "export") == exported(catalog)


def test_a_database_that_is_none_of_ours_is_not_brought_up_to_date(catalog: LmdbCatalog, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    position = export_sql(catalog, tmp_path / "one").position
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE documents(id, mine)")
    with pytest.raises(SqlSourceError, match="table documents"):
        export_sql(catalog, path, since=position)
    with pytest.raises(InvalidValueError, match="no file"):
        export_sql(catalog, tmp_path / "nothing", since=position)


def test_an_export_holds_one_moment_while_others_write(tmp_path: Path) -> None:
    """Whole registrations only: each writer's documents are there without a gap, and what hangs on each."""
    writers, at_work = 3, threading.Event()
    with open_catalog(tmp_path / "catalog") as catalog:
        done = [0] * writers

        def write(which: int) -> None:
            while not at_work.is_set():
                number = done[which]
                record = catalog.register(
                    artifact_id=f"{which}/{number}", source_url="u", resolver="r", bytes=1, storage_uri="s3://b/k"
                ).record
                catalog.register_variant(document_id=record.id, variant="html", storage_uri="s3://b/v", bytes=1)
                catalog.update(record.id, run_id="late")
                done[which] += 1

        threads = [threading.Thread(target=write, args=(which,)) for which in range(writers)]
        for thread in threads:
            thread.start()
        try:
            support.wait_until(lambda: min(done) > 50)
            seen: list[tuple[int, ...]] = []

            def progress(_: object) -> None:
                before = tuple(done)
                support.wait_until(lambda: all(now > then + 5 for now, then in zip(done, before, strict=True)))
                seen.append(before)

            started = tuple(done)
            report = export_sql(catalog, tmp_path / "export", progress=progress)
            assert seen, "nobody wrote while the export was at work"
        finally:
            at_work.set()
            for thread in threads:
                thread.join()
    rows = rows_of(tmp_path / "export")
    ids = [row[0] for row in rows["documents"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    assert len(ids) == report.documents <= sum(seen[0]) + 2 * writers
    for which in range(writers):
        numbers = sorted(int(row[1].partition("/")[2]) for row in rows["documents"] if row[1].startswith(f"{which}/"))
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= started[which]
    named = {row[1] for row in rows["variants"]}
    changed = {row[3] for row in rows["journal"]}
    assert changed <= named <= set(ids)
    # One step of each writer at most was not finished at that moment.
    assert len(set(ids) - changed) <= writers
    assert ("journal", len(rows["journal"])) in rows["sqlite_sequence"]


def test_processes_that_write_are_not_held_up(tmp_path: Path) -> None:
    """A snapshot that waits in the middle of its rows keeps no other process from registering."""
    script = """
import sys
from kvcatalog import open_catalog
with open_catalog(sys.argv[1]) as catalog:
    for number in range(50):
        catalog.register(artifact_id=f"{number}", source_url="other", resolver="r", bytes=1, storage_uri="s3://b/k")
"""
    with open_catalog(tmp_path / "catalog") as catalog:
        fill(catalog)
        expected = answers(catalog)["documents"]
        export_sql(catalog, tmp_path / "export", progress=lambda _: support.run(script, catalog.path))
        assert catalog.stats().documents == len(expected) + 50
    assert rows_of(tmp_path / "export")["documents"] == expected


def test_hostile_values_are_all_there(catalog: LmdbCatalog) -> None:
    assert {row[1] for row in exported(catalog)["documents"]} == set(HOSTILE) - {HOSTILE[2], HOSTILE[-1]}
