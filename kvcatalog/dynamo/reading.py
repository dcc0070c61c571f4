"""Rows read from a table of DynamoDB: each as it is at that moment, so two of them may be of different moments."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from kvcatalog.dynamo import layout
from kvcatalog.dynamo.items import Item, ItemTable
from kvcatalog.dynamo.layout import LAYOUTS, SHARDS, ItemKey
from kvcatalog.dynamo.sums import Sums
from kvcatalog.kv.table import Table
from kvcatalog.schema import COUNTERS, META, ROOTS_VERSION_KEY

_AHEAD_ROWS = 100
_UPCOMING_MAX = 5000
_VALUE_END = b"\xff" * 9

Pair = tuple[bytes, bytes]


class DynamoReadTransaction:
    """See kv.protocol.ReadTransaction. Nothing is kept on the other side, so it may last."""

    is_snapshot = False

    def __init__(self, items: ItemTable, sums: Sums) -> None:
        self._items = items
        self._sums = sums
        self._fetched: dict[ItemKey, Item | None] = {}
        self._upcoming: dict[Table, dict[bytes, None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is to be given back."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """See ReadTransaction."""
        if table is COUNTERS and self._sums.is_sum(key):
            return self._sums.value(key)
        if table.sets:
            return next(self.values(table, key, few=1), None)
        item = self._item(table, key)
        if item is None:
            return None
        return item.value if item.number is None else self._sums.encoded(key, item)

    def _item(self, table: Table, key: bytes) -> Item | None:
        where = layout.item_key(table, key)
        if where in self._fetched:
            return self._fetched.pop(where)
        if table is META and key == ROOTS_VERSION_KEY:
            return self._sums.recent(where)
        if key in (upcoming := self._upcoming.get(table, {})):
            upcoming.pop(key)
            others = list(islice(upcoming, _AHEAD_ROWS - 1))
            for each in others:
                del upcoming[each]
            self._fetch([where, *(layout.item_key(table, each) for each in others)])
            return self._fetched.pop(where)
        return self._items.get(where)

    def expect(self, table: Table, keys: Iterable[bytes]) -> None:
        """See WriteTransaction."""
        self._fetch([layout.item_key(table, key) for key in keys])

    def _fetch(self, wanted: list[ItemKey]) -> None:
        if wanted:
            self._fetched.update(dict.fromkeys(wanted))
            self._fetched.update(self._items.get_many(wanted))

    def first_values(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """See ReadTransaction."""
        wanted = list(dict.fromkeys(keys))
        if not table.sets:
            self.expect(table, wanted)
            values = [self.get(table, key) for key in wanted]
        else:
            values = self._items.workers.map(lambda key: self.get(table, key), wanted)
        return {key: value for key, value in zip(wanted, values, strict=True) if value is not None}

    def values(
        self, table: Table, key: bytes, *, start: bytes = b"", reverse: bool = False, few: int | None = None
    ) -> Iterator[bytes]:
        """See ReadTransaction; `few` values are enough at first."""
        head = key + b"\0"
        low, high = (head + start, head + _VALUE_END) if not reverse else (head, head + (start or _VALUE_END))
        for found, value in self._pairs(table, layout.shards_of_set(table, key), low, high, reverse=reverse, few=few):
            if found == key and not (reverse and start and value >= start):
                yield value

    def count(self, table: Table, key: bytes) -> int:
        """See ReadTransaction."""
        head = key + b"\0"
        partitions = [layout.partition(table, shard) for shard in layout.shards_of_set(table, key)]
        return sum(self._items.workers.map(lambda each: self._items.count(each, head, head + _VALUE_END), partitions))

    def items(
        self,
        table: Table,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        after: Pair | None = None,
    ) -> Iterator[Pair]:
        """See ReadTransaction."""
        if table is COUNTERS:
            yield from self._sums.items(start, stop)
            return
        low, high = layout.bound(table, start), None if stop is None else layout.bound(table, stop)
        if after is not None:
            behind = layout.item_key(table, *after)[1]
            if reverse:
                high = behind if high is None else min(high, behind)
            else:
                low = max(low, behind + b"\0")
        shards = layout.shards_between(table, start, stop)
        for pair in self._pairs(table, shards, low, high, reverse=reverse):
            is_inside = pair[0] >= start and (stop is None or pair[0] < stop)
            # Of what is no set, `after` need not have the value.
            if is_inside and (after is None or (pair != after if table.sets else pair[0] != after[0])):
                yield pair

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
        """Yield the rows of some shards in order, with those at both ends."""
        wanted = sorted(shards, reverse=reverse)
        walks = [self._walk(table, shard, low, high, reverse=reverse, few=few) for shard in wanted]
        if len(walks) == 1 or layout.is_ordered(table):
            for walk in walks:
                yield from walk
            return
        # Each has its first page before the first row comes, and they wait for those together.
        firsts = self._items.workers.map(lambda walk: next(walk, None), walks)
        started = [_begun(first, walk) for first, walk in zip(firsts, walks, strict=True) if first is not None]
        yield from heapq.merge(*started, reverse=reverse)

    def _walk(
        self, table: Table, shard: int, low: bytes, high: bytes | None, *, reverse: bool, few: int | None
    ) -> Iterator[Pair]:
        partition = layout.partition(table, shard)
        for page in self._items.query(partition, low, high, reverse=reverse, few=few):
            yield from self._noted(table, page)

    def _noted(self, table: Table, page: list[Item]) -> list[Pair]:
        """Return the rows of a page; what they lead to is likely to be asked for next."""
        pairs = [layout.pair_of(table, item.key[1], item.value) for item in page]
        how = LAYOUTS[table]
        if how.leads_to is not None:
            upcoming = self._upcoming.setdefault(how.leads_to, {})
            if len(upcoming) > _UPCOMING_MAX:
                upcoming.clear()
            upcoming.update((how.lead(*pair), None) for pair in pairs)
        return pairs

    def missing(self, table: Table, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """See ReadTransaction."""
        wanted = list(pairs)
        places = [layout.item_key(table, key, value if table.sets else b"") for key, value in wanted]
        found = self._items.get_many(places) if places else {}
        for pair, place in zip(wanted, places, strict=True):
            item = found.get(place)
            if item is None or not (table.sets or item.value == pair[1]):
                yield pair

    def last_key(self, table: Table) -> bytes | None:
        """See ReadTransaction."""

        def last(shard: int) -> bytes | None:
            pair = next(self._walk(table, shard, b"", None, reverse=True, few=1), None)
            return None if pair is None else pair[0]

        keys = self._items.workers.map(last, range(SHARDS))
        return max((key for key in keys if key is not None), default=None)

    def entries(self, table: Table) -> int:
        """See ReadTransaction."""
        partitions = [layout.partition(table, shard) for shard in range(SHARDS)]
        return sum(self._items.workers.map(self._items.count, partitions))

    def is_empty(self, table: Table) -> bool:
        """See ReadTransaction."""

        def holds(shard: int) -> bool:
            return next(self._walk(table, shard, b"", None, reverse=False, few=1), None) is not None

        return not any(self._items.workers.map(holds, range(SHARDS)))


def _begun(first: Pair, rest: Iterator[Pair]) -> Iterator[Pair]:
    yield first
    yield from rest
