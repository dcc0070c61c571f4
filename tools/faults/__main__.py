"""Prove that nothing is lost: every harness in a row, and a table of what they found.

    python -m tools.faults [--long] [--seed N] [HARNESS ...]

Without names all of them run, in a short form of a minute or two; `--long` is the whole proof, which takes hours. Exit
status 1 says that something was wrong, 3 that something could not be tried here: no C compiler, no right to mount.
KVCATALOG_FAULT plants one of the mistakes of `planting`, to show that it is seen; a harness ends at its first find.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

from tools.faults import circumstances, damage, failing, killing, replay
from tools.faults.calls import CALLS
from tools.faults.failing import EVERY_FAULT, SHORT_FAULTS
from tools.faults.planting import VARIABLE, plant
from tools.faults.report import Report, table
from tools.faults.shim import NoCompilerError
from tools.faults.surroundings import NoMountError

MISTAKE = os.environ.get(VARIABLE, "")

QUICK_CALLS = ("create", "register", "register many", "finalize")
"""What the short form tries of the calls of the library."""


def _kills(seed: int, *, long: bool) -> Iterator[Report]:
    # Where a mistake was planted the first finding ends it, and some need luck.
    cycles = 500 if long else 100 if MISTAKE else 4
    for layout in ("cas", "policy_path"):
        yield killing.run(cycles, layout=layout, seed=seed, mistake=MISTAKE)


def _replay(seed: int, *, long: bool) -> Iterator[Report]:
    for durability in ("full", "relaxed"):
        for number, layout in enumerate(("cas", "policy_path") * (6 if long else 1)):
            steps, states = (150, 10**9) if long else (25, 200)
            yield replay.run(
                seed + number, steps=steps, layout=layout, durability=durability, states_max=states, mistake=MISTAKE
            )


def _failing(_: int, *, long: bool) -> Iterator[Report]:
    yield failing.run(CALLS if long else QUICK_CALLS, faults=EVERY_FAULT if long else SHORT_FAULTS, mistake=MISTAKE)


def _surroundings(_: int, *, long: bool) -> Iterator[Report]:
    calls = tuple(CALLS) if long else QUICK_CALLS
    for disk in ("tmpfs", "ext4") if long else ("tmpfs",):
        yield failing.run_surroundings("full disk", calls, disk=disk, mistake=MISTAKE)
    yield failing.run_surroundings("read-only disk", (*calls, "read only"), mistake=MISTAKE)
    with_root = [name for name in calls if name != "adopt root"]  # it is what follows a root that has gone
    yield failing.run_surroundings("missing root", with_root, mistake=MISTAKE)


def _damage(seed: int, *, long: bool) -> Iterator[Report]:
    yield damage.run(10_000 if long else 150, seed=seed, mistake=MISTAKE)


def _circumstances(_: int, *, long: bool) -> Iterator[Report]:
    plant(MISTAKE)
    rounds = 20 if long else 1
    yield circumstances.fork(rounds)
    yield circumstances.clock(rounds)
    yield circumstances.stale_readers(rounds)
    yield circumstances.map_growth(rounds)


HARNESSES: dict[str, Callable[..., Iterator[Report]]] = {
    "kills": _kills,
    "replay": _replay,
    "failing": _failing,
    "surroundings": _surroundings,
    "damage": _damage,
    "circumstances": _circumstances,
}


def run(names: list[str], seed: int, *, long: bool) -> list[Report]:
    """Run harnesses by name, and return a report for each kind of trouble that they made."""
    reports: dict[str, Report] = {}
    for name in names:
        started = time.monotonic()
        try:
            for report in HARNESSES[name](seed, long=long):
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
    return list(reports.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harness", nargs="*", help=", ".join(HARNESSES))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.harness) - HARNESSES.keys():
        parser.error(f"there is no harness {', '.join(unknown)}")
    reports = run(options.harness or list(HARNESSES), options.seed, long=options.long)
    print(table(reports))
    if any(report.violations for report in reports):
        return 1
    return 3 if any(report.not_tried for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
