"""How fast a fleet of hosts can be, and what it costs, from what one call was seen to need and a few assumptions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from msgspec import Struct

from tools.capacity.billing import STORED_OVERHEAD_BYTES, bills
from tools.servers.dynamodb_proxy import Exchange

GB = 1 << 30

BY_TIME = {"m"}
"""Families that each process reads once a second, whatever it is asked for; so many reads are too few to count."""


class Family(Struct, frozen=True):
    """Items of one kind, for one call: units and items; `partitions` is over how many partition keys they spread."""

    write_units: float
    read_units: float
    items: float
    item_bytes: float
    partitions: int


class Need(Struct, frozen=True):
    """What one call needs: requests by operation, families of items, and seconds of a core on this machine."""

    calls: int
    requests: dict[str, float]
    families: dict[str, Family]
    cpu_seconds: float

    @property
    def write_units(self) -> float:
        """Write request units for a call."""
        return sum(family.write_units for family in self.families.values())

    @property
    def read_units(self) -> float:
        """Read request units for a call."""
        return sum(family.read_units for family in self.families.values())

    @property
    def stored_bytes(self) -> float:
        """Bytes that are billed as storage for a call, with what is added for each item."""
        return sum(each.items * (each.item_bytes + STORED_OVERHEAD_BYTES) for each in self.families.values())


class Assumptions(Struct, frozen=True):
    """What is not measured: limits and prices of the service, its latencies, and what a host does at once.

    The limits are the default quota of an on-demand table and what one partition key sustains, both in request units a
    second. Prices are dollars in us-east-1, Standard table class, as on AWS's price list since 2024-11-01.
    """

    table_write_units: float = 40_000
    table_read_units: float = 40_000
    new_table_write_units: float = 4_000
    partition_write_units: float = 1_000
    partition_read_units: float = 3_000
    read_seconds: float = 0.005
    write_seconds: float = 0.008
    transaction_seconds: float = 0.020
    in_flight: int = 32
    cores: float = 2
    dollars_a_million_writes: float = 0.625
    dollars_a_million_reads: float = 0.125
    dollars_a_gb_month: float = 0.25
    dollars_a_gb_month_recovery: float = 0.20


class Prediction(Struct, frozen=True):
    """What so many hosts reach with one kind of call; `limit` is what holds them back."""

    hosts: int
    calls_a_second: float
    limit: str
    write_units_a_second: float
    read_units_a_second: float


class Cost(Struct, frozen=True):
    """What so many calls cost, in dollars, and what the records that they leave cost each month."""

    calls: int
    writes: float
    reads: float
    stored_gb: float
    storage_a_month: float
    recovery_a_month: float


def need_of(exchanges: Iterable[Exchange], calls: int, cpu_seconds: float) -> Need:
    """Return what each of some calls needed, from all that they sent."""
    requests: Counter[str] = Counter()
    writes: dict[str, float] = defaultdict(float)
    reads: dict[str, float] = defaultdict(float)
    partitions: dict[str, set[str]] = defaultdict(set)
    stored: dict[str, dict[bytes, int]] = defaultdict(dict)
    for exchange in exchanges:
        requests[exchange.operation] += 1
        for bill in bills(exchange):
            writes[bill.family] += bill.write_units
            reads[bill.family] += 0 if bill.family in BY_TIME else bill.read_units
            partitions[bill.family].add(bill.partition)
            if bill.stored is not None:
                stored[bill.family][bill.item] = bill.stored
    families = {
        name: Family(
            writes[name] / calls,
            reads[name] / calls,
            len(stored[name]) / calls,
            sum(stored[name].values()) / max(1, len(stored[name])),
            len(partitions[name]),
        )
        for name in sorted(partitions)
    }
    per_call = {name: count / calls for name, count in sorted(requests.items())}
    return Need(calls, per_call, families, cpu_seconds / calls)


def predicted(need: Need, hosts: int, assumed: Assumptions) -> Prediction:
    """Return how many calls a second so many hosts make: the least of what each of the limits lets through."""
    limits = {
        "hosts waiting for answers": hosts * assumed.in_flight / _seconds(need, assumed),
        "cores of the hosts": hosts * assumed.cores / need.cpu_seconds,
    }
    if need.write_units:
        limits["write quota of the table"] = assumed.table_write_units / need.write_units
    if need.read_units:
        limits["read quota of the table"] = assumed.table_read_units / need.read_units
    for name, family in need.families.items():
        if family.write_units:
            limits[f"partition keys {name}"] = assumed.partition_write_units * family.partitions / family.write_units
        if family.read_units:
            limits[f"reads of {name}"] = assumed.partition_read_units * family.partitions / family.read_units
    limit, rate = min(limits.items(), key=lambda each: each[1])
    return Prediction(hosts, rate, limit, rate * need.write_units, rate * need.read_units)


def cost(need: Need, calls: int, assumed: Assumptions) -> Cost:
    """Return what so many calls cost."""
    gb = calls * need.stored_bytes / GB
    return Cost(
        calls,
        calls * need.write_units / 1e6 * assumed.dollars_a_million_writes,
        calls * need.read_units / 1e6 * assumed.dollars_a_million_reads,
        gb,
        gb * assumed.dollars_a_gb_month,
        gb * assumed.dollars_a_gb_month_recovery,
    )


def _seconds(need: Need, assumed: Assumptions) -> float:
    """Return how long a call waits for the service, if its requests go one after another."""
    seconds = 0.0
    for name, count in need.requests.items():
        if name == "TransactWriteItems":
            seconds += count * assumed.transaction_seconds
        elif name in {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"}:
            seconds += count * assumed.write_seconds
        else:
            seconds += count * assumed.read_seconds
    return max(seconds, 1e-9)
