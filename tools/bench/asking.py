"""Lookups one at a time, and the figures that the catalog keeps where SQLite groups; the store stays in memory."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from tools.bench import contestants
from tools.bench.contestants import Sqlite, catalog_at
from tools.bench.parts import Bench, Row, in_child
from tools.bench.stream import source_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Question = TypeVar("Question")

KINDS = ("key", "id", "sha256", "artifact")
_STATS = (
    "SELECT COUNT(*), SUM(bytes), SUM(sha256 IS NULL) FROM documents",
    "SELECT resolver, COUNT(*), SUM(bytes) FROM documents GROUP BY resolver",
    "SELECT content_type, COUNT(*), SUM(bytes) FROM documents GROUP BY content_type",
)
_GROUPS = "FROM documents WHERE sha256 IS NOT NULL GROUP BY sha256 HAVING COUNT(*) > 1"
_DUPLICATES = f"SELECT sha256, COUNT(*), MIN(bytes) {_GROUPS}"
_DUPLICATE_TOTALS = f"SELECT COUNT(*), SUM(n - 1), SUM((n - 1) * b) FROM (SELECT COUNT(*) n, MIN(bytes) b {_GROUPS})"
_SECONDS = 0.2
_ROUNDS_MAX = 1000


def filled(bench: Bench) -> Path:
    """Fill, once a run, a catalog and a SQLite file with the same records."""
    folder = bench.folder / "filled"
    if not folder.exists():
        folder.mkdir()
        in_child(contestants.fill_catalog, folder, range(bench.records))
        in_child(contestants.fill_sqlite, folder, range(bench.records))
    return folder


def measure_lookups(bench: Bench) -> list[Row]:
    """Return a row for each kind of lookup."""
    folder = filled(bench)
    ours: dict[str, list[float]] = {kind: [] for kind in KINDS}
    sqlite: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(bench.repeats):
        positions = random.Random(turn).choices(range(bench.records), k=bench.lookups)
        for part, samples in ((_catalog_lookups, ours), (_sqlite_lookups, sqlite)):
            for kind, rate in in_child(part, folder, positions).items():
                samples[kind].append(rate)
    return [Row(f"get by {kind}", "lookups/s", ours[kind], "sqlite", sqlite[kind], at_least=3) for kind in KINDS]


def measure_figures(bench: Bench) -> list[Row]:
    """Return the rows of what SQLite has to scan for."""
    folder = filled(bench)
    works = ("stats", "dedup-report, totals", "dedup-report, every group")
    ours: dict[str, list[float]] = {work: [] for work in works}
    sqlite: dict[str, list[float]] = {work: [] for work in works}
    for _ in range(bench.repeats):
        for part, samples in ((_catalog_figures, ours), (_sqlite_figures, sqlite)):
            for work, seconds in zip(works, in_child(part, folder), strict=True):
                samples[work].append(1 / seconds)
    return [Row(work, "answers/s", ours[work], "sqlite, GROUP BY", sqlite[work], at_least=100) for work in works]


def _catalog_lookups(folder: Path, positions: Sequence[int]) -> dict[str, float]:
    with catalog_at(folder) as catalog:
        sources = [source_at(position) for position in positions]
        keys = [{"artifact_id": s.artifact_id, "source_url": s.source_url, "resolver": s.resolver} for s in sources]
        return {
            "key": _rate(lambda key: catalog.get(**key), keys),
            "id": _rate(catalog.get_by_id, [position + 1 for position in positions]),
            "sha256": _rate(catalog.get_by_sha256, [s.sha256.hex() for s in sources]),
            "artifact": _rate(catalog.get_by_artifact, [s.artifact_id for s in sources]),
        }


def _sqlite_lookups(folder: Path, positions: Sequence[int]) -> dict[str, float]:
    store = Sqlite(folder)
    sources = [source_at(position) for position in positions]
    keys = [(s.artifact_id, s.source_url, s.resolver) for s in sources]
    rates = {
        "key": _rate(lambda key: store.rows("artifact_id=? AND source_url=? AND resolver=?", key), keys),
        "id": _rate(lambda number: store.rows("id=?", (number,)), [position + 1 for position in positions]),
        "sha256": _rate(lambda digest: store.rows("sha256=?", (digest,)), [s.sha256.hex() for s in sources]),
        "artifact": _rate(lambda artifact: store.rows("artifact_id=?", (artifact,)), [s.artifact_id for s in sources]),
    }
    store.close()
    return rates


def _rate(ask: Callable[[Question], object], questions: Sequence[Question]) -> float:
    """Ask everything twice, and return questions a second of the second time; each must find something."""
    for question in questions:
        assert ask(question)
    started = time.perf_counter()
    for question in questions:
        ask(question)
    return len(questions) / (time.perf_counter() - started)


def _catalog_figures(folder: Path) -> list[float]:
    with catalog_at(folder) as catalog:
        return [
            _seconds(catalog.stats),
            _seconds(lambda: catalog.stats().duplicate_bytes),
            _seconds(lambda: list(catalog.find_duplicates())),
        ]


def _sqlite_figures(folder: Path) -> list[float]:
    store = Sqlite(folder)
    found = [
        _seconds(lambda: [store.query(statement) for statement in _STATS]),
        _seconds(lambda: store.query(_DUPLICATE_TOTALS)),
        _seconds(lambda: store.query(_DUPLICATES)),
    ]
    store.close()
    return found


def _seconds(ask: Callable[[], object]) -> float:
    """Ask once unmeasured, then again and again for a while, and return seconds for an answer."""
    ask()
    rounds = 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < _SECONDS and rounds < _ROUNDS_MAX:
        ask()
        rounds += 1
    return passed / rounds
