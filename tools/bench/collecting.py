"""Looking for garbage in a folder of many small files, beside `find` telling size and time of each.

    python -m tools.bench.collecting --files 100000 --dir /a/real/disk

goes through the whole life of garbage: half of the files are planned for, taken, restored, taken again and removed, the
figures of each step are held against the plan's, and time and memory are printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from kvcatalog import open_catalog
from kvcatalog.clock import now_micros
from kvcatalog.config import StorageConfig
from kvcatalog.gc import plan_garbage
from kvcatalog.layout import cas_relative_path
from kvcatalog.models import RegistrationRequest
from kvcatalog.removal import Collection, open_roots
from kvcatalog.removal.trash import empty, restore
from kvcatalog.storage import open_storage
from tools.bench.parts import Bench, Row, in_child, memory_bytes, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRINTF = "%p %s %T@ %n\\n"


def measure(bench: Bench) -> list[Row]:
    """Return the scan of as many files as records, none of which is garbage, beside find's."""
    ours: list[float] = []
    theirs: list[float] = []
    anonymous: list[float] = []
    with scratch(bench.folder) as folder:
        in_child(_fill, folder, bench.files)
        in_child(_scan, folder, 0)  # what the kernel keeps is there for both
        for _ in range(bench.repeats):
            seconds, peak = in_child(_scan, folder, 0)
            ours.append(bench.files / seconds)
            anonymous.append(peak / 2**20)
            theirs.append(bench.files / _find(folder))
    return [
        Row(
            f"gc scan, {bench.files:,} files and records",
            "files/s",
            ours,
            "find -type f -printf, size, time, links",
            theirs,
            at_least=0.4,
            extra={"MiB of memory": anonymous},
        )
    ]


def fill(folder: Path, files: int, *, orphans: int = 0) -> None:
    """Store `files` tiny blobs at content-addressed places, all but `orphans` with a record."""
    root = folder / "root"
    for first in range(256):
        (root / f"cas/sha256/{first:02x}").mkdir(parents=True)
    with open_catalog(folder / "catalog") as catalog:
        open_storage(StorageConfig(root_dir=str(root), layout="cas"), catalog)
        uri = catalog.roots()[0].uri
        deque(catalog.register_many(_blobs(root, uri, files, orphans)), maxlen=0)


def _blobs(root: Path, uri: str, files: int, orphans: int) -> Iterator[RegistrationRequest]:
    for number in range(files):
        # Digests that are spread like digests; the bytes do not matter.
        digest = (number * 0x9E3779B97F4A7C15_F39CC0605CEDC835 % 2**128).to_bytes(16, "big") * 2
        path = cas_relative_path("sha256", digest)
        os.close(os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))
        if number >= orphans:
            yield RegistrationRequest(
                artifact_id=f"doi:10.1234/{number}",
                source_url=f"https://www.publisher.example/articles/{number:08d}.pdf",
                resolver="unpaywall",
                content_type="application/pdf",
                bytes=0,
                sha256=digest.hex(),
                storage_uri=f"{uri}/{path}",
            )


def _fill(folder: Path, files: int) -> None:
    fill(folder, files)


def _scan(folder: Path, orphans: int) -> tuple[float, int]:
    """Return the seconds that a plan takes, and the most memory; the map of the catalog is the kernel's cache."""
    with open_catalog(folder / "catalog") as catalog:
        config = StorageConfig(root_dir=str(folder / "root"), layout="cas")
        started = time.perf_counter()
        with (
            open_roots(catalog, config) as roots,
            plan_garbage(catalog, roots, orphan_ttl_days=0, now=now_micros()) as plan,
        ):
            seconds = time.perf_counter() - started
            assert plan.totals.blobs == orphans
        return seconds, memory_bytes("RssAnon")


def _find(folder: Path) -> float:
    started = time.perf_counter()
    with (folder / "found").open("wb") as found:
        subprocess.run(["find", folder / "root", "-type", "f", "-printf", _PRINTF], stdout=found, check=True)
    return time.perf_counter() - started


def life(folder: Path, files: int) -> dict[str, float]:
    """Plan, carry out, restore, carry out again and empty the trash, half of the files being garbage."""
    fill(folder, files, orphans=files // 2)
    config = StorageConfig(root_dir=str(folder / "root"), layout="cas")
    facts: dict[str, float] = {}
    started = time.perf_counter()

    def step(name: str) -> None:
        nonlocal started
        facts[f"{name}, s"] = time.perf_counter() - started
        facts[f"{name}, MiB"] = memory_bytes("RssAnon") / 2**20
        started = time.perf_counter()

    with open_catalog(folder / "catalog") as catalog, Collection(catalog, config) as collection:
        with plan_garbage(catalog, collection.roots, orphan_ttl_days=0, now=now_micros()) as plan:
            step("plan")
            moved = sum(each.trash is not None for each in collection.execute(plan.header.plan, plan.items()))
            step("apply")
            assert moved == plan.totals.blobs == files // 2
            restored = sum(each.outcome == "restored" for each in restore(collection, plan.header.plan))
            step("restore")
            assert restored == moved
        with plan_garbage(catalog, collection.roots, orphan_ttl_days=0, now=now_micros()) as again:
            assert again.totals == plan.totals
            deque(collection.execute(again.header.plan, again.items()), maxlen=0)
        step("plan and apply again")
        (expected,) = empty(collection.roots, catalog, now=now_micros(), apply=False)
        (done,) = empty(collection.roots, catalog, now=now_micros(), apply=True)
        step("empty, dry and real")
        assert done == expected
        assert (done.blobs, done.bytes, done.bytes_freed) == (moved, again.totals.bytes, again.totals.bytes_freed)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--dir", type=Path, default=Path(), help="a folder on a real disk; emptied afterwards")
    options = parser.parse_args()
    with scratch(options.dir.resolve()) as folder:
        for name, value in life(folder, options.files).items():
            print(f"{name:>28} {value:>9.1f}")


if __name__ == "__main__":
    main()
