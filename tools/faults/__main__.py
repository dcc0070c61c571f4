"""Prove that nothing is lost: every harness in a row, and a table of what they found.

    python -m tools.faults [--long] [--seed N] [HARNESS ...]

Without names all of them run, in a short form of a minute or two; `--long` is the whole proof, which takes hours. Exit
status 1 says that something was wrong, 3 that something could not be tried here: no C compiler, no right to mount.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from tools.faults import circumstances, damage, failing, killing, replay
from tools.faults.calls import CALLS
from tools.faults.failing import EVERY_FAULT, SHORT_FAULTS
from tools.faults.report import Report, table
from tools.faults.shim import NoCompilerError
from tools.faults.surroundings import NoMountError

QUICK_CALLS = ("create", "register", "register many", "finalize", "collect garbage")
"""What the short form tries of the calls of the library."""


def _kills(seed: int, *, long: bool) -> Iterator[Report]:
    for layout in ("cas", "policy_path"):
        yield killing.run(500 if long else 4, layout=layout, seed=seed)


def _replay(seed: int, *, long: bool) -> Iterator[Report]:
    for durability in ("full", "relaxed"):
        for number, layout in enumerate(("cas", "policy_path") * (6 if long else 1)):
            steps, states = (150, 10**9) if long else (25, 300)
            yield replay.run(seed + number, steps=steps, layout=layout, durability=durability, states_max=states)


def _failing(_: int, *, long: bool) -> Iterator[Report]:
    yield failing.run(CALLS if long else QUICK_CALLS[:4], faults=EVERY_FAULT if long else SHORT_FAULTS)


def _surroundings(_: int, *, long: bool) -> Iterator[Report]:
    calls = CALLS if long else QUICK_CALLS[:4]
    yield failing.run_surroundings("full disk", calls)
    if long:
        yield failing.run_surroundings("full disk", calls, disk="ext4")
    yield failing.run_surroundings("read-only disk", (*calls, "read only"))
    # Blobs of another root are none of its business.
    yield failing.run_surroundings("missing root", calls)


def _damage(seed: int, *, long: bool) -> Iterator[Report]:
    yield damage.run(10_000 if long else 150, seed=seed)


def _circumstances(_: int, *, long: bool) -> Iterator[Report]:
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
                print(f"-- {table([report]).splitlines()[1]}", file=sys.stderr, flush=True)
        except (NoCompilerError, NoMountError) as error:
            reports[name] = Report(name, not_tried=str(error))
    return list(reports.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harness", nargs="*", choices=[*HARNESSES, []], help=", ".join(HARNESSES))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reports = run(options.harness or list(HARNESSES), options.seed, long=options.long)
    print(table(reports))
    if any(report.violations for report in reports):
        return 1
    return 3 if any(report.not_tried for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
