"""The contract of catalogs, on DynamoDB."""

from __future__ import annotations

import pytest

from kvcatalog.dynamo import leases
from kvcatalog.errors import UnsupportedFormatError
from kvcatalog.schema import FORMAT_KEY, FORMAT_VERSION, META, NUMBER_CODEC
from kvcatalog.store.dynamo_catalog import DynamoCatalog
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


@pytest.mark.parametrize(("version", "advice"), [(FORMAT_VERSION - 1, "copy"), (FORMAT_VERSION + 1, "Use a version")])
def test_a_table_of_another_format_is_refused(tables: Tables, version: int, advice: str) -> None:
    with tables.open("other") as catalog:
        assert isinstance(catalog, DynamoCatalog)
        row = NUMBER_CODEC.encode(FORMAT_KEY, version)
        catalog._backend.submit(lambda transaction: transaction.put(META, FORMAT_KEY, row))
    with pytest.raises(UnsupportedFormatError, match=f"has format {version}") as refused:
        tables.open("other")
    assert advice in refused.value.advice
