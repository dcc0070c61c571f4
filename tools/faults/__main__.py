"""Prove that nothing is lost: every harness in a row, and a table of what they found.

    python -m tools.faults [--long] [--seed N] [--cycles N] [--states N] [--files N] … [HARNESS ...]

Without names all of them run, in a short form of a minute or two; `--long` is the whole proof, which takes hours. How
much is tried can be said for each, and the table is printed of a run that is interrupted, too. Exit status 1 says that
something was wrong, 3 that something could not be tried here: no C compiler, no right to mount. KVCATALOG_FAULT plants
one of the mistakes of `planting`, to show that it is seen; a harness ends at its first find.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

from msgspec import Struct, structs

from tools.faults import circumstances, damage, failing, file_systems, killing, model, replay
from tools.faults.calls import CALLS
from tools.faults.failing import EVERY_FAULT, SHORT_FAULTS
from tools.faults.file_systems import STATES_AT_ONCE
from tools.faults.planting import VARIABLE, plant
from tools.faults.report import Report, table
from tools.faults.shim import NoCompilerError
from tools.faults.surroundings import NoMountError

MISTAKE = os.environ.get(VARIABLE, "")

QUICK_CALLS = ("create", "register", "register many", "finalize")
"""What the short form tries of the calls of the library."""


class Extent(Struct, frozen=True):
    """How much is tried: `steps` are those of a workload that is recorded, `long` stands for all calls and faults."""

    cycles: int = 8
    states: int = 800
    disks: int = 12
    steps: int = 25
    files: int = 150
    rounds: int = 1
    examples: int = 3
    long: bool = False


SHORT = Extent()
LONG = Extent(cycles=1000, states=50_000, disks=1000, steps=150, files=10_000, rounds=20, examples=1000, long=True)

FIGURES = ("cycles", "states", "disks", "steps", "files", "rounds", "examples")


CYCLES_AT_ONCE, FILES_AT_ONCE, EXAMPLES_AT_ONCE = 50, 500, 100
"""After so many it is told how far the proof is."""


def _parts(whole: int, part: int) -> Iterator[int]:
    while whole > 0:
        yield min(whole, part)
        whole -= part


def _kills(seed: int, extent: Extent) -> Iterator[Report]:
    # Where a mistake was planted the first finding ends it, and some need luck.
    cycles = 200 if MISTAKE else extent.cycles
    for number, part in enumerate(_parts(cycles, min(CYCLES_AT_ONCE, max(1, cycles // 2)))):
        yield killing.run(part, layout=("cas", "policy_path")[number % 2], seed=seed + number, mistake=MISTAKE)


def _replay(seed: int, extent: Extent) -> Iterator[Report]:
    left = extent.states
    at_once = max(1, left // 4)
    kinds = [(durability, layout) for durability in ("full", "relaxed") for layout in ("cas", "policy_path")]
    while left > 0:
        durability, layout = kinds[seed % len(kinds)]
        report = replay.run(
            seed,
            steps=extent.steps,
            layout=layout,
            durability=durability,
            states_max=min(left, at_once),
            mistake=MISTAKE,
        )
        left -= report.cases
        seed += 1
        yield report


def _disks(seed: int, extent: Extent) -> Iterator[Report]:
    states = STATES_AT_ONCE if MISTAKE else extent.disks
    yield from file_systems.run_all(states, steps=min(extent.steps, 60), seed=seed, mistake=MISTAKE)


def _failing(_: int, extent: Extent) -> Iterator[Report]:
    for calls in _together(extent):
        yield failing.run(calls, faults=EVERY_FAULT if extent.long else SHORT_FAULTS, mistake=MISTAKE)


def _full_disk(_: int, extent: Extent) -> Iterator[Report]:
    for disk in ("tmpfs", "ext4") if extent.long else ("tmpfs",):
        for calls in _together(extent):
            yield failing.run_surroundings("full disk", calls, disk=disk, mistake=MISTAKE)


def _read_only(_: int, extent: Extent) -> Iterator[Report]:
    for calls in (*_together(extent), ("read only",)):
        yield failing.run_surroundings("read-only disk", calls, mistake=MISTAKE)


def _missing_root(_: int, extent: Extent) -> Iterator[Report]:
    for calls in _together(extent):
        if calls != ("adopt root",):  # it is what follows a root that has gone
            yield failing.run_surroundings("missing root", calls, mistake=MISTAKE)


def _together(extent: Extent) -> list[tuple[str, ...]]:
    """Return the calls of the library that are tried, by those that one process tries."""
    return [(name,) for name in CALLS] if extent.long else [QUICK_CALLS]


def _damage(seed: int, extent: Extent) -> Iterator[Report]:
    for number, part in enumerate(_parts(extent.files, FILES_AT_ONCE)):
        yield damage.run(part, seed=seed + number, mistake=MISTAKE)


def _circumstances(_: int, extent: Extent) -> Iterator[Report]:
    plant(MISTAKE)
    yield circumstances.fork(extent.rounds)
    yield circumstances.clock(extent.rounds)
    yield circumstances.stale_readers(extent.rounds)
    yield circumstances.map_growth(extent.rounds)


def _model(seed: int, extent: Extent) -> Iterator[Report]:
    for number, part in enumerate(_parts(100 if MISTAKE else extent.examples, EXAMPLES_AT_ONCE)):
        yield model.run(part, seed=seed + number, mistake=MISTAKE)


HARNESSES: dict[str, Callable[[int, Extent], Iterator[Report]]] = {
    "kills": _kills,
    "replay": _replay,
    "disks": _disks,
    "failing": _failing,
    "full-disk": _full_disk,
    "read-only": _read_only,
    "missing-root": _missing_root,
    "damage": _damage,
    "circumstances": _circumstances,
    "model": _model,
}


def run(names: list[str], seed: int, extent: Extent, reports: dict[str, Report]) -> None:
    """Run harnesses by name, and add to a report for each kind of trouble that they make."""
    for name in names:
        started = time.monotonic()
        try:
            for report in HARNESSES[name](seed, extent):
                report.seconds, started = time.monotonic() - started, time.monotonic()
                if report.harness in reports:
                    reports[report.harness].add(report)
                else:
                    reports[report.harness] = report
                if report.violations:
                    break
                print(f"-- {table([report]).splitlines()[1]}", file=sys.stderr, flush=True)
        except (NoCompilerError, NoMountError) as error:
            reports[name] = Report(name, not_tried=str(error))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harness", nargs="*", help=", ".join(HARNESSES))
    parser.add_argument("--long", action="store_true", help="all of it")
    parser.add_argument("--seed", type=int, default=1)
    for name in FIGURES:
        text = f"{getattr(SHORT, name):,}, with --long {getattr(LONG, name):,}"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    options = parser.parse_args()
    if unknown := set(options.harness) - HARNESSES.keys():
        parser.error(f"there is no harness {', '.join(unknown)}")
    wanted = {name: value for name in FIGURES if (value := getattr(options, name)) is not None}
    extent = structs.replace(LONG if options.long else SHORT, **wanted)
    reports: dict[str, Report] = {}
    status = 0
    try:
        run(options.harness or list(HARNESSES), options.seed, extent, reports)
    except KeyboardInterrupt:
        status = 130
    print(table(reports.values()))
    if any(report.violations for report in reports.values()):
        return 1
    return status or (3 if any(report.not_tried for report in reports.values()) else 0)


if __name__ == "__main__":
    sys.exit(main())
