"""register_many beside executemany: new records, the same ones again, the memory that it takes, and the bytes on disk.

Making the workload's records is not part of the time of either side.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tools.bench.contestants import Sqlite, catalog_at
from tools.bench.parts import Bench, Row, in_child, memory_bytes, scratch
from tools.bench.stream import BATCH_RECORDS, Feed, request_at, row_at

if TYPE_CHECKING:
    from pathlib import Path

_MIB = 1 << 20


def measure(bench: Bench) -> list[Row]:
    """Return the rows of bulk work."""
    positions = range(bench.records)
    names = ("new", "known", "own MiB", "peak MiB", "file bytes", "live bytes")
    default: dict[str, list[float]] = {name: [] for name in names}
    equal: dict[str, list[float]] = {name: [] for name in names}
    sqlite: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(bench.repeats):
        for samples, batch_size in ((default, None), (equal, BATCH_RECORDS)):
            with scratch(bench.folder) as folder:
                _add(samples, in_child(_catalog_part, folder, positions, batch_size))
        with scratch(bench.folder) as folder:
            _add(sqlite, in_child(_sqlite_part, folder, positions))
    memory = {name: default[name] for name in ("own MiB", "peak MiB")}
    unit, baseline = "records/s", f"sqlite, {BATCH_RECORDS:,} a commit"
    work = f"register_many, {bench.records:,}"
    return [
        Row(f"{work} new, default batches", unit, default["new"], baseline, sqlite["new"], at_least=3, extra=memory),
        Row(f"{work} new, {BATCH_RECORDS:,} a commit", unit, equal["new"], baseline, sqlite["new"], at_least=2),
        Row(f"{work} known, default batches", unit, default["known"], baseline, sqlite["known"], at_least=3),
        Row("file, bytes a record", "bytes", default["file bytes"], "sqlite", sqlite["file bytes"], at_most=1),
        Row("live pages, bytes a record", "bytes", default["live bytes"], "sqlite", sqlite["file bytes"], at_most=1),
    ]


def _add(samples: dict[str, list[float]], figures: dict[str, float]) -> None:
    for name, figure in figures.items():
        samples[name].append(figure)


def _catalog_part(folder: Path, positions: range, batch_size: int | None) -> dict[str, float]:
    options = {} if batch_size is None else {"batch_size": batch_size}
    figures: dict[str, float] = {}
    with catalog_at(folder) as catalog:
        own = 0
        for work in ("new", "known"):
            feed = Feed(request_at, positions)
            started = time.perf_counter()
            for count, _ in enumerate(catalog.register_many(feed, **options)):
                if not count % BATCH_RECORDS:
                    own = max(own, memory_bytes("RssAnon"))
            figures[work] = len(positions) / (time.perf_counter() - started - feed.seconds)
            if work == "new":
                # The peak counts pages of the data file that the process has mapped; they are the kernel's to take.
                figures["own MiB"], figures["peak MiB"] = own / _MIB, memory_bytes("VmHWM") / _MIB
                stats = catalog.stats()
                figures["file bytes"] = (stats.file_bytes or 0) / len(positions)
                with catalog._environment.read() as transaction:
                    pages = sum(transaction.pages(table) for table in catalog._environment.handles)
                figures["live bytes"] = pages * 4096 / len(positions)
    return figures


def _sqlite_part(folder: Path, positions: range) -> dict[str, float]:
    figures: dict[str, float] = {}
    store = Sqlite(folder)
    for work in ("new", "known"):
        feed = Feed(row_at, positions)
        started = time.perf_counter()
        for rows in feed.chunks():
            store.register_many(rows)
        figures[work] = len(positions) / (time.perf_counter() - started - feed.seconds)
        if work == "new":
            figures["file bytes"] = store.file_bytes() / len(positions)
    store.close()
    return figures
