"""Durable registrations, one call a record: threads, processes, and one producer that holds futures.

Every measured part starts from a copy of the same small catalog and registers the same records. `raw` runs at the mean
batch size that the catalog had just before it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tools.bench import contestants
from tools.bench.contestants import BatchSizes, Put, Sqlite, catalog_at, put_raw
from tools.bench.parts import Bench, Row, in_child, scratch
from tools.bench.stream import request_at, row_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.synchronize import Barrier as ProcessBarrier
    from pathlib import Path

_FIELDS = ("artifact_id", "source_url", "resolver", "content_type", "bytes", "sha256", "storage_uri", "run_id")


@dataclass(frozen=True)
class Load:
    """How many processes and threads in each register, and what is asked of that."""

    row: str
    work: str
    processes: int
    threads: int
    of_raw: float
    of_sqlite: float | None


LOADS = (
    Load("threads-1", "durable registrations, 1 thread", 1, 1, 0.9, None),
    Load("threads-16", "durable registrations, 16 threads", 1, 16, 0.6, 3),
    Load("threads-64", "durable registrations, 64 threads", 1, 64, 0.6, 4.5),
    Load("processes-4", "durable registrations, 4 processes of 16 threads", 4, 16, 0.6, 3),
)


class Timed(NamedTuple):
    """When a process began and ended its share, and how many calls its commits answered."""

    start: float
    end: float
    calls: int
    commits: int


def base(bench: Bench) -> Path:
    """Make, once a run, the stores that every part copies, and record what the catalog writes for what comes next."""
    folder = bench.folder / "durable"
    if not folder.exists():
        folder.mkdir()
        known = range(bench.base_records)
        in_child(contestants.fill_catalog, folder, known)
        in_child(contestants.fill_sqlite, folder, known)
        in_child(_record, folder, new(bench))
    return folder


def measure(bench: Bench, load: Load) -> list[Row]:
    """Return the rows of one load."""
    source = base(bench)
    ours, sqlite, raw, sizes = [], [], [], []
    for _ in range(bench.repeats):
        rate, size = copied(bench, _catalog_rate, source, new(bench), load)
        ours.append(rate)
        sizes.append(size)
        raw.append(copied(bench, _raw_rate, source, source / "puts", size))
        sqlite.append(copied(bench, _sqlite_rate, source, new(bench), load))
    name = "raw" if load.threads == 1 else "raw, same batches"
    extra = {"mean batch": sizes}
    return [
        Row(load.work, "records/s", ours, name, raw, at_least=load.of_raw, extra=extra),
        Row(load.work, "records/s", ours, "sqlite", sqlite, at_least=load.of_sqlite),
    ]


def measure_futures(bench: Bench) -> list[Row]:
    """Return the row of one producer, or none where the catalog has no futures."""
    source = base(bench)
    ours, sqlite = [], []
    for _ in range(bench.repeats):
        rate = copied(bench, _futures_rate, source, new(bench))
        if rate is None:
            return []
        ours.append(rate)
        sqlite.append(copied(bench, _sqlite_rate, source, new(bench), LOADS[0]))
    return [Row("durable registrations, one producer with futures", "records/s", ours, "sqlite", sqlite, at_least=8)]


def new(bench: Bench) -> range:
    return range(bench.base_records, bench.base_records + bench.operations)


def _record(folder: Path, positions: range) -> None:
    with scratch(folder) as copy:
        shutil.copytree(folder / "catalog", copy / "catalog")
        puts = contestants.recorded(copy, positions)
    (folder / "puts").write_bytes(pickle.dumps([[tuple(put) for put in record] for record in puts]))


def copied(bench: Bench, part: Callable[..., Any], source: Path, *arguments: object) -> Any:  # noqa: ANN401
    """Run a part in a child process on a copy of the stores."""
    with scratch(bench.folder) as folder:
        shutil.copytree(source / "catalog", folder / "catalog")
        shutil.copy(source / "catalog.sqlite", folder)
        for copy in (folder / "catalog/data.mdb", folder / "catalog.sqlite"):
            with copy.open("rb") as file:
                os.fsync(file.fileno())  # or the first commit pays for the copy
        return in_child(part, folder, *arguments)


def _raw_rate(folder: Path, recording: Path, batch_size: float) -> float:
    puts = [[Put(*put) for put in record] for record in pickle.loads(recording.read_bytes())]
    return put_raw(folder, puts, batch_size)


def _catalog_rate(folder: Path, positions: range, load: Load) -> tuple[float, float]:
    """Return registrations a second and the mean number of them in a commit."""
    timed = _together(_catalog_share, folder, positions, load)
    return _rate(timed, len(positions)), sum(t.calls for t in timed) / sum(t.commits for t in timed)


def _sqlite_rate(folder: Path, positions: range, load: Load) -> float:
    return _rate(_together(_sqlite_share, folder, positions, load), len(positions))


def _futures_rate(folder: Path, positions: range) -> float | None:
    with catalog_at(folder) as catalog:
        register_async = getattr(catalog, "register_async", None)
        if register_async is None:
            return None
        calls = [fields_at(position) for position in positions]
        started = time.perf_counter()
        for future in [register_async(**fields) for fields in calls]:
            future.result()
        return len(positions) / (time.perf_counter() - started)


def _rate(timed: Sequence[Timed], count: int) -> float:
    return count / (max(t.end for t in timed) - min(t.start for t in timed))


def _together(share: Callable[..., Timed], folder: Path, positions: range, load: Load) -> list[Timed]:
    """Run every process's share at the same time."""
    if load.processes == 1:
        return [share(folder, positions, load.threads, None)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(load.processes)
    results = context.SimpleQueue()
    processes = [
        context.Process(
            target=_share_in_process,
            args=(share, results, folder, positions[number :: load.processes], load.threads, barrier),
        )
        for number in range(load.processes)
    ]
    for process in processes:
        process.start()
    timed = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return timed


def _share_in_process(
    share: Callable[..., Timed], results: multiprocessing.SimpleQueue[Timed], *arguments: object
) -> None:
    results.put(share(*arguments))


def _catalog_share(folder: Path, positions: range, threads: int, barrier: ProcessBarrier | None) -> Timed:
    calls = [fields_at(position) for position in positions]
    with BatchSizes() as sizes, catalog_at(folder) as catalog:
        sizes.start_again()
        start, end = hammer(lambda fields: catalog.register(**fields), calls, threads, barrier)
        return Timed(start, end, sizes.calls, sizes.commits)


def _sqlite_share(folder: Path, positions: range, threads: int, barrier: ProcessBarrier | None) -> Timed:
    rows = [row_at(position) for position in positions]
    store = Sqlite(folder)
    start, end = hammer(store.register, rows, threads, barrier)
    store.close()
    return Timed(start, end, len(rows), len(rows))


def hammer(
    register: Callable[[Any], object], calls: list[Any], threads: int, barrier: ProcessBarrier | None
) -> tuple[float, float]:
    """Make the calls from some threads and return when that began and ended, by the clock that all processes share."""
    gate = threading.Barrier(threads + 1)

    def work(share: list[Any]) -> None:
        gate.wait()
        for call in share:
            register(call)

    workers = [threading.Thread(target=work, args=(calls[number::threads],)) for number in range(threads)]
    for worker in workers:
        worker.start()
    if barrier is not None:
        barrier.wait()
    start = time.monotonic()
    gate.wait()
    for worker in workers:
        worker.join()
    return start, time.monotonic()


def fields_at(position: int) -> dict[str, Any]:
    request = request_at(position)
    return {name: getattr(request, name) for name in _FIELDS}
