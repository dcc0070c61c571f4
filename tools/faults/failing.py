"""Let the Nth system call of each call of the library fail, from the first on until none is left that could.

In the same way the disk is full at each of its pages, or only to be read, and the root is not there (`surroundings`).
What comes of it must be a typed error (or success, where the call is not needed), rows as before or as after and
nothing in between, a catalog that works on at once, no descriptor left open, and no scrap of a file once the call was
repeated.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from kvcatalog import storage
from kvcatalog.errors import CatalogError, NotFoundError
from tools.faults.calls import CALLS, CORRUPT, Catalog, facts, names_below, prepare
from tools.faults.copies import taken_for_originals
from tools.faults.planting import plant
from tools.faults.report import Report
from tools.faults.shim import Shim, name_of, preloaded, run_child
from tools.faults.surroundings import FullDisk, MissingRoot, ReadOnlyDisk, Source, mounted
from tools.faults.workload import Place, digest_of, unsound

HANG_SECONDS = 120

EVERY_FAULT: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("write", (errno.EIO, errno.ENOSPC, 0)),
    ("sync", (errno.EIO, errno.ENOSPC)),
    ("open", (errno.EIO, errno.EMFILE, errno.EACCES)),
    ("link", (errno.EIO, errno.ENOSPC, errno.EACCES)),
    ("rename", (errno.EIO, errno.ENOSPC, errno.EACCES)),
    ("unlink", (errno.EIO, errno.EACCES)),
    ("mkdir", (errno.EIO, errno.ENOSPC, errno.EACCES)),
    ("read", (errno.EIO,)),
)
SHORT_FAULTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("write", (errno.ENOSPC,)),
    ("sync", (errno.EIO,)),
    ("link", (errno.EACCES,)),
    ("open", (errno.EMFILE,)),
)


SOURCES: dict[str, Callable[[Path], Source]] = {
    "": lambda _: Shim(),
    "full disk": FullDisk,
    "read-only disk": ReadOnlyDisk,
    "missing root": MissingRoot,
}


class Job(Struct, frozen=True):
    """What a child is to do."""

    folder: str
    calls: tuple[str, ...]
    faults: tuple[tuple[str, tuple[int, ...]], ...]
    mistake: str = ""
    surroundings: str = ""


class Trial:
    """One call of the library, tried with every fault; `template` is a copy of the place that it begins with."""

    def __init__(self, name: str, place: Place, template: Path, report: Report, source: Source) -> None:
        self.name, self.call = name, CALLS[name]
        self.place, self.template = place, template
        self.report, self.source = report, source
        self.begin()
        self.before = self.state(None)
        self.attempt(None)
        self.after = self.state(None)
        self.names = names_below(place.folder)

    def begin(self) -> None:
        """Put everything back as it was."""
        storage._open.clear()
        gc.collect(0)
        shutil.rmtree(self.place.folder, ignore_errors=True)
        shutil.copytree(self.template, self.place.folder)
        Path(self.place.path, "lock.mdb").unlink()  # so that opening makes it

    def attempt(self, catalog: Catalog) -> None:
        """Make the call, on a catalog of its own where none is given."""
        if catalog is not None or self.call.opens:
            self.call.make(self.place, catalog)
        else:
            with self.place.catalog() as own:
                self.call.make(self.place, own)

    def state(self, catalog: Catalog) -> list[object]:
        """Return what all catalogs of the place hold."""
        other = Place(self.place.folder / "other")
        with ExitStack() as stack:
            found = facts(catalog or stack.enter_context(self.place.catalog()), ids=self.call.whole)
            if (other.folder / "catalog").exists():
                found += facts(stack.enter_context(other.catalog()), ids=self.call.whole)
            return found

    def run(self, faults: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        for kind, codes in faults:
            for code in codes:
                for forever in (False, True) if kind in {"write", "sync"} and code else (False,):
                    number = 1
                    while self.one(kind, code, number, forever=forever):
                        number += 1

    def one(self, kind: str, code: int, number: int, *, forever: bool) -> bool:
        """Let one fault happen and look at what comes of it; False if there was none any more."""
        self.begin()
        signal.alarm(HANG_SECONDS)
        where = f"{self.name}: {kind} {number}{' and all after it' if forever else ''}, {name_of(code)}"
        descriptors = open_files()
        with ExitStack() as stack:
            opens = self.call.opens or self.source.opens_late
            catalog = None if opens else stack.enter_context(self.place.catalog())
            failure: Exception | None = None
            self.source.arm(kind, number, code, forever=forever)
            try:
                self.attempt(catalog)
            except Exception as error:  # noqa: BLE001 - which it is is what is looked at
                failure = error
            if not self.source.disarm(failed=failure is not None):
                return False
            self.report.cases += 1
            self.report.count("refused" if failure is not None else "went on")
            self.report.wrong(where, self.findings(catalog, failure, kind))
            failure = None  # its traceback holds on to what was open
        storage._open.clear()
        gc.collect()
        left = open_files() - descriptors
        with self.place.catalog() as again:
            if not self.call.opens and self.state(again) != self.after:
                self.report.wrong(where, ["opened again it holds something else"])
            self.report.wrong(where, self.damage(again))
        self.report.wrong(where, [f"left open: {each}" for each in left])
        return True

    def findings(self, catalog: Catalog, failure: Exception | None, kind: str) -> list[str]:
        found = []
        if failure is not None and not isinstance(failure, CatalogError):
            found.append(f"an error of its own: {type(failure).__name__}: {failure}")
        if failure is None and kind == "sync" and not self.call.tells:
            found.append("a flush failed, and nobody heard of it")
        try:
            state = self.state(catalog)
            if failure is None and state != self.after and not self.call.tells:
                found.append("it returned, and its change is not there")
            if self.call.whole and state not in (self.before, self.after):
                found.append(f"neither as before nor as after, {type(failure).__name__}")
            self.report.checked += len(state)
            try:
                self.attempt(catalog)
            except NotFoundError:
                if self.call.again or state != self.after:
                    raise
            if self.state(catalog) != self.after:
                found.append("called again, it does something else")
        except CatalogError as error:
            found.append(f"unusable afterwards: {type(error).__name__}: {error}")
        # What cannot be removed stays.
        scraps = names_below(self.place.folder) - self.names if kind != "unlink" else set()
        return [*found, *(f"left behind: {scrap}" for scrap in sorted(scraps))]

    def damage(self, catalog: Catalog) -> list[str]:
        """Return what is not sound but for the blob that is corrupt from the start."""
        assert catalog is not None
        found = unsound(catalog, self.place)
        return [each for each in found if digest_of(CORRUPT)[2:] not in each and "paper.pdf" not in each]


def open_files() -> set[tuple[str, str]]:
    """Return the descriptors of this process and what they lead to."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


@taken_for_originals()
def work(job: Job) -> Report:
    """Try calls with faults; this is the child."""
    logging.disable()
    gc.freeze()  # what is imported need not be gone through after each case
    report = Report("failing calls")
    for name in job.calls:
        folder = Path(job.folder, name.replace(" ", "-"))
        source = SOURCES[job.surroundings](folder if job.surroundings == "missing root" else Path(job.folder))
        place = Place(folder, CALLS[name].layout)
        folder.mkdir()
        prepare(place)
        template = Path(f"{folder}.template")
        folder.rename(template)
        if not report.cases:
            plant(job.mistake)
        trial = Trial(name, place, template, report, source)
        trial.run(job.faults)
        signal.alarm(0)
        shutil.rmtree(folder)
        shutil.rmtree(template)
    return report


def run(
    calls: Iterable[str] = tuple(CALLS),
    *,
    faults: tuple[tuple[str, tuple[int, ...]], ...] = EVERY_FAULT,
    mistake: str = "",
) -> Report:
    """Let system calls fail, in a child; NoCompilerError."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, preloaded(Path(name)) as environment:
        return _in_child(Job(name, tuple(calls), faults, mistake), environment)


def run_surroundings(
    what: str, calls: Iterable[str] = tuple(CALLS), *, disk: str = "tmpfs", mistake: str = ""
) -> Report:
    """Put up a fault of the surroundings (a name of SOURCES), in a child; NoMountError."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, mounted(Path(name), disk) as folder:
        job = Job(str(folder), tuple(calls), ((what, (errno.ENOSPC,)),), mistake, surroundings=what)
        return _in_child(job, dict(os.environ))


def _in_child(job: Job, environment: dict[str, str]) -> Report:
    started = time.monotonic()
    printed = run_child("tools.faults.failing", [msgspec.json.encode(job).decode()], environment)
    report = msgspec.json.decode(printed, type=Report)
    report.harness = job.surroundings or report.harness
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(work(msgspec.json.decode(sys.argv[1], type=Job))))
