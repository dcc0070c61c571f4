"""Items of one table: read by key, many at once, or in order within a partition; always consistently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from kvcatalog.dynamo.connection import Connection
from kvcatalog.dynamo.layout import ItemKey
from kvcatalog.dynamo.patience import Attempts
from kvcatalog.dynamo.workers import Workers
from kvcatalog.errors import CatalogBusyError

_BATCH_KEYS = 100
_PAGES = (100, 500, 1000)
"""How many items the first pages of a query have; later ones are as long as the last of these."""


class Item(Struct, frozen=True, gc=False):
    """What an item holds; `stamp` is another after each change, `number` and `size` are counted."""

    key: ItemKey
    value: bytes = b""
    stamp: bytes | None = None
    number: int | None = None
    size: int = 0
    label: str = ""


class ItemTable:
    """The items of a table, for the threads of one process."""

    def __init__(self, connection: Connection, workers: Workers) -> None:
        self.connection = connection
        self.workers = workers

    def get(self, key: ItemKey) -> Item | None:
        """Return an item."""
        answer = self.connection.read("get_item", Key=attributes_of(key), ConsistentRead=True)
        found = answer.get("Item")
        return None if found is None else item_of(found)

    def get_many(self, keys: Sequence[ItemKey]) -> dict[ItemKey, Item]:
        """Return those of some items that are there."""
        if len(keys) == 1:
            item = self.get(keys[0])
            return {} if item is None else {keys[0]: item}
        wanted = list(dict.fromkeys(keys))
        pieces = [wanted[start : start + _BATCH_KEYS] for start in range(0, len(wanted), _BATCH_KEYS)]
        found: dict[ItemKey, Item] = {}
        for items in self.workers.map(self._get_batch, pieces):
            found.update((item.key, item) for item in items)
        return found

    def _get_batch(self, keys: Sequence[ItemKey]) -> list[Item]:
        table = self.connection.place.table
        waiting: Any = {table: {"Keys": [attributes_of(key) for key in keys], "ConsistentRead": True}}
        found: list[Item] = []
        for _ in Attempts():
            answer = self.connection.repeated(partial(self.connection.ask, "batch_get_item", RequestItems=waiting))
            found += [item_of(item) for item in answer["Responses"].get(table, ())]
            waiting = answer.get("UnprocessedKeys")
            if not waiting:
                return found
        raise CatalogBusyError(f"{self.connection.place.url} takes no more requests")

    def query(
        self,
        partition: str,
        low: bytes = b"",
        high: bytes | None = None,
        *,
        reverse: bool = False,
        few: int | None = None,
    ) -> Iterator[list[Item]]:
        """Yield pages of the items of a partition with low <= sort key <= high, in order; `few` are enough at first."""
        values: dict[str, Any] = {":p": {"S": partition}}
        condition = "pk = :p"
        if high is not None:
            if low > high:
                return
            condition += " AND sk BETWEEN :l AND :h"
            values |= {":l": {"B": low or b"\0"}, ":h": {"B": high or b"\0"}}
        elif low:
            condition += " AND sk >= :l"
            values[":l"] = {"B": low}
        request: dict[str, Any] = {
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
            "ScanIndexForward": not reverse,
        }
        page = 0
        while True:
            limit = few if few is not None and not page else _PAGES[min(page, len(_PAGES) - 1)]
            answer = self.connection.read("query", Limit=limit, **request)
            page += 1
            yield [item_of(item) for item in answer["Items"]]
            last = answer.get("LastEvaluatedKey")
            if last is None:
                return
            request["ExclusiveStartKey"] = last

    def count(self, partition: str, low: bytes = b"", high: bytes | None = None) -> int:
        """Return how many items a partition has with low <= sort key <= high."""
        condition = "pk = :p"
        values: dict[str, Any] = {":p": {"S": partition}}
        if high is not None:
            condition += " AND sk BETWEEN :l AND :h"
            values |= {":l": {"B": low or b"\0"}, ":h": {"B": high}}
        request: dict[str, Any] = {"KeyConditionExpression": condition, "ExpressionAttributeValues": values}
        total: int = 0
        while True:
            answer = self.connection.read("query", Select="COUNT", ConsistentRead=True, **request)
            total += int(answer["Count"])
            last = answer.get("LastEvaluatedKey")
            if last is None:
                return total
            request["ExclusiveStartKey"] = last


def attributes_of(key: ItemKey) -> dict[str, Any]:
    """Return a key as the service takes it."""
    return {"pk": {"S": key[0]}, "sk": {"B": key[1]}}


def item_of(attributes: dict[str, Any]) -> Item:
    """Return an item as the service gives it."""
    stamp, number, size, label = (attributes.get(name) for name in ("s", "n", "b", "l"))
    return Item(
        (attributes["pk"]["S"], attributes["sk"]["B"]),
        attributes["v"]["B"] if "v" in attributes else b"",
        None if stamp is None else stamp["B"],
        None if number is None else int(number["N"]),
        0 if size is None else int(size["N"]),
        "" if label is None else label["S"],
    )
