"""Stores of every format are read as they were written, and come to the newest format step by step."""

from __future__ import annotations

import gzip
import json
import multiprocessing
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kvcatalog import open_catalog, schema
from kvcatalog.errors import UnsupportedFormatError
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.schema import FORMAT_KEY, META, NUMBER_CODEC, TABLES
from kvcatalog.store import opening
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tools.faults.copies import taken_for_originals
from tools.freeze import facts, frozen

VERSIONS = range(1, schema.FORMAT_VERSION + 1)
STEP_KEY = b"a step of a migration"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return thawed(tmp_path, schema.FORMAT_VERSION)


def thawed(tmp_path: Path, version: int) -> Path:
    """Return a folder with the store of a format."""
    store, _ = frozen(version)
    assert store.exists(), "a new format is kept with the tests: python -m tools.freeze"
    folder = tmp_path / f"format-{version}"
    folder.mkdir()
    (folder / DATA_FILE).write_bytes(gzip.decompress(store.read_bytes()))
    return folder


def expected(version: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(frozen(version)[1].read_bytes())
    return told


@taken_for_originals()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_each_format_tells_what_it_told_when_it_was_written(tmp_path: Path, version: int) -> None:
    folder = thawed(tmp_path, version)
    with open_catalog(folder) as catalog:
        assert isinstance(catalog, LmdbCatalog)
        assert_consistent(catalog)
        assert list(catalog.audit()) == []
        assert facts(catalog) == expected(version)


def test_a_store_of_this_format_is_read_without_writing(folder: Path) -> None:
    before = (folder / DATA_FILE).read_bytes()
    with open_catalog(folder, read_only=True) as catalog:
        assert facts(catalog) == expected(schema.FORMAT_VERSION)
    assert (folder / DATA_FILE).read_bytes() == before


def test_the_store_that_is_kept_has_rows_in_every_table(folder: Path) -> None:
    with open_catalog(folder, read_only=True) as catalog:
        assert isinstance(catalog, LmdbCatalog)
        with catalog._environment.read() as transaction:
            assert [table.name for table in TABLES if transaction.is_empty(table)] == []


def test_an_older_store_comes_to_the_newest_format_a_step_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = plan_migrations(monkeypatch, steps=2)
    with pytest.raises(UnsupportedFormatError, match="open it once for writing"):
        open_catalog(folder, read_only=True)
    with open_catalog(folder) as catalog:
        assert steps_of(catalog) == (newer, 2)
        assert len(list(catalog.iter_records())) == len(expected(newer - 2)["documents"])
    with open_catalog(folder) as catalog:
        assert steps_of(catalog) == (newer, 2)
    monkeypatch.undo()
    with pytest.raises(UnsupportedFormatError, match=f"has format {newer}"):
        open_catalog(folder)


def test_a_reader_says_of_a_store_with_fewer_tables_that_it_is_older(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lmdb.open(str(folder), max_dbs=64, map_size=1 << 30) as raw, raw.begin(write=True) as transaction:
        transaction.drop(raw.open_db(schema.HOLDS.name.encode(), transaction))
    newer = plan_migrations(monkeypatch, steps=1)
    with pytest.raises(UnsupportedFormatError, match=f"format {newer - 1}; open it once for writing"):
        open_catalog(folder, read_only=True)
    with open_catalog(folder) as catalog:
        assert catalog.holds() == []


def test_a_migration_that_breaks_off_goes_on_from_the_last_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = plan_migrations(monkeypatch, steps=2)
    step = opening.MIGRATIONS[newer - 1]

    def interrupted(transaction: WriteTransaction) -> None:
        step(transaction)
        raise KeyboardInterrupt

    monkeypatch.setitem(opening.MIGRATIONS, newer - 1, interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_catalog(folder)
    monkeypatch.setitem(opening.MIGRATIONS, newer - 1, step)
    with open_catalog(folder) as catalog:
        assert steps_of(catalog) == (newer, 2)


def test_processes_that_open_an_older_store_at_once_migrate_it_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = plan_migrations(monkeypatch, steps=3)
    context = multiprocessing.get_context("fork")
    openers = [context.Process(target=lambda: open_catalog(folder).close()) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0] * 4
    with open_catalog(folder) as catalog:
        assert steps_of(catalog) == (newer, 3)


def plan_migrations(monkeypatch: pytest.MonkeyPatch, *, steps: int) -> int:
    """Let there be newer formats, to which one comes by counting the steps, and return the newest."""

    def step(transaction: WriteTransaction) -> None:
        value = transaction.get(META, STEP_KEY)
        count = 0 if value is None else NUMBER_CODEC.decode(STEP_KEY, value)
        transaction.put(META, STEP_KEY, NUMBER_CODEC.encode(STEP_KEY, count + 1))

    newest = schema.FORMAT_VERSION + steps
    monkeypatch.setattr(opening, "FORMAT_VERSION", newest)
    for version in range(schema.FORMAT_VERSION, newest):
        monkeypatch.setitem(opening.MIGRATIONS, version, step)
    return newest


def steps_of(catalog: object) -> tuple[int, int]:
    """Return a store's format and how many steps led there."""
    assert isinstance(catalog, LmdbCatalog)
    with catalog._environment.read() as transaction:
        values = [(key, transaction.get(META, key)) for key in (FORMAT_KEY, STEP_KEY)]
    version, steps = [0 if value is None else NUMBER_CODEC.decode(key, value) for key, value in values]
    return version, steps
