"""Counters of one transaction over DynamoDB: what all add to is left to be added beside it."""

from __future__ import annotations

from msgspec import Struct

from kvcatalog.dynamo.ids import Ids
from kvcatalog.dynamo.sums import Delta
from kvcatalog.dynamo.writing import DynamoWriteTransaction
from kvcatalog.schema import SUMMED, CounterRow, counter_key
from kvcatalog.store.tally import DOCUMENT_ID, VARIANT_ID, Tally, read_counter

_FROM_BLOCKS = (DOCUMENT_ID, VARIANT_ID)


class Block(Struct):
    """Ids in a row that an operation may use, and how many of them it has used so far."""

    name: str
    first: int
    count: int
    used: int = 0


class DynamoTally(Tally):
    """Sums are collected in `sums`, digests to be counted in `digests`, and ids come from the blocks of the process.

    Other numbers (the journal's, holds', the blob epoch) are rows of the transaction: their order is that of commits.
    """

    def __init__(
        self, transaction: DynamoWriteTransaction, ids: Ids, *, defers: bool, block: Block | None = None
    ) -> None:
        super().__init__(transaction)
        self._ids = ids
        self._defers = defers
        self._block = block
        self._taken: list[tuple[str, int, int]] = []
        self.sums: dict[bytes, Delta] = {}
        self.digests: dict[bytes, bool] = {}
        self.raised: dict[str, int] = {}
        self.any_condemned = True  # each place is asked for: whether there are any at all is nothing to rely on

    def add(self, name: str, label: str = "", *, count: int, size: int = 0) -> None:
        """See Tally."""
        if name not in SUMMED:
            super().add(name, label, count=count, size=size)
            return
        delta = self.sums.setdefault(counter_key(name, label), Delta(label))
        delta.count += count
        delta.size += size

    def next(self, name: str, count: int = 1) -> int:
        """See Tally."""
        if name not in _FROM_BLOCKS:
            return super().next(name, count)
        block = self._block
        if block is not None and block.name == name and block.used + count <= block.count:
            block.used += count
            return block.first + block.used - count
        first = self._ids.take(name, count)
        self._taken.append((name, first, count))
        return first

    def last(self, name: str, label: str = "") -> int:
        """See Tally."""
        if name in _FROM_BLOCKS:
            self._ids.return_unused()
            return max(read_counter(self._transaction, name).count, self.raised.get(name, 0))
        delta = self.sums.get(counter_key(name, label))
        return super().last(name, label) + (0 if delta is None else delta.count)

    def raise_to(self, name: str, number: int) -> None:
        """See Tally; of ids it is done when the transaction has committed."""
        if name in _FROM_BLOCKS:
            self.raised[name] = max(number, self.raised.get(name, 0))
        else:
            super().raise_to(name, number)

    def defers(self, digest: bytes, *, is_added: bool = False) -> bool:
        """See Tally; `digests` has which of them were only added."""
        if self._defers:
            self.digests[digest] = is_added and self.digests.get(digest, True)
        return self._defers

    def give_back(self, *, were_used: bool = False) -> None:
        """Let others have the ids of a transaction that came to nothing, unless one of them turned out to be used."""
        if self._block is not None and not were_used:
            self._block.used = 0
        if not were_used:
            for name, first, count in self._taken:
                self._ids.give_back(name, first, count)
        self._taken.clear()

    def _row(self, name: str, label: str) -> CounterRow:
        row = super()._row(name, label)
        self._before.setdefault((name, label), row)  # what was only read is not written
        return row
