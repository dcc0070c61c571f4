"""What an import did with every line."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from msgspec import Struct

from kvcatalog.models import Outcome

LineClass = Literal[
    "documents", "misses", "failures", "skipped", "attempts", "other_records", "foreign", "blank", "broken"
]
"""Each line is of exactly one class."""

Position = tuple[int, int]
"""The number of a segment, from 0, and of a line in it, from 1."""

_POSITIONS_MAX = 5


class Reason(Struct, frozen=True):
    """How many lines of a class share a reason, and where the first few stand, as `segment:line`."""

    line_class: LineClass
    reason: str
    count: int
    lines: tuple[str, ...]


class Progress(Struct, frozen=True):
    """How far an import is; `bytes_total` is None where it cannot be known (standard input).

    `hashed_files` and `hashed_bytes` tell what was read of the files that lines name.
    """

    lines: int
    bytes_read: int
    bytes_total: int | None
    hashed_files: int = 0
    hashed_bytes: int = 0


class ImportReport(Struct, frozen=True, kw_only=True):
    """What an import did; the nine line classes add up to `lines`, and the four outcomes to `documents`.

    documents       lines about a stored document that is now in the catalog
    misses          results that found nothing
    failures        other results that stored nothing, by classification
    skipped         successes that say too little, or whose file is missing with `require_files`
    attempts        how results came about
    other_records   further record types of the pipeline
    foreign         lines of other tools
    broken          lines that were not understood; `understood` is False if there are any

    `existing` includes the lines that were matched to a document instead of being registered. `sightings` counts lines
    of one run about a document of another, whether or not the catalog knew. `missing_files` counts documents in the
    catalog whose file was not found, `unhashed_files` files that were to be hashed and could not be read.
    `passed_over` names the files of a folder that add nothing: side files of a run whose lines were read, and files
    that turned out to be no manifest. `reasons` has every line that is no document exactly once; `notes` tell what was
    dropped from, or odd about, those that are.
    """

    segments: tuple[str, ...]
    passed_over: tuple[str, ...]
    dry_run: bool
    understood: bool
    lines: int
    documents: int
    misses: int
    failures: int
    skipped: int
    attempts: int
    other_records: int
    foreign: int
    blank: int
    broken: int
    registered: int
    existing: int
    enriched: int
    conflicts: int
    variants_registered: int
    variants_existing: int
    variants_enriched: int
    variants_conflicting: int
    variants_left_out: int
    sightings: int
    missing_files: int
    dropped_digests: int
    hashed_files: int
    unhashed_files: int
    reasons: tuple[Reason, ...]
    notes: tuple[Reason, ...]


class Tally:
    """Counts lines while an import runs; reasons come from fixed sets of words, so memory stays bounded."""

    def __init__(self) -> None:
        self.lines = 0
        self.figures: Counter[str] = Counter()
        self._classes: Counter[LineClass] = Counter()
        self._reasons: dict[tuple[LineClass, str], _Count] = {}
        self._notes: dict[str, _Count] = {}

    def document(self, outcome: Outcome) -> None:
        """Count a line as a document, and what its registration did."""
        self._classes["documents"] += 1
        self.figures[outcome] += 1

    def other(self, line_class: LineClass, reason: str, position: Position) -> None:
        """Count a line that is no document, with its reason."""
        self._classes[line_class] += 1
        count = self._reasons.get((line_class, reason))
        if count is None:
            count = self._reasons[line_class, reason] = _Count()
        count.add(position)

    def note(self, reason: str, position: Position) -> None:
        """Count something about a document's line."""
        count = self._notes.get(reason)
        if count is None:
            count = self._notes[reason] = _Count()
        count.add(position)

    def report(self, *, segments: tuple[str, ...], passed_over: tuple[str, ...], dry_run: bool) -> ImportReport:
        """Return what was counted."""
        figure = self.figures
        return ImportReport(
            segments=segments,
            passed_over=passed_over,
            dry_run=dry_run,
            understood=not self._classes["broken"],
            lines=self.lines,
            **{name: self._classes[name] for name in get_args(LineClass)},
            registered=figure["registered"],
            existing=figure["existing"],
            enriched=figure["enriched"],
            conflicts=figure["conflict"],
            variants_registered=figure["variant-registered"],
            variants_existing=figure["variant-existing"],
            variants_enriched=figure["variant-enriched"],
            variants_conflicting=figure["variant-conflict"],
            variants_left_out=figure["variant-left-out"],
            sightings=figure["sighting"],
            missing_files=self._noted("file-missing"),
            dropped_digests=self._noted("digest-dropped"),
            hashed_files=figure["hashed"],
            unhashed_files=figure["unhashed"],
            reasons=tuple(
                Reason(line_class, reason, count.count, count.labels(segments))
                for (line_class, reason), count in sorted(self._reasons.items())
            ),
            notes=tuple(
                Reason("documents", reason, count.count, count.labels(segments))
                for reason, count in sorted(self._notes.items())
            ),
        )

    def _noted(self, reason: str) -> int:
        return self._notes[reason].count if reason in self._notes else 0


class _Count:
    """A count, and the first positions: what a batch writes is not counted in the order of its lines."""

    def __init__(self) -> None:
        self.count = 0
        self.positions: list[Position] = []

    def add(self, position: Position) -> None:
        self.count += 1
        if len(self.positions) < _POSITIONS_MAX:
            self.positions.append(position)
            self.positions.sort()
        elif position < self.positions[-1]:
            self.positions[-1] = position
            self.positions.sort()

    def labels(self, segments: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{segments[segment]}:{number}" for segment, number in self.positions)
