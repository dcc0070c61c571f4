"""Finalizing against a garbage collection: whatever the order of their steps, no record is left without its blob."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from kvcatalog import DownloadOutcome, finalize_candidate_download, open_catalog, storage
from kvcatalog.blobs import BlobStore
from kvcatalog.config import StorageConfig
from kvcatalog.errors import CatalogLockedError
from kvcatalog.schema import CONDEMNED, CONDEMNED_CODEC
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.collecting import Collector
from tests.invariants import assert_consistent
from tests.killing import die, killed
from tests.parallel import in_threads, start_process
from tests.support import HANG_SECONDS
from tools.faults.checking import dangling, missing, references, staged

Storage = Callable[[Path], StorageConfig]

CONTENT = b"the content that comes and goes"
KEY: dict[str, Any] = {"artifact_id": "work", "source_url": "https://example.org/paper.pdf", "resolver": "r"}
SECONDS = 3.0
PROCESSES = 2
THREADS = 8


def folder(**settings: Any) -> Storage:
    return lambda place: StorageConfig(root_dir=str(place / "root"), **settings)


EVERY_STORAGE = {
    "cas": folder(layout="cas"),
    "cas-links": folder(layout="cas", policy_links=True),
    "policy-path": folder(),
}


@pytest.fixture(autouse=True)
def _closed_roots() -> Iterator[None]:
    yield
    storage._open.clear()


@pytest.fixture
def quick_place() -> Iterator[Path]:
    """A folder in memory, where it costs nothing to make things durable."""
    with TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def opened(place: Path) -> LmdbCatalog:
    catalog = open_catalog(place / "catalog")
    assert isinstance(catalog, LmdbCatalog)
    return catalog


def call(
    place: Path, catalog: Any, config: StorageConfig, content: bytes = CONTENT, name: str = "", **key: Any
) -> DownloadOutcome:
    source = place / f"{name}download.part"
    source.write_bytes(content)
    outcome = finalize_candidate_download(source, **(KEY | key), catalog=catalog, cfg_storage=config)
    assert not source.exists()
    return outcome


def condemned_rows(catalog: LmdbCatalog) -> int:
    """Return how many blobs are about to be taken away."""
    with catalog._environment.read() as transaction:
        return sum(CONDEMNED_CODEC.decode(*pair).cleared is None for pair in transaction.items(CONDEMNED))


class Stepwise:
    """A finalize call in a thread of its own that goes on only when it is told to.

    Its steps are four: read the epoch, look for the record, publish, register; or with a readable name: read the epoch,
    publish, link, register. A further attempt runs on freely.
    """

    STEPS = ("blob_epoch", "get", "publish", "link", "register")

    def __init__(
        self, work: Callable[[Any, Callable[..., Any]], DownloadOutcome], catalog: LmdbCatalog, *, links: bool
    ) -> None:
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._ahead = [step for step in self.STEPS if step != ("get" if links else "link")]
        self._is_free = self._is_over = False
        self.attempts = 0
        self.tried_often = threading.Event()
        self.outcome: DownloadOutcome | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work, catalog), daemon=True)
        self._thread.start()
        self._wait()

    def step(self) -> None:
        """Do the next step, up to the one after it; nothing once the first attempt has ended."""
        if self.attempts > 1 or self._is_over:
            return
        self._go.release()
        self._wait()

    def finish(self) -> DownloadOutcome:
        """Go on freely to the end."""
        self._is_free = True
        self._go.release()
        self._thread.join(HANG_SECONDS)
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return self.outcome

    def met(self, step: str) -> None:
        """Stop before a step of the first attempt; after it everything runs on."""
        self.attempts += step == "blob_epoch"
        if self.attempts > 3:
            self.tried_often.set()
        if self.attempts == 2 and step == "blob_epoch":
            self._stands.release()
        elif not self._is_free and step in self._ahead:
            del self._ahead[: self._ahead.index(step) + 1]  # what is linked already is not linked again
            self._stands.release()
            self._go.acquire()

    def _wait(self) -> None:
        assert self._stands.acquire(timeout=HANG_SECONDS)

    def _run(self, work: Callable[[Any, Callable[..., Any]], DownloadOutcome], catalog: LmdbCatalog) -> None:
        try:
            self.outcome = work(Watched(catalog, self.met), lambda store: Watched(store, self.met))
        except BaseException as error:  # noqa: BLE001  finish raises it
            self.error = error
        self._is_over = True
        self._stands.release()


class Watched:
    """A catalog or a blob store whose calls are met first."""

    def __init__(self, real: Any, meet: Callable[[str], None]) -> None:
        self._real = real
        self._meet = meet

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in Stepwise.STEPS:
            return found

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._meet(name)
            return found(*args, **kwargs)

        return watched


@contextmanager
def stepwise(place: Path, catalog: LmdbCatalog, config: StorageConfig) -> Iterator[Stepwise]:
    """Begin a finalize call that does one step at a time."""

    def work(watched: Any, watch: Callable[..., Any]) -> DownloadOutcome:
        store = watch(storage.open_storage(config, catalog))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kvcatalog.finalize.open_storage", lambda *_: store)
            return call(place, watched, config)

    yield Stepwise(work, catalog, links=config.policy_links)


def orders(*counts: tuple[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield every order in which several actors can do their steps, each its own in order."""
    left = [pair for pair in counts if pair[1]]
    if not left:
        yield ()
    for actor, _ in left:
        fewer = [(name, count - (name == actor)) for name, count in left]
        for rest in orders(*fewer):
            yield (actor, *rest)


def test_every_order_is_forced_once() -> None:
    everything = list(orders(("f", 4), ("g", 4), ("d", 1)))
    assert len(everything) == len(set(everything)) == 630


def force_every_order(place: Path, config: StorageConfig, before: str, *, forgets: bool) -> None:
    """Finalize and collect in every order of their steps; `before` says what is there, and a record is deleted."""
    attempts, record_id = set(), 0
    with opened(place) as catalog:
        store = storage.open_storage(config, catalog)
        collector = Collector(catalog, store, forgets=forgets)
        call(place, catalog, config)
        paths = [blob.path for blob in store.walk()]
        for order in orders(("finalize", 4), ("gc", 4), ("delete", int(before == "record"))):
            for record in catalog.iter_records():
                catalog.delete(record.id)
            for path in paths if before == "nothing" else ():
                store.delete(path)
            if before != "nothing":
                call(place, catalog, config)
                (record_id,) = [record.id for record in catalog.iter_records()]
                if before == "orphan":
                    catalog.delete(record_id)
            collecting = collector.steps(*paths)
            with stepwise(place, catalog, config) as finalizing, catalog.lease(GC_LEASE):
                for actor in order:
                    if actor == "finalize":
                        finalizing.step()
                    elif actor == "gc":
                        next(collecting)()
                    else:
                        catalog.delete(record_id)
                    assert missing(catalog, store) == [], order
                outcome = finalizing.finish()
            assert outcome.ok, order
            assert dangling(catalog, store) == [], order
            attempts.add(finalizing.attempts)
            left = [record.id for record in catalog.iter_records()]
            # What existed may have been deleted since, but what was registered stays.
            assert left == ([outcome.record.id] if outcome.record else []) or outcome.registration == "existing", order
        assert condemned_rows(catalog) == 0
        assert_consistent(catalog)
    assert collector.moved
    assert len(attempts) > 1


@pytest.mark.parametrize("forgets", [True, False], ids=["forgotten", "remembered"])
@pytest.mark.parametrize("before", ["record", "orphan", "nothing"])
@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_no_order_of_the_steps_leaves_a_record_without_its_blob(
    name: str, before: str, forgets: bool, quick_place: Path
) -> None:
    force_every_order(quick_place, EVERY_STORAGE[name](quick_place), before, forgets=forgets)


@pytest.mark.parametrize(
    ("guard", "forgets"),
    [("was_cleared", False), ("has_forgotten", True), ("is_condemned", False), ("is_condemned", True)],
)
@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_a_missing_guard_is_noticed(
    name: str, guard: str, forgets: bool, quick_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"kvcatalog.store.upkeep.{guard}", lambda *_, **__: False)
    with pytest.raises(AssertionError, match="nothing lies at"):
        force_every_order(quick_place, EVERY_STORAGE[name](quick_place), "orphan", forgets=forgets)


def test_a_collection_elsewhere_keeps_nobody_from_finishing(tmp_path: Path) -> None:
    config = EVERY_STORAGE["policy-path"](tmp_path)
    with opened(tmp_path) as catalog:
        collector = Collector(catalog, storage.open_storage(config, catalog), forgets=False)
        with stepwise(tmp_path, catalog, config) as finalizing:
            for number in range(4):
                finalizing.step()
                collector.condemn(f"work/other-{number}.pdf")
                collector.clear()
            assert finalizing.finish().registration == "registered"
        assert finalizing.attempts == 1
        assert_consistent(catalog)


def test_a_blob_that_is_taken_before_it_is_linked_is_stored_again(tmp_path: Path) -> None:
    config = EVERY_STORAGE["cas-links"](tmp_path)
    with opened(tmp_path) as catalog:
        store, path = orphan(tmp_path, catalog, config)
        collector = Collector(catalog, store)
        collector.condemn(path)
        collector.check_again()
        with stepwise(tmp_path, catalog, config) as finalizing:
            finalizing.step()
            finalizing.step()
            collector.move()
            collector.clear()
            assert finalizing.finish().registration == "registered"
        assert finalizing.attempts == 2
        assert dangling(catalog, store) == []


def start_collecting(place: Path, config: StorageConfig, over: Path) -> Callable[[], tuple[int, list[str]]]:
    """Start a process that collects all the time until a file comes up, with no minimum of age."""

    def collect(_: int) -> tuple[int, list[str]]:
        chance = random.Random(1)
        gone: list[str] = []
        with opened(place) as catalog:
            store = storage.open_storage(config, catalog)
            collector = Collector(catalog, store)
            while not over.exists():
                collector.forgets = chance.random() < 0.5
                with suppress(CatalogLockedError), catalog.lease(GC_LEASE):
                    collector.condemn(*collector.unreferenced())
                    collector.check_again()
                    collector.move()
                    collector.clear()
                gone += missing(catalog, store)
                time.sleep(chance.random() / 50)
            return collector.moved, gone

    return start_process(collect)


@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_a_record_never_lacks_its_blob_while_all_that_is_unused_is_collected(name: str, tmp_path: Path) -> None:
    config = EVERY_STORAGE[name](tmp_path)
    over = tmp_path / "over"

    def work(process: int) -> tuple[int, list[str]]:
        deadline = time.monotonic() + SECONDS
        wrong: list[str] = []

        def thread(number: int) -> int:
            worker = process * THREADS + number
            chance = random.Random(worker)
            calls = 0
            while time.monotonic() < deadline:
                name = chance.randrange(4)
                content = b"content %d" % chance.randrange(30)
                url = f"https://example.org/{worker}/paper-{name}.pdf"
                outcome = call(tmp_path, catalog, config, content, f"{worker}-", source_url=url)
                calls += 1
                path = store.path_of(outcome.storage_uri or "") or ""
                with store.open(path) as stream:  # only this thread deletes what it registered
                    if stream.read() != content:
                        wrong.append(f"{outcome.storage_uri}: other bytes")
                if chance.random() < 0.9 and outcome.record is not None:
                    catalog.delete(outcome.record.id)
            return calls

        with opened(tmp_path) as catalog:
            store = storage.open_storage(config, catalog)
            return sum(in_threads(THREADS, thread)), wrong

    with opened(tmp_path) as catalog:
        storage.open_storage(config, catalog)
    storage._open.clear()
    collected = start_collecting(tmp_path, config, over)
    try:
        answers = [collect() for collect in [start_process(work, number) for number in range(PROCESSES)]]
    finally:
        over.touch()
        moved, gone = collected()
    assert gone == []
    assert [wrong for _, wrong in answers] == [[], []]
    assert moved
    assert all(calls >= THREADS for calls, _ in answers)
    with opened(tmp_path) as catalog:
        store = storage.open_storage(config, catalog)
        assert dangling(catalog, store) == []
        assert staged(store) == []
        assert condemned_rows(catalog) == 0
        assert_consistent(catalog)


def orphan(place: Path, catalog: LmdbCatalog, config: StorageConfig) -> tuple[BlobStore, str]:
    """Store a blob that nothing refers to any more."""
    outcome = call(place, catalog, config)
    store = storage.open_storage(config, catalog)
    assert outcome.record is not None
    catalog.delete(outcome.record.id)
    return store, store.path_of(outcome.storage_uri or "") or ""


@pytest.mark.parametrize("was_moved", [False, True], ids=["condemned", "moved"])
@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_what_a_killed_collection_condemned_is_stored_again(name: str, was_moved: bool, tmp_path: Path) -> None:
    config = EVERY_STORAGE[name](tmp_path)
    with opened(tmp_path) as catalog:
        orphan(tmp_path, catalog, config)

    def condemn() -> None:
        catalog = opened(tmp_path)
        with catalog.lease(GC_LEASE):
            collector = Collector(catalog, storage.open_storage(config, catalog))
            collector.condemn(*collector.unreferenced())
            if was_moved:
                collector.check_again()
                collector.move()
            die()

    killed(condemn)
    with opened(tmp_path) as catalog:
        store = storage.open_storage(config, catalog)
        assert condemned_rows(catalog)
        assert call(tmp_path, catalog, config).registration == "registered"
        assert condemned_rows(catalog) == 0
        assert dangling(catalog, store) == []
        assert_consistent(catalog)


@pytest.mark.parametrize("name", EVERY_STORAGE)
def test_a_collection_that_is_alive_is_waited_for(name: str, tmp_path: Path) -> None:
    config = EVERY_STORAGE[name](tmp_path)
    with opened(tmp_path) as catalog:
        store, path = orphan(tmp_path, catalog, config)
        collector = Collector(catalog, store)
        with stepwise(tmp_path, catalog, config) as finalizing:
            with catalog.lease(GC_LEASE):
                collector.condemn(*collector.unreferenced())
                assert path in collector.condemned
                for _ in range(4):
                    finalizing.step()
                finalizing.tried_often.wait(HANG_SECONDS)
                assert finalizing.outcome is None
                assert list(references(catalog)) == []
                assert condemned_rows(catalog) == len(collector.condemned)
                collector.check_again()
                collector.move()
                collector.clear()
            assert finalizing.finish().registration == "registered"
        assert collector.moved
        assert dangling(catalog, store) == []
