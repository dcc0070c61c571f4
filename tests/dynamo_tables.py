"""Catalogs in tables of DynamoDB, for tests: in a ministack that all workers of a run share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, cast

import pytest

from kvcatalog import open_catalog, schema
from kvcatalog.dynamo.layout import LAYOUTS, item_key, pair_of
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.process_clients import new_session
from kvcatalog.store import init_catalog
from kvcatalog.store.dynamo_catalog import DynamoCatalog
from kvcatalog.store.protocol import CatalogStore
from tests.invariants import assert_rows_agree
from tests.servers import server

REGION = "us-east-1"

OTHERS = {"+", "g", "lease"}
"""Partitions of what is no row: shards of sums, guards, leases."""


class Tables:
    """Tables that nobody else uses."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self._prefix = uuid.uuid4().hex[:12]
        self._made: set[str] = set()

    def url(self, name: str = "catalog", endpoint_url: str | None = None) -> str:
        return f"dynamodb://{self.table(name)}?region={REGION}&endpoint_url={endpoint_url or self.endpoint_url}"

    def table(self, name: str = "catalog") -> str:
        return f"{self._prefix}-{name}"

    def open(self, name: str = "catalog", **settings: Any) -> CatalogStore:
        if settings.get("create", True) and not settings.get("read_only") and name not in self._made:
            init_catalog(self.url(name), recovery=False)
            self._made.add(name)
        return open_catalog(self.url(name), **settings)

    def lose(self, catalog: CatalogStore, table: str, document_id: int) -> None:
        assert isinstance(catalog, DynamoCatalog)
        (index,) = [each for each in schema.TABLES if each.name == table]
        (row,) = [row for row in self.rows(index) if row[1] == schema.id_key(document_id)]
        partition, sort = item_key(index, *row)
        self.client().delete_item(TableName=self.table(), Key={"pk": {"S": partition}, "sk": {"B": sort}})

    def rows(self, table: Table) -> list[tuple[bytes, bytes]]:
        """Return the rows of a table of the schema, read past the engine."""
        return Scanned(self.items()).rows[table]

    def items(self, name: str = "catalog") -> Iterator[dict[str, Any]]:
        for page in self.client().get_paginator("scan").paginate(TableName=self.table(name), ConsistentRead=True):
            yield from page["Items"]

    def client(self) -> Any:
        return new_session().client("dynamodb", region_name=REGION, endpoint_url=self.endpoint_url)

    def assert_consistent(self, catalog: CatalogStore, name: str = "catalog") -> None:
        """See Place; all items are read at once, past the engine, and each has to be where it belongs."""
        assert isinstance(catalog, DynamoCatalog)
        catalog.stats()  # what was left to be counted is counted
        assert_rows_agree(cast("ReadTransaction", Scanned(self.items(name))))


class Scanned:
    """The rows of a table at rest, as far as the invariants ask for them."""

    def __init__(self, items: Iterator[dict[str, Any]]) -> None:
        tables = {layout.letter: table for table, layout in LAYOUTS.items()}
        self.rows: dict[Table, list[tuple[bytes, bytes]]] = {table: [] for table in LAYOUTS}
        sums: dict[bytes, schema.CounterRow] = {}
        for item in items:
            partition, sort = item["pk"]["S"], item["sk"]["B"]
            letter = partition.partition(".")[0]
            if letter == "+":
                known = sums.get(sort, schema.CounterRow(0, 0, 0, item["l"]["S"]))
                sums[sort] = known.plus(int(item["n"]["N"]), int(item["b"]["N"]))
            elif letter in tables:
                self._take(tables[letter], (partition, sort), item)
            else:
                assert letter in OTHERS, partition
        for key, row in sums.items():
            if row.count or row.size:
                self.rows[schema.COUNTERS].append((key, schema.COUNTER_CODEC.encode(key, row)))
        for rows in self.rows.values():
            rows.sort()

    def _take(self, table: Table, where: tuple[str, bytes], item: dict[str, Any]) -> None:
        if "n" in item:  # a number that ids are given from
            row = schema.CounterRow(int(item["n"]["N"]), 0, 0, "")
            pair = where[1], schema.COUNTER_CODEC.encode(where[1], row)
        else:
            pair = pair_of(table, where[1], item["v"]["B"] if "v" in item else b"")
        assert item_key(table, pair[0], pair[1] if table.sets else b"") == where
        self.rows[table].append(pair)

    def items(self, table: Table, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter([row for row in self.rows[table] if row[0] >= start])

    def get(self, table: Table, key: bytes) -> bytes | None:
        return next((value for known, value in self.rows[table] if known == key), None)

    def entries(self, table: Table) -> int:
        return len(self.rows[table])

    def last_key(self, table: Table) -> bytes | None:
        return self.rows[table][-1][0] if self.rows[table] else None


@pytest.fixture
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tables:
    access = server(request.config, "ministack", is_needed=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["secret"])
    return Tables(access["endpoint"])
