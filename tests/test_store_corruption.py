"""Damage in a stored value is found when the value is read: a typed error, never a wrong record."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from kvcatalog import open_catalog, schema
from kvcatalog.errors import CorruptRecordError, StorageFullError
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import ReadTransaction
from kvcatalog.store.lmdb_catalog import LmdbCatalog

ROOT = "file:///store"
CAS = f"{ROOT}/cas/sha256/ab/{'ab' * 31}"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        opened.add_root(ROOT, uuid="one")
        for artifact in ("a", "b"):
            for digest, uri in (("ab" * 32, CAS), ("cd" * 32, "s3://bucket/key")):
                opened.register(
                    artifact_id=artifact,
                    source_url="https://example.org/" + artifact,
                    resolver=digest[:2],
                    content_type="application/pdf",
                    bytes=7,
                    sha256=digest,
                    storage_uri=uri,
                    run_id="run-1",
                )
        opened.register(
            artifact_id="a", source_url="https://example.org/a", resolver="ab", bytes=9, storage_uri=CAS, run_id="run-2"
        )
        opened.update(2, content_type="text/html")
        opened.register_variant(document_id=1, variant="html", storage_uri=CAS, bytes=7, sha256="ab" * 32)
        opened.register_variant(document_id=2, variant="html", storage_uri="s3://b/k", bytes=8, sha256="cd" * 32)
        yield opened


# Each table whose values carry a checksum, and a call that reads one of them.
CHECKED: dict[Table, Callable[[LmdbCatalog], Any]] = {
    schema.DOCUMENTS: lambda catalog: catalog.get_by_id(1),
    schema.VARIANTS: lambda catalog: catalog.get_variants(1),
    schema.SIGHTINGS: lambda catalog: list(catalog.get_sightings()),
    schema.CONFLICTS: lambda catalog: list(catalog.get_conflicts(1)),
    schema.DUPLICATES: lambda catalog: list(catalog.find_duplicates()),
    schema.ROOTS: lambda catalog: catalog.roots(),
    schema.JOURNAL: lambda catalog: list(catalog.journal()),
}


@pytest.mark.parametrize("table", CHECKED, ids=lambda table: table.name)
def test_every_flipped_bit_of_a_value_is_found(catalog: LmdbCatalog, table: Table) -> None:
    key, value = first_pair(catalog, table)
    for position in range(len(value)):
        damaged = bytearray(value)
        damaged[position] ^= 1 << position % 8
        overwrite(catalog, table, key, bytes(damaged))
        with pytest.raises(CorruptRecordError, match="fails its checksum"):
            CHECKED[table](catalog)
    overwrite(catalog, table, key, value)
    assert CHECKED[table](catalog)


def test_every_flipped_bit_of_a_counter_is_found(catalog: LmdbCatalog) -> None:
    key = schema.counter_key("documents")
    with catalog._environment.read() as transaction:
        value = transaction.get(schema.COUNTERS, key) or b""
    for position in range(len(value)):
        damaged = bytearray(value)
        damaged[position] ^= 1 << position % 8
        overwrite(catalog, schema.COUNTERS, key, bytes(damaged))
        with pytest.raises(CorruptRecordError):
            catalog.stats()


@pytest.mark.parametrize("key", [schema.FORMAT_KEY, schema.IDENTITY_KEY])
def test_every_flipped_bit_of_the_identity_is_found_on_opening(tmp_path: Path, key: bytes) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        with catalog._environment.read() as transaction:
            value = transaction.get(schema.META, key) or b""
        for position in range(len(value)):
            damaged = bytearray(value)
            damaged[position] ^= 1 << position % 8
            overwrite(catalog, schema.META, key, bytes(damaged))
            with pytest.raises(CorruptRecordError):
                open_catalog(tmp_path / "catalog")


# Each table that leads from a key to ids, and a call that follows it.
LEADING: dict[Table, Callable[[LmdbCatalog], Any]] = {
    schema.BY_KEY: lambda catalog: [
        catalog.get(artifact_id="a", source_url="https://example.org/a", resolver="ab"),
        catalog.get_by_artifact("a"),
    ],
    schema.BY_SHA256: lambda catalog: catalog.get_by_sha256("ab" * 32),
    schema.BY_URL: lambda catalog: [catalog.get_by_url(f"https://example.org/{artifact}") for artifact in "ab"],
    schema.BY_RUN: lambda catalog: list(catalog.get_by_run("run-1")),
    schema.BY_CREATED: lambda catalog: catalog.search(sort="created"),
    schema.BY_CONTENT_TYPE: lambda catalog: list(catalog.get_by_content_type("application/pdf")),
    schema.BY_STORAGE_URI: lambda catalog: catalog.get_by_storage_uri("s3://bucket/key"),
    schema.VARIANTS_BY_DOCUMENT: lambda catalog: catalog.get_variants(1),
    schema.VARIANTS_BY_SHA256: lambda catalog: [catalog.get_variants_by_sha256(d * 32) for d in ("ab", "cd")],
    schema.VARIANTS_BY_STORAGE_URI: lambda catalog: catalog.references("s3://b/k"),
}


def test_every_index_is_led_astray() -> None:
    assert set(LEADING) == set(schema.KEYS_OF)


@pytest.mark.parametrize("table", LEADING, ids=lambda table: table.name)
def test_an_index_that_leads_astray_is_found(catalog: LmdbCatalog, table: Table) -> None:
    assert LEADING[table](catalog)
    key, value = first_pair(catalog, table)
    with catalog._environment.read() as transaction:
        members = set(transaction.values(table, key)) if table.sets else {value}
    for wrong in {schema.id_key(number) for number in (1, 2, 3, 4, 99)} - members:
        overwrite(catalog, table, key, wrong, old=value)
        with pytest.raises(CorruptRecordError, match=table.name):
            LEADING[table](catalog)
        overwrite(catalog, table, key, value, old=wrong)


def test_an_id_that_stands_twice_in_an_index_is_found(catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    values, items = ReadTransaction.values, ReadTransaction.items

    def twice(pairs: Iterator[Any]) -> Iterator[Any]:
        for pair in pairs:
            yield pair
            yield pair

    monkeypatch.setattr(ReadTransaction, "values", lambda self, *a, **k: twice(values(self, *a, **k)))
    with pytest.raises(CorruptRecordError):
        catalog.get_by_sha256("ab" * 32)
    monkeypatch.setattr(ReadTransaction, "items", lambda self, *a, **k: twice(items(self, *a, **k)))
    for sort in ("id", "artifact", "created"):
        with pytest.raises(CorruptRecordError):
            catalog.search(sort=cast("Any", sort))


def test_a_value_under_another_key_is_refused(catalog: LmdbCatalog) -> None:
    with catalog._environment.read() as transaction:
        other = transaction.get(schema.DOCUMENTS, schema.id_key(2)) or b""
    overwrite(catalog, schema.DOCUMENTS, schema.id_key(1), other)
    with pytest.raises(CorruptRecordError):
        catalog.get_by_id(1)


def first_pair(catalog: LmdbCatalog, table: Table) -> tuple[bytes, bytes]:
    with catalog._environment.read() as transaction:
        return next(iter(transaction.items(table)))


def overwrite(catalog: LmdbCatalog, table: Table, key: bytes, value: bytes, *, old: bytes = b"") -> None:
    with catalog._environment.write() as transaction:
        if table.sets:
            transaction.delete(table, key, old)
        transaction.put(table, key, value)


def test_a_row_of_another_table_is_refused(catalog: LmdbCatalog) -> None:
    with catalog._environment.read() as transaction:
        document = transaction.get(schema.DOCUMENTS, schema.id_key(1)) or b""
    overwrite(catalog, schema.ROOTS, schema.id_key(1), document)
    with pytest.raises(CorruptRecordError, match="root"):
        catalog.roots()


def test_what_is_too_long_for_an_id_is_refused() -> None:
    assert schema.id_of(schema.id_key(7)) == 7
    with pytest.raises(CorruptRecordError):
        schema.id_of(bytes(9))


def test_a_full_disk_is_called_one_and_what_was_stored_stays(small_disk: Path) -> None:
    with open_catalog(small_disk / "catalog") as catalog:
        stored = 0
        with pytest.raises(StorageFullError):
            while True:
                catalog.register(
                    artifact_id=f"a{stored}", source_url="u" * 20_000, resolver="r", bytes=1, storage_uri="file:///x"
                )
                stored += 1
        assert stored
        assert len(list(catalog.iter_records())) == catalog.stats().documents == stored
    with open_catalog(small_disk / "catalog", read_only=True) as catalog:
        assert len(list(catalog.iter_records())) == stored
