"""A finalizing process killed before every single step: nothing half done is believed, and the next call completes it.

Between two steps nothing on disk changes, so death before each step, in the middle of each write, and after the last
step is death at every moment; what the engine does inside a commit is its own tests' matter.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec import Struct, structs

from kvcatalog import DownloadOutcome, finalize, finalize_candidate_download, layout, open_catalog, storage
from kvcatalog.blobs import Publication
from kvcatalog.config import CatalogConfig, StorageConfig
from kvcatalog.errors import NotFoundError
from kvcatalog.fs_layout import FileBlobStore, placing
from kvcatalog.fs_layout import store as fs_store
from kvcatalog.kv.commits import Commits
from kvcatalog.placement import Placed
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tests.killing import dying_at, killed
from tests.support import forked
from tools.faults.checking import dangling, staged
from tools.faults.copies import taken_for_originals

CONTENT = b"the content that is stored " * 400
OTHER = b"another content " * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY: dict[str, Any] = {"artifact_id": "work/1", "source_url": "https://one.example/paper.pdf", "resolver": "r"}
CAS_PATH = layout.cas_relative_path("sha256", bytes.fromhex(SHA256))

WRITES = ("write", "pwrite", "copy_file_range")
STEPS = (*WRITES, "link", "rename", "replace", "unlink", "mkdir", "fsync", "fchmod", "utime", "truncate", "ftruncate")


class Place(Struct, frozen=True):
    """Where one scenario plays; `elsewhere` is on another device."""

    folder: Path
    elsewhere: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def catalog(self) -> LmdbCatalog:
        catalog = open_catalog(self.folder / "catalog")
        assert isinstance(catalog, LmdbCatalog)
        return catalog


class Scenario(Struct, frozen=True):
    """One call of finalize, and what is there before it."""

    settings: dict[str, Any]
    prepare: Callable[[Place, LmdbCatalog, StorageConfig], object] = lambda *_: None
    source: str = "file"
    variant: str | None = None
    known_root: bool = True
    reads_back: bool = False

    def config(self, place: Place) -> StorageConfig:
        return StorageConfig(root_dir=str(place.root), **self.settings)

    def source_path(self, place: Place) -> Path:
        return (place.elsewhere if self.source == "other device" else place.folder) / "download.part"

    def call(self, place: Place, catalog: LmdbCatalog) -> DownloadOutcome:
        return finalize_candidate_download(
            io.BytesIO(CONTENT) if self.source == "stream" else self.source_path(place),
            **KEY,
            content_type="application/pdf",
            run_id="run",
            variant=self.variant,
            catalog=catalog,
            cfg_storage=self.config(place),
            cfg_catalog=CatalogConfig(verify_on_register=self.reads_back),
        )


def store_other(content: bytes, **key: Any) -> Callable[[Place, LmdbCatalog, StorageConfig], object]:
    """Return what stores a content under another key, or as the document itself."""

    def prepare(_place: Place, catalog: LmdbCatalog, config: StorageConfig) -> object:
        return finalize_candidate_download(io.BytesIO(content), **KEY | key, catalog=catalog, cfg_storage=config)

    return prepare


def corrupt(place: Place, _catalog: LmdbCatalog, _config: StorageConfig) -> None:
    blob = place.root / CAS_PATH
    blob.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT[:-1] + b"?")


CAS = {"layout": "cas"}
SCENARIOS = {
    "policy-new": Scenario({}),
    "policy-taken": Scenario({}, store_other(OTHER, source_url="https://two.example/paper.pdf")),
    "policy-twin": Scenario({}, store_other(CONTENT, artifact_id="work/2")),
    "policy-conflict": Scenario({}, store_other(OTHER)),
    "policy-known": Scenario({}, store_other(CONTENT)),
    "cas-new": Scenario(CAS),
    "cas-dedup": Scenario(CAS, store_other(CONTENT, artifact_id="work/2")),
    "cas-repair": Scenario(CAS, corrupt, reads_back=True),
    "cas-links": Scenario(CAS | {"policy_links": True}),
    "cas-conflict": Scenario(CAS, store_other(OTHER)),
    "stream": Scenario(CAS, source="stream"),
    "policy-other-device": Scenario({}, source="other device"),
    "cas-other-device": Scenario(CAS, source="other device", reads_back=True),
    "variant": Scenario({}, store_other(OTHER), variant="text"),
    "first-use": Scenario({}, known_root=False),
    "cas-first-use": Scenario(CAS, source="stream", known_root=False),
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with TemporaryDirectory(dir="/dev/shm") as elsewhere:
        yield Place(tmp_path / "place", Path(elsewhere))
    storage._open.clear()


class Steps:
    """The steps of this process, each met before it is done."""

    def __init__(self, meet: Callable[[str, Callable[[], object]], object]) -> None:
        for name in STEPS:
            self._watch(os, name, meet)
        self._watch(fcntl, "flock", meet)
        self._watch(
            os, "open", meet, lambda _path, flags, *_, **__: flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
        )
        self._watch(Commits, "apply", meet)
        for module in (placing, fs_store):
            self._watch(module, "rename_exclusively", meet)

    @staticmethod
    def _watch(
        owner: Any,
        name: str,
        meet: Callable[[str, Callable[[], object]], object],
        counts: Callable[..., object] = lambda *_, **__: True,
    ) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if counts(*args, **kwargs):
                meet(name, lambda: half_done(real, name, args))
            return real(*args, **kwargs)

        setattr(owner, name, watched)


def half_done(real: Callable[..., object], name: str, args: tuple[Any, ...]) -> None:
    """Write the first half of what is to be written."""
    if name == "copy_file_range":
        real(*args[:2], args[2] // 2, *args[3:])
    else:
        real(args[0], args[1][: len(args[1]) // 2], *args[2:])


def run_undisturbed(scenario: Scenario, place: Place) -> list[str]:
    """Run a scenario in a child and return the names of its steps."""

    def work() -> list[str]:
        names: list[str] = []
        with place.catalog() as catalog:
            Steps(lambda name, _: names.append(name))
            scenario.call(place, catalog)
            return list(names)

    steps: list[str] = forked(work)
    return steps


def run_until(scenario: Scenario, place: Place, step: int, *, halfway: bool) -> None:
    """Run a scenario in a child that is killed before a step, in the middle of it, or at its end."""

    def watched() -> None:
        catalog = place.catalog()
        Steps(dying_at(step, halfway=halfway))
        scenario.call(place, catalog)

    killed(watched)


@contextmanager
def prepared(scenario: Scenario, place: Place) -> Iterator[Callable[[], None]]:
    """Set a scenario up, and yield what sets it up once more, from a copy."""
    with taken_for_originals():
        place.folder.mkdir()
        if scenario.known_root:
            with place.catalog() as catalog:
                config = scenario.config(place)
                storage.open_storage(config, catalog)
                scenario.prepare(place, catalog, config)
        else:
            place.catalog().close()
        template = place.folder.with_name("template")
        place.folder.rename(template)

        def again() -> None:
            storage._open.clear()
            shutil.rmtree(place.folder, ignore_errors=True)
            shutil.copytree(template, place.folder)
            if scenario.source != "stream":
                scenario.source_path(place).write_bytes(CONTENT)
                scenario.source_path(place).chmod(0o640)

        yield again


def tree(root: Path) -> dict[str, object]:
    """Return what lies below a root: modes, contents and which names are one file; quarantine and marker apart."""
    files: dict[int, list[str]] = defaultdict(list)
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(layout.QUARANTINE_PATH):
            continue
        status = path.stat()
        if path.is_dir():
            found[name] = oct(status.st_mode)
            continue
        files[status.st_ino].append(name)
        found[name] = (oct(status.st_mode), b"" if name == layout.MARKER_PATH else path.read_bytes(), status.st_nlink)
    found["names of one file"] = sorted(files.values())
    return found


def in_quarantine(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in (root / layout.QUARANTINE_PATH).rglob("*") if path.is_file()}


def facts(catalog: LmdbCatalog) -> list[dict[str, object]]:
    """Return all that is recorded, without times and counts."""
    records: list[Any] = list(catalog.iter_records())
    records += [variant for record in records for variant in catalog.get_variants(record.id)]
    records += catalog.get_conflicts()
    times = {"created_at", "updated_at", "first_seen_at", "last_seen_at", "count"}
    return [{name: value for name, value in structs.asdict(each).items() if name not in times} for each in records]


def is_durable(scenario: Scenario, catalog: LmdbCatalog) -> bool:
    """Tell whether the content is recorded under the key, as a conflict too."""
    document = catalog.get(**KEY)
    if document is None:
        return False
    known: list[Any] = [*catalog.get_conflicts(document.id)]
    known += [document] if scenario.variant is None else catalog.get_variants(document.id)
    return any(each.sha256 == SHA256 for each in known)


def same_outcome(outcome: DownloadOutcome) -> dict[str, object]:
    """Return of an outcome what a call made again must give too, and not what this one call had to do for it."""
    chosen = structs.asdict(outcome)
    record = structs.asdict(chosen.pop("record"))
    for name in ("dedup_hit", "registration", "link_refused"):
        chosen.pop(name)
    return chosen | {name: value for name, value in record.items() if not name.endswith("_at")}


def kill_everywhere(scenario: Scenario, place: Place) -> int:
    """Kill a scenario at every step, hold what is left against what must hold, and return how often it was killed."""
    with prepared(scenario, place) as again:
        again()
        steps = run_undisturbed(scenario, place)
        again()
        with place.catalog() as catalog:
            outcome = same_outcome(scenario.call(place, catalog))
            expected = (tree(place.root), facts(catalog))
            quarantine = in_quarantine(place.root)
        deaths = [(step, False) for step in range(len(steps) + 1)]
        deaths += [(step, True) for step, name in enumerate(steps) if name in WRITES]
        for step, halfway in deaths:
            again()
            run_until(scenario, place, step, halfway=halfway)
            with place.catalog() as catalog:
                store = FileBlobStore(place.root)
                assert dangling(catalog, store) == [], (step, steps)
                source = scenario.source_path(place)
                is_there = source.exists() and source.read_bytes() == CONTENT
                assert is_there or scenario.source == "stream" or is_durable(scenario, catalog), (step, steps)
                try:
                    assert same_outcome(scenario.call(place, catalog)) == outcome, (step, steps)
                except NotFoundError:
                    assert not source.exists()
                    storage.open_storage(scenario.config(place), catalog)
                assert (tree(place.root), facts(catalog)) == expected, (step, steps)
                assert quarantine <= in_quarantine(place.root)
                assert not source.exists()
                assert dangling(catalog, store) == []
                assert staged(store) == []
                assert_consistent(catalog)
    return len(deaths)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_call_killed_at_any_step_is_completed_by_the_next(name: str, place: Place) -> None:
    assert kill_everywhere(SCENARIOS[name], place) > 5


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("cas-new", {"mkdir", "fchmod", "fsync", "link", "apply", "unlink"}),
        ("cas-repair", {"open", "flock", "copy_file_range", "link", "rename", "apply"}),
        ("cas-other-device", {"open", "copy_file_range", "fchmod", "link"}),
        ("first-use", {"mkdir", "write", "rename_exclusively", "apply"}),
    ],
)
def test_the_steps_are_seen_at_which_a_process_dies(name: str, steps: set[str], place: Place) -> None:
    with prepared(SCENARIOS[name], place) as again:
        again()
        assert steps <= set(run_undisturbed(SCENARIOS[name], place))


@pytest.mark.parametrize("name", ["policy-new", "cas-new"])
def test_a_source_that_is_removed_too_early_is_noticed(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = finalize._Finalizing._register

    def too_early(self: Any, *args: Any) -> Any:
        os.unlink(self.file.path)
        return real(self, *args)

    monkeypatch.setattr(finalize._Finalizing, "_register", too_early)
    with pytest.raises(AssertionError):
        kill_everywhere(SCENARIOS[name], place)


def test_a_record_that_comes_before_its_blob_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = finalize._Finalizing._attempt

    def too_late(self: Any, sha256: str) -> Any:
        stored = Placed(None, self.store.uri_of(CAS_PATH), Publication("stored"))
        self._register(self.catalog, None, stored, sha256, None)
        return real(self, sha256)

    monkeypatch.setattr(finalize._Finalizing, "_attempt", too_late)
    with pytest.raises(AssertionError, match="nothing lies at"):
        kill_everywhere(SCENARIOS["cas-new"], place)
