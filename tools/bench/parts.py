"""What every part of the benchmark shares: its sizes, a child process to run in, and the rows that it gives."""

from __future__ import annotations

import json
import multiprocessing
import platform
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import lmdb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")


@dataclass(frozen=True)
class Bench:
    """Sizes, and the folder for everything that is written."""

    folder: Path
    records: int
    operations: int
    base_records: int
    lookups: int
    growth: tuple[int, int]
    files: int
    repeats: int
    blobs: tuple[int, int] = (64, 16 << 20)


@dataclass(frozen=True)
class Row:
    """Our figure beside a baseline's, a sample of each for every turn; a goal is asked of the ratio."""

    work: str
    unit: str
    ours: list[float]
    baseline: str
    theirs: list[float]
    at_least: float | None = None
    at_most: float | None = None
    extra: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Return ours by theirs, the median of the turns: what disturbs a turn disturbs both sides of it."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def goal(self) -> str:
        """Return what is asked of the ratio."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    @property
    def is_met(self) -> bool | None:
        """Tell whether the goal is met; None where there is none."""
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return None if self.at_most is None else self.ratio <= self.at_most

    def cells(self) -> tuple[str, ...]:
        """Return the row as it is printed."""
        verdict = {True: "met", False: "NOT MET", None: ""}[self.is_met]
        notes = ", ".join(f"{name} {_figure(statistics.median(values))}" for name, values in self.extra.items())
        ours, theirs = (_figure(statistics.median(values)) for values in (self.ours, self.theirs))
        return self.work, self.unit, ours, self.baseline, theirs, f"{self.ratio:.2f}", self.goal, verdict, notes

    def as_json(self) -> dict[str, Any]:
        """Return the row with all its samples."""
        return {
            "work": self.work,
            "unit": self.unit,
            "ours": self.ours,
            "baseline": self.baseline,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "goal": self.goal,
            "met": self.is_met,
            **self.extra,
        }


HEADER = ("work", "unit", "ours", "beside", "its figure", "ratio", "goal", "", "")


def table(rows: list[Row]) -> str:
    """Return the rows in columns."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    numeric = {2, 4, 5}
    lines = (
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def in_child(function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function in a process of its own, so that neither memory nor caches carry over."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def memory_bytes(name: str) -> int:
    """Return a figure of this process from the kernel, such as VmHWM or RssAnon."""
    for line in Path("/proc/self/status").read_text().splitlines():
        label, _, value = line.partition(":")
        if label == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


def machine(folder: Path) -> dict[str, str | int]:
    """Return what the figures depend on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split(maxsplit=2)[1]
    found = subprocess.run(
        ["findmnt", "-J", "-o", "FSTYPE,OPTIONS,SOURCE", "-T", folder], check=False, capture_output=True, text=True
    )
    mount = json.loads(found.stdout)["filesystems"][0] if found.returncode == 0 else {}
    return {
        "cores": len(cpus),
        "processor": cpus[0].partition(": ")[2] if cpus else "",
        "memory_bytes": int(memory) * 1024,
        "file_system": " ".join(mount.get(name, "") for name in ("fstype", "options", "source")).strip(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "lmdb": ".".join(map(str, lmdb.version())),
        "py-lmdb": lmdb.__version__,
        "sqlite": sqlite3.sqlite_version,
    }


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
