"""Rows in a DynamoDB table: each operation an optimistic transaction, many side by side, figures kept beside them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from kvcatalog import telemetry
from kvcatalog.dynamo.connection import AmbiguousError, Connection
from kvcatalog.dynamo.ids import Ids
from kvcatalog.dynamo.items import ItemTable
from kvcatalog.dynamo.layout import SHARDS
from kvcatalog.dynamo.leases import Leases
from kvcatalog.dynamo.patience import pause
from kvcatalog.dynamo.place import TablePlace
from kvcatalog.dynamo.reading import DynamoReadTransaction
from kvcatalog.dynamo.sending import ITEMS_MAX, ConflictError, Sender
from kvcatalog.dynamo.sums import Delta, Sums
from kvcatalog.dynamo.workers import Workers
from kvcatalog.dynamo.writing import DynamoWriteTransaction
from kvcatalog.errors import (
    CatalogBusyError,
    CatalogClosedError,
    CatalogError,
    CorruptRecordError,
    OutcomeUnknownError,
    TransactionTooLargeError,
)
from kvcatalog.schema import BY_SHA256, DUPLICATES, VARIANTS_BY_SHA256
from kvcatalog.store import changes
from kvcatalog.store.backend import JointOperation, Operation
from kvcatalog.store.dynamo_tally import Block, DynamoTally

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")
Item = TypeVar("Item")

ATTEMPTS = 40
"""How often an operation is made again, since others were at the same rows, before that is an error."""

BELIEVED_ATTEMPTS = 4
"""How often rows that do not agree are read, until that is believed: others may have been changing them."""

_ROUNDS_MAX = 3

_log = logging.getLogger(__name__)


class DynamoBackend:
    """See Backend. Everything that must not cross a fork is made anew in each process."""

    rows_max: int | None = ITEMS_MAX - 2

    def __init__(self, place: TablePlace) -> None:
        self.place = place.url
        self.connection = Connection(place)
        self._processes: dict[int, _Process] = {}
        self._is_closed = False

    def read(self) -> DynamoReadTransaction:
        """See Backend."""
        process = self._process()
        return DynamoReadTransaction(process.items, process.sums)

    def submit(self, operation: Operation[Result]) -> Result:
        """See Backend."""
        process = self._process()
        result = process.made(operation)
        process.settle()
        return result

    def submit_all(
        self,
        operation: JointOperation[Item, Result],
        items: Sequence[Item],
        *,
        rows: int,
        key: Callable[[Item], Hashable] | None = None,
        numbers: str | None = None,
    ) -> list[Result]:
        """See Backend."""
        process = self._process()
        lanes = _lanes(items, key, together=max(1, (ITEMS_MAX - 2) // rows))
        blocks = iter(process.reserved(numbers, [piece for lane in lanes for piece in lane]))
        planned = [[(piece, next(blocks)) for piece in lane] for lane in lanes]

        def make(lane: list[tuple[list[int], Block | None]]) -> list[tuple[int, Result]]:
            found: list[tuple[int, Result]] = []
            for piece, block in lane:
                results = process.made_of(operation, [items[number] for number in piece], block)
                found += zip(piece, results, strict=True)
            return found

        found = dict(pair for pairs in process.workers.map(make, planned) for pair in pairs)
        process.settle()
        telemetry.batch_committed(len(items))
        return [found[number] for number in range(len(items))]

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do some work on each item, several at once, and return the results in order."""
        return self._process().workers.map(work, items)

    def post(
        self, operation: Operation[Result], before_failing: Callable[[BaseException], None] | None = None
    ) -> Future[Result]:
        """See Backend."""
        process = self._process()

        def work() -> Result:
            try:
                result = process.made(operation)
            except BaseException as error:
                if before_failing is not None:
                    before_failing(error)
                raise
            process.settle()
            return result

        return process.workers.post(work)

    @property
    def is_crowded(self) -> bool:
        """See Backend."""
        return self._process().workers.is_crowded

    def make_room(self) -> None:
        """See Backend."""
        self._process().workers.make_room()

    def lease(self, name: str, *, patiently: bool = True) -> AbstractContextManager[None]:
        """See Backend."""
        return self._process().leases.hold(name, patiently=patiently)

    def figures(self) -> tuple[int | None, None]:
        """See Backend: what the service tells, which is some hours old; and not known."""
        self._process().settle()
        try:
            size: int = self.connection.call("describe_table")["Table"]["TableSizeBytes"]
        except (CatalogError, AmbiguousError, KeyError):
            return None, None
        return size, None

    def check_leases(self) -> None:
        """Raise LeaseLostError if this process has a lease that it could not renew in time."""
        self._process().leases.check()

    def settle(self) -> None:
        """See that all figures are what they should be after what this process has done."""
        self._process().settle(patiently=True)

    def close(self) -> None:
        """See Backend."""
        self._is_closed = True
        process = self._processes.pop(os.getpid(), None)
        if process is not None:
            process.close()
            self.connection.close()

    def _process(self) -> _Process:
        if self._is_closed:
            raise CatalogClosedError(f"{self.place} is closed")
        number = os.getpid()
        return self._processes.get(number) or self._processes.setdefault(number, _Process(self.connection))


class _Process:
    """What one process has of a catalog."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.workers = Workers()
        self.items = ItemTable(connection, self.workers)
        self.sender = Sender(connection)
        self.sums = Sums(self.items, self.sender)
        self.ids = Ids(connection)
        self.leases = Leases(connection)
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._sums: dict[bytes, Delta] = {}
        self._digests: dict[bytes, bool] = {}
        self._is_settling = False

    def reserved(self, name: str | None, pieces: Sequence[Sequence[int]]) -> list[Block | None]:
        """Return a block of ids for each piece of work, in order."""
        if name is None:
            return [None] * len(pieces)
        first = self.ids.take(name, sum(map(len, pieces)))
        blocks: list[Block | None] = []
        for piece in pieces:
            blocks.append(Block(name, first, len(piece)))
            first += len(piece)
        return blocks

    def made(self, operation: Operation[Result], *, defers: bool = True, block: Block | None = None) -> Result:
        """Make an operation, again as long as others are at the same rows."""
        try:
            return self._made(operation, defers=defers, block=block)
        finally:
            if block is not None and block.count > block.used:
                self.ids.give_back(block.name, block.first + block.used, block.count - block.used)

    def _made(self, operation: Operation[Result], *, defers: bool, block: Block | None) -> Result:
        turn: AbstractContextManager[object] = nullcontext()
        disagreed = 0
        for attempt in range(ATTEMPTS):
            transaction = DynamoWriteTransaction(self.items, self.sums, self.leases)
            tally = transaction.state = DynamoTally(transaction, self.ids, defers=defers, block=block)
            try:
                with turn:
                    result = operation(transaction)
                    tally.write()
                    transaction.commit(self.sender)
            except ConflictError as conflict:
                tally.give_back(were_used=transaction.were_used(conflict))
                turn = self._turn if transaction.takes_turns else turn
            except CorruptRecordError:
                tally.give_back()
                disagreed += 1
                if disagreed == BELIEVED_ATTEMPTS:
                    raise
            except OutcomeUnknownError:
                raise
            except BaseException as error:
                if isinstance(error, CatalogError) or not transaction.was_sent:
                    tally.give_back()
                raise
            else:
                self._note(tally)
                return result
            pause(min(attempt, 6))
        raise CatalogBusyError(f"{self._connection.place.url}: others change the same rows all the time")

    def made_of(
        self, operation: JointOperation[Item, Result], items: Sequence[Item], block: Block | None = None
    ) -> list[Result]:
        """Make an operation on some things in one transaction, or in as few as they fit into."""
        try:
            return self.made(lambda transaction: operation(transaction, items), block=block)
        except TransactionTooLargeError:
            if len(items) == 1:
                raise
            middle = len(items) // 2
            return [*self.made_of(operation, items[:middle]), *self.made_of(operation, items[middle:])]

    def settle(self, *, patiently: bool = False) -> None:
        """Add to the counters what is to be added, and count digests anew; one thread does it for all.

        What cannot be done now is done with the next call: it has nothing to do with whether a call has succeeded. Who
        is patient does all that has come; others do a few rounds, so that nobody works for all others for ever.
        """
        with self._changed:
            if patiently:
                self._changed.wait_for(lambda: not self._is_settling)
            if self._is_settling:
                return
            self._is_settling = True
        try:
            rounds = 0
            while self._settle_some() and (patiently or rounds < _ROUNDS_MAX):
                rounds += 1
        finally:
            with self._changed:
                self._is_settling = False
                self._changed.notify_all()

    def _settle_some(self) -> bool:
        with self._changed:
            sums, digests = self._sums, self._digests
            self._sums, self._digests = {}, {}
        if not sums and not digests:
            return False
        try:
            self.sums.add(sums)
            self.workers.map(self._count, self._carried_by_several(digests))
            digests = {}
        except ConflictError:
            pause(0)
        except CatalogError as error:
            _log.warning("%s: figures are not up to date: %s", self._connection.place.url, error)
            return False
        finally:
            self._keep(sums, digests)
        return True

    def _carried_by_several(self, changed: dict[bytes, bool]) -> list[bytes]:
        """Return those digests that more than one record has, or, unless they were only added, is said to have.

        All of them are committed, so whoever adds another record now will look, too.
        """
        digests = sorted(changed)
        transaction = DynamoReadTransaction(self.items, self.sums)
        said = transaction.first_values(DUPLICATES, [digest for digest in digests if not changed[digest]])
        has_variants = len(digests) <= SHARDS or not transaction.is_empty(VARIANTS_BY_SHA256)

        def is_repeated(digest: bytes) -> bool:
            tables = (BY_SHA256, VARIANTS_BY_SHA256) if has_variants else (BY_SHA256,)
            carriers = (value for table in tables for value in transaction.values(table, digest, few=2))
            return digest in said or next(islice(carriers, 1, None), None) is not None

        answers = self.workers.map(is_repeated, digests)
        return [digest for digest, is_wanted in zip(digests, answers, strict=True) if is_wanted]

    def _count(self, digest: bytes) -> None:
        self.made(lambda transaction: changes.count_duplicates(transaction, digest), defers=False)

    def _note(self, tally: DynamoTally) -> None:
        self._keep(tally.sums, tally.digests)
        for name, number in tally.raised.items():
            self.ids.raise_to(name, number)

    def _keep(self, sums: dict[bytes, Delta], digests: dict[bytes, bool]) -> None:
        with self._changed:
            for digest, is_added in digests.items():
                self._digests[digest] = is_added and self._digests.get(digest, True)
            for key, delta in sums.items():
                total = self._sums.setdefault(key, Delta(delta.label))
                total.count += delta.count
                total.size += delta.size

    def close(self) -> None:
        """Finish what was posted, bring figures up to date, give ids back, unless the service was given up."""
        self.workers.close()
        self.workers = self.items.workers = Workers()
        if self._connection.is_silent:
            if self._sums or self._digests:
                _log.warning("%s: figures are not up to date: it does not answer", self._connection.place.url)
        else:
            self.settle(patiently=True)
            self.ids.return_unused()
        self.workers.close()


def _lanes(items: Sequence[Item], key: Callable[[Item], Hashable] | None, *, together: int) -> list[list[list[int]]]:
    """Return the numbers of items in lanes that may be made side by side, each with pieces that follow each other.

    All of one key are in one lane and in their order; without keys there is one lane. A piece has `together` at most.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(None if key is None else key(item), []).append(number)
    lanes: list[list[list[int]]] = []
    shared: list[int] = []
    for group in groups.values():
        if len(group) > together:
            lanes.append([group[start : start + together] for start in range(0, len(group), together)])
            continue
        if len(shared) + len(group) > together:
            lanes.append([shared])
            shared = []
        shared = shared + group
    return [*lanes, [shared]] if shared else lanes
