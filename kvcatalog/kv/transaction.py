"""LMDB's transactions: what is read comes from one moment, what is written becomes visible whole or not at all.

A transaction is a context manager and belongs to the thread that entered it. It is passed as an argument; whether it
may write is visible in its type. What leaves it are `bytes` of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kvcatalog.errors import CatalogClosedError, CorruptRecordError
from kvcatalog.kv import engine
from kvcatalog.kv.table import Table

if TYPE_CHECKING:
    from kvcatalog.kv.environment import Environment

_RENEW_ROWS = 4096
_WALK_ROWS_MAX = 512
_OVERFLOW_BYTES = 2000
"""A value above about half a page lies on pages of its own."""


class Use:
    """Keeps the environment from being closed or mapped anew, from `Environment.begin` until it ends or is gone."""

    __slots__ = ("__weakref__", "thread")

    thread: int

    def give_up(self) -> None:
        """End what an interruption has left open."""


class ReadTransaction(Use):
    """A snapshot of the environment."""

    __slots__ = ("_environment", "_epoch", "_handles", "_raw", "_ticket")

    _writes = False

    is_snapshot = True

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __enter__(self) -> Self:
        environment = self._environment
        self._epoch = environment.epoch
        try:
            self._raw, self._ticket = environment.begin(self, write=self._writes)
            self._handles = environment.handles
        except BaseException:
            self.give_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        environment = self._environment
        raw = self._raw
        if self._epoch != environment.epoch:
            engine.keep_forever(raw)
            if error is None:
                raise CatalogClosedError(f"{environment.path}: the process forked inside this transaction")
            return
        try:
            self._end(raw, failed=error is not None)
        except engine.Error as failure:
            raise environment.translated(failure) from failure
        finally:
            environment.ended(self._ticket)
        if isinstance(error, engine.Error):
            raise environment.translated(error) from error

    def _end(self, raw: engine.RawTransaction, *, failed: bool) -> None:  # noqa: ARG002  a reader's end is the same
        raw.abort()

    def give_up(self) -> None:
        """End what an interruption has left open on entering or leaving."""
        with suppress(AttributeError, engine.Error):
            if self._epoch == self._environment.epoch:
                self._raw.abort()
        self._environment.let_go(self)

    def commit_number(self) -> int:
        """Return the number of the last commit that it sees; in a write transaction, of the one that it will be."""
        return self._raw.id()

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under a key; of a set, the lowest."""
        return self._raw.get(key, None, self._handles[table])

    def first_values(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the value under each key that is there, of a set the lowest; quickest in order of the keys."""
        with self._raw.cursor(self._handles[table]) as cursor:
            return dict(cursor.getmulti(keys))

    def values(self, table: Table, key: bytes, *, start: bytes = b"", reverse: bool = False) -> Iterator[bytes]:
        """Yield the values of a set in order, from `start` on; in reverse, from the highest below `start` down."""
        with self._raw.cursor(self._handles[table]) as cursor:
            if not reverse:
                if cursor.set_range_dup(key, start) if start else cursor.set_key(key):
                    yield from cursor.iternext_dup(keys=False, values=True)
                return
            if start and cursor.set_range_dup(key, start):
                found = cursor.prev_dup()
            else:
                found = cursor.set_key(key) and cursor.last_dup()
            if found:
                yield from cursor.iterprev_dup(keys=False, values=True)

    def count(self, table: Table, key: bytes) -> int:
        """Return how many values a set holds."""
        with self._raw.cursor(self._handles[table]) as cursor:
            return cursor.count() if cursor.set_key(key) else 0

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
        with self._raw.cursor(self._handles[table]) as cursor:
            if reverse:
                rows = cursor.iterprev() if _before(cursor, table, stop, after) else iter(())
            else:
                rows = cursor.iternext() if _behind(cursor, table, start, after) else iter(())
                if stop is None:  # most likely a walk over all
                    yield from self._walked(rows)
                    return
            for count, row in enumerate(rows, 1):
                if row[0] < start if reverse else stop is not None and row[0] >= stop:
                    return
                if not count % _RENEW_ROWS:
                    self._environment.renew_locks()
                yield row

    def _walked(self, rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Yield rows to the end, more and more at a time, which costs half as much for each."""
        size = 4
        while chunk := list(islice(rows, size)):
            yield from chunk
            if size == _WALK_ROWS_MAX:
                self._environment.renew_locks()
            size = min(2 * size, _WALK_ROWS_MAX)

    def missing(self, table: Table, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Yield those pairs of key and value that a table does not hold; quickest in order."""
        with self._raw.cursor(self._handles[table]) as cursor:
            for key, value in pairs:
                found = (
                    cursor.set_key_dup(key, value) if table.sets else cursor.set_key(key) and cursor.value() == value
                )
                if not found:
                    yield key, value

    def last_key(self, table: Table) -> bytes | None:
        """Return the highest key of a table."""
        with self._raw.cursor(self._handles[table]) as cursor:
            return cursor.key() if cursor.last() else None

    def entries(self, table: Table) -> int:
        """Return how many values a table holds in all."""
        return self._raw.stat(self._handles[table])["entries"]

    def is_empty(self, table: Table) -> bool:
        """Tell whether a table holds nothing."""
        return not self.entries(table)

    def pages(self, table: Table) -> int:
        """Return how many pages a table takes."""
        figures = self._raw.stat(self._handles[table])
        return figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]


class WriteTransaction(ReadTransaction):
    """The one writer among all processes; commits on a clean exit, leaves no trace otherwise.

    `number` is one more than that of the last commit of any process. `writes` counts what was put or deleted; a
    transaction that wrote nothing costs no flush. `state` is for the layer above, to keep what it collects until the
    commit; `inherited` is the state of the commit right before, None where that was another process's. It must not be
    changed, since this transaction may come to nothing.
    """

    __slots__ = ("inherited", "number", "state", "writes")

    _writes = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.writes = 0
        self.state: object = None

    def __enter__(self) -> Self:
        super().__enter__()
        self.number = self.commit_number()
        number, state = self._environment.carried
        self.inherited = state if number + 1 == self.number else None
        return self

    def _end(self, raw: engine.RawTransaction, *, failed: bool) -> None:
        state, self.state, self.inherited = self.state, None, None  # a state may know this transaction
        if failed or not self.writes:
            raw.abort()
        else:
            try:
                raw.commit()
            except engine.Error:
                raise
            except BaseException:
                with suppress(engine.Error):
                    raw.id()  # it lives, so the interruption came before
                    raise
                self._environment.carried = (self.number, state)
                raise
            self._environment.carried = (self.number, state)

    def put(self, table: Table, key: bytes, value: bytes, *, append: bool = False) -> None:
        """Set the value under a key; in a table of sets, add it.

        `append` says that the key (in a set: the value) is most likely above all others: then pages fill up whole.
        """
        self.writes += 1
        handle = self._handles[table]
        if not (append and self._raw.put(key, value, True, True, True, handle)):
            self._raw.put(key, value, db=handle)

    def put_many(self, table: Table, rows: Iterable[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Set values under keys, or add them to sets; quickest in order.

        With `append` all keys are most likely above all others; in a table of sets, each value is above all others of
        its key, or CorruptRecordError is raised. Then pages fill up whole.
        """
        self.writes += 1
        with self._raw.cursor(self._handles[table]) as cursor:
            waiting = iter(rows)
            if append and not table.sets:
                first = next(waiting, None)
                last = cursor.key() if cursor.last() else b""
                append = first is not None and first[0] > last
                waiting = chain(() if first is None else (first,), waiting)
            consumed, added = cursor.putmulti(waiting, append=append)
        if append and added < consumed:
            raise CorruptRecordError(f"{table.name} holds values above those that come last")

    def replace(self, table: Table, key: bytes, old: bytes, new: bytes) -> None:
        """Set the value under a key that holds `old`.

        A long value is deleted before a shorter one takes its place, or the engine's offline verifier complains.
        """
        if len(new) < len(old) and len(old) > _OVERFLOW_BYTES:
            self.delete(table, key)
        self.put(table, key, new)

    def delete(self, table: Table, key: bytes, value: bytes = b"") -> bool:
        """Remove a key, or one value of a set; tell whether it was there."""
        self.writes += 1
        return self._raw.delete(key, value, self._handles[table])

    def touch(self, table: Table, key: bytes) -> None:
        """Do nothing: there is one writer at a time."""

    def require_lease(self, name: str) -> None:
        """Do nothing: the kernel takes no lease from a process that lives."""

    def leave_mark(self, table: Table, key: bytes, number: int) -> None:
        """Do nothing: who wants to know looks where that is counted."""

    def mark(self, table: Table, key: bytes) -> int | None:  # noqa: ARG002
        """See WriteTransaction: marks are not kept."""
        return None

    def expect(self, table: Table, keys: Iterable[bytes]) -> None:
        """Do nothing: a lookup waits for nobody."""


def _behind(cursor: engine.RawCursor, table: Table, start: bytes, after: tuple[bytes, bytes] | None) -> bool:
    """Move to the first pair at or above `start`, or behind `after`."""
    if after is None:
        return cursor.set_range(start)
    key, value = after
    if table.sets and cursor.set_range_dup(key, value):
        return cursor.value() != value or cursor.next()
    return cursor.set_range(key + b"\0")  # no key lies between


def _before(cursor: engine.RawCursor, table: Table, stop: bytes | None, after: tuple[bytes, bytes] | None) -> bool:
    """Move to the last pair below `stop`, or before `after`."""
    if after is not None:
        key, value = after
        if table.sets and cursor.set_range_dup(key, value):
            return cursor.prev()
        stop = key + b"\0" if table.sets else key
    return cursor.prev() if stop is not None and cursor.set_range(stop) else cursor.last()
