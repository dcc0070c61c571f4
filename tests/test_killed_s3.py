"""Retention, relayout and reconcile over a bucket, killed before every request that changes something and run again.

The bucket is a double in this process, so that it outlives those who are killed, and can be put back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import open_catalog
from kvcatalog.config import StorageConfig
from kvcatalog.removal import Collection, executing
from kvcatalog.retention import Retention, Rule, applying
from tests.buckets import REGION, FarPlace
from tests.gc_store import Place
from tests.invariants import assert_consistent
from tests.killing import watch_requests
from tests.s3_double import Double
from tests.test_reconcile import applied, by_folder, fetch
from tests.test_relayout import relayout
from tests.test_retention import NOW, old
from tests.undisturbed import kill_everywhere, recorded

Opened = Callable[[Path], Any]


def settings(double: Double) -> dict[str, Any]:
    return {"s3_bucket": "bucket", "s3_endpoint_url": double.endpoint_url, "s3_region": REGION}


def kill(double: Double, folder: Path, opened: Opened, work: Callable[[Any], object]) -> Counter[str]:
    """Do the work on what is there, killed everywhere; returns its steps."""
    objects = dict(double.objects)

    def begin() -> None:
        double.objects = dict(objects)

    def done(path: Path) -> None:
        place = opened(path)
        work(place)
        place.close()

    def seen() -> dict[str, Any]:
        place = opened(folder)
        try:
            assert place.catalog.condemned() == []
            assert_consistent(place.catalog)
            found = recorded(place.catalog)
        finally:
            place.close()
        # What is wrong may come to quarantine twice; a root that is new has a UUID of its own each time.
        found["objects"] = {
            (re.sub(r"/(trash|quarantine)/[^/]+/", r"/\1/", key), body)
            for key, (_, body) in double.objects.items()
            if not key.endswith("root.json")
        }
        root = folder / "root"
        found["files"] = Counter(
            (re.sub(r"trash/[^/]+/", "trash/", str(path.relative_to(root))), path.read_bytes())
            for path in root.rglob("*")
            if path.is_file() and path.name != "root.json"
        )
        # Fetching is told when it is done, and not again where that was cut off.
        found["journal"] = {entry for entry in found["journal"] if entry[0] != "refetch"}
        return found

    return kill_everywhere(folder, done, seen, begin=begin, watch=watch_requests)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "BATCH_OBJECTS", 2)
    monkeypatch.setattr(applying, "_BATCH", 2)


def test_retention(double: Double, tmp_path: Path) -> None:
    def opened(path: Path) -> FarPlace:
        return FarPlace(path, **settings(double))

    def retire(place: FarPlace) -> None:
        with Collection(place.catalog, place.config) as collection:
            run = Retention(collection, (Rule("r", days=30),), now=NOW)
            with run.plan() as plan:
                list(run.records(plan))
            list(run.blobs())

    place = opened(tmp_path / "place")
    for number in range(2):
        old(place, b"content %d" % number, f"a{number}", 100)
    place.close()
    steps = kill(double, tmp_path / "place", opened, retire)
    assert (steps["CopyObject"], steps["DeleteObject"]) == (2, 2)
    assert steps["_end"] >= 5


def test_reconcile(double: Double, tmp_path: Path) -> None:
    def opened(path: Path) -> FarPlace:
        return FarPlace(path, **settings(double))

    place = opened(tmp_path / "place")
    place.stored(b"moved", "a")
    place.store.move("a/a.pdf", "new/a.pdf")
    place.stored(b"lost", "lost")
    place.stray("lost/lost.pdf", b"is corrupt")
    place.stray("work/b.pdf", b"unknown")
    place.close()
    steps = kill(double, tmp_path / "place", opened, lambda far: applied(far, adopt=by_folder, fetch=fetch))
    assert (steps["CopyObject"], steps["PutObject"]) == (1, 1)
    assert steps["_end"] >= 4


@pytest.mark.parametrize("away", [True, False], ids=["to the bucket", "to the folder"])
def test_relayout(away: bool, double: Double, tmp_path: Path) -> None:
    far = StorageConfig(backend="s3", layout="cas", **settings(double))

    def opened(path: Path) -> Place:
        return Place(path, **settings(double))

    place = opened(tmp_path / "place")
    place.stored(b"content", "a")
    place.stored(b"content", "twin")
    place.stored(b"text", "a", variant="text")
    if not away:
        relayout(place, "cas", far)
    place.close()

    def move(place: Place) -> None:
        relayout(place, "cas" if away else "policy_path", far if away else None)

    steps = kill(double, tmp_path / "place", opened, move)
    assert steps["PutObject" if away else "DeleteObject"] >= 2
    assert steps["_end"] >= 4
    with open_catalog(tmp_path / "place/catalog") as catalog:
        assert all(record.storage_uri.startswith("s3:") == away for record in catalog.iter_records())
