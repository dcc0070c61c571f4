"""The most memory that long work takes, over a small and a large catalog: it must not grow with the records.

    python -m tools.bench.memory --records 100000 1000000 --dir /a/real/disk

Retention, relayout, reconcile and an audit of blobs go over all records, whose blobs are missing but for a few,
which are there, and as many that nobody knows. Each work has a process and a catalog of its own. What is printed is the
most of RssAnon that was seen: the pages of the catalog's map are the kernel's cache.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections import Counter, deque
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from kvcatalog import open_catalog
from kvcatalog.audit import audit_blobs
from kvcatalog.clock import now_micros
from kvcatalog.config import StorageConfig
from kvcatalog.filters import Filter
from kvcatalog.layout import cas_relative_path
from kvcatalog.models import RegistrationRequest
from kvcatalog.reconcile import Reconciling
from kvcatalog.relayout import Plan, Relayout, target_config
from kvcatalog.removal import Collection, open_roots
from kvcatalog.retention import Retention, Rule
from kvcatalog.storage import open_storage
from tools.bench.parts import in_child, memory_bytes, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = 1000
"""Blobs that are there, and as many without a record."""

_SAMPLE_SECONDS = 0.02


def requests(root: Path, uri: str, records: int) -> Iterator[RegistrationRequest]:
    """Yield documents, every tenth with the content of the one before, and make the files of some."""
    for number in range(records):
        content = b"content %d" % (number - (number % 10 == 9))
        digest = hashlib.sha256(content)
        path = cas_relative_path("sha256", digest.digest()) if number % 2 else f"work-{number}/paper.pdf"
        if number < FILES:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        yield RegistrationRequest(
            artifact_id=f"work-{number}",
            source_url=f"https://www.publisher.example/articles/{number:08d}/paper.pdf",
            resolver="unpaywall",
            content_type="application/pdf",
            bytes=len(content),
            sha256=digest.hexdigest(),
            storage_uri=f"{uri}/{path}",
        )


def fill(folder: Path, records: int) -> None:
    """Make the catalog and its root."""
    root = folder / "root"
    with open_catalog(folder / "catalog") as catalog:
        store = open_storage(_config(folder), catalog)
        deque(catalog.register_many(requests(root, store.uri, records)), maxlen=0)
    for number in range(FILES):
        place = root / f"unknown-{number}/paper.pdf"
        place.parent.mkdir()
        place.write_bytes(b"nobody knows %d" % number)


def _config(folder: Path) -> StorageConfig:
    return StorageConfig(root_dir=str(folder / "root"))


def retention(folder: Path) -> object:
    """Decide over all records with copies that must stay, and retire what may go."""
    config, later = _config(folder), now_micros() + 2 * 86_400_000_000
    with open_catalog(folder / "catalog") as catalog, Collection(catalog, config) as collection:
        run = Retention(collection, (Rule("all", days=1, min_copies=0),), now=later, free=1 << 60)
        with run.plan(reviews=True) as plan:
            outcomes = Counter[str](each.outcome for each in run.records(plan))
        outcomes["blobs"] = sum(result.kept is None for result in run.blobs())
        return outcomes


def copies(folder: Path) -> object:
    """Decide over all records with copies that must stay."""
    later = now_micros() + 2 * 86_400_000_000
    with (
        open_catalog(folder / "catalog") as catalog,
        Collection(catalog, _config(folder)) as collection,
        Retention(collection, (Rule("all", days=1, min_copies=1),), now=later).plan(reviews=True) as plan,
    ):
        return Counter("goes" if each.goes else "stays" for each in plan.decisions())


def relayout(folder: Path) -> object:
    """Plan, and move what is there."""
    config = target_config(_config(folder), "cas")
    with open_catalog(folder / "catalog") as catalog:
        store = open_storage(config, catalog)
        plan = Plan(catalog, config, uri_of=store.uri_of, path_of=store.path_of)
        documents = plan.documents(Filter(), up_to=catalog.stats().last_document_id)
        planned = sum(len(claims) for _, claims in documents)
        with Collection(catalog, config) as collection:
            run = Relayout(collection, store, config, jobs=4)
            outcomes = Counter[str](each.outcome for each in run.move())
            outcomes["old blobs"] = sum(result.kept is None for result in run.blobs())
    return outcomes + Counter(planned=planned)


def reconcile(folder: Path) -> object:
    """Look for what is missing and for what nobody knows."""
    with open_catalog(folder / "catalog") as catalog, open_roots(catalog, _config(folder)) as roots:
        return Counter(step.action for step in Reconciling(catalog, roots).plan())


def audit(folder: Path) -> object:
    """Hold records against blobs, and back."""
    with open_catalog(folder / "catalog") as catalog:
        return Counter(finding.kind for finding in audit_blobs(catalog, _config(folder)))


WORKS: dict[str, Callable[[Path], object]] = {
    "reconcile": reconcile,
    "audit of blobs": audit,
    "relayout": relayout,
    "retention, copies": copies,
    "retention": retention,
}


def measured(work: str, folder: Path) -> tuple[float, float, object]:
    """Return the most MiB of memory that a work took, its seconds, and what it says."""
    peak, stop = memory_bytes("RssAnon"), Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(_SAMPLE_SECONDS):
            peak = max(peak, memory_bytes("RssAnon"))

    watcher = Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        said = WORKS[work](folder)
    finally:
        seconds = time.perf_counter() - started
        stop.set()
        watcher.join()
    return peak / 2**20, seconds, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--dir", type=Path, default=Path(), help="a folder on a real disk; emptied afterwards")
    options = parser.parse_args()
    print(f"{'work':<18} {'records':>10} {'MiB':>6} {'s':>7}")
    with scratch(options.dir.resolve()) as folder:
        for records in options.records:
            place = folder / str(records)
            place.mkdir()
            in_child(fill, place, records)
            for work in WORKS:  # the last ones change it
                if work in options.only:
                    peak, seconds, said = in_child(measured, work, place)
                    print(f"{work:<18} {records:>10,} {peak:>6.1f} {seconds:>7.1f}  {said}", flush=True)
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
