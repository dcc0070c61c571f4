"""Backups: whole or not there, of one moment, and restored to a place of their own, as a catalog of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvcatalog import adopt_root, open_catalog, schema
from kvcatalog.audit import examine
from kvcatalog.backup import backup, making, read_manifest, restore
from kvcatalog.backup.place import new_folder
from kvcatalog.checks import Finding
from kvcatalog.compact import compact
from kvcatalog.config import StorageConfig
from kvcatalog.errors import (
    BackupError,
    CatalogLockedError,
    CatalogMissingError,
    CatalogUnavailableError,
    DatabaseDamagedError,
    InvalidValueError,
    RootOwnershipError,
    UnsupportedFormatError,
)
from kvcatalog.finalize import finalize_candidate_download
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.models import RegistrationRequest
from kvcatalog.storage import open_storage
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.store.opening import open_lmdb_catalog
from tests.collecting import Collector
from tests.invariants import assert_consistent
from tests.killing import deaths, steps_of
from tests.parallel import in_threads


def register(catalog: LmdbCatalog, artifact: str, number: int) -> int:
    return catalog.register(
        artifact_id=artifact,
        source_url=f"https://example.org/{number}",
        resolver="r",
        bytes=number,
        sha256=f"{number % 7:064x}",
        storage_uri=f"s3://bucket/{artifact}/{number}",
    ).record.id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with open_catalog(tmp_path / "catalog") as catalog:
        catalog.add_root("s3://bucket/x", uuid="one")
        for number in range(40):
            register(catalog, "a", number)
        catalog.delete(3)
        catalog.update(4, content_type="text/html")
    return tmp_path / "catalog"


def contents(folder: Path) -> list[object]:
    """Return all that a catalog holds, but for its generation and what restoring it wrote down."""
    with open_catalog(folder, read_only=True) as catalog:
        journal = [entry for entry in catalog.journal() if entry.action != "generation"]
        return [catalog.identity.uuid, list(catalog.iter_records()), journal, catalog.roots()]


def test_a_backup_restored_holds_what_the_catalog_held(path: Path, tmp_path: Path) -> None:
    report = backup(path, tmp_path / "backups" / "one")
    assert sorted(os.listdir(tmp_path / "backups" / "one")) == ["backup.json", DATA_FILE]
    assert report.path == str(tmp_path / "backups" / "one")
    manifest = read_manifest(report.path)
    assert manifest == report.manifest
    data = (tmp_path / "backups" / "one" / DATA_FILE).read_bytes()
    assert (manifest.bytes, manifest.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (manifest.documents, manifest.findings, manifest.journal_sequence) == (39, 0, 3)
    before = contents(path)
    dry = restore(report.path, tmp_path / "restored")
    assert (dry.applied, dry.identity) == (False, None)
    assert not (tmp_path / "restored").exists()
    done = restore(report.path, tmp_path / "restored", apply=True, command="restore")
    assert done.applied
    assert [root.uuid for root in done.roots] == ["one"]
    assert contents(tmp_path / "restored") == before == contents(path)
    assert list(examine(tmp_path / "restored")) == []
    with open_catalog(path) as old, open_catalog(tmp_path / "restored") as catalog:
        assert catalog.identity == done.identity
        assert catalog.identity.uuid == old.identity.uuid == manifest.catalog
        assert catalog.identity.generation > old.identity.generation == manifest.generation
        assert list(catalog.journal())[-1].command == "restore"
        assert register(catalog, "b", 1) == 41
        assert_consistent(catalog)


def test_two_catalogs_of_one_backup_are_told_apart(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "b")
    first, second = (restore(tmp_path / "b", tmp_path / name, apply=True).identity for name in ("one", "two"))
    assert first is not None
    assert second is not None
    assert first.generation != second.generation


def test_a_backup_while_others_register_holds_one_moment(path: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    acknowledged = [0] * 4
    reports: list[tuple[list[int], Path, list[int]]] = []
    with open_catalog(path) as catalog:

        def work(number: int) -> None:
            if number == 4:
                for turn in range(2):
                    before = list(acknowledged)
                    backup(path, tmp_path / str(turn))
                    reports.append((before, tmp_path / str(turn), list(acknowledged)))
                stop.set()
                return
            count = 0
            while not stop.is_set():
                register(catalog, f"thread {number}", count)
                count += 1
                acknowledged[number] = count

        in_threads(5, work)
    assert sum(acknowledged)
    for before, folder, after in reports:
        assert list(examine(folder)) == []
        with open_catalog(folder, read_only=True) as copy:
            ids = [record.id for record in copy.iter_records()]
            assert ids == [number for number in range(1, ids[-1] + 1) if number != 3]
            assert copy.stats().documents == len(ids) == read_manifest(folder).documents
            counts = [len(copy.get_by_artifact(f"thread {number}")) for number in range(4)]
        # One more may have been stored than was acknowledged.
        assert all(low <= count <= high + 1 for low, count, high in zip(before, counts, after, strict=True))


def test_a_backup_is_looked_at_and_never_written_to(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(path)
    assert list(examine(tmp_path / "b")) == []
    with pytest.raises(CatalogUnavailableError, match="is a backup"):
        open_catalog(tmp_path / "b")
    with pytest.raises(CatalogUnavailableError, match="is a backup"):
        compact(tmp_path / "b")
    assert sorted(os.listdir(tmp_path / "b")) == ["backup.json", DATA_FILE]


def test_nothing_is_written_over(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "b")
    (tmp_path / "file").write_bytes(b"")
    storage = StorageConfig(root_dir=str(tmp_path / "root"))
    with open_catalog(tmp_path / "other") as catalog:
        open_storage(storage, catalog)
    places = [tmp_path / "b", path, path / "inside", tmp_path / "file", tmp_path, tmp_path / "root" / "b"]
    for place in places:
        with pytest.raises(InvalidValueError):
            backup(path, place)
        for apply in (False, True):
            with pytest.raises(InvalidValueError):
                restore(tmp_path / "b", place, apply=apply)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "b", tmp_path / "empty", apply=True)
    assert contents(tmp_path / "empty") == contents(path)
    with pytest.raises(CatalogMissingError):
        backup(tmp_path / "none", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_who_makes_the_same_folder_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="meanwhile"), new_folder("x", str(tmp_path / "new")):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").write_bytes(b"")
    assert os.listdir(tmp_path) == ["new"]


def test_what_a_living_maker_has_half_made_is_left_to_it(tmp_path: Path) -> None:
    with new_folder("x", str(tmp_path / "new")) as half, new_folder("x", str(tmp_path / "new2")):
        with pytest.raises(InvalidValueError), new_folder("x", str(tmp_path / "new")):
            assert os.path.isdir(half)
            os.mkdir(tmp_path / "new")
            (tmp_path / "new" / "theirs").write_bytes(b"")
        shutil.rmtree(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["new", "new2"]


def examined_here(folder: Path, **_: object) -> list[Finding]:
    """Do as `examine` does without its process, which takes long to start."""
    with open_lmdb_catalog(str(folder), create=False, read_only=True, locking=False) as catalog:
        return list(catalog.audit())


@pytest.mark.parametrize("work", ["backup", "restore"])
def test_killed_at_any_step_it_is_whole_or_not_there(
    work: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "examine", examined_here)
    before = contents(path)
    backup(path, tmp_path / "kept")
    place = tmp_path / "place"

    def call() -> None:
        if work == "backup":
            backup(path, place / "new")
        else:
            restore(tmp_path / "kept", place / "new", apply=True)

    def again() -> None:
        shutil.rmtree(place, ignore_errors=True)

    again()
    steps = set(steps_of(call))
    assert {"mkdir", "write", "fsync", "rename"} <= steps
    assert ("_end" in steps) or work == "backup"
    count = 0
    for count, death in enumerate(deaths(call, again), 1):  # noqa: B007 - the last counts
        is_there = (place / "new").exists()
        if is_there:
            assert contents(place / "new") == before, death
            with pytest.raises(InvalidValueError):
                call()
        else:
            call()
        assert os.listdir(place) == ["new"] or is_there, death
        assert contents(place / "new") == before, death
        assert list(examined_here(place / "new")) == [], death
        if work == "backup":
            restore(place / "new", tmp_path / "unused")
    assert count > 10
    assert contents(path) == before


def test_a_backup_that_was_changed_is_refused(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "b")
    data = (tmp_path / "b" / DATA_FILE).read_bytes()
    chance = random.Random(3)
    for number in range(20):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << number % 8
        (tmp_path / "b" / DATA_FILE).write_bytes(damaged if number % 2 else damaged[: chance.randrange(len(data))])
        for apply in (False, True):
            with pytest.raises(BackupError, match="SHA-256"):
                restore(tmp_path / "b", tmp_path / "new", apply=apply)
    os.unlink(tmp_path / "b" / DATA_FILE)
    with pytest.raises(BackupError, match="missing"):
        restore(tmp_path / "b", tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["b", "catalog"]


def test_a_manifest_is_read_with_care(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "b")
    file = tmp_path / "b" / "backup.json"
    sound: dict[str, Any] = json.loads(file.read_text())
    hostile: list[object] = [[], 1, "x", {}, sound | {"sha256": 7}, sound | {"bytes": "many"}, sound | {"version": 2}]
    for wrong in [b"", b"\xff\xfe", b"[" * 100_000, *map(msgspec.json.encode, hostile)]:
        file.write_bytes(wrong)
        with pytest.raises(BackupError):
            restore(tmp_path / "b", tmp_path / "new", apply=True)
    file.write_text(json.dumps(sound | {"format": 99}))
    with pytest.raises(UnsupportedFormatError):
        restore(tmp_path / "b", tmp_path / "new", apply=True)
    with pytest.raises(BackupError, match="no backup"):
        restore(tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_of_a_damaged_file_there_is_no_backup(path: Path, tmp_path: Path) -> None:
    data = (path / DATA_FILE).read_bytes()
    (path / DATA_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(DatabaseDamagedError):
        backup(path, tmp_path / "b")
    damaged = bytearray(data)
    chance = random.Random(1)
    for page in range(3, len(data) // 4096):
        damaged[page * 4096 : page * 4096 + 24] = chance.randbytes(24)
    (path / DATA_FILE).write_bytes(damaged)
    with pytest.raises(DatabaseDamagedError):
        backup(path, tmp_path / "b")
    assert os.listdir(tmp_path) == ["catalog"]


def test_what_is_wrong_in_the_catalog_is_counted_in_its_backup(path: Path, tmp_path: Path) -> None:
    with open_catalog(path) as catalog, catalog._environment.write() as transaction:
        transaction.delete(schema.BY_CREATED, *next(transaction.items(schema.BY_CREATED)))
    assert backup(path, tmp_path / "b").manifest.findings == 1
    assert len(list(examine(tmp_path / "b"))) == 1


@pytest.fixture
def stored(tmp_path: Path) -> tuple[StorageConfig, Path]:
    """A catalog with a root, a backup, and a blob that came after it."""
    config = StorageConfig(root_dir=str(tmp_path / "root"))
    with open_catalog(tmp_path / "catalog") as catalog:
        store_blob(catalog, config, "old")
        backup(tmp_path / "catalog", tmp_path / "b")
        store_blob(catalog, config, "new")
    return config, tmp_path


def store_blob(catalog: LmdbCatalog, config: StorageConfig, name: str) -> None:
    finalize_candidate_download(
        io.BytesIO(name.encode()),
        artifact_id=name,
        source_url=f"https://example.org/{name}.pdf",
        resolver="r",
        catalog=catalog,
        cfg_storage=config,
    )


def test_a_restored_catalog_takes_no_blob_before_it_adopts_the_root(stored: tuple[StorageConfig, Path]) -> None:
    config, folder = stored
    restore(folder / "b", folder / "restored", apply=True)
    with open_catalog(folder / "restored") as restored:
        with pytest.raises(RootOwnershipError, match="generation"):
            open_storage(config, restored)
        with pytest.raises(RootOwnershipError):
            store_blob(restored, config, "other")
        # The catalog that was backed up goes on as before.
        with open_catalog(folder / "catalog") as catalog:
            store_blob(catalog, config, "newer")
            assert Collector(catalog, open_storage(config, catalog)).unreferenced() == ()
        # From here on it is the restored one's, on purpose, and what came since is not its own.
        adopt_root(config, restored)
        collector = Collector(restored, open_storage(config, restored))
        assert sorted(collector.unreferenced()) == ["new/new.pdf", "newer/newer.pdf"]
        with open_catalog(folder / "catalog") as catalog, pytest.raises(RootOwnershipError):
            open_storage(config, catalog)


def test_a_catalog_is_compacted_while_nobody_has_it_open(path: Path) -> None:
    with open_catalog(path) as catalog:
        requests = [
            RegistrationRequest(artifact_id="b", source_url=str(number), resolver="r", bytes=1, storage_uri="s3://b/k")
            for number in range(1000)
        ]
        new = [done.record.id for done in catalog.register_many(requests)]
        in_threads(10, lambda thread: [catalog.delete(record_id) for record_id in new[thread::10]])
        with pytest.raises(CatalogLockedError):
            compact(path)
        catalog.prune_journal(datetime(9000, 1, 1, tzinfo=UTC))
    before = contents(path)
    compacted = compact(path)
    assert compacted.bytes_after < compacted.bytes_before / 2
    assert compacted.bytes_after == (path / DATA_FILE).stat().st_size
    assert contents(path) == before
    assert list(examine(path)) == []
    with pytest.raises(CatalogMissingError):
        compact(path / "none")
