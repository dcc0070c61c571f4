"""Record what a file system writes to its disk while a catalog and its blobs are worked on, and open what may be left.

This is the whole of it: the journal of the file system, its folders, the blobs and the database, as one disk. Each
state is mounted, which replays the journal, opened, and held against what was acknowledged by then (`replay`).
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kvcatalog import storage
from tools.faults.block_device import Disk, Recorder, events, recorded_device
from tools.faults.disk import Change
from tools.faults.replay import RebuiltDisk, Replay, record
from tools.faults.report import Report
from tools.faults.shim import run_child
from tools.faults.surroundings import NoMountError, run
from tools.faults.workload import Place

SIZES = {"ext4": 32 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-K"),
    "btrfs": ("mkfs.btrfs", "-q", "-K"),
}
STATES_AT_ONCE = 100
"""Of one recording."""

_OPTIONS = {"ext4": "loop", "xfs": "loop,nouuid", "btrfs": "loop"}


class FileSystemReplay(Replay):
    """Mounts each state where the file system lay when it was recorded."""

    def __init__(self, place: Place, seed: int, report: Report, *, kind: str, states_max: int, every: int = 1) -> None:
        super().__init__(place, seed, report, states_max=states_max, every=every)
        self.kind = kind

    def open(self, disk: RebuiltDisk, kept: list[Change], kind: str) -> None:
        """Write a state out, mount it, and look at it."""
        mount = self.place.folder.parent
        image = mount.with_name("image")
        disk.write_out(kept, image)
        try:
            run("mount", "-o", _OPTIONS[self.kind], str(image), str(mount))
        except NoMountError as error:
            self.report.wrong(f"{kind} at moment {self.moment}", [str(error)])
            return
        try:
            self.look(disk, kind)
        finally:
            storage._open.clear()  # it holds the root open
            gc.collect()
            run("umount", str(mount))


class _Counting(Replay):
    """Counts the states."""

    def open(self, disk: RebuiltDisk, kept: list[Change], kind: str) -> None:
        """Open nothing."""


def run_all(states: int, *, steps: int, seed: int, mistake: str = "") -> Iterator[Report]:
    """Try so many states, in turn on each file system that can be had here, under both layouts; NoMountError."""
    kinds = [kind for kind in SIZES if shutil.which(_MAKE[kind][0])]
    if not kinds:
        raise NoMountError("there is no program that makes a file system")
    number = 0
    while states > 0:
        kind, layout = kinds[number % len(kinds)], ("cas", "policy_path")[number // len(kinds) % 2]
        wanted = min(states, STATES_AT_ONCE)
        report = try_states(wanted, kind=kind, steps=steps, seed=seed + number, layout=layout, mistake=mistake)
        states, number = states - report.cases, number + 1
        yield report


def try_states(states: int, *, kind: str, steps: int, seed: int, layout: str = "cas", mistake: str = "") -> Report:
    """Record one child's work and try so many states, evenly spread over it; NoMountError."""
    started = time.monotonic()
    report = Report(f"disk {kind}")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        log, mount = Path(name, "log"), Path(name, "mount")
        mount.mkdir()
        place = Place(mount / "place", layout)
        arguments = [str(place.folder), layout, str(log), str(seed), str(steps), mistake]
        begin = _record(Path(name), mount, log, kind, arguments)
        counts = Report("")
        for every, replay in (
            (1, _Counting(place, seed, counts, states_max=sys.maxsize)),
            (0, FileSystemReplay(place, seed, report, kind=kind, states_max=states)),
        ):
            replay.every = every or max(1, counts.cases // states)
            disk, recorded = Disk(SIZES[kind]), list(events(log))
            for event in recorded[:begin]:
                disk.take(event)
            disk.flush()
            replay.run(disk, recorded[begin:])
    report.seconds = time.monotonic() - started
    return report


def _record(folder: Path, mount: Path, log: Path, kind: str, arguments: list[str]) -> int:
    """Let a child work on a new file system; returns how many events came before that."""
    with recorded_device(folder, SIZES[kind], log) as device:
        run(*_MAKE[kind], device)
        run("mount", device, str(mount))
        try:
            Path(arguments[0]).mkdir()
            run("sync", "-f", str(mount))
            begin = sum(1 for _ in events(log))
            run_child("tools.faults.file_systems", arguments, dict(os.environ))
            end = log.read_bytes()
        finally:
            run("umount", str(mount))
    log.write_bytes(end)  # without what unmounting makes durable
    return begin


if __name__ == "__main__":
    record(
        Place(Path(sys.argv[1]), sys.argv[2]),
        int(sys.argv[4]),
        int(sys.argv[5]),
        sys.argv[6],
        Recorder(Path(sys.argv[3])),
    )
