"""Rows changed in a table of DynamoDB, in a transaction that holds only if what it read is still so.

Whatever is read by its key is noted with its stamp, or as absent. At the end all changes go in one TransactWriteItems:
what is changed must be as it was read. What was only read is not looked at again, since a condition on a row that many
read would be a conflict for each two of them; whoever needs that touches the row, or reads a guarded table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from msgspec import Struct

from kvcatalog.dynamo import layout
from kvcatalog.dynamo.items import Item, ItemTable, attributes_of
from kvcatalog.dynamo.layout import LAYOUTS, ItemKey
from kvcatalog.dynamo.leases import Leases
from kvcatalog.dynamo.reading import DynamoReadTransaction, Pair
from kvcatalog.dynamo.sending import BYTES_MAX, ConflictError, Sender
from kvcatalog.dynamo.sums import Sums
from kvcatalog.errors import InvalidValueError, TransactionTooLargeError
from kvcatalog.kv.table import Table
from kvcatalog.schema import COUNTERS, JOURNAL, META, ROOTS_VERSION_KEY

_ROW_BYTES_MAX = 195_000
_ENTRY_BYTES_MAX = 400_000
"""An entry of the journal has what two rows said, so that whatever was stored can be changed and deleted."""

_STAMP_BYTES = 8


class _Change(Struct, frozen=True):
    """What becomes of an item; `table` is None for a guard."""

    kind: Literal["put", "delete", "touch"]
    table: Table | None = None
    pair: Pair = (b"", b"")
    stamp: bytes | None = None


class DynamoWriteTransaction(DynamoReadTransaction):
    """See kv.protocol.WriteTransaction."""

    def __init__(self, items: ItemTable, sums: Sums, leases: Leases) -> None:
        super().__init__(items, sums)
        self._leases = leases
        self._known: dict[ItemKey, Item | None] = {}
        self._changes: dict[ItemKey, _Change] = {}
        self._checked_guards: set[ItemKey] = set()
        self._marks: dict[ItemKey, int] = {}
        self._required: dict[ItemKey, str] = {}
        self.was_sent = False
        self.writes = 0
        self.state: object = None
        self.inherited: object = None

    def _item(self, table: Table, key: bytes) -> Item | None:
        where = layout.item_key(table, key)
        change = self._changes.get(where)
        if change is not None and change.kind != "touch":
            return Item(where, change.pair[1], change.stamp) if change.kind == "put" else None
        if where not in self._known:
            if LAYOUTS[table].guarded and self._guard(key) is None:
                return None  # no row that it stands for was ever there
            self._known[where] = super()._item(table, key)
        return self._known[where]

    def _guard(self, key: bytes) -> Item | None:
        """Return the guard of a row, always before the row: whoever changes that later changes the guard."""
        where = layout.guard_key(key)
        if where not in self._known:
            self._known[where] = self._items.get(where)
        self._checked_guards.add(where)
        return self._known[where]

    def expect(self, table: Table, keys: Iterable[bytes]) -> None:
        """See WriteTransaction."""
        wanted = list(keys)
        if LAYOUTS[table].guarded and wanted:
            guards = {key: layout.guard_key(key) for key in wanted}
            unread = [where for where in guards.values() if where not in self._known]
            self._known.update(dict.fromkeys(unread))
            if unread:
                self._known.update(self._items.get_many(unread))
            wanted = [key for key in wanted if self._known[guards[key]] is not None]
        super().expect(table, wanted)

    def _pairs(
        self,
        table: Table,
        shards: Iterable[int],
        low: bytes,
        high: bytes | None,
        *,
        reverse: bool,
        few: int | None = None,
    ) -> Iterator[Pair]:
        wanted = sorted(shards)
        partitions = {layout.partition(table, shard) for shard in wanted}
        own = {
            where: change
            for where, change in self._changes.items()
            if change.table is table and change.kind != "touch" and where[0] in partitions
        }
        pairs = super()._pairs(table, wanted, low, high, reverse=reverse, few=few)
        if not own:
            yield from pairs
            return
        value = (lambda pair: pair[1]) if table.sets else (lambda _pair: b"")
        stored = {layout.item_key(table, pair[0], value(pair)): pair for pair in pairs}
        for where, change in own.items():
            stored.pop(where, None)
            if change.kind == "put" and low <= where[1] and (high is None or where[1] <= high):
                stored[where] = change.pair
        yield from sorted(stored.values(), reverse=reverse)

    def _noted(self, table: Table, page: list[Item]) -> list[Pair]:
        if not LAYOUTS[table].bare:
            for item in page:
                self._known.setdefault(item.key, item)
        return super()._noted(table, page)

    def count(self, table: Table, key: bytes) -> int:
        """See ReadTransaction."""
        if any(change.table is table for change in self._changes.values()):
            return sum(1 for _ in self.values(table, key))
        return super().count(table, key)

    def put(self, table: Table, key: bytes, value: bytes, *, append: bool = False) -> None:  # noqa: ARG002
        """See WriteTransaction; InvalidValueError for a row that no item can hold."""
        bytes_max = _ENTRY_BYTES_MAX if table is JOURNAL else _ROW_BYTES_MAX
        if len(key) + len(value) > bytes_max:
            raise InvalidValueError("record", f"takes {len(value)} bytes, and in DynamoDB {bytes_max} at most")
        self.writes += 1
        where = layout.item_key(table, key, value if table.sets else b"")
        stamp = None if LAYOUTS[table].bare else os.urandom(_STAMP_BYTES)
        self._changes[where] = _Change("put", table, (key, value), stamp)
        self._change_guard(table, key)

    def put_many(self, table: Table, rows: Iterable[Pair], *, append: bool = False) -> None:
        """See WriteTransaction."""
        for key, value in rows:
            self.put(table, key, value, append=append)

    def replace(self, table: Table, key: bytes, old: bytes, new: bytes) -> None:  # noqa: ARG002 - as LMDB's
        """See WriteTransaction."""
        self.put(table, key, new)

    def delete(self, table: Table, key: bytes, value: bytes = b"") -> bool:
        """See WriteTransaction."""
        where = layout.item_key(table, key, value if table.sets else b"")
        if not LAYOUTS[table].bare:
            if self._item(table, key) is None:
                return False
            if self._known.get(where, Item(where)) is None:  # it was put here, and nothing was there before
                del self._changes[where]
                return True
        self.writes += 1
        self._changes[where] = _Change("delete", table, (key, value))
        self._change_guard(table, key)
        return True

    def _change_guard(self, table: Table, key: bytes) -> None:
        if LAYOUTS[table].guarded:
            self._guard(key)
            self._changes[layout.guard_key(key)] = _Change("touch", stamp=os.urandom(_STAMP_BYTES))

    def leave_mark(self, table: Table, key: bytes, number: int) -> None:
        """See WriteTransaction; the guard keeps it, and changes with it."""
        where = layout.guard_key(key)
        self._marks[where] = max(number, self._marks.get(where, 0))
        self._change_guard(table, key)

    def mark(self, table: Table, key: bytes) -> int | None:  # noqa: ARG002 - only one is guarded
        """See WriteTransaction; the commit fails if the guard has changed since it was read."""
        guard = self._guard(key)
        return 0 if guard is None else guard.number

    def touch(self, table: Table, key: bytes) -> None:
        """See WriteTransaction."""
        where = layout.item_key(table, key)
        if where not in self._changes and self._known.get(where, Item(where)) is not None:
            self._changes[where] = _Change("touch", table, stamp=os.urandom(_STAMP_BYTES))

    def require_lease(self, name: str) -> None:
        """See WriteTransaction; LeaseLostError where it could not be renewed in time."""
        held = self._leases.held(name)
        if held is not None:
            self._required[held[0]] = held[1]

    def commit(self, sender: Sender) -> None:
        """Make all changes, or none; raises what `Sender.send` does, and LeaseLostError."""
        if not any(change.kind != "touch" for change in self._changes.values()):
            return
        actions = [self._action(where, change) for where, change in self._changes.items()]
        unchanged = sorted(self._checked_guards.difference(self._changes))
        actions += [{"ConditionCheck": self._target(where) | self._condition(where)} for where in unchanged]
        first_lease = len(actions)
        for where, owner in self._required.items():
            condition = {"ConditionExpression": "o = :o", "ExpressionAttributeValues": {":o": {"S": owner}}}
            actions.append({"ConditionCheck": self._target(where) | condition})
        size = sum(len(where[1]) * 2 + sum(map(len, change.pair)) for where, change in self._changes.items())
        if size > BYTES_MAX:
            raise TransactionTooLargeError(f"{size} bytes belong together, and a transaction takes {BYTES_MAX}")
        self.was_sent = True
        try:
            sender.send(actions, self._is_made)
        except ConflictError as conflict:
            self._sums.forget_recent()
            if any(number >= first_lease for number in conflict.failed):
                raise self._leases.lost() from conflict
            raise
        if layout.item_key(META, ROOTS_VERSION_KEY) in self._changes:
            self._sums.forget_recent()

    def were_used(self, conflict: ConflictError) -> bool:
        """Tell whether a conflict came from a new row whose id somebody has already."""
        changes = list(self._changes.values())
        failed = (changes[number] for number in conflict.failed if number < len(changes))
        return any(each.kind == "put" and each.table is not None and LAYOUTS[each.table].fresh for each in failed)

    @property
    def takes_turns(self) -> bool:
        """Tell whether it changes a number that all change who do the like."""
        counters = layout.partition(COUNTERS, 0)
        return any(where[0] == counters for where in self._changes)

    def _action(self, where: ItemKey, change: _Change) -> dict[str, Any]:
        target = self._target(where)
        condition = self._condition(where, change)
        if change.kind == "delete":
            return {"Delete": target | condition}
        if change.kind == "touch":
            names = condition.setdefault("ExpressionAttributeValues", {})
            names[":s"] = {"B": change.stamp}
            expression = "SET s = :s"
            number = self._mark_of(where) if change.table is None else None
            if number is not None:
                names[":n"] = {"N": str(number)}
                expression += ", n = :n"
            return {"Update": target | condition | {"UpdateExpression": expression}}
        item = attributes_of(where)
        if change.table is not None and not change.table.sets and change.pair[1]:
            item["v"] = {"B": change.pair[1]}
        if change.stamp is not None:
            item["s"] = {"B": change.stamp}
        return {"Put": {"TableName": target["TableName"], "Item": item} | condition}

    def _mark_of(self, where: ItemKey) -> int | None:
        """Return what a guard is to keep; None if it has kept nothing so far, and nothing is to be kept now."""
        guard, left = self._known.get(where), self._marks.get(where)
        if guard is None:
            return left or 0
        return guard.number if left is None else max(left, guard.number or 0)

    def _condition(self, where: ItemKey, change: _Change | None = None) -> dict[str, Any]:
        """Return the condition that an item is what it was."""
        if where in self._known:
            known = self._known[where]
            if known is None:
                return {"ConditionExpression": "attribute_not_exists(pk)"}
            values = {":k": {"B": known.stamp or b""}}
            return {"ConditionExpression": "s = :k", "ExpressionAttributeValues": values}
        if change is None or change.table is None:
            return {}
        if change.kind == "touch":
            return {"ConditionExpression": "attribute_exists(pk)"}
        is_fresh = change.kind == "put" and LAYOUTS[change.table].fresh
        return {"ConditionExpression": "attribute_not_exists(pk)"} if is_fresh else {}

    def _target(self, where: ItemKey) -> dict[str, Any]:
        return {"TableName": self._items.connection.place.table, "Key": attributes_of(where)}

    def _is_made(self) -> bool:
        """Tell whether the changes are seen to be made, by the stamp of one of them."""
        for where, change in self._changes.items():
            if change.stamp is not None:
                item = self._items.get(where)
                return item is not None and item.stamp == change.stamp
        return False
