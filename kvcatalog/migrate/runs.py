"""What a manifest's path stands for: one file, the segments of one, or all runs below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

from msgspec import Struct

from kvcatalog.errors import ManifestError
from kvcatalog.migrate import database, lines, reading, side_files
from kvcatalog.migrate.lines import BrokenLineError
from kvcatalog.migrate.side_files import Row

Kind = Literal["lines", "database", "table", "index"]

_PACKED = r"(?:\.(?:gz|zst|zstd))?"
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("lines", re.compile(rf"(?P<stem>.+)\.jsonl(?:\.\d+)?{_PACKED}", re.ASCII)),
    ("database", re.compile(r"(?P<stem>.+)\.sqlite3?")),
    ("table", re.compile(rf"(?:(?P<stem>.+)\.)?last\.csv{_PACKED}")),
    ("index", re.compile(rf"(?:(?P<stem>.+)\.)?index\.json{_PACKED}")),
)
"""The files of a run, those that say most first; where one is there, the next ones of its run add nothing."""

_USUAL_STEM = "manifest"
_CATALOG_FILE = "data.mdb"
_PROBED_LINES = 100


class Run(Struct, frozen=True):
    """The files of one run in the order in which they were written (None: standard input), and what they are called."""

    files: tuple[Path | None, ...]
    labels: tuple[str, ...]
    kind: Kind


class Runs(Struct, frozen=True):
    """Runs in the order in which they are imported, and the names of files that were passed over."""

    runs: tuple[Run, ...]
    passed_over: tuple[str, ...] = ()


def runs_at(path: Path | None) -> Runs:
    """Return what a path stands for; ManifestError for a folder that holds no manifest or cannot be read.

    A folder stands for every run in it and in the folders below, in the order of their paths. Links to folders are not
    followed, and names that begin with a dot and the folders of catalogs are left out.
    """
    if path is None:
        return Runs((Run((None,), ("-",), "lines"),))
    if path.is_dir():
        return _runs_below(path)
    files = tuple(reading.segments(path))
    return Runs((Run(files, tuple(file.name for file in files), _kind(path)),))


@contextmanager
def rows(
    file: Path | None, kind: Kind, label: str, overlong: Callable[[bytes], object]
) -> Iterator[tuple[Iterator[tuple[int, Row]], Callable[[], int]]]:
    """Open a file of a run for its rows, numbered, and a function for how many of its bytes were read."""
    if kind == "database" and file is not None:
        with database.opened(file) as opened:
            yield opened
        return
    with reading.opened(file) as (stream, position):
        if kind == "table":
            yield side_files.table_rows(stream, label, overlong), position
        elif kind == "index":
            yield side_files.index_rows(stream, label), position
        else:
            yield enumerate(reading.lines(stream, label, overlong), 1), position


def _kind(path: Path) -> Kind:
    if database.is_database(path):
        return "database"
    named = _named(path.name)
    return named[0] if named and named[0] != "database" else "lines"


def _named(name: str) -> tuple[Kind, str] | None:
    for kind, pattern in _NAMES:
        if match := pattern.fullmatch(name):
            return kind, match["stem"] or _USUAL_STEM
    return None


def _runs_below(top: Path) -> Runs:
    runs: list[Run] = []
    passed_over: list[str] = []
    for folder, names in _folders(top):
        prefix = folder.relative_to(top)
        for stem, found in sorted(_by_stem(names).items()):
            chosen: Run | None = None
            for kind, _ in _NAMES:
                files = _ordered(folder, kind, found.get(kind, []))
                labels = tuple(str(prefix / file.name) for file in files)
                if files and chosen is None and _is_manifest(files, kind, stem):
                    chosen = Run(files, labels, kind)
                else:
                    passed_over += labels
            runs += [chosen] if chosen else []
    if not runs:
        raise ManifestError(f"there is no manifest in {top}")
    return Runs(tuple(runs), tuple(passed_over))


def _folders(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders and the names of their files."""

    def fail(error: OSError) -> None:
        raise ManifestError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for folder, folders, names in os.walk(top, onerror=fail):
        if _CATALOG_FILE in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), [name for name in names if not name.startswith(".")]


def _by_stem(names: list[str]) -> dict[str, dict[Kind, list[str]]]:
    stems: dict[str, dict[Kind, list[str]]] = {}
    for name in sorted(names):
        if named := _named(name):
            kind, stem = named
            stems.setdefault(stem, {}).setdefault(kind, []).append(name)
    return stems


def _ordered(folder: Path, kind: Kind, names: list[str]) -> tuple[Path, ...]:
    if kind != "lines" or not names:
        return tuple(folder / name for name in names[:1])
    bare = names[0].rpartition(".jsonl")[0] + ".jsonl"
    return tuple(reading.segments(folder / bare))


def _is_manifest(files: tuple[Path, ...], kind: Kind, stem: str) -> bool:
    """Tell whether files are a manifest; lines under the usual name are taken for one whatever they hold."""
    if kind == "database":
        return database.is_database(files[0]) and database.has_manifests(files[0])
    if kind == "lines" and (stem == _USUAL_STEM or stem.endswith((".manifest", "-manifest", "_manifest"))):
        return True
    try:
        with rows(files[0], kind, files[0].name, lambda _: None) as (found, _):
            return any(_states_a_result(row) for _, row in islice(found, _PROBED_LINES))
    except ManifestError:
        return False


def _states_a_result(row: Row) -> bool:
    if not isinstance(row, bytes) or row.isspace():
        return False
    try:
        line = lines.parse(row)
        if lines.is_foreign(line):
            return False
        if line.record_type in {"attempt", *lines.RECORD_TYPES}:
            return True
        lines.verdict(line)
    except BrokenLineError:
        return False
    return lines.first(line.artifact_id, line.work_id, line.doc_id) is not None
