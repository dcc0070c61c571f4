"""What a transaction is to those who read and write rows, whichever engine keeps them.

`kv.transaction` is LMDB's: reads are of one moment, and whatever is written is decided alone, since there is one writer
at a time. `kvcatalog.dynamo` has another, which notes what it read, and whose commit fails where that has changed
meanwhile; then the operation is made again. So an operation may run more than once, and what it decides must hang on
rows that it has asked for by their keys, or on ranges of rows whose writers all `touch` a row that it writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from kvcatalog.kv.table import Table


class ReadTransaction(Protocol):
    """Rows to be read. Keys and values that come out are bytes of their own."""

    @property
    def is_snapshot(self) -> bool:
        """Tell whether all that is read is of one moment; otherwise each row is as it was when it was read."""
        ...

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under a key; of a set, the lowest."""
        ...

    def first_values(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the value under each key that is there, of a set the lowest; quickest in order of the keys."""
        ...

    def values(self, table: Table, key: bytes, *, start: bytes = b"", reverse: bool = False) -> Iterator[bytes]:
        """Yield the values of a set in order, from `start` on; in reverse, from the highest below `start` down."""
        ...

    def count(self, table: Table, key: bytes) -> int:
        """Return how many values a set holds."""
        ...

    def items(
        self,
        table: Table,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        after: tuple[bytes, bytes] | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values with start <= key < stop, in order of the keys; of a set, each value with its key.

        `after` goes on behind a pair that an earlier call yielded, whether it is still there or not.
        """
        ...

    def missing(self, table: Table, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Yield those pairs of key and value that a table does not hold; quickest in order."""
        ...

    def last_key(self, table: Table) -> bytes | None:
        """Return the highest key of a table."""
        ...

    def entries(self, table: Table) -> int:
        """Return how many values a table holds in all; without a snapshot it is counted, row by row."""
        ...

    def is_empty(self, table: Table) -> bool:
        """Tell whether a table holds nothing."""
        ...


class WriteTransaction(ReadTransaction, Protocol):
    """Rows to be changed: all of it becomes visible and durable, or nothing does.

    `writes` counts what was put or deleted. `state` is for the layer above, to keep what it collects until the commit;
    `inherited` is the state of the commit right before, None where that was another process's. It must not be changed,
    since this transaction may come to nothing.
    """

    writes: int
    state: object
    inherited: object

    def put(self, table: Table, key: bytes, value: bytes, *, append: bool = False) -> None:
        """Set the value under a key; in a table of sets, add it.

        `append` says that the key (in a set: the value) is most likely above all others: then pages fill up whole.
        """
        ...

    def put_many(self, table: Table, rows: Iterable[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Set values under keys, or add them to sets; quickest in order.

        With `append` all keys are most likely above all others; in a table of sets, each value is above all others of
        its key, or CorruptRecordError may be raised.
        """
        ...

    def replace(self, table: Table, key: bytes, old: bytes, new: bytes) -> None:
        """Set the value under a key that holds `old`."""
        ...

    def delete(self, table: Table, key: bytes, value: bytes = b"") -> bool:
        """Remove a key, or one value of a set; tell whether it was there, of a set whether it may have been."""
        ...

    def touch(self, table: Table, key: bytes) -> None:
        """Count as one who changes a row: of two that touch or change one row at once, one is made again.

        Whoever adds or removes rows that hang on another row touches that one; so who reads them all, and changes the
        row, misses none.
        """
        ...

    def require_lease(self, name: str) -> None:
        """Commit only as long as this process has the lease that it took, if it took one."""
        ...

    def leave_mark(self, table: Table, key: bytes, number: int) -> None:
        """Leave a number for a key, which outlives its row; of several the highest counts."""
        ...

    def mark(self, table: Table, key: bytes) -> int | None:
        """Return a number at least as high as all that were left for a key before the commit of this transaction.

        None where marks are not kept, or not from the beginning: then nothing is known.
        """
        ...

    def expect(self, table: Table, keys: Iterable[bytes]) -> None:
        """Say which keys will be asked for, so that they can be read together."""
        ...
