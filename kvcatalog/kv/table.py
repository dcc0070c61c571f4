"""Sub-databases as values, and the rows of an index computed from what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from msgspec import Struct

Source = TypeVar("Source")


class Table(Struct, frozen=True, eq=False):
    """A sub-database. With `sets`, a key holds an ordered set of values of equal length (eight bytes: ids)."""

    name: str
    sets: bool = False


class Index(Struct, Generic[Source], frozen=True, eq=False):
    """A table that is derived from rows of another: `keys` returns the keys under which a row is found.

    Where a filter may ask it, `field` is the field's name there, and `key_of` returns the key of a value as text.
    """

    table: Table
    keys: Callable[[Source], Iterable[bytes]]
    field: str | None = None
    key_of: Callable[[str], bytes] | None = None


def index_changes(
    indexes: Iterable[Index[Source]], old: Source | None, new: Source | None
) -> tuple[list[tuple[Table, bytes]], list[tuple[Table, bytes]]]:
    """Return the (table, key) pairs to remove and to add when `old` becomes `new`; None stands for no row."""
    removed: list[tuple[Table, bytes]] = []
    added: list[tuple[Table, bytes]] = []
    for index in indexes:
        before = () if old is None else tuple(index.keys(old))
        after = () if new is None else tuple(index.keys(new))
        removed.extend((index.table, key) for key in before if key not in after)
        added.extend((index.table, key) for key in after if key not in before)
    return removed, added
