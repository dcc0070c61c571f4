"""The contract of catalogs, and that it leaves nothing of the protocol out."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import open_catalog, schema
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.store.protocol import CatalogSnapshot, CatalogStore
from tests import catalog_races, catalog_stores
from tests.catalog_races import CatalogRaces
from tests.catalog_stores import CatalogStoreContract, Place, catalog
from tests.invariants import assert_consistent

__all__ = ["catalog"]


class Folders:
    """Catalogs in folders of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str = "catalog", **settings: Any) -> CatalogStore:
        opened: CatalogStore = open_catalog(self._folder / name, **settings)
        return opened

    def lose(self, catalog: CatalogStore, table: str, document_id: int) -> None:
        assert isinstance(catalog, LmdbCatalog)
        (index,) = [each for each in schema.TABLES if each.name == table]
        with catalog._environment.write() as transaction:
            (row,) = [row for row in transaction.items(index) if row[1] == schema.id_key(document_id)]
            assert transaction.delete(index, *row)

    def assert_consistent(self, catalog: CatalogStore) -> None:
        assert isinstance(catalog, LmdbCatalog)
        assert_consistent(catalog)


def test_every_method_of_the_protocol_is_tested() -> None:
    called = {
        node.attr
        for module in (catalog_stores, catalog_races)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    for protocol in (CatalogStore, CatalogSnapshot):
        named = {name for name in dir(protocol) if not name.startswith("_")} | set(protocol.__annotations__)
        assert named - called == set()
        assert len(named) > 5


class TestLmdb(CatalogStoreContract, CatalogRaces):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Folders(tmp_path)
