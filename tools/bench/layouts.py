"""Candidate on-disk layouts on bare py-lmdb, side by side with the SQLite design.

Bulk loads, durable small batches, lookups and the record codec. Candidates take turns within each repeat, and
the table shows medians. Times include building rows from records; `build` says how much of it that was.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import xxhash

from tools.bench.record_codec import ENCODER, KEYED, NUMBERED, ROOT_ID, CorruptError, Record, codec, seal, unseal
from tools.bench.workload import Source, SqliteStore, batches, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAP_BYTES = 1 << 36
SMALL_BATCH = 64
SMALL_CATALOG = 20_000
LOOKUPS = 5_000


@dataclass(frozen=True)
class Layout:
    """One way to lay the same rows out."""

    name: str
    by_number: bool = True
    full_composite: bool = False
    digest_bytes: int = 32
    dupsort: bool = True
    append_duplicates: bool = False
    id_bytes: int = 8


LAYOUTS = (
    Layout("A", by_number=False),
    Layout("B"),
    Layout("C", digest_bytes=16),
    Layout("C8", digest_bytes=8),
    Layout("D", dupsort=False),
    Layout("E6", id_bytes=6),
    Layout("F", by_number=False, full_composite=True),
    Layout("G", append_duplicates=True),
    Layout("CG", digest_bytes=16, append_duplicates=True),
    Layout("CEG", digest_bytes=16, append_duplicates=True, id_bytes=6),
)
INDEXES = ("by_sha256", "by_url", "by_run", "by_content_type", "by_created")


class LmdbStore:
    """A layout in an environment of its own, durable at each commit."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.layout = layout
        self.folder = folder / "catalog.lmdb"
        self.env = lmdb.open(str(self.folder), map_size=MAP_BYTES, max_dbs=16)
        main = "records" if layout.by_number else "ids"
        self.main = self.env.open_db(main.encode())
        self.documents = self.env.open_db(b"documents")
        self.counters = self.env.open_db(b"counters")
        self.indexes = {
            name: self.env.open_db(name.encode(), dupsort=layout.dupsort, dupfixed=layout.dupsort) for name in INDEXES
        }
        self.last_id = 0
        self.build_seconds = 0.0

    def number_key(self, number: int) -> bytes:
        """Big-endian, so that ids sort as numbers."""
        return number.to_bytes(self.layout.id_bytes, "big")

    def composite(self, artifact_id: str, source_url: str, resolver: str) -> bytes:
        """The key that makes a registration idempotent."""
        rest = f"{source_url}\0{resolver}".encode()
        if not self.layout.full_composite:
            rest = hashlib.blake2b(rest, digest_size=16).digest()
        return artifact_id.encode() + b"\0" + rest

    def add(self, records: Sequence[Source]) -> None:
        """Look for all keys, then put every row of the batch in sorted order and commit."""
        started = time.perf_counter()
        layout = self.layout
        first = self.last_id + 1
        composites = [self.composite(r.artifact_id, r.source_url, r.resolver) for r in records]
        numbers = [self.number_key(first + offset) for offset in range(len(records))]
        if layout.by_number:
            main = [
                (
                    number,
                    seal(ENCODER.encode((r[0], r[1], r[2], r[3], r[4], r[5], ROOT_ID, None, r[6], r[7], r[8]))),
                )
                for number, r in zip(numbers, records, strict=True)
            ]
            documents = sorted(zip(composites, numbers, strict=True))
        else:
            main = list(zip(numbers, composites, strict=True))
            documents = sorted(
                (
                    composite,
                    seal(ENCODER.encode((number, r[1], r[2], r[3], r[4], r[5], ROOT_ID, None, r[6], r[7], r[8]))),
                )
                for number, (composite, r) in enumerate(zip(composites, records, strict=True), first)
            )
        width = layout.digest_bytes
        keys = {
            "by_sha256": [r.sha256[:width] for r in records],
            "by_url": [xxhash.xxh3_64_digest(r.source_url.encode()) for r in records],
            "by_run": [r.run_id.encode() for r in records],
            "by_content_type": [r.content_type.encode() for r in records],
            "by_created": [r.created.to_bytes(8, "big") for r in records],
        }
        if layout.dupsort:
            rows = {name: sorted(zip(keys[name], numbers, strict=True)) for name in INDEXES}
        else:
            rows = {name: [(row, b"") for row in sorted(map(bytes.__add__, keys[name], numbers))] for name in INDEXES}
        self.last_id += len(records)
        self.build_seconds += time.perf_counter() - started

        with self.env.begin(write=True) as transaction:
            cursor = transaction.cursor(self.documents)
            if cursor.getmulti([key for key, _ in documents]):
                message = "a key is already there"
                raise RuntimeError(message)
            self.put(cursor, documents)
            self.put(transaction.cursor(self.main), main, append=True)
            for name in INDEXES:
                self.put(transaction.cursor(self.indexes[name]), rows[name], append=layout.append_duplicates)
            transaction.put(b"totals", self.number_key(self.last_id), db=self.counters)

    @staticmethod
    def put(cursor: lmdb.Cursor, rows: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Put rows that are all new; a row the engine declines is an error."""
        consumed, added = cursor.putmulti(rows, append=append)
        if consumed != added:
            message = f"{consumed - added} rows were not stored"
            raise RuntimeError(message)

    def get(self, source: Source) -> Record | None:
        """By the composite key."""
        key = self.composite(source.artifact_id, source.source_url, source.resolver)
        with self.env.begin(buffers=True) as transaction:
            found = transaction.get(key, db=self.documents)
            if found is None:
                return None
            record = self.numbered(transaction, found) if self.layout.by_number else self.keyed(key, found)
        if record.source_url != source.source_url or record.resolver != source.resolver:
            raise CorruptError
        return record

    def get_by_id(self, number: int) -> Record:
        """By id, which must exist."""
        with self.env.begin(buffers=True) as transaction:
            return self.fetch(transaction, self.number_key(number))

    def get_by_sha256(self, digest: bytes) -> list[Record]:
        """All records with the digest; the whole of it is compared."""
        key = digest[: self.layout.digest_bytes]
        with self.env.begin(buffers=True) as transaction, transaction.cursor(self.indexes["by_sha256"]) as cursor:
            if self.layout.dupsort:
                numbers = list(cursor.iternext_dup()) if cursor.set_key(key) else []
            else:
                numbers = []
                found = cursor.set_range(key)
                while found and cursor.key()[: len(key)] == key:
                    numbers.append(cursor.key()[len(key) :])
                    found = cursor.next()
            records = [self.fetch(transaction, number) for number in numbers]
        return [record for record in records if record.sha256 == digest]

    def fetch(self, transaction: lmdb.Transaction, number: bytes | memoryview) -> Record:
        """The record of an encoded id, which must exist."""
        if self.layout.by_number:
            return self.numbered(transaction, number)
        key = transaction.get(number, db=self.main)
        value = transaction.get(key, db=self.documents) if key is not None else None
        if key is None or value is None:
            raise CorruptError
        return self.keyed(bytes(key), value)

    def numbered(self, transaction: lmdb.Transaction, number: bytes | memoryview) -> Record:
        """Decode the value that stands under an id."""
        value = transaction.get(number, db=self.main)
        if value is None:
            raise CorruptError
        v = NUMBERED.decode(unseal(value))
        return Record(
            int.from_bytes(number, "big"),
            v.artifact_id,
            v.source_url,
            v.resolver,
            v.content_type,
            v.bytes,
            v.sha256,
            v.root,
            v.path,
            v.created,
            v.updated,
            v.run_id,
        )

    @staticmethod
    def keyed(key: bytes, value: bytes | memoryview) -> Record:
        """Decode the value that stands under a composite."""
        v = KEYED.decode(unseal(value))
        return Record(
            v.id,
            key[: key.index(0)].decode(),
            v.source_url,
            v.resolver,
            v.content_type,
            v.bytes,
            v.sha256,
            v.root,
            v.path,
            v.created,
            v.updated,
            v.run_id,
        )

    def live_bytes(self) -> int:
        """Pages of all trees; the page counts of a dupsort tree include those of its inner trees."""
        with self.env.begin() as transaction:
            trees = [self.main, self.documents, self.counters, *self.indexes.values()]
            stats = [transaction.stat(tree) for tree in trees]
        return sum(s["psize"] * (s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"]) for s in stats)

    def file_bytes(self) -> int:
        """All pages up to the last one, free ones too."""
        return int((self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"])

    def tree_bytes(self) -> dict[str, int]:
        """Live bytes of each tree."""
        trees = {"main": self.main, "documents": self.documents, **self.indexes}
        with self.env.begin() as transaction:
            stats = {name: transaction.stat(tree) for name, tree in trees.items()}
        return {n: s["psize"] * (s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"]) for n, s in stats.items()}

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


Store = LmdbStore | SqliteStore


def open_store(name: str, folder: Path) -> Store:
    """A new, empty store of a candidate."""
    if name == "sqlite":
        return SqliteStore(folder)
    return LmdbStore(folder, next(layout for layout in LAYOUTS if layout.name == name))


def load(store: Store, records: Sequence[Source], size: int) -> dict[str, float]:
    """Add all records and say how that went."""
    store.build_seconds = 0.0
    started = time.perf_counter()
    for batch in batches(records, size):
        store.add(batch)
    seconds = time.perf_counter() - started
    return {
        "records_per_second": len(records) / seconds,
        "store_records_per_second": len(records) / (seconds - store.build_seconds),
        "build_share": store.build_seconds / seconds,
    }


def median_microseconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Median time of a call; each must find something."""
    times = []
    for call in calls:
        started = time.perf_counter_ns()
        found = call()
        times.append(time.perf_counter_ns() - started)
        if not found:
            message = "a lookup found nothing"
            raise RuntimeError(message)
    return statistics.median(times) / 1000


def lookups(store: Store, records: Sequence[Source]) -> dict[str, float]:
    """Median microseconds by key, id and digest, on a warm cache."""
    rng = random.Random(7)
    chosen = [rng.randrange(len(records)) for _ in range(LOOKUPS)]
    work: dict[str, list[Callable[[], Any]]] = {
        "key": [partial(store.get, records[i]) for i in chosen],
        "id": [partial(store.get_by_id, i + 1) for i in chosen],
        "sha256": [partial(store.get_by_sha256, records[i].sha256) for i in chosen],
    }
    return {name: min(median_microseconds(calls) for _ in range(2)) for name, calls in work.items()}


def medians(samples: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {figure: statistics.median(sample[figure] for sample in samples) for figure in samples[0]}


def run(options: argparse.Namespace, base: Path) -> dict[str, Any]:
    """All workloads; candidates take turns within a repeat."""
    names = options.only or [*(layout.name for layout in LAYOUTS), "sqlite"]
    records = sources(options.records, seed=1)
    small = sources(options.small_batches * SMALL_BATCH, seed=2)
    gc.collect()
    gc.freeze()
    result: dict[str, Any] = {
        "records": options.records,
        "repeats": options.repeats,
        "lmdb": ".".join(map(str, lmdb.version())),
        "bulk": {},
        "lookups": {},
        "trees": {},
    }
    for size in options.batch:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for repeat in range(options.repeats):
            for name in names:
                folder = Path(tempfile.mkdtemp(dir=base))
                store = open_store(name, folder)
                sample = load(store, records, size)
                sample["live_bytes_per_record"] = store.live_bytes() / len(records)
                sample["file_bytes_per_record"] = store.file_bytes() / len(records)
                samples[name].append(sample)
                if repeat == 0 and size == options.batch[0]:
                    result["lookups"][name] = lookups(store, records)
                    if isinstance(store, LmdbStore):
                        result["trees"][name] = {n: b / len(records) for n, b in store.tree_bytes().items()}
                store.close()
                shutil.rmtree(folder)
                print(f"{size} {name} {sample['records_per_second']:.0f}/s", file=sys.stderr, flush=True)
        result["bulk"][size] = {name: medians(found) for name, found in samples.items()}
    samples = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            folder = Path(tempfile.mkdtemp(dir=base))
            store = open_store(name, folder)
            load(store, records[:SMALL_CATALOG], SMALL_CATALOG)
            samples[name].append(load(store, small, SMALL_BATCH))
            store.close()
            shutil.rmtree(folder)
    result["batches_of_64"] = {name: medians(found) for name, found in samples.items()}
    result["codec"] = codec(records)
    return result


def show(result: dict[str, Any]) -> None:
    """Tables on standard output; x is the ratio to the SQLite design."""
    loads = {f"bulk, {size} a batch": figures for size, figures in result["bulk"].items()}
    for title, figures in {**loads, "batches of 64": result["batches_of_64"]}.items():
        base = figures.get("sqlite", {}).get("records_per_second", float("nan"))
        print(f"\n{title}\n{'':8}{'rec/s':>9}{'x':>7}{'store/s':>9}{'build':>7}{'live B':>8}{'file B':>8}")
        for name, f in figures.items():
            sizes = (f.get(key, float("nan")) for key in ("live_bytes_per_record", "file_bytes_per_record"))
            print(
                f"{name:8}{f['records_per_second']:9.0f}{f['records_per_second'] / base:7.2f}"
                f"{f['store_records_per_second']:9.0f}{f['build_share']:7.0%}" + "".join(f"{s:8.0f}" for s in sizes)
            )
    print("\nlive bytes for a record, by tree")
    for name, trees in result["trees"].items():
        print(f"{name:8}" + "  ".join(f"{tree} {size:.0f}" for tree, size in trees.items()))
    print(f"\nlookups, median µs\n{'':8}{'key':>8}{'id':>8}{'sha256':>8}")
    for name, f in result["lookups"].items():
        print(f"{name:8}{f['key']:8.1f}{f['id']:8.1f}{f['sha256']:8.1f}")
    print(f"\n{'codec, µs a record':24}{'encode':>8}{'decode':>8}{'bytes':>8}")
    for name, f in result["codec"].items():
        print(f"{name:24}{f['encode']:8.2f}{f['decode']:8.2f}{f['bytes']:8.0f}")


def main() -> None:
    """Parse, run, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[10_000, 100_000], help="records a transaction")
    parser.add_argument("--small-batches", type=int, default=200, help="how many batches of 64")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of candidates, sqlite among them")
    parser.add_argument("--dir", type=Path, default=Path(), help="a folder on a real disk; emptied afterwards")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="layouts-", dir=options.dir))
    try:
        result = run(options, base)
    finally:
        shutil.rmtree(base)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
