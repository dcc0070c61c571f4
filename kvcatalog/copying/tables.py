"""What a copy takes along, in the order in which it can be stored: rows as a snapshot gives them, and as records."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from typing import Any

from msgspec import Struct

from kvcatalog import sql_rows
from kvcatalog.store.protocol import CatalogSnapshot, Restorable

Row = Any
"""A flat row, or a record where a snapshot gives those; equal to itself only, and hashable."""


class Table(Struct, frozen=True):
    """One kind of rows; `key` tells which one a row is, whatever else it says."""

    name: str
    batches: Callable[[CatalogSnapshot], Iterator[list[Row]]]
    entry: Callable[[Row], Restorable]
    key: Callable[[Row], Hashable]

    def rows(self, snapshot: CatalogSnapshot) -> Iterator[Row]:
        """Yield the rows, in an order that is the same in every catalog with the same roots."""
        return chain.from_iterable(self.batches(snapshot))


def _first(row: Row) -> Hashable:
    return row[0]  # type: ignore[no-any-return]


def _two(row: Row) -> Hashable:
    return row[:2]  # type: ignore[no-any-return]


TABLES = (
    Table("roots", lambda snapshot: iter([snapshot.roots()]), sql_rows.root, _first),
    Table("documents", lambda snapshot: snapshot.documents(), sql_rows.document, _first),
    Table("variants", lambda snapshot: snapshot.variants(), sql_rows.variant, _first),
    Table("sightings", lambda snapshot: snapshot.sightings(), sql_rows.sighting, _two),
    Table("conflicts", lambda snapshot: snapshot.conflicts(), sql_rows.conflict, lambda row: row[:5]),
    Table("links", lambda snapshot: snapshot.links(), sql_rows.link, _two),
    Table("journal", lambda snapshot: snapshot.journal(), sql_rows.entry, _first),
    Table("holds", lambda snapshot: iter([snapshot.holds()]), lambda hold: hold, lambda hold: hold.id),
    Table("checks", lambda snapshot: snapshot.checks(), lambda check: check, lambda check: check.storage_uri),
)
