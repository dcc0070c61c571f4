"""The contract of catalogs, on DynamoDB."""

from __future__ import annotations

import pytest

from kvcatalog.dynamo import leases
from tests.catalog_races import CatalogRaces
from tests.catalog_stores import CatalogStoreContract, Place, catalog, document
from tests.dynamo_tables import Tables, tables

__all__ = ["catalog", "tables"]


class TestDynamo(CatalogStoreContract, CatalogRaces):
    @pytest.fixture
    def place(self, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setattr(leases, "BEAT_SECONDS", 0.2)  # whoever waits for a lease waits for its next sign of life
        monkeypatch.setattr(leases, "_LOOK_SECONDS", 0.05)
        return tables


def test_a_recovered_table_is_another_generation_and_its_original_is_not(tables: Tables) -> None:
    with tables.open("original") as original:
        original.register(**document(1))
        identity = original.identity
    tables.open("recovered").close()
    client = tables.client()
    for item in [*tables.items("recovered")]:
        client.delete_item(TableName=tables.table("recovered"), Key={"pk": item["pk"], "sk": item["sk"]})
    for item in tables.items("original"):
        client.put_item(TableName=tables.table("recovered"), Item=item)
    with tables.open("recovered", read_only=True) as recovered:
        assert recovered.identity == identity
    for _ in range(2):
        with tables.open("recovered") as recovered:
            assert recovered.identity.uuid == identity.uuid
            assert recovered.identity.generation > identity.generation
            assert [entry.action for entry in recovered.journal()] == ["generation"]
            assert recovered.register(**document(1)).outcome == "existing"
    with tables.open("original") as original:
        assert (original.identity, list(original.journal())) == (identity, [])
