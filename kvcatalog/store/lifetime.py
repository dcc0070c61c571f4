"""What a catalog does about its own past: the oldest entries of its journal go, or a restored one begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile

from kvcatalog.clock import from_micros, to_micros
from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction
from kvcatalog.models import CatalogIdentity, JournalPruning
from kvcatalog.schema import JOURNAL, JOURNAL_CODEC, IdentityRow, JournalRow, id_key, id_of
from kvcatalog.store import changes, reading, upkeep
from kvcatalog.store.scribe import Scribe, write_journal
from kvcatalog.store.tally import PRUNED_SEQUENCE, Tally, read_counter

_PRUNED_AT_ONCE = 1000
_ROWS_OF_ENTRY = 4
"""Rows that an entry of the journal takes: itself, and those that lead to it."""

Old = tuple[int, JournalRow]


def old_entries(transaction: ReadTransaction, *, before: int, up_to: int) -> Iterator[Old]:
    """Yield the entries at the journal's beginning that are older than a time, up to the first that is not.

    So what is left has no gaps, also where the clock went backwards.
    """
    first = read_counter(transaction, PRUNED_SEQUENCE).count + 1
    rows = transaction.items(JOURNAL, id_key(first), id_key(up_to + 1))
    entries = ((id_of(key), JOURNAL_CODEC.decode(key, value)) for key, value in rows)
    return takewhile(lambda entry: entry[1].at < before, entries)


def prune_journal(
    before: int, up_to: int, rows_max: int | None, transaction: WriteTransaction, scribe: Scribe
) -> JournalPruning:
    """Forget some of the entries that `old_entries` yields; none if there are no more."""
    limit = _PRUNED_AT_ONCE if rows_max is None else rows_max // _ROWS_OF_ENTRY - 2
    entries = list(islice(old_entries(transaction, before=before, up_to=up_to), limit))
    for sequence, row in entries:
        changes.delete_journal_entry(transaction, sequence, row)
    if entries:
        first, last = entries[0][0], entries[-1][0]
        Tally.of(transaction).raise_to(PRUNED_SEQUENCE, last)
        write_journal(transaction, "prune", {"first": (first, None), "last": (last, None)}, scribe)
    return pruning(len(entries), entries[-1] if entries else None)


def pruning(count: int, last: Old | None) -> JournalPruning:
    """Return how many entries went, the last of which is given."""
    return (
        JournalPruning(count, None, None) if last is None else JournalPruning(count, last[0], from_micros(last[1].at))
    )


def recognise(transaction: WriteTransaction, birth: int, scribe: Scribe) -> CatalogIdentity:
    """Begin a generation where the rows lie in another file than before, and return who the catalog is now."""
    known = reading.read_birth(transaction)
    if known not in {None, birth}:
        begin_generation(transaction, scribe)
    if known != birth:
        changes.put_birth(transaction, birth)
    return reading.read_identity(transaction)


def begin_generation(transaction: WriteTransaction, scribe: Scribe) -> CatalogIdentity:
    """Make the catalog another one than all that came from the same files, and return who it is now.

    The number grows and is the time besides, so that two copies of one backup get different ones. Announcements of
    garbage collections of the former generation end.
    """
    old = reading.read_identity(transaction)
    row = IdentityRow(old.uuid, max(old.generation + 1, scribe.now), to_micros(old.created_at))
    changes.put_identity(transaction, row)
    upkeep.clear_all_condemned(transaction)
    write_journal(transaction, "generation", {"generation": (old.generation, row.generation)}, scribe)
    return reading.read_identity(transaction)
