"""What every form of an export can do with rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kvcatalog.models import CatalogPosition
from kvcatalog.sql_schema import SqlTable
from kvcatalog.store.protocol import FlatRow


class Target(Protocol):
    """Takes the rows of one export, in the order of the calls.

    A whole export is `create`, an `insert` for each table, `finish`. One that brings an earlier export up to date has
    `update` in place of `create`, and `clear`, `delete` and `replace` before the inserts.
    """

    def create(self) -> None:
        """Make the tables."""
        ...

    def update(self, since: CatalogPosition) -> None:
        """Begin to bring tables up to date, and refuse those that are from before a position."""
        ...

    def insert(self, table: SqlTable, batches: Iterable[list[FlatRow]]) -> int:
        """Add rows and return how many there were."""
        ...

    def clear(self, table: SqlTable, above: int | None = None) -> None:
        """Remove all rows, or those whose key is above a number."""
        ...

    def delete(self, table: SqlTable, column: str, numbers: list[int]) -> None:
        """Remove the rows that have one of some numbers in a column."""
        ...

    def replace(self, table: SqlTable, rows: list[FlatRow]) -> None:
        """Add rows, in place of those with the same key."""
        ...

    def finish(self, position: CatalogPosition, *, is_new: bool) -> None:
        """Make the indexes of new tables, set the sequences, and end the transaction."""
        ...
