"""What each call that keeps blobs in order does inside the write transaction; every one may be run again."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kvcatalog.clock import from_micros
from kvcatalog.custody import BlobMove, Hold
from kvcatalog.errors import InvalidValueError, NotFoundError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import Root
from kvcatalog.schema import (
    META,
    NUMBER_CODEC,
    ROOT_CODEC,
    ROOTS,
    ROOTS_VERSION_KEY,
    CondemnedRow,
    HoldRow,
    JournalRow,
    RootRow,
    id_key,
)
from kvcatalog.store import changes, reading, upkeep
from kvcatalog.store.references import places_of
from kvcatalog.store.scribe import Changes, Scribe, write_journal

Settled = tuple[str | None, Sequence[BlobMove]]
"""A storage URI whose announcement ends, and what was moved from there."""


def condemn(plan: str, transaction: WriteTransaction, uris: Sequence[str], scribe: Scribe) -> list[None]:
    """Announce which blobs a plan is about to take away."""
    for root, path in places_of(uris, scribe.roots):
        upkeep.put_condemned(transaction, CondemnedRow(root, path, plan, scribe.now))
    return [None] * len(uris)


def settle_condemned(transaction: WriteTransaction, ended: Sequence[Settled], scribe: Scribe) -> list[None]:
    """End announcements, and write down what was moved."""
    for root, path in places_of((uri for uri, _ in ended if uri is not None), scribe.roots):
        upkeep.clear_condemned(transaction, root, path)
    record_moves(transaction, [move for _, moves in ended for move in moves], scribe)
    return [None] * len(ended)


def record_moves(transaction: WriteTransaction, moves: Sequence[BlobMove], scribe: Scribe) -> list[None]:
    """Write down what was moved."""
    for move in moves:
        differences: Changes = {
            "storage_uri": (move.storage_uri, move.target),
            "bytes": (move.bytes, None if move.target is None else move.bytes),
        }
        _write_journal(transaction, move.action, differences, scribe, move.reason)
    return [None] * len(moves)


def add_hold(transaction: WriteTransaction, filters: tuple[str, ...], why: str, scribe: Scribe) -> Hold:
    """Protect what a filter lets through."""
    hold_id = upkeep.put_hold(transaction, HoldRow(filters, why, scribe.now))
    _write_journal(transaction, "hold", {"hold": (None, hold_id), "filters": (None, " ".join(filters))}, scribe, why)
    return Hold(hold_id, filters, why, from_micros(scribe.now))


def release_hold(transaction: WriteTransaction, hold_id: int, scribe: Scribe) -> Hold:
    """End a protection; NotFoundError if there is none."""
    hold = upkeep.release_hold(transaction, hold_id)
    if hold is None:
        raise NotFoundError(f"there is no hold {hold_id}").advising("`kvcatalog hold list` lists what there is.")
    differences: Changes = {"hold": (hold_id, None), "filters": (" ".join(hold.filters), None)}
    _write_journal(transaction, "release", differences, scribe, scribe.reason)
    return hold


def _write_journal(
    transaction: WriteTransaction, action: str, differences: Changes, scribe: Scribe, reason: str | None
) -> None:
    row = JournalRow(scribe.now, action, None, None, scribe.command, reason, differences)
    changes.put_journal_entry(transaction, row)


def add_root(transaction: WriteTransaction, new: RootRow, scribe: Scribe, *, adopted: bool = False) -> Root:
    """Make a root known, or return it; a known UUID elsewhere has moved. InvalidValueError if another root is there."""
    transaction.get(META, ROOTS_VERSION_KEY)  # before the roots: whoever changes them changes it
    known = {root.uuid: root for root in reading.read_roots(transaction)}
    old = known.get(new.uuid)
    if any(root.uri == new.uri and root.uuid != new.uuid for root in known.values()):
        raise InvalidValueError("uri", f"another root is known at {new.uri}")
    if old is not None and old.cas_prefix != new.cas_prefix:
        raise InvalidValueError("cas_prefix", f"the root has {old.cas_prefix!r}, and its blobs lie there")
    root = Root(max((root.id for root in known.values()), default=0) + 1 if old is None else old.id, *_plain(new))
    if root != old:
        put_root(transaction, root.id, new)
        write_journal(transaction, "root", {"uri": (None if old is None else old.uri, root.uri)}, scribe)
    if adopted:
        write_journal(transaction, "adopt", {"storage_uri": (None if old is None else old.uri, root.uri)}, scribe)
    return root


def put_root(transaction: WriteTransaction, root_id: int, row: RootRow) -> None:
    """Store a root, and see that everybody reads the roots again."""
    key = id_key(root_id)
    transaction.delete(ROOTS, key)  # a long value is never written over
    transaction.put(ROOTS, key, ROOT_CODEC.encode(key, row))
    version = int.from_bytes(os.urandom(7), "big")
    transaction.put(META, ROOTS_VERSION_KEY, NUMBER_CODEC.encode(ROOTS_VERSION_KEY, version))


def _plain(row: RootRow) -> tuple[str, str, str]:
    return row.uri, row.uuid, row.cas_prefix
