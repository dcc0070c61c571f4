"""Ids in blocks: each process takes some from the one item that counts them, so hosts seldom meet there.

What a process does not use is lost with it, unless it ends in order and nobody took any behind; no id is given twice.
"""

from __future__ import annotations

import threading

from kvcatalog.dynamo.connection import AmbiguousError, Connection
from kvcatalog.dynamo.items import attributes_of
from kvcatalog.dynamo.layout import item_key
from kvcatalog.dynamo.patience import Attempts
from kvcatalog.errors import CatalogBusyError
from kvcatalog.schema import COUNTERS, counter_key

BLOCK_IDS_MAX = 1024

_Range = tuple[int, int]
"""The first and the last of ids that are free."""


class Ids:
    """The ids that one process may give."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._free: dict[str, list[_Range]] = {}
        self._last: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def take(self, name: str, count: int) -> int:
        """Return the first of some ids in a row."""
        with self._lock:
            free = self._free.setdefault(name, [])
            while True:
                for number, (first, last) in enumerate(free):
                    if last - first + 1 >= count:
                        free[number : number + 1] = [(first + count, last)] if first + count <= last else []
                        return first
                self._lease(name, count)

    def give_back(self, name: str, first: int, count: int) -> None:
        """Take back ids that were not used after all."""
        with self._lock:
            self._free[name] = _merged([*self._free.get(name, ()), (first, first + count - 1)])

    def raise_to(self, name: str, number: int) -> None:
        """See that no id up to a number is given again."""
        with self._lock:
            free = self._free.get(name, [])
            self._free[name] = [(max(first, number + 1), last) for first, last in free if last > number]
        self._update(name, "SET n = :n", "attribute_not_exists(n) OR n < :n", {":n": {"N": str(number)}})

    def return_unused(self) -> None:
        """Give those back that nobody took any behind."""
        with self._lock:
            for name, free in self._free.items():
                if free and free[-1][1] == self._last.get(name):
                    first, last = free.pop()
                    values = {":n": {"N": str(first - 1)}, ":l": {"N": str(last)}}
                    self._update(name, "SET n = :n", "n = :l", values)
            self._free.clear()
            self._sizes.clear()

    def _lease(self, name: str, count: int) -> None:
        size = max(self._sizes.get(name, 1), count)
        self._sizes[name] = min(size * 2, BLOCK_IDS_MAX)
        answer = self._update(name, "ADD n :n", None, {":n": {"N": str(size)}})
        last = int(answer["Attributes"]["n"]["N"]) if answer else 0
        self._last[name] = last
        free = self._free[name]
        free[:] = _merged([*free, (last - size + 1, last)])

    def _update(
        self, name: str, expression: str, condition: str | None, values: dict[str, dict[str, str]]
    ) -> dict[str, dict[str, dict[str, str]]] | None:
        from botocore.exceptions import ClientError

        options = {} if condition is None else {"ConditionExpression": condition}
        attempts = Attempts()
        for _ in attempts:
            try:
                answer: dict[str, dict[str, dict[str, str]]] = self._connection.call(
                    "update_item",
                    Key=attributes_of(item_key(COUNTERS, counter_key(name))),
                    UpdateExpression=expression,
                    ExpressionAttributeValues=values,
                    ReturnValues="UPDATED_NEW",
                    **options,
                )
            except ClientError:
                return None  # it is so already, or others were there
            except (CatalogBusyError, AmbiguousError) as error:
                attempts.is_silent = isinstance(error, AmbiguousError)  # what was taken without an answer is lost
            else:
                return answer
        if attempts.is_silent:
            raise self._connection.silence()
        raise CatalogBusyError(f"{self._connection.place.url} gives no ids")


def _merged(ranges: list[_Range]) -> list[_Range]:
    merged: list[_Range] = []
    for first, last in sorted(ranges):
        if merged and merged[-1][1] + 1 == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged
