"""Catalogs in tables of a DynamoDB for tests."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from kvcatalog import open_catalog, schema
from kvcatalog.errors import CatalogMissingError
from kvcatalog.store import init_catalog
from kvcatalog.store.catalog import Catalog
from kvcatalog.store.dynamo_catalog import DynamoCatalog
from kvcatalog.store.protocol import CatalogStore
from tests.invariants import assert_consistent
from tests.servers import server


class Tables:
    """Tables of one test, told from those of others by what their names begin with."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._prefix = f"t{uuid4().hex[:12]}"

    def url(self, name: str = "catalog") -> str:
        return f"dynamodb://{self._prefix}-{name}?region=us-east-1&endpoint_url={self._endpoint}"

    def open(self, name: str = "catalog", **settings: Any) -> CatalogStore:
        try:
            return open_catalog(self.url(name), **settings)
        except CatalogMissingError:
            if settings.get("read_only") or not settings.get("create", True):
                raise
        init_catalog(self.url(name), recovery=False)
        return open_catalog(self.url(name), **settings)

    def lose(self, catalog: CatalogStore, table: str, document_id: int) -> None:
        assert isinstance(catalog, DynamoCatalog)
        (index,) = [each for each in schema.TABLES if each.name == table]

        def operation(transaction: Any) -> bool:
            (row,) = [row for row in transaction.items(index) if row[1] == schema.id_key(document_id)]
            return bool(transaction.delete(index, *row))

        assert catalog._dynamo.submit(operation)

    def assert_consistent(self, catalog: CatalogStore) -> None:
        assert isinstance(catalog, Catalog)
        catalog.stats()  # brings figures up to date
        assert_consistent(catalog)


@pytest.fixture
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tables:
    access = server(request.config, "ministack")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["secret"])
    return Tables(access["endpoint"])
