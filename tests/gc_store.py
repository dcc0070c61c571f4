"""Stores with something to collect, and what is compared before and after."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvcatalog import finalize_candidate_download, open_catalog, storage
from kvcatalog.clock import now_micros
from kvcatalog.config import StorageConfig
from kvcatalog.gc import plan_garbage
from kvcatalog.removal import Collection, Plan, Result, open_roots
from kvcatalog.removal.trash import Emptied, Restored, empty, restore
from kvcatalog.store.lmdb_catalog import LmdbCatalog

DAY_SECONDS = 86_400


class Place:
    """A catalog and a root in one folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.config = StorageConfig(root_dir=str(self.root), **settings)
        self.catalog = self.opened()
        self.store = storage.open_storage(self.config, self.catalog)

    def opened(self) -> LmdbCatalog:
        catalog = open_catalog(self.folder / "catalog", command="test")
        assert isinstance(catalog, LmdbCatalog)
        return catalog

    def close(self) -> None:
        self.catalog.close()
        storage.forget_storage(self.store)

    def stored(self, content: bytes, artifact: str, **facts: Any) -> Any:
        """Finalize a download; the temporary file lies outside the root."""
        source = self.folder / "download.part"
        source.write_bytes(content)
        key = {"artifact_id": artifact, "source_url": f"https://example.org/{artifact}.pdf", "resolver": "r"}
        outcome = finalize_candidate_download(source, **(key | facts), catalog=self.catalog, cfg_storage=self.config)
        assert outcome.record is not None
        return outcome.record

    def orphan(self, content: bytes, artifact: str, **facts: Any) -> str:
        """Store a blob, delete its record, and return where it lies."""
        record = self.stored(content, artifact, **facts)
        self.catalog.delete(record.id)
        location: str = record.storage_uri
        return location

    def stray(self, path: str, content: bytes = b"stray", *, age_days: float = 0) -> str:
        """Write a file that no record ever knew, and return its URI."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        aged(place, age_days)
        return self.store.uri_of(path)

    @contextmanager
    def plan(self, days: float = 0, *, later_days: float = 0) -> Iterator[Plan]:
        """Make a plan as if some days had passed."""
        now = now_micros() + round(later_days * DAY_SECONDS * 1_000_000)
        with (
            open_roots(self.catalog, self.config) as roots,
            plan_garbage(self.catalog, roots, orphan_ttl_days=days, now=now) as plan,
        ):
            yield plan

    def planned(self, days: float = 0, *, later_days: float = 0) -> set[str]:
        """Return what a plan names."""
        with self.plan(days, later_days=later_days) as plan:
            return {item.location for item in plan.items()}

    def collect(self, days: float = 0) -> list[Result]:
        """Plan and carry out."""
        with Collection(self.catalog, self.config) as collection:
            now = now_micros()
            with plan_garbage(self.catalog, collection.roots, orphan_ttl_days=days, now=now) as plan:
                return list(collection.execute(plan.header.plan, plan.items()))

    def carry_out(self, plan: Plan) -> list[Result]:
        with Collection(self.catalog, self.config) as collection:
            return list(collection.execute(plan.header.plan, plan.items()))

    def restore(self, wanted: str) -> list[Restored]:
        with Collection(self.catalog, self.config) as collection:
            return list(restore(collection, wanted))

    def empty(self, *, apply: bool = True, **limits: Any) -> Emptied:
        if apply:
            with Collection(self.catalog, self.config) as collection:
                (done,) = empty(collection.roots, self.catalog, now=now_micros(), apply=True, **limits)
        else:
            with open_roots(self.catalog, self.config) as roots:
                (done,) = empty(roots, self.catalog, now=now_micros(), apply=False, **limits)
        return done


def aged(path: Path, days: float) -> None:
    """Make a file look as if it had been written some days ago."""
    moment = os.stat(path).st_mtime - days * DAY_SECONDS
    os.utime(path, (moment, moment))


def kept(results: list[Result]) -> dict[str, str]:
    """Return what was kept, and why."""
    return {result.item.location: result.kept for result in results if result.kept is not None}


def trashed(results: list[Result]) -> set[str]:
    return {result.item.location for result in results if result.trash is not None}


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return every file below a folder with its mode, time and digest."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def blob_bytes(place: Place) -> int:
    """Return the sizes of all files but the catalog's, each counted once whatever names it has."""
    paths = [path for path in place.folder.rglob("*") if path.is_file() and path.parent.name != "catalog"]
    return sum({path.stat().st_ino: path.stat().st_size for path in paths}.values())
