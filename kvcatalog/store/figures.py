"""Counts and last numbers held against the rows that they count."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

from kvcatalog.checks import Finding
from kvcatalog.errors import CatalogError
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.schema import (
    BY_SHA256,
    COUNTER_CODEC,
    COUNTERS,
    DOCUMENTS,
    DUPLICATE_CODEC,
    DUPLICATES,
    HOLDS,
    JOURNAL,
    JOURNAL_BY_DOCUMENT,
    SUMMED,
    VARIANTS,
    VARIANTS_BY_SHA256,
    CounterRow,
    DocumentRow,
    DuplicateRow,
    VariantRow,
    counter_key,
    id_of,
)
from kvcatalog.store import reading
from kvcatalog.store.findings import decoded, found
from kvcatalog.store.tally import (
    BLOB_EPOCH,
    DOCUMENT_ID,
    FORGOTTEN_EPOCH,
    HOLD_ID,
    JOURNAL_SEQUENCE,
    VARIANT_ID,
)

_STEP_ROWS = 10_000

_LAST: tuple[tuple[str, Table], ...] = (
    (DOCUMENT_ID, DOCUMENTS),
    (DOCUMENT_ID, JOURNAL_BY_DOCUMENT),
    (VARIANT_ID, VARIANTS),
    (JOURNAL_SEQUENCE, JOURNAL),
    (HOLD_ID, HOLDS),
)
"""Numbers that were given, and the tables whose last key none of them may be below."""

_OF_DOCUMENTS = frozenset(("documents", "resolver", "content type", "unhashed"))


class Totals:
    """What is counted while an audit reads; a counter is held against it at the end."""

    def __init__(self) -> None:
        self.figures: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, name: str, label: str = "", *, count: int = 1, size: int = 0) -> None:
        """Count some things and their bytes."""
        figures = self.figures[name, label]
        figures[0] += count
        figures[1] += size


def duplicates(transaction: ReadTransaction, totals: Totals, step: Callable[[int], object]) -> Iterator[Finding]:
    """Hold the duplicate counts against the indexes of digests, and add them up; `step` is told of rows read."""
    known = 0
    for digest, counts, first in _carriers(transaction, step):
        if sum(counts) > 1:
            value = transaction.get(DUPLICATES, digest)
            known += value is not None
            row = decoded(DUPLICATE_CODEC, digest, value)
            size = _size(transaction, first, 0 if row is None else row.size)
            if row != DuplicateRow(digest, size, *counts):
                text = f"{digest.hex()} has {counts[0]} documents and {counts[1]} variants, and is counted otherwise"
                yield found("figure", text, DUPLICATES, digest, repair="duplicates")
    any_too_much = not transaction.is_snapshot or known != transaction.entries(DUPLICATES)
    for digest, value in transaction.items(DUPLICATES):
        carried = (
            [transaction.count(table, digest) for table in (BY_SHA256, VARIANTS_BY_SHA256)] if any_too_much else [2]
        )
        if sum(carried) <= 1:
            yield found("figure", f"{digest.hex()} has no duplicates", DUPLICATES, digest, repair="duplicates")
        row = decoded(DUPLICATE_CODEC, digest, value)
        if row is not None and row.documents > 1:
            totals.add("duplicate groups")
            totals.add("duplicates", count=row.documents - 1, size=(row.documents - 1) * row.size)


_Carrier = tuple[bytes, int, bytes]
"""A digest, 0 for a document or 1 for a variant, and its id."""


def _carriers(
    transaction: ReadTransaction, step: Callable[[int], object]
) -> Iterator[tuple[bytes, list[int], _Carrier]]:
    """Yield each digest with the number of documents and variants that carry it, and the first of them."""
    both: Iterator[_Carrier] = heapq.merge(
        ((key, 0, value) for key, value in transaction.items(BY_SHA256)),
        ((key, 1, value) for key, value in transaction.items(VARIANTS_BY_SHA256)),
    )
    first: _Carrier | None = None
    counts = [0, 0]
    for rows, carrier in enumerate(both, 1):
        if not rows % _STEP_ROWS:
            step(_STEP_ROWS)
        if first is None or carrier[0] != first[0]:
            if first is not None:
                yield first[0], counts, first
            first, counts = carrier, [0, 0]
        counts[carrier[1]] += 1
    if first is not None:
        yield first[0], counts, first


def _size(transaction: ReadTransaction, carrier: _Carrier, otherwise: int) -> int:
    """Return the size that a duplicate count follows, which is that of the first who carries the digest."""
    try:
        row: DocumentRow | VariantRow | None
        read = reading.variant_row if carrier[1] else reading.document_row
        row = read(transaction, id_of(carrier[2]))
    except CatalogError:
        row = None
    return otherwise if row is None else row.size


def counters(transaction: ReadTransaction, totals: Totals, unreadable: Collection[Table]) -> Iterator[Finding]:
    """Hold the counters against what was counted; where rows could not be read, nobody knows what they should be."""
    wanted = {
        counter_key(name, label): (name, label, count, size)
        for (name, label), (count, size) in totals.figures.items()
        if count
    }
    for key, value in transaction.items(COUNTERS):
        name, separator, label = (part.decode(errors="replace") for part in key.partition(b"\0"))
        row = decoded(COUNTER_CODEC, key, value) if separator else None
        if name in SUMMED:
            should = wanted.pop(key, (name, label if row is None else row.label, 0, 0))
            if row is None or (row.count, row.size) != should[2:]:
                yield _counter(key, should, row, unreadable)
        elif separator and row is None and name not in {given for given, _ in _LAST}:
            yield found("figure", f"the counter {name} cannot be read", COUNTERS, key)
    for key, should in wanted.items():
        yield _counter(key, should, CounterRow(0, 0, 0, should[1]), unreadable)


def _counter(
    key: bytes, should: tuple[str, str, int, int], row: CounterRow | None, unreadable: Collection[Table]
) -> Finding:
    name, label, count, size = should
    says = "cannot be read" if row is None else f"says {row.count} with {row.size} bytes"
    text = f"the counter {name}{f' {label}' if label else ''} {says}; there are {count} with {size} bytes"
    stored = None if row is None else [row.count, row.size]
    is_known = (DOCUMENTS if name in _OF_DOCUMENTS else VARIANTS) not in unreadable
    value = json.dumps([name, label, count, size, stored]).encode()
    return found("figure", text, COUNTERS, key, value, repair="counter" if is_known else None)


def last_numbers(transaction: ReadTransaction) -> Iterator[Finding]:
    """Hold the last numbers that were given against the rows that have them."""
    for name in dict.fromkeys(name for name, _ in _LAST):
        tables = [table for given, table in _LAST if given == name]
        least = max(id_of(transaction.last_key(table) or b"") for table in tables)
        last = _number(transaction, name)
        if last is None or last < least:
            says = "cannot be read" if last is None else f"is {last}"
            value = json.dumps([name, least]).encode()
            text = f"the {name} {says}, and {least} was given"
            yield found("figure", text, COUNTERS, counter_key(name), value, repair="number")
    forgotten, epoch = _number(transaction, FORGOTTEN_EPOCH), _number(transaction, BLOB_EPOCH)  # the lower one first
    if epoch is not None and forgotten is not None and forgotten > epoch:
        text = f"the {FORGOTTEN_EPOCH} is {forgotten}, and the {BLOB_EPOCH} only {epoch}"
        yield found("figure", text, COUNTERS, counter_key(BLOB_EPOCH))


def _number(transaction: ReadTransaction, name: str) -> int | None:
    key = counter_key(name)
    value = transaction.get(COUNTERS, key)
    row = decoded(COUNTER_CODEC, key, value)
    return 0 if value is None else None if row is None else row.count
