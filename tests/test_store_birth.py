"""A copy of a catalog's file is told from the file itself, and owns no storage root until one is adopted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kvcatalog import adopt_root, open_catalog
from kvcatalog.backup import backup, restore
from kvcatalog.compact import compact
from kvcatalog.errors import RootOwnershipError, StorageFullError
from kvcatalog.kv import birth
from kvcatalog.kv.birth import birth_of
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.removal import Collection
from kvcatalog.storage import open_storage
from kvcatalog.store import reading
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.gc_store import Place
from tests.invariants import assert_consistent
from tests.killing import deaths
from tests.parallel import in_threads


@pytest.fixture
def place(tmp_path: Path) -> Place:
    if birth_of(tmp_path) is None:
        pytest.skip("this file system does not remember when a file was made")
    opened = Place(tmp_path / "place")
    opened.stored(b"content", "a")
    opened.close()
    return opened


def generation(path: Path) -> int:
    with open_catalog(path) as catalog:
        assert_consistent(catalog)
        return catalog.identity.generation


def generations_begun(path: Path) -> int:
    with open_catalog(path, read_only=True) as catalog:
        return sum(entry.action == "generation" for entry in catalog.journal())


def copied(place: Place, name: str = "copy") -> Path:
    target = place.folder.parent / name
    shutil.copytree(place.folder / "catalog", target)
    return target


def test_a_copy_owns_no_root_and_its_original_goes_on(place: Place) -> None:
    copy = copied(place)
    with open_catalog(copy) as catalog:
        (entry,) = (entry for entry in catalog.journal() if entry.action == "generation")
        assert entry.reason == "the catalog's file is a copy, or was moved"
        with pytest.raises(RootOwnershipError, match="copied"):
            open_storage(place.config, catalog)
        with pytest.raises(RootOwnershipError, match="copied"), Collection(catalog, place.config):
            pass
    assert generation(place.folder / "catalog") == 1
    place.catalog = place.opened()
    place.stored(b"more", "b")
    place.close()
    with open_catalog(copy) as catalog:
        adopt_root(place.config, catalog)
        with Collection(catalog, place.config):
            pass
    with open_catalog(place.folder / "catalog") as catalog, pytest.raises(RootOwnershipError):
        open_storage(place.config, catalog)
    assert generations_begun(copy) == 1


def test_who_only_reads_a_copy_changes_nothing(place: Place) -> None:
    copy = copied(place)
    before = (copy / DATA_FILE).read_bytes()
    with open_catalog(copy, read_only=True) as catalog:
        assert catalog.identity.generation == 1
    assert (copy / DATA_FILE).read_bytes() == before


def test_a_catalog_that_is_renamed_stays_what_it_is(place: Place) -> None:
    moved = place.folder.parent / "moved"
    (place.folder / "catalog").rename(moved)
    assert generation(moved) == 1
    (moved / DATA_FILE).rename(moved / "x")
    (moved / "x").rename(moved / DATA_FILE)
    assert generation(moved) == 1


def test_a_copy_that_takes_the_place_of_the_file_is_noticed(place: Place) -> None:
    folder = place.folder / "catalog"
    old = copied(place)
    with open_catalog(folder) as catalog:
        catalog.delete(1)
    os.replace(old / DATA_FILE, folder / DATA_FILE)
    assert generation(folder) > 1


def test_compacting_makes_no_copy_wherever_it_is_killed(place: Place) -> None:
    folder = place.folder / "catalog"
    original = folder.with_name("original")
    os.link(folder / DATA_FILE, original)

    def again() -> None:
        """Put the file itself back, under its name, since a copy of it would be another one."""
        (folder / DATA_FILE).unlink()
        os.link(original, folder / DATA_FILE)

    count = 0
    for count, death in enumerate(deaths(lambda: compact(folder), again), 1):  # noqa: B007 - the last counts
        assert generation(folder) == 1, death
        compact(folder)
        assert generation(folder) == 1, death
    assert count > 10


def test_restoring_begins_one_generation(place: Place) -> None:
    folder = place.folder.parent
    backup(place.folder / "catalog", folder / "backup")
    restore(folder / "backup", folder / "restored", apply=True)
    assert generation(folder / "restored") > 1
    assert generations_begun(folder / "restored") == 1


def test_who_comes_first_begins_the_generation_for_all(place: Place) -> None:
    copy = copied(place)
    seen = [0] * 8

    def work(number: int) -> None:
        with open_catalog(copy) as catalog:
            seen[number] = catalog.identity.generation

    in_threads(8, work)
    assert len(set(seen)) == 1
    assert generations_begun(copy) == 1


def test_who_opens_it_while_another_begins_the_generation_knows_that_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(place)
    begun: list[int] = []

    def overtaken(path: str) -> int | None:
        monkeypatch.undo()
        begun.append(generation(copy))
        return birth_of(path)

    monkeypatch.setattr(birth, "birth_of", overtaken)
    assert [generation(copy)] == begun


def test_where_births_are_not_remembered_copies_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(birth, "birth_of", lambda _: None)
    with open_catalog(tmp_path / "catalog"):
        pass
    shutil.copytree(tmp_path / "catalog", tmp_path / "copy")
    assert generation(tmp_path / "copy") == 1
    monkeypatch.undo()
    assert generation(tmp_path / "copy") == 1  # it is written down now
    shutil.copytree(tmp_path / "copy", tmp_path / "second")
    if birth_of(tmp_path) is not None:
        assert generation(tmp_path / "second") > 1


def test_who_cannot_write_it_down_may_open_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageFullError("full")

    with monkeypatch.context() as patched:
        patched.setattr(LmdbCatalog, "_write", full)
        with open_catalog(tmp_path / "catalog") as catalog:
            assert isinstance(catalog, LmdbCatalog)
            with catalog._read() as transaction:
                assert reading.read_birth(transaction) is None
    assert generation(tmp_path / "catalog") == 1


def test_births_are_told_apart_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    before = birth_of(file)
    file.write_bytes(b"2")
    os.utime(file, (0, 0))
    file.rename(tmp_path / "renamed")
    assert birth_of(tmp_path / "renamed") == before
    assert birth_of(tmp_path / "none") is None
    assert birth_of("/proc/self/status") is None
