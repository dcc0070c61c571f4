"""The contract of catalogs, on DynamoDB."""

from __future__ import annotations

import pytest

from tests.catalog_races import CatalogRaces
from tests.catalog_stores import CatalogStoreContract, Place, catalog
from tests.dynamo_tables import Tables, tables

__all__ = ["catalog", "tables"]


class TestDynamo(CatalogStoreContract, CatalogRaces):
    @pytest.fixture
    def place(self, tables: Tables) -> Place:
        return tables
