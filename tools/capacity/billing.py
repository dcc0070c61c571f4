"""What DynamoDB bills for a call, from what goes over the wire: request units and bytes, item by item.

Sizes are those of the developer's guide ("Item sizes and formats"), rounding that of "Read and write operations": a
write is billed by the KB, a read by 4 KB, in a transaction twice; a check of a condition in a transaction like a write.
Of an update only what is sent is known, so items that grow by it should be small. A transaction that was refused is
billed as if it had been made.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, NamedTuple

from tools.servers.dynamodb_proxy import Body, Exchange

WRITE_BYTES = 1024
READ_BYTES = 4096
STORED_OVERHEAD_BYTES = 100
"""What is billed as storage for each item beside its size."""

_FREE = {"DescribeTable", "CreateTable", "DescribeContinuousBackups", "UpdateContinuousBackups", "ListTables"}


class Bill(NamedTuple):
    """What one item of a call costs, in request units; `stored` is its size in bytes where it was put or changed."""

    partition: str
    item: bytes
    write_units: float = 0
    read_units: float = 0
    stored: int | None = None

    @property
    def family(self) -> str:
        """What a partition key begins with, up to its shard: the kind of its items."""
        return self.partition.partition(".")[0]


def bills(exchange: Exchange) -> Iterator[Bill]:
    """Yield what each item of a call costs."""
    if exchange.operation in _FREE:
        return
    biller = _BILLERS.get(exchange.operation)
    if biller is None:
        raise ValueError(f"nobody knows what {exchange.operation} costs")
    yield from biller(exchange.request, exchange.reply)


def _transact_write(request: Body, _: Body) -> Iterator[Bill]:
    for action in request["TransactItems"]:
        ((kind, each),) = action.items()
        yield _written(each, factor=2, stores=kind in {"Put", "Update"})


def _put(request: Body, _: Body) -> Iterator[Bill]:
    yield _written(request, factor=1, stores=True)


def _delete(request: Body, _: Body) -> Iterator[Bill]:
    yield _written(request, factor=1, stores=False)


def _batch_write(request: Body, _: Body) -> Iterator[Bill]:
    for requests in request["RequestItems"].values():
        for each in requests:
            ((kind, what),) = each.items()
            yield _written(what, factor=1, stores=kind == "PutRequest")


def _get(request: Body, reply: Body) -> Iterator[Bill]:
    yield _read(request["Key"], reply.get("Item"), _factor(request))


def _batch_get(request: Body, reply: Body) -> Iterator[Bill]:
    for table, wanted in request["RequestItems"].items():
        found = {_identity(item): item for item in reply.get("Responses", {}).get(table, ())}
        for key in wanted["Keys"]:
            yield _read(key, found.get(_identity(key)), _factor(wanted))


def _transact_get(request: Body, reply: Body) -> Iterator[Bill]:
    answers = reply.get("Responses") or [{}] * len(request["TransactItems"])
    for each, answer in zip(request["TransactItems"], answers, strict=True):
        yield _read(each["Get"]["Key"], answer.get("Item"), 2)


def _query(request: Body, reply: Body) -> Iterator[Bill]:
    size = sum(map(item_bytes, reply.get("Items", ())))
    values = request.get("ExpressionAttributeValues", {})
    partition = next((value["S"] for value in values.values() if "S" in value), "")
    yield Bill(partition, b"", read_units=max(1, ceil(size / READ_BYTES)) * _factor(request))


_BILLERS: dict[str, Callable[[Body, Body], Iterator[Bill]]] = {
    "TransactWriteItems": _transact_write,
    "PutItem": _put,
    "UpdateItem": _put,
    "DeleteItem": _delete,
    "BatchWriteItem": _batch_write,
    "GetItem": _get,
    "BatchGetItem": _batch_get,
    "TransactGetItems": _transact_get,
    "Query": _query,
}


def item_bytes(item: Body) -> int:
    """Return the size of an item."""
    return sum(len(name.encode()) + value_bytes(value) for name, value in item.items())


def value_bytes(value: dict[str, Any]) -> int:
    """Return the size of an attribute's value."""
    ((kind, content),) = value.items()
    if kind in {"SS", "NS", "BS"}:
        return sum(value_bytes({kind[0]: each}) for each in content)
    return _SIZES[kind](content)


_SIZES: dict[str, Callable[[Any], int]] = {
    "S": lambda content: len(content.encode()),
    "B": lambda content: len(base64.b64decode(content)),
    "N": lambda content: (len(content.lstrip("-").replace(".", "").strip("0")) + 1) // 2 + 1,
    "BOOL": lambda _: 1,
    "NULL": lambda _: 1,
    "L": lambda content: 3 + sum(1 + value_bytes(each) for each in content),
    "M": lambda content: 3 + sum(1 + len(name.encode()) + value_bytes(each) for name, each in content.items()),
}


def _written(what: Body, *, factor: int, stores: bool) -> Bill:
    item: Body = what.get("Item") or {**what["Key"], **what.get("ExpressionAttributeValues", {})}
    size = item_bytes(item)
    units = factor * max(1, ceil(size / WRITE_BYTES))
    return Bill(item["pk"]["S"], _identity(item), write_units=units, stored=size if stores else None)


def _read(key: Body, item: Body | None, factor: float) -> Bill:
    units = factor * max(1, ceil(item_bytes(item or {}) / READ_BYTES))
    return Bill(key["pk"]["S"], _identity(key), read_units=units)


def _factor(request: Body) -> float:
    return 1 if request.get("ConsistentRead") else 0.5


def _identity(item: Body) -> bytes:
    partition: str = item["pk"]["S"]
    return partition.encode() + b"\0" + base64.b64decode(item["sk"]["B"])
