"""Kill processes that work on a catalog and its blobs, again and again, and hold what is left against what they knew.

Several processes with several threads do random work (`workload`); two of their threads collect garbage meanwhile.
Each thread notes outside what it begins and what it was answered. At random moments one process, then all get SIGKILL.
Then the audit has nothing to say, all that was acknowledged is there, and of what was not either all or nothing.

What was written but not flushed survives SIGKILL, so a missing flush cannot be seen here; `replay` is what sees that.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kvcatalog import storage
from kvcatalog.audit import audit_blobs
from kvcatalog.errors import CatalogLockedError
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.collecting import Collector
from tools.faults.calls import collect_once
from tools.faults.planting import plant
from tools.faults.report import Report
from tools.faults.workload import Key, Place, Step, Work, Workload, carry_out, differences, found, unsound

CYCLES_IN_ONE_PLACE = 10
LIFE_SECONDS_MAX = 0.4
PAUSE_SECONDS = 0.002
START_SECONDS_MAX = 30.0


def work(place: Place, cycle: int, process: int, threads: int, mistake: str) -> None:
    """Work until killed; this is a child."""
    plant(mistake)
    threading.excepthook = fail
    with place.catalog() as catalog:
        names = [f"{cycle}-{process}-{number}" for number in range(threads)]
        each = [threading.Thread(target=work_in_thread, args=(place, catalog, name)) for name in names]
        if process < 2:
            each.append(threading.Thread(target=collect, args=(place, catalog), kwargs={"bare": bool(process)}))
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()


def fail(failure: threading.ExceptHookArgs) -> None:
    """End the process when one of its threads fails; the parent reports that."""
    sys.__excepthook__(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(1)


def work_in_thread(place: Place, catalog: LmdbCatalog, name: str) -> None:
    workload = Workload(name, 0)
    log = os.open(log_of(place, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        step = workload.next()
        os.write(log, b"b")
        carry_out(step, catalog, place)
        workload.taken(step)
        os.write(log, b"e")


def collect(place: Place, catalog: LmdbCatalog, *, bare: bool) -> None:
    """Take whatever nothing refers to, however young it is; `bare` keeps to the protocol and spares nothing else."""
    collector = Collector(catalog, storage.open_storage(place.config, catalog))
    while True:
        with suppress(CatalogLockedError):
            if bare:
                with catalog.lease(GC_LEASE):
                    for step in collector.steps(*collector.unreferenced()):
                        step()
            else:
                collect_once(place, catalog)
        time.sleep(PAUSE_SECONDS)


def log_of(place: Place, name: str) -> Path:
    return Path(f"{place.folder}.logs", name)


class Killing:
    """The parent of one place; `settled` is what must be there."""

    def __init__(self, place: Place, processes: int, threads: int, chance: random.Random, report: Report) -> None:
        self.place = place
        self.processes, self.threads = processes, threads
        self.chance = chance
        self.report = report
        self.settled: dict[Key, Work] = {}
        self.numbers: dict[str, int] = {}
        place.folder.mkdir()
        Path(f"{place.folder}.logs").mkdir()
        with place.catalog() as catalog:
            storage.open_storage(place.config, catalog)
        storage._open.clear()

    def cycle(self, cycle: int, mistake: str) -> None:
        children = [self.start(cycle, process, mistake) for process in range(self.processes)]
        names = [f"{cycle}-{process}-{number}" for process in range(self.processes) for number in range(self.threads)]
        patience = time.monotonic() + START_SECONDS_MAX
        while not all(log_of(self.place, name).exists() for name in names) and time.monotonic() < patience:
            time.sleep(PAUSE_SECONDS)
        time.sleep(self.chance.random() * LIFE_SECONDS_MAX)
        if self.chance.random() < 0.5:
            self.kill(children.pop(self.chance.randrange(len(children))))
            time.sleep(self.chance.random() * LIFE_SECONDS_MAX / 2)
        for child in children:
            self.kill(child)
        self.report.cases += 1
        self.look(cycle, names)

    def start(self, cycle: int, process: int, mistake: str) -> int:
        child = os.fork()
        if not child:
            try:
                work(self.place, cycle, process, self.threads, mistake)
            finally:
                os._exit(1)
        return child

    def kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        self.report.count("kills")
        if not os.WIFSIGNALED(status):
            self.report.wrong("a child", [f"ended by itself with status {os.waitstatus_to_exitcode(status)}"])

    def look(self, cycle: int, names: list[str]) -> None:
        unsettled: list[Step] = []
        for name in names:
            unsettled += self.read_log(name)
        with self.place.catalog() as catalog:
            # First: opening a root sweeps what is left of staged files, and these are the findings of all.
            where = f"cycle {cycle}"
            self.report.wrong(where, unsound(catalog, self.place))
            works = found(catalog, self.numbers)
            self.report.checked += len(works)
            self.report.wrong(where, differences(works, self.settled, unsettled))
            self.report.wrong(where, halves(works, unsettled))
            self.report.wrong(where, audited(catalog, self.place))
        for step in unsettled:
            for key, _ in step.changes:
                self.settled.pop(key, None)
                if key in works:
                    self.settled[key] = works[key]
        storage._open.clear()

    def read_log(self, name: str) -> list[Step]:
        """Take what a thread was answered for settled, and return what it was at."""
        workload, step = Workload(name, 0), None
        log = log_of(self.place, name)
        for letter in log.read_text() if log.exists() else "":
            if letter == "b":
                step = workload.next()
            elif step is not None:
                workload.taken(step)
                step = None
                self.report.count("acknowledged")
        self.settled.update(workload.works)
        self.numbers.update(workload.numbers)
        return [] if step is None else [step]


def halves(works: dict[Key, Work], unsettled: list[Step]) -> Iterator[str]:
    """Yield the steps of which one part is there and another is not."""
    for step in unsettled:
        if step.atomic and len({works.get(key) == work for key, work in step.changes}) > 1:
            yield f"half of a step is there: {step}"


def audited(catalog: LmdbCatalog, place: Place) -> Iterator[str]:
    """Yield what the audit finds but blobs that nothing refers to."""
    for finding in (*catalog.audit(lambda _done, _total: None), *audit_blobs(catalog, place.config)):
        if finding.kind != "blob unknown":
            yield f"audit: {finding.kind}: {finding.message}"


def run(
    cycles: int,
    *,
    processes: int = 3,
    threads: int = 3,
    layout: str = "cas",
    seed: int = 0,
    mistake: str = "",
    folder: Path | None = None,
) -> Report:
    """Kill for a number of cycles, or until something is wrong."""
    started = time.monotonic()
    report = Report("kills")
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=folder or "/dev/shm") as name:
        for cycle in range(cycles):
            if cycle % CYCLES_IN_ONE_PLACE == 0:
                place = Place(Path(name, str(cycle)), layout)
                killing = Killing(place, processes, threads, chance, report)
            killing.cycle(cycle, mistake)
            if report.violations:
                break
    report.seconds = time.monotonic() - started
    return report
