"""What the capacity model bills and predicts."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tools.capacity.billing import Bill, bills, item_bytes
from tools.capacity.model import Assumptions, Need, cost, need_of, predicted
from tools.servers.dynamodb_proxy import Exchange


def binary(data: bytes) -> dict[str, str]:
    return {"B": base64.b64encode(data).decode()}


def item(partition: str = "d.0", size: int = 0, sort: bytes = b"k") -> dict[str, Any]:
    """Return an item of so many bytes; keys and names count, too."""
    known = {"pk": {"S": partition}, "sk": binary(sort)}
    return {**known, "v": binary(bytes(size - item_bytes(known) - 1))} if size else known


def billed(operation: str, request: dict[str, Any], reply: dict[str, Any] | None = None) -> list[Bill]:
    return list(bills(Exchange(operation, request, reply or {}, 200)))


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": "文a"}, 4),
        (binary(b"12345"), 5),
        ({"N": "1200"}, 2),
        ({"N": "-12.345"}, 4),
        ({"NULL": True}, 1),
        ({"L": [{"S": "ab"}, {"BOOL": False}]}, 3 + 3 + 2),
        ({"M": {"k": {"N": "7"}}}, 3 + 1 + 1 + 2),
        ({"NS": ["1", "22"]}, 4),
    ],
)
def test_a_value_has_the_size_that_the_guide_gives(value: dict[str, Any], size: int) -> None:
    assert item_bytes({"name": value}) == 4 + size


@pytest.mark.parametrize(("size", "units"), [(100, 1), (1024, 1), (1025, 2), (2500, 3)])
def test_a_write_is_billed_by_the_kilobyte_and_twice_in_a_transaction(size: int, units: int) -> None:
    (bill,) = billed("PutItem", {"Item": item(size=size)})
    assert (bill.write_units, bill.stored, bill.family, bill.partition) == (units, size, "d", "d.0")
    (bill,) = billed("TransactWriteItems", {"TransactItems": [{"Put": {"Item": item(size=size)}}]})
    assert bill.write_units == 2 * units
    (bill,) = billed("BatchWriteItem", {"RequestItems": {"t": [{"PutRequest": {"Item": item(size=size)}}]}})
    assert bill.write_units == units


def test_a_check_in_a_transaction_is_billed_like_a_write_and_stores_nothing() -> None:
    actions = [{"ConditionCheck": {"Key": item("g.00ff")}}, {"Delete": {"Key": item("h.1")}}]
    first, second = billed("TransactWriteItems", {"TransactItems": actions})
    assert (first.write_units, first.read_units, first.stored) == (2, 0, None)
    assert (second.write_units, second.stored) == (2, None)


@pytest.mark.parametrize(("size", "units"), [(0, 1), (4096, 1), (4097, 2)])
def test_a_consistent_read_is_billed_by_four_kilobytes(size: int, units: int) -> None:
    found = item(size=size) if size else None
    reply = {"Item": found} if found else {}
    (bill,) = billed("GetItem", {"Key": item(), "ConsistentRead": True}, reply)
    assert bill.read_units == units
    (bill,) = billed("GetItem", {"Key": item()}, reply)
    assert bill.read_units == units / 2


def test_many_items_are_billed_one_by_one_and_a_query_as_one() -> None:
    found = [item(size=3000, sort=sort) for sort in (b"a", b"b")]
    wanted = {"Keys": [item(sort=sort) for sort in (b"a", b"b", b"c")], "ConsistentRead": True}
    single = billed("BatchGetItem", {"RequestItems": {"t": wanted}}, {"Responses": {"t": found}})
    assert [bill.read_units for bill in single] == [1, 1, 1]
    query = {"ConsistentRead": True, "ExpressionAttributeValues": {":p": {"S": "d.0"}, ":l": binary(b"x")}}
    (bill,) = billed("Query", query, {"Items": found})
    assert (bill.read_units, bill.partition) == (2, "d.0")
    assert billed("Query", query, {"Items": []})[0].read_units == 1
    together = {"TransactItems": [{"Get": {"Key": item(sort=sort)}} for sort in (b"a", b"c")]}
    replies = {"Responses": [{"Item": item(size=5000, sort=b"a")}, {}]}
    assert [bill.read_units for bill in billed("TransactGetItems", together, replies)] == [4, 2]


def test_what_nobody_knows_is_not_free() -> None:
    assert billed("DescribeTable", {}) == []
    with pytest.raises(ValueError, match="ExecuteStatement"):
        billed("ExecuteStatement", {})


def need() -> Need:
    """Return what two calls needed that put one document of 500 bytes each, and an index row of 100."""

    def sent(number: int) -> Exchange:
        sort = bytes([number])
        actions = [{"Put": {"Item": item(f"d.{number}", 500, sort)}}, {"Put": {"Item": item("h.0", 100, sort)}}]
        return Exchange("TransactWriteItems", {"TransactItems": actions}, {}, 200)

    look = Exchange("GetItem", {"Key": item("k.1"), "ConsistentRead": True}, {}, 200)
    return need_of([look, sent(1), look, sent(2)], 2, cpu_seconds=0.002)


def test_what_a_call_needs_is_the_mean_of_what_was_sent() -> None:
    found = need()
    assert found.requests == {"GetItem": 1, "TransactWriteItems": 1}
    assert (found.write_units, found.read_units, found.stored_bytes) == (4, 1, 800)
    assert {name: each.partitions for name, each in found.families.items()} == {"d": 2, "h": 1, "k": 1}


@pytest.mark.parametrize(
    ("hosts", "changes", "rate", "limit"),
    [
        (1, {}, 10 / 0.025, "hosts waiting for answers"),
        (1, {"in_flight": 1000}, 500, "partition keys h"),
        (1, {"in_flight": 1000, "partition_write_units": 1e6}, 2000, "cores of the hosts"),
        (100, {"partition_write_units": 1e6, "partition_read_units": 1e6}, 10_000, "write quota of the table"),
        (100, {"partition_write_units": 1e6, "table_read_units": 600}, 600, "read quota of the table"),
        (100, {"partition_write_units": 1e6, "partition_read_units": 300}, 300, "reads of k"),
        (2, {}, 500, "partition keys h"),
    ],
)
def test_the_least_limit_decides(hosts: int, changes: dict[str, Any], rate: float, limit: str) -> None:
    found = predicted(need(), hosts, Assumptions(**{"in_flight": 10, **changes}))
    assert found.limit == limit
    assert found.calls_a_second == pytest.approx(rate)
    assert found.write_units_a_second == pytest.approx(4 * rate)


def test_a_price_follows_from_units_and_bytes() -> None:
    found = cost(need(), 10**6, Assumptions())
    assert found.writes == pytest.approx(2.5)
    assert found.reads == pytest.approx(0.125)
    assert found.stored_gb == pytest.approx(800e6 / 2**30)
    assert found.storage_a_month == pytest.approx(found.stored_gb / 4)
