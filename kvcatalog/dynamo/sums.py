"""Numbers that many add to: kept in shards beside the transactions, so that no two of those meet there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

from msgspec import Struct

from kvcatalog.dynamo import layout
from kvcatalog.dynamo.items import Item, ItemTable, attributes_of
from kvcatalog.dynamo.layout import ItemKey
from kvcatalog.dynamo.sending import Sender
from kvcatalog.errors import OutcomeUnknownError
from kvcatalog.schema import COUNTER_CODEC, COUNTERS, SUMMED, CounterRow

SHARDS = 8
RECENT_SECONDS = 1.0
"""How long the version of the storage roots is taken for what it was, rather than read by every call."""

_SENT_AT_ONCE = 50
_TOKEN_SECONDS = 540.0
"""The service knows a transaction by its token for ten minutes."""


class Delta(Struct):
    """What is to be added to a counter."""

    label: str
    count: int = 0
    size: int = 0


class _Unanswered(Struct, frozen=True):
    """An addition of which nobody knows whether it was made."""

    actions: list[dict[str, Any]]
    token: str
    since: float


class Sums:
    """The counters of one process's view; reading one adds up its shards."""

    def __init__(self, items: ItemTable, sender: Sender) -> None:
        self._items = items
        self._sender = sender
        self._unanswered: _Unanswered | None = None
        self._recent: tuple[float, Item | None] | None = None

    @staticmethod
    def is_sum(key: bytes) -> bool:
        """Tell whether a counter is kept in shards."""
        return key.partition(b"\0")[0].decode(errors="replace") in SUMMED

    def value(self, key: bytes) -> bytes | None:
        """Return a sum as the row of a counter; None for nothing."""
        found = self._items.get_many([(_partition(shard), key) for shard in range(SHARDS)])
        return _added(key, found.values())

    @staticmethod
    def encoded(key: bytes, item: Item) -> bytes:
        """Return a number that ids are given from as the row of a counter."""
        return COUNTER_CODEC.encode(key, CounterRow(item.number or 0, 0, 0, ""))

    def items(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of all counters between two keys, in order."""
        partitions = [layout.partition(COUNTERS, 0), *map(_partition, range(SHARDS))]

        def read(partition: str) -> list[Item]:
            return [item for page in self._items.query(partition, start, stop) for item in page]

        together: dict[bytes, list[Item]] = {}
        for items in self._items.workers.map(read, partitions):
            for item in items:
                if stop is None or item.key[1] < stop:
                    together.setdefault(item.key[1], []).append(item)
        for key in sorted(together):
            found = together[key]
            if self.is_sum(key):
                value = _added(key, found)
            else:
                value = found[0].value if found[0].number is None else self.encoded(key, found[0])
            if value is not None:
                yield key, value

    def add(self, deltas: dict[bytes, Delta]) -> None:
        """Add to counters, and take away from `deltas` what is added; one thread at a time.

        What nobody knows of whether it was added is sent again under its token first, as long as that is known.
        """
        if self._unanswered is not None:
            if time.monotonic() < self._unanswered.since + _TOKEN_SECONDS:
                self._sender.send(self._unanswered.actions, token=self._unanswered.token)
            self._unanswered = None
        for key in [key for key, delta in deltas.items() if not (delta.count or delta.size)]:
            del deltas[key]
        while deltas:
            some = list(islice(deltas.items(), _SENT_AT_ONCE))
            shard = _partition(random.randrange(SHARDS))  # noqa: S311 - no secret
            actions = [{"Update": self._addition((shard, key), delta)} for key, delta in some]
            token, since = str(uuid4()), time.monotonic()
            try:
                self._sender.send(actions, token=token)
            except BaseException as error:
                if isinstance(error, OutcomeUnknownError) or not isinstance(error, Exception):  # or interrupted
                    self._unanswered = _Unanswered(actions, token, since)
                    for key, _ in some:
                        del deltas[key]
                raise
            for key, _ in some:
                del deltas[key]

    def _addition(self, where: ItemKey, delta: Delta) -> dict[str, Any]:
        return {
            "TableName": self._items.connection.place.table,
            "Key": attributes_of(where),
            "UpdateExpression": "SET l = :l ADD n :n, b :b",
            "ExpressionAttributeValues": {
                ":l": {"S": delta.label},
                ":n": {"N": str(delta.count)},
                ":b": {"N": str(delta.size)},
            },
        }

    def recent(self, where: ItemKey) -> Item | None:
        """Return an item as it was a moment ago."""
        known = self._recent
        if known is None or time.monotonic() > known[0] + RECENT_SECONDS:
            at = time.monotonic()
            known = self._recent = (at, self._items.get(where))
        return known[1]

    def forget_recent(self) -> None:
        """Read it anew next time."""
        self._recent = None


def _partition(shard: int) -> str:
    return f"+.{shard}"


def _added(key: bytes, items: Any) -> bytes | None:  # noqa: ANN401 - any iterable of items
    count, size, label = 0, 0, ""
    for item in items:
        count, size, label = count + (item.number or 0), size + item.size, item.label
    return COUNTER_CODEC.encode(key, CounterRow(0, 0, 0, label).plus(count, size)) if count else None
