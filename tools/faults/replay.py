"""Record what a catalog and its blobs write, and open every state in which a crash of the machine may leave them.

A child does random work (`workload`) while shim.c records it, from the making of the catalog on. Before each flush, and
whenever a step was answered, everything that is not durable yet may have been kept in part (`disk`): each such state is
written out, opened, and held against what was acknowledged by then.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from kvcatalog.errors import CatalogError
from tools.faults.copies import taken_for_originals
from tools.faults.disk import Change, Disk, Event, events
from tools.faults.planting import plant
from tools.faults.report import Report
from tools.faults.shim import Shim, preloaded, run_child
from tools.faults.workload import Place, Step, Workload, carry_out, differences, found, unsound

USED_EVERY = 16
"""One state in so many is worked on after it was looked at."""


class Marker(Protocol):
    """Writes into a record where steps begin and end."""

    def mark(self, number: int, *, begun: bool) -> None:
        """Note that a step begins, or that it was answered."""
        ...


def record(place: Place, seed: int, steps: int, mistake: str, marker: Marker) -> None:
    """Do the work; this is the child."""
    plant(mistake)
    workload = Workload("recorded", seed)
    with place.catalog() as catalog:
        for number in range(steps):
            step = workload.next()
            marker.mark(number, begun=True)
            carry_out(step, catalog, place)
            workload.taken(step)
            marker.mark(number, begun=False)


class RebuiltDisk(Protocol):
    """What was recorded, as a crash may leave it."""

    pending: list[Change]

    def take(self, event: Event) -> None:
        """Take what was recorded next."""
        ...

    def crashes(self, chance: random.Random) -> Iterator[tuple[str, list[Change]]]:
        """Yield kinds of states, and what of the pending changes each has kept."""
        ...

    def write_out(self, kept: list[Change], place: Path) -> None:
        """Write a state out."""
        ...


class Replay:
    """Goes through a record and tries every crash; `settled` is what was acknowledged, `unsettled` what may be there.

    With relaxed durability the last step that was acknowledged is unsettled, too. One state in `every` is opened.
    """

    def __init__(self, place: Place, seed: int, report: Report, *, states_max: int, every: int = 1) -> None:
        self.place = place
        self.every = every
        self.report = report
        self.states_max = states_max
        self.workload = Workload("recorded", seed)
        self.chance = random.Random(seed)
        self.unsettled: list[Step] = []
        self.settled = dict(self.workload.works)
        self.tried: set[tuple[object, ...]] = set()
        self.moment = 0

    @taken_for_originals()
    def run(self, disk: RebuiltDisk, recorded: Iterable[Event]) -> None:
        for event in recorded:
            if event.kind == "b":
                self.unsettled.append(self.workload.next())
                continue
            if event.kind == "s" or event.synchronous:
                self.crash(disk)
                self.moment += 1
            if event.kind == "e":
                self.acknowledged()
                self.crash(disk)
            else:
                disk.take(event)
        self.crash(disk)

    def acknowledged(self) -> None:
        step = self.unsettled[-1]
        changes = any(self.workload.works.get(key) != work for key, work in step.changes)
        before = dict(self.workload.works)
        self.workload.taken(step)
        if self.place.durability == "full" or not changes:
            self.unsettled.pop()
        else:
            self.unsettled, self.settled = [step], before
        if self.place.durability == "full":
            self.settled = dict(self.workload.works)
        self.moment += 1

    def crash(self, disk: RebuiltDisk) -> None:
        for kind, kept in disk.crashes(self.chance):
            state = (self.moment, *((id(each.of), each.kind, each.name, each.offset, len(each.data)) for each in kept))
            if state not in self.tried and self.report.cases < self.states_max:
                self.tried.add(state)
                if len(self.tried) % self.every == 0:
                    self.report.cases += 1
                    self.report.count(kind)
                    self.open(disk, kept, kind)

    def open(self, disk: RebuiltDisk, kept: list[Change], kind: str) -> None:
        """Write a state out and look at it."""
        disk.write_out(kept, self.place.folder)
        self.look(disk, kind)

    def look(self, disk: RebuiltDisk, kind: str) -> None:
        """Hold what is there against what must be."""
        where = f"{kind} of {len(disk.pending)} pending at moment {self.moment}"
        try:
            with self.place.catalog() as catalog:
                works = found(catalog, self.workload.numbers)
                self.report.checked += len(works)
                self.report.wrong(where, differences(works, self.settled, self.unsettled))
                self.report.wrong(where, unsound(catalog, self.place))
                if self.report.cases % USED_EVERY == 0:
                    self.work_on(catalog.path)
        except (CatalogError, OSError) as error:
            self.report.wrong(where, [f"{type(error).__name__}: {error}"])

    def work_on(self, path: Path) -> None:
        """See that the state can be used, and is sound after that."""
        workload = Workload("after the crash", self.report.cases)
        with Place(path.parent, self.place.layout, self.place.durability).catalog() as catalog:
            for _ in range(2):
                step = workload.next()
                carry_out(step, catalog, self.place)
                workload.taken(step)
            works = found(catalog, workload.numbers)
            there = {key: work for key, work in works.items() if key[0].startswith("work after")}
            self.report.wrong("used after a crash", differences(there, workload.works, []))
            self.report.wrong("used after a crash", unsound(catalog, self.place))


def run(
    seed: int, *, steps: int, layout: str = "cas", durability: str = "full", mistake: str = "", states_max: int = 10**9
) -> Report:
    """Record one child's work and try what of it may be lost; NoCompilerError."""
    started = time.monotonic()
    report = Report(f"replay {durability[:4]}")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder, log = Path(name, "place"), Path(name, "log")
        folder.mkdir()
        inode = os.stat(folder).st_ino
        with preloaded(folder, log) as environment:
            arguments = [str(folder), layout, durability, str(seed), str(steps), mistake]
            run_child("tools.faults.replay", arguments, environment)
        shutil.rmtree(folder)
        Replay(Place(folder, layout, durability), seed, report, states_max=states_max).run(Disk(inode), events(log))
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    record(Place(Path(sys.argv[1]), *sys.argv[2:4]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6], Shim())
