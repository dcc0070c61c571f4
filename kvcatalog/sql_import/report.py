"""What an import did with every row."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

_SHOWN = 5


class Refusal(Struct, frozen=True):
    """How many rows of a table could not be imported for one reason, and which were the first few (by their id)."""

    table: str
    reason: str
    count: int
    rows: tuple[str, ...]


class SqlImportReport(Struct, frozen=True, kw_only=True):
    """What an import did; the outcomes and what was refused add up to the rows of the source.

    `kept_ids` tells whether rows came in as they are, with their ids, or were registered anew. `documents` counts those
    that stand in the catalog now: `registered` ones, and `existing`, `enriched` and `conflicts` where something stood
    under their keys. The others count rows that are in the catalog now, whether they were before or not; `left_out`
    counts rows of the journal and of roots, which only a catalog that has nothing else in their place takes.
    """

    source: str
    format: str
    kept_ids: bool
    documents: int
    registered: int
    existing: int
    enriched: int
    conflicts: int
    variants: int
    sightings: int
    kept_conflicts: int
    links: int
    roots: int
    journal: int
    left_out: int
    refused: int
    refusals: tuple[Refusal, ...]


class Tally:
    """Counts rows while an import runs."""

    def __init__(self) -> None:
        self.figures: Counter[str] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], list[str]] = {}

    def refuse(self, table: str, reason: str, row: object) -> None:
        """Count a row that cannot be imported."""
        self._refused[table, reason] += 1
        first = self._first.setdefault((table, reason), [])
        if len(first) < _SHOWN:
            first.append(str(row))

    def report(self, source: str, form: str, *, kept_ids: bool) -> SqlImportReport:
        """Return what was counted."""
        names = set(SqlImportReport.__struct_fields__) - {"source", "format", "kept_ids", "refused", "refusals"}
        return SqlImportReport(
            source=source,
            format=form,
            kept_ids=kept_ids,
            refused=self._refused.total(),
            refusals=tuple(
                Refusal(table, reason, count, tuple(self._first[table, reason]))
                for (table, reason), count in sorted(self._refused.items())
            ),
            **{name: self.figures[name] for name in names},
        )
