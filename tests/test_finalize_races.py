"""Many threads and processes that finalize at once: equal contents, equal names, equal keys, a corrupt blob."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from kvcatalog import finalize_candidate_download, layout, open_catalog, storage
from kvcatalog.blobs import BlobStore, LocalFile
from kvcatalog.config import CatalogConfig, StorageConfig
from kvcatalog.digest import sha256_stream
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tests.parallel import in_processes, in_threads
from tools.faults.checking import dangling, staged

FILES = 2000
FILES_IN_PAIRS = FILES // 2
CONTENTS = FILES - FILES_IN_PAIRS // 2
PROCESSES = 4
THREADS = 16

Storage = Callable[[Path], StorageConfig]


def folder(**settings: Any) -> Storage:
    return lambda place: StorageConfig(root_dir=str(place / "root"), **settings)


EVERY_STORAGE = {
    "cas": folder(layout="cas"),
    "cas-links": folder(layout="cas", policy_links=True),
    "policy-path": folder(),
    "policy-path-copies": folder(hardlink_dedup=False),
}
CAS_STORAGE = {"cas": EVERY_STORAGE["cas"]}


class Done(Struct, frozen=True):
    """What one call said."""

    number: int
    dedup_hit: bool
    registration: str | None
    storage_uri: str | None
    record_id: int | None


@pytest.fixture(autouse=True)
def _closed_roots() -> Iterator[None]:
    yield
    storage._open.clear()


def opened(place: Path) -> LmdbCatalog:
    catalog = open_catalog(place / "catalog")
    assert isinstance(catalog, LmdbCatalog)
    return catalog


def finalized(
    place: Path,
    catalog: LmdbCatalog,
    config: StorageConfig,
    *,
    number: int,
    content: bytes,
    reads_back: bool = False,
    **key: str,
) -> Done:
    """Finalize one download, whose temporary file must be gone afterwards."""
    source = place / f"download-{number}.part"
    source.write_bytes(content)
    outcome = finalize_candidate_download(
        source,
        **{"artifact_id": "work", "resolver": "r"} | key,
        catalog=catalog,
        cfg_storage=config,
        cfg_catalog=CatalogConfig(verify_on_register=reads_back),
    )
    assert outcome.ok
    assert not source.exists()
    record_id = None if outcome.record is None else outcome.record.id
    return Done(number, outcome.dedup_hit, outcome.registration, outcome.storage_uri, record_id)


def from_everywhere(
    place: Path, work: Callable[[LmdbCatalog, int], list[Done]], *, processes: int = PROCESSES, threads: int = THREADS
) -> list[Done]:
    """Run `work` with the number of each thread of each process, and return all that was done."""

    def in_process(process: int) -> list[Done]:
        with opened(place) as catalog:
            answers = in_threads(threads, lambda thread: work(catalog, process * threads + thread))
        return [done for answer in answers for done in answer]

    opened(place).close()
    return [done for answer in in_processes(processes, in_process) for done in answer]


def assert_sound(catalog: LmdbCatalog, store: BlobStore) -> None:
    assert dangling(catalog, store) == []
    assert staged(store) == []
    assert_consistent(catalog)


def paths(store: BlobStore, below: str = "") -> set[str]:
    return {blob.path for blob in store.walk(below)}


def content_of(store: BlobStore, path: str) -> bytes:
    with store.open(path) as stream:
        return stream.read()


def numbered(number: int) -> bytes:
    return f"content {number:06} ".encode() * (1 + number % 50)


def content_of_file(number: int) -> int:
    """Return the content's number: the first files come in pairs of equal ones, at the same time."""
    return number // 2 if number < FILES_IN_PAIRS else number - FILES_IN_PAIRS // 2


@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_every_content_is_stored_once_and_every_record_has_its_own(name: str, tmp_path: Path) -> None:
    config = EVERY_STORAGE[name](tmp_path)

    def work(catalog: LmdbCatalog, worker: int) -> list[Done]:
        return [
            finalized(
                tmp_path,
                catalog,
                config,
                number=number,
                content=numbered(content_of_file(number)),
                artifact_id=f"work {number}",
                source_url=f"https://example.org/{number}.pdf",
            )
            for number in range(worker, FILES, PROCESSES * THREADS)
        ]

    everything = from_everywhere(tmp_path, work)
    with opened(tmp_path) as catalog:
        store = storage.open_storage(config, catalog)
        assert_sound(catalog, store)
        records = {record.artifact_id: record for record in catalog.iter_records()}
        assert len(records) == len(everything) == FILES
        stores = Counter(content_of_file(done.number) for done in everything if not done.dedup_hit)
        for done in everything:
            record = records[f"work {done.number}"]
            assert (done.registration, done.record_id, done.storage_uri) == (
                "registered",
                record.id,
                record.storage_uri,
            )
            assert record.sha256 == hashlib.sha256(numbered(content_of_file(done.number))).hexdigest()
        if config.layout == "cas":
            digests = [hashlib.sha256(numbered(content)).digest() for content in range(CONTENTS)]
            assert paths(store, "cas") == {layout.cas_relative_path("sha256", digest) for digest in digests}
            assert stores == Counter(range(CONTENTS))
            assert len(paths(store)) == CONTENTS + FILES * config.policy_links
        else:
            # Of two equal contents that come at the same time neither may see the other.
            assert stores.keys() == set(range(CONTENTS))
            assert len(paths(store)) == FILES


@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_contents_that_want_the_same_name_are_all_kept(name: str, tmp_path: Path) -> None:
    config = EVERY_STORAGE[name](tmp_path)
    contents, calls = 32, 6

    def work(catalog: LmdbCatalog, worker: int) -> list[Done]:
        return [
            finalized(
                tmp_path,
                catalog,
                config,
                number=worker * calls + call,
                content=f"content {(worker + call) % contents:04}".encode(),
                source_url=f"https://host-{worker}-{call}.example/paper.pdf",
            )
            for call in range(calls)
        ]

    everything = from_everywhere(tmp_path, work, processes=2)
    with opened(tmp_path) as catalog:
        store = storage.open_storage(config, catalog)
        assert_sound(catalog, store)
        by_content = {record.sha256: record.storage_uri for record in catalog.iter_records()}
        assert sum(1 for _ in catalog.iter_records()) == len(everything) == 2 * THREADS * calls
        assert len(by_content) == len(set(by_content.values())) == contents
        assert {record.storage_uri for record in catalog.iter_records()} == set(by_content.values())
        if config.layout == "policy_path" or config.policy_links:
            names = paths(store, "work")
            assert len(names) == contents
            assert "work/paper.pdf" in names
            assert len({content_of(store, path) for path in names}) == contents


@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_the_same_download_from_everywhere_is_one_record_and_one_blob(name: str, tmp_path: Path) -> None:
    config = EVERY_STORAGE[name](tmp_path)
    calls = 4

    def work(catalog: LmdbCatalog, worker: int) -> list[Done]:
        return [
            finalized(
                tmp_path,
                catalog,
                config,
                number=worker * calls + call,
                content=numbered(1),
                source_url="https://example.org/paper.pdf",
            )
            for call in range(calls)
        ]

    everything = from_everywhere(tmp_path, work)
    with opened(tmp_path) as catalog:
        store = storage.open_storage(config, catalog)
        assert_sound(catalog, store)
        (record,) = catalog.iter_records()
        assert {(done.record_id, done.storage_uri) for done in everything} == {(record.id, record.storage_uri)}
        assert Counter(done.registration for done in everything) == {"registered": 1, "existing": len(everything) - 1}
        assert len(paths(store)) == 1 + config.policy_links
        assert list(catalog.get_conflicts()) == []


@pytest.mark.parametrize("damage", [b"!" * len(numbered(7)), b"short"], ids=["same size", "other size"])
@pytest.mark.parametrize("name", CAS_STORAGE)
def test_a_corrupt_blob_is_repaired_and_never_missing(name: str, damage: bytes, tmp_path: Path) -> None:
    config = CAS_STORAGE[name](tmp_path)
    content = numbered(7)
    path = layout.cas_relative_path("sha256", hashlib.sha256(content).digest())
    with opened(tmp_path) as catalog:
        store = storage.open_storage(config, catalog)
        wrong = tmp_path / "wrong"
        wrong.write_bytes(damage)
        with LocalFile.open(wrong) as file:
            store.publish(file, path, sha256=None)

        looks, gaps, over = 0, 0, threading.Event()

        def watch() -> None:
            nonlocal looks, gaps
            while not over.is_set():
                gaps += store.stat(path) is None
                looks += 1

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            everything = in_threads(
                THREADS,
                lambda worker: finalized(
                    tmp_path,
                    catalog,
                    config,
                    number=worker,
                    content=content,
                    reads_back=len(damage) == len(content),
                    source_url=f"https://example.org/{worker}.pdf",
                ),
            )
        finally:
            over.set()
            watcher.join()
        assert looks
        assert not gaps
        assert {done.storage_uri for done in everything} == {store.uri_of(path)}
        with store.open(path) as stream:
            assert sha256_stream(stream) == (hashlib.sha256(content).hexdigest(), len(content))
        kept = [content_of(store, blob) for blob in paths(store, layout.QUARANTINE_PATH)]
        assert damage in kept
        assert set(kept) == {damage}
        assert_sound(catalog, store)
