"""What may happen around a catalog that is in use: forks, clocks that jump, readers that die, maps that are too small.

Each is held against the model of `workload`, in processes of their own where they may take one down.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from kvcatalog import open_catalog, storage
from kvcatalog.config import CatalogConfig
from kvcatalog.models import RegistrationRequest
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tools.faults.report import Report
from tools.faults.shim import Shim, preloaded, run_child
from tools.faults.workload import Place, Work, Workload, carry_out, differences, fields, found, unsound

HANG_SECONDS = 30
FORK_STATES = ("idle", "iterating", "snapshot", "others writing", "futures waiting", "forked", "lease held")
STEPS = 12
MAP_BYTES = 1 << 20
GROWING_PROCESSES = 3
GROWING_RECORDS = 4000
READERS = 8
JUMPS = (0, 3600, -86400, 400 * 86400, -50 * 365 * 86400, 1, -1, 0)
"""Where the clock is put against the real one, in seconds."""


class Worker:
    """Does steps of a workload, and holds what is there against them."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.workload = Workload(name, 1)

    def steps(self, catalog: LmdbCatalog, count: int) -> None:
        for _ in range(count):
            step = self.workload.next()
            carry_out(step, catalog, self.place)
            self.workload.taken(step)

    def findings(self, catalog: LmdbCatalog) -> list[str]:
        works = found(catalog, self.workload.numbers)
        start = f"work {self.workload.name} "
        own = {key: work for key, work in works.items() if key[0].startswith(start)}
        return differences(own, self.workload.works, [])


def finish(status: int) -> None:
    """End the process as the interpreter does: threads are waited for, all is torn down but what the parent needs."""
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    ctypes.pythonapi.Py_Exit(status)


def die(_: int) -> None:
    """End the process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_fork(work: Callable[[], list[str]], leave: Callable[[int], object]) -> list[str]:
    """Run work in a forked child that then leaves in a way, and return what it found wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(HANG_SECONDS)
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - the parent tells
            answer = [f"{type(error).__name__}: {error}"]
        os.write(writing, msgspec.json.encode(answer))
        leave(0)
        os._exit(3)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(child, 0)
    return msgspec.json.decode(raw, type=list[str]) if raw else [f"the child said nothing, status {status}"]


@contextmanager
def state(name: str, catalog: LmdbCatalog, place: Place) -> Iterator[None]:
    """Bring a catalog into a state in which it is forked."""
    if name == "iterating":
        walk = catalog.iter_records()
        next(walk)
        yield
        list(walk)
    elif name == "snapshot":
        with catalog.snapshot():
            yield
    elif name == "others writing":
        ended = threading.Event()
        others = [threading.Thread(target=_write_on, args=(catalog, place, number, ended)) for number in range(3)]
        for other in others:
            other.start()
        try:
            yield
        finally:
            ended.set()
            for other in others:
                other.join()
    elif name == "futures waiting":
        keys = [(f"future {os.getpid()} {number}", "https://e.example/", "r") for number in range(200)]
        futures = [catalog.register_async(**fields(key, Work(1))) for key in keys]
        yield
        for future in futures:
            future.result()
    elif name == "lease held":
        with catalog.lease("gc"):
            yield
    else:
        yield


def _write_on(catalog: LmdbCatalog, place: Place, number: int, ended: threading.Event) -> None:
    worker = Worker(place, f"beside {number}")
    while not ended.is_set():
        worker.steps(catalog, 1)


def fork(rounds: int) -> Report:
    """Fork in every state; child and parent go on, the child leaves in every way."""
    report = Report("fork")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        for number in range(rounds):
            for kind in FORK_STATES:
                for leave in (os._exit, finish, die):
                    report.cases += 1
                    place = Place(Path(name, str(report.cases)))
                    place.folder.mkdir()
                    wrong = in_fork(partial(_fork, kind, place, leave), os._exit)
                    report.wrong(f"{kind}, {leave.__name__}, round {number}", wrong)
                    if wrong:
                        return report
    return report


def _fork(kind: str, place: Place, leave: Callable[[int], object]) -> list[str]:
    with place.catalog() as catalog:
        parent = Worker(place, "parent")
        parent.steps(catalog, STEPS)
        with state(kind, catalog, place):

            def child() -> list[str]:
                storage._open.clear()
                worker = Worker(place, "child")
                worker.steps(catalog, STEPS)
                wrong = worker.findings(catalog) + parent.findings(catalog)
                if kind == "forked":
                    wrong += in_fork(lambda: Worker(place, "grandchild").findings(catalog), os._exit)
                return wrong

            wrong = in_fork(child, leave)
            parent.steps(catalog, STEPS)
        wrong += parent.findings(catalog)
        wrong += unsound(catalog, place)
    with place.catalog() as catalog:
        return wrong + parent.findings(catalog)


def clock(rounds: int) -> Report:
    """Let the wall clock jump, forth and back by years, while work goes on; NoCompilerError."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, preloaded(Path(name)) as environment:
        printed = run_child("tools.faults.circumstances", [name, str(rounds)], environment)
    return msgspec.json.decode(printed, type=Report)


def _clock(folder: Path, rounds: int) -> Report:
    report, shim = Report("clock"), Shim()
    worker = Worker(Place(folder / "place"), "clock")
    worker.place.folder.mkdir()
    real = time.monotonic()
    with worker.place.catalog() as catalog:
        for _ in range(rounds):
            for jump in JUMPS:
                shim.set_clock(jump)
                worker.steps(catalog, STEPS)
                report.cases += 1
                report.wrong(f"jump {jump}", worker.findings(catalog))
                for record in catalog.iter_records():
                    report.checked += 1
                    if record.updated_at < record.created_at:
                        report.wrong(f"jump {jump}", [f"changed before it was made: {record}"])
                ids = [entry.sequence for entry in catalog.journal()]
                if ids != sorted(set(ids)):
                    report.wrong(f"jump {jump}", ["the journal is out of order"])
        shim.set_clock(0)
        report.wrong("at the end", unsound(catalog, worker.place))
    if time.monotonic() - real > HANG_SECONDS * rounds:
        report.wrong("at the end", ["somebody waited for the clock"])
    return report


def stale_readers(rounds: int) -> Report:
    """Kill readers inside their snapshots: others write on, the file does not grow for it, and slots come back."""
    report = Report("stale readers")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        place = Place(Path(name))
        with place.catalog() as catalog:
            Worker(place, "readers").steps(catalog, STEPS)
        for number in range(rounds):
            readers = [_held_snapshot(place) for _ in range(READERS)]
            with place.catalog() as catalog:
                for reader in readers:
                    os.kill(reader, signal.SIGKILL)
                    os.waitpid(reader, 0)
                worker = Worker(place, f"round {number}")
                worker.steps(catalog, STEPS)
                report.cases += len(readers)
                cleared = catalog._environment.clear_stale_readers()
                report.count("slots given back", cleared)
                if cleared != len(readers):
                    report.wrong(f"round {number}", [f"{cleared} of {len(readers)} slots were given back"])
                report.wrong(f"round {number}", worker.findings(catalog) + unsound(catalog, place))
                before = catalog._environment.file_figures()[1]
                _rewrite(catalog)
                grown = catalog._environment.file_figures()[1] - before
                report.checked += 1
                if grown > MAP_BYTES:
                    report.wrong(f"round {number}", [f"dead readers made the file grow by {grown} bytes"])
    return report


def _rewrite(catalog: LmdbCatalog) -> None:
    record = next(catalog.iter_records())
    for count in range(100):
        catalog.update(record.id, content_type=f"text/{count}")
    catalog.update(record.id, content_type=record.content_type)


def _held_snapshot(place: Place) -> int:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        catalog = open_catalog(place.path)
        with catalog.snapshot():
            os.write(writing, b"!")
            signal.pause()
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    return child


def map_growth(rounds: int) -> Report:
    """Begin with a map of a megabyte in several processes that fill it and make it grow at the same time."""
    report = Report("map growth")
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            path = Path(name, "catalog")
            open_catalog(CatalogConfig(path=str(path), map_size_bytes=MAP_BYTES)).close()
            wrong = _together([partial(_grow, path, each) for each in range(GROWING_PROCESSES)])
            report.wrong(f"round {number}", wrong)
            with open_catalog(path) as catalog:
                count = sum(1 for _ in catalog.iter_records())
                report.checked += count
                report.cases += GROWING_PROCESSES
                if count != GROWING_PROCESSES * GROWING_RECORDS:
                    report.wrong(f"round {number}", [f"{count} records of {GROWING_PROCESSES * GROWING_RECORDS}"])
    return report


def _together(works: list[Callable[[], list[str]]]) -> list[str]:
    answers: list[list[str]] = []

    def follow(work: Callable[[], list[str]]) -> None:
        answers.append(in_fork(work, os._exit))

    threads = [threading.Thread(target=follow, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [finding for answer in answers for finding in answer]


def _grow(path: Path, process: int) -> list[str]:
    chance = random.Random(process)
    keys = [(f"process {process} {number}", "https://e.example/" + "u" * 200, "r") for number in range(GROWING_RECORDS)]
    with open_catalog(CatalogConfig(path=str(path), map_size_bytes=MAP_BYTES)) as catalog:
        waiting = [RegistrationRequest(**fields(key, Work(1))) for key in keys]
        while waiting:
            count = chance.randrange(1, 200)
            batch, waiting = waiting[:count], waiting[count:]
            list(catalog.register_many(batch))
            known = catalog.get(artifact_id=keys[0][0], source_url=keys[0][1], resolver="r")
            if known is None:
                return ["what was registered is not there"]
    return []


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_clock(Path(sys.argv[1]), int(sys.argv[2]))))
