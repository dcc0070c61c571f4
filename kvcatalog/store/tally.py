"""Counters and last ids of one write transaction: read once, changed in memory, written back before it commits."""

from __future__ import annotations

from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction
from kvcatalog.schema import COUNTER_CODEC, COUNTERS, CounterRow, counter_key

DOCUMENT_ID = "last document id"
VARIANT_ID = "last variant id"
JOURNAL_SEQUENCE = "last journal sequence"
PRUNED_SEQUENCE = "last pruned journal sequence"
HOLD_ID = "last hold id"
BLOB_EPOCH = "blob epoch"
FORGOTTEN_EPOCH = "forgotten blob epoch"

_KEPT_MAX = 1000
"""How many counters are remembered from one transaction to the next."""


def read_counter(transaction: ReadTransaction, name: str, label: str = "") -> CounterRow:
    """Return a counter as it was committed."""
    key = counter_key(name, label)
    value = transaction.get(COUNTERS, key)
    return CounterRow(0, 0, 0, label) if value is None else COUNTER_CODEC.decode(key, value)


class Tally:
    """What one transaction has counted so far."""

    def __init__(self, transaction: WriteTransaction) -> None:
        self._transaction = transaction
        self._before: dict[tuple[str, str], CounterRow] = {}
        self.rows: dict[tuple[str, str], CounterRow] = {}
        self.any_condemned: bool | None = None
        """Whether there may be rows of condemned blobs; None before anybody has looked."""
        before = transaction.inherited
        if isinstance(before, Tally):
            if len(before.rows) < _KEPT_MAX:
                self._before = before.rows
            if before.any_condemned is False:
                self.any_condemned = False
        self.rows.update(self._before)

    def add(self, name: str, label: str = "", *, count: int, size: int = 0) -> None:
        """Change a counter by some things and their bytes."""
        self.rows[name, label] = self._row(name, label).plus(count, size)

    def next(self, name: str, count: int = 1) -> int:
        """Return the next id of a kind, the first of `count`; they are never given again once this has committed."""
        row = self.rows[name, ""] = self._row(name, "").plus(count, 0)
        return row.count - count + 1

    def last(self, name: str, label: str = "") -> int:
        """Return a count as it stands; of ids the last that was given, 0 if none was."""
        return self._row(name, label).count

    def defers(self, digest: bytes, *, is_added: bool = False) -> bool:  # noqa: ARG002 - another tally does
        """Tell whether the duplicate count of a digest is brought up to date once this has committed, and see to it.

        If it `is_added`, no record has lost it.
        """
        return False

    def forget_unreadable(self, name: str, label: str = "") -> None:
        """Let a counter that cannot be read begin at nothing."""
        self.rows[name, label] = CounterRow(0, 0, 0, label)

    def raise_to(self, name: str, number: int) -> None:
        """Make a counter at least as high as a number."""
        self.add(name, count=max(number - self.last(name), 0))

    def write(self) -> None:
        """Put the counters back; those of nothing are removed."""
        for (name, label), row in self.rows.items():
            if row is self._before.get((name, label)):
                continue
            key = counter_key(name, label)
            if row.count:
                self._transaction.put(COUNTERS, key, COUNTER_CODEC.encode(key, row))
            else:
                self._transaction.delete(COUNTERS, key)

    @classmethod
    def of(cls, transaction: WriteTransaction) -> Tally:
        """Return the tally of a transaction."""
        tally = transaction.state
        if not isinstance(tally, Tally):
            tally = transaction.state = cls(transaction)
        return tally

    def _row(self, name: str, label: str) -> CounterRow:
        row = self.rows.get((name, label))
        if row is None:
            row = self.rows[name, label] = read_counter(self._transaction, name, label)
        return row


def write_tally(transaction: WriteTransaction) -> None:
    """Put what a transaction has counted back, before it commits."""
    Tally.of(transaction).write()
