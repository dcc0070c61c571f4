"""The one place that writes rows of the upkeep of blobs: the last check of each, what is condemned, what is held."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from kvcatalog.clock import from_micros
from kvcatalog.custody import Condemned, Hold
from kvcatalog.errors import CatalogError
from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction
from kvcatalog.schema import (
    CHECK_CODEC,
    CHECKS,
    CHECKS_BY_TIME,
    CONDEMNED,
    CONDEMNED_CODEC,
    HOLD_CODEC,
    HOLDS,
    CheckRow,
    CondemnedRow,
    HoldRow,
    id_key,
    id_of,
    location_key,
    time_key,
)
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.roots import RootMap
from kvcatalog.store.tally import BLOB_EPOCH, FORGOTTEN_EPOCH, HOLD_ID, Tally

_TIME_BYTES = 8


def put_check(transaction: WriteTransaction, row: CheckRow) -> None:
    """Remember the last check of a blob in place of the one before, and its turn in the queue."""
    key = location_key(row.root, row.path)
    forget_check(transaction, row.root, row.path)
    transaction.put(CHECKS, key, CHECK_CODEC.encode(key, row))
    transaction.put(CHECKS_BY_TIME, time_key(row.at) + key, b"")


def forget_check(transaction: WriteTransaction, root: int | None, path: str) -> bool:
    """Forget when a blob was checked, as is right once it is gone; False if it never was."""
    key = location_key(root, path)
    value = transaction.get(CHECKS, key)
    if value is None:
        return False
    transaction.delete(CHECKS, key)
    transaction.delete(CHECKS_BY_TIME, time_key(CHECK_CODEC.decode(key, value).at) + key)
    return True


def forget_unreadable_check(transaction: WriteTransaction, key: bytes) -> bool:
    """Forget the check of a location's key that cannot be read, and its turn; False if it can be."""
    value = transaction.get(CHECKS, key)
    try:
        if value is not None:
            CHECK_CODEC.decode(key, value)
    except CatalogError:
        pass
    else:
        return False
    turns = [turn for turn, _ in transaction.items(CHECKS_BY_TIME) if turn[_TIME_BYTES:] == key]
    for turn in turns:
        transaction.delete(CHECKS_BY_TIME, turn)
    return transaction.delete(CHECKS, key)


def put_condemned(transaction: WriteTransaction, row: CondemnedRow) -> None:
    """Announce that a plan is about to take a blob away."""
    key = location_key(row.root, row.path)
    transaction.require_lease(GC_LEASE)
    transaction.delete(CONDEMNED, key)  # a long value is never written over
    transaction.put(CONDEMNED, key, CONDEMNED_CODEC.encode(key, row))
    Tally.of(transaction).any_condemned = True


def clear_condemned(transaction: WriteTransaction, root: int | None, path: str) -> bool:
    """End such an announcement, whatever became of the blob; False if there was none.

    The row stays with the new blob epoch, for those who made sure of the blob before, until `forget_cleared`.
    """
    row = _condemned(transaction, root, path)
    if row is None or row.cleared is not None:
        return False
    key = location_key(root, path)
    transaction.require_lease(GC_LEASE)
    cleared = structs.replace(row, cleared=Tally.of(transaction).next(BLOB_EPOCH))
    transaction.replace(CONDEMNED, key, CONDEMNED_CODEC.encode(key, row), CONDEMNED_CODEC.encode(key, cleared))
    return True


def forget_cleared(transaction: WriteTransaction, rows_max: int | None = None) -> int:
    """Remove the rows of announcements that have ended, and return how many; who came before that has to look again.

    With `rows_max` those that ended first, as many as change about so many rows.
    """
    cleared = sorted((row.cleared, key) for key, row in _all_condemned(transaction) if row.cleared is not None)
    if rows_max is not None:
        cleared = cleared[: _condemned_in(rows_max)]
    for _, key in cleared:
        transaction.delete(CONDEMNED, key)
    if cleared:
        tally = Tally.of(transaction)
        tally.raise_to(FORGOTTEN_EPOCH, cleared[-1][0])
        for _, key in cleared:
            transaction.leave_mark(CONDEMNED, key, tally.last(FORGOTTEN_EPOCH))
    return len(cleared)


def clear_some(transaction: WriteTransaction, rows_max: int | None = None) -> bool:
    """End announcements, and forget them, as many as change about so many rows; tell whether more may be left."""
    rows = [row for _, row in _all_condemned(transaction) if row.cleared is None]
    some = rows if rows_max is None else rows[: _condemned_in(rows_max)]
    for row in some:
        clear_condemned(transaction, row.root, row.path)
    if rows_max is None or not some:
        return forget_cleared(transaction, rows_max) > 0 and rows_max is not None
    return True


def clear_all_condemned(transaction: WriteTransaction) -> None:
    """End every announcement, and forget it."""
    clear_some(transaction)


def _condemned_in(rows_max: int) -> int:
    """Return how many announcements change about so many rows: each its own and one that stands for it."""
    return (rows_max - 10) // 2


def condemned(transaction: ReadTransaction, roots: RootMap) -> list[Condemned]:
    """Return the announcements that stand."""
    rows = (CONDEMNED_CODEC.decode(key, value) for key, value in transaction.items(CONDEMNED))
    return [
        Condemned(roots.uri((row.root, row.path), None), row.plan, from_micros(row.at))
        for row in rows
        if row.cleared is None
    ]


def any_condemned(transaction: ReadTransaction) -> bool:
    """Tell whether any blob is about to be taken away."""
    rows = transaction.items(CONDEMNED)
    return any(CONDEMNED_CODEC.decode(key, value).cleared is None for key, value in rows)


def may_condemn(transaction: WriteTransaction) -> bool:
    """Tell whether it is worth while to ask for places at all; looked up once a transaction."""
    tally = Tally.of(transaction)
    if tally.any_condemned is None:
        tally.any_condemned = not transaction.is_empty(CONDEMNED)
    return tally.any_condemned


def is_condemned(transaction: WriteTransaction, root: int | None, path: str) -> bool:
    """Tell whether a blob is about to be taken away."""
    row = _condemned(transaction, root, path)
    return row is not None and row.cleared is None


def was_cleared(transaction: WriteTransaction, root: int | None, path: str, *, after: int) -> bool:
    """Tell whether an announcement for a blob ended after a blob epoch, as far as that is not forgotten."""
    row = _condemned(transaction, root, path)
    return row is not None and row.cleared is not None and row.cleared > after


def has_forgotten(transaction: WriteTransaction, places: Iterable[tuple[int | None, str]], *, after: int) -> bool:
    """Tell whether announcements for some places that ended after a blob epoch may be forgotten.

    Where marks tell nothing, that is so if any announcement is, whatever its place.
    """
    marks = (transaction.mark(CONDEMNED, location_key(root, path)) for root, path in places)
    return any((Tally.of(transaction).last(FORGOTTEN_EPOCH) if mark is None else mark) > after for mark in marks)


def _all_condemned(transaction: WriteTransaction) -> list[tuple[bytes, CondemnedRow]]:
    return [(key, CONDEMNED_CODEC.decode(key, value)) for key, value in transaction.items(CONDEMNED)]


def _condemned(transaction: WriteTransaction, root: int | None, path: str) -> CondemnedRow | None:
    key = location_key(root, path)
    value = transaction.get(CONDEMNED, key)
    return None if value is None else CONDEMNED_CODEC.decode(key, value)


def put_hold(transaction: WriteTransaction, row: HoldRow) -> int:
    """Protect what a filter lets through, and return the hold's id."""
    hold_id = Tally.of(transaction).next(HOLD_ID)
    key = id_key(hold_id)
    transaction.put(HOLDS, key, HOLD_CODEC.encode(key, row), append=True)
    return hold_id


def find_hold(transaction: ReadTransaction, hold_id: int) -> Hold | None:
    """Return a protection by its id."""
    key = id_key(hold_id)
    value = transaction.get(HOLDS, key)
    return None if value is None else _hold(key, value)


def holds(transaction: ReadTransaction) -> list[Hold]:
    """Return every protection, by id."""
    return [_hold(key, value) for key, value in transaction.items(HOLDS)]


def release_hold(transaction: WriteTransaction, hold_id: int) -> Hold | None:
    """End a protection and return it; None if there is no such hold."""
    hold = find_hold(transaction, hold_id)
    if hold is not None:
        transaction.delete(HOLDS, id_key(hold_id))
    return hold


def _hold(key: bytes, value: bytes) -> Hold:
    row = HOLD_CODEC.decode(key, value)
    return Hold(id_of(key), row.filters, row.reason, from_micros(row.at))
