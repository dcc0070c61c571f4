"""Two streams of rows in one order, held against each other without keeping them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import zip_longest
from typing import TypeVar

Row = TypeVar("Row", bound=Hashable)

WAITING_MAX = 20_000
"""Rows of each side that wait for their like; one that has to go earlier counts as alone."""


def unmatched(ours: Iterable[Row], theirs: Iterable[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Yield each row that only one side has, as (row, None) or (None, row), those of each side in its order.

    Where one side lacks rows, the other runs ahead by as many, which wait until their like comes up. None is no row.
    """
    left: dict[Row, None] = {}
    right: dict[Row, None] = {}
    for our, their in zip_longest(ours, theirs):
        if our == their:
            continue
        _meet(our, left, right)
        _meet(their, right, left)
        # Nobody's like comes up any more once the other side has ended.
        while left and (their is None or len(left) > WAITING_MAX):
            yield _first_of(left), None
        while right and (our is None or len(right) > WAITING_MAX):
            yield None, _first_of(right)
    yield from ((row, None) for row in left)
    yield from ((None, row) for row in right)


def _meet(row: Row | None, same: dict[Row, None], other: dict[Row, None]) -> None:
    """Let a row go together with its like from the other side, or wait for it."""
    if row in other:
        del other[row]
    elif row is not None:
        same[row] = None


def _first_of(rows: dict[Row, None]) -> Row:
    row = next(iter(rows))
    del rows[row]
    return row
