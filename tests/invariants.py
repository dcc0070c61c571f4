"""What must hold in every catalog at rest: each derived row equals the one computed anew from the records."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from kvcatalog import schema
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Index, Table
from kvcatalog.store.catalog import Catalog
from kvcatalog.store.changes import key_of_conflict
from kvcatalog.store.tally import BLOB_EPOCH, FORGOTTEN_EPOCH, PRUNED_SEQUENCE, read_counter

Pairs = Counter[tuple[bytes, bytes]]
Totals = dict[tuple[str, str], tuple[int, int]]


def assert_consistent(catalog: Catalog) -> None:
    """Compare every index and every counter with one made from the rows that it derives from."""
    with catalog._read() as transaction:
        assert_rows_agree(transaction)


def assert_rows_agree(transaction: ReadTransaction) -> None:
    """Do so with the rows of a transaction."""
    documents = dict(decoded(transaction, schema.DOCUMENTS, schema.DOCUMENT_CODEC))
    variants = dict(decoded(transaction, schema.VARIANTS, schema.VARIANT_CODEC))
    conflicts = dict(decoded(transaction, schema.CONFLICTS, schema.CONFLICT_CODEC))
    links = dict(decoded(transaction, schema.LINKS, schema.LINK_CODEC))
    assert_indexes(transaction, schema.DOCUMENT_INDEXES, documents)
    assert_indexes(transaction, schema.VARIANT_INDEXES, variants)
    by_location = {
        (index_key, key[:8])
        for key, row in conflicts.items()
        for index in schema.CONFLICT_INDEXES
        for index_key in index.keys(row)
    }
    assert set(stored(transaction, schema.CONFLICTS_BY_STORAGE_URI)) == by_location
    assert all(key == key_of_conflict(schema.id_of(key[:8]), row) for key, row in conflicts.items())
    by_document = {(key[-8:] + key[:-8], b"") for key in links}
    assert set(stored(transaction, schema.LINKS_BY_DOCUMENT)) == by_document
    owners = {key[:8] for key in conflicts} | {schema.id_key(row.document_id) for row in links.values()}
    owners |= {schema.id_key(row.document_id) for row in variants.values()}
    assert owners <= documents.keys()
    checks = dict(decoded(transaction, schema.CHECKS, schema.CHECK_CODEC))
    by_time = {(schema.time_key(row.at) + key, b"") for key, row in checks.items()}
    assert set(stored(transaction, schema.CHECKS_BY_TIME)) == by_time
    named = {
        (schema.uri_hash(uri), key)
        for key, row in decoded(transaction, schema.JOURNAL, schema.JOURNAL_CODEC)
        for uri in schema.places_named(row)
    }
    assert set(stored(transaction, schema.JOURNAL_BY_STORAGE_URI)) == named
    assert_sightings(transaction, set(documents))
    assert_duplicates(transaction, documents, variants)
    assert_counters(transaction, documents, variants, len(conflicts))
    forgotten, epoch = (read_counter(transaction, name).count for name in (FORGOTTEN_EPOCH, BLOB_EPOCH))
    rows = [row for _, row in decoded(transaction, schema.CONDEMNED, schema.CONDEMNED_CODEC)]
    cleared = [row.cleared for row in rows if row.cleared is not None]
    assert forgotten <= epoch
    assert all(forgotten < number <= epoch for number in cleared)
    assert len(set(cleared)) == len(cleared)


def decoded(transaction: ReadTransaction, table: Table, codec: Codec[Any]) -> Iterator[tuple[bytes, Any]]:
    for key, value in transaction.items(table):
        yield key, codec.decode(key, value)


def stored(transaction: ReadTransaction, table: Table) -> Pairs:
    return Counter(transaction.items(table))


def assert_indexes(transaction: ReadTransaction, indexes: tuple[Index[Any], ...], rows: dict[bytes, Any]) -> None:
    for index in indexes:
        expected: Pairs = Counter((index_key, key) for key, row in rows.items() for index_key in index.keys(row))
        assert stored(transaction, index.table) == expected, index.table.name


def assert_sightings(transaction: ReadTransaction, documents: set[bytes]) -> None:
    keys = [key for key, _ in transaction.items(schema.SIGHTINGS)]
    mirrored = {key[-8:] + key[:-9] for key in keys}
    assert {key for key, _ in transaction.items(schema.SIGHTINGS_BY_DOCUMENT)} == mirrored
    assert {key[-8:] for key in keys} <= documents


def assert_duplicates(transaction: ReadTransaction, documents: dict[bytes, Any], variants: dict[bytes, Any]) -> None:
    carriers: dict[bytes, list[list[int]]] = defaultdict(lambda: [[], []])
    for which, rows in enumerate((documents, variants)):
        for _, row in sorted(rows.items()):
            if row.digest is not None:
                carriers[row.digest][which].append(row.size)
    expected = {
        digest: schema.DuplicateRow(digest, (of_documents + of_variants)[0], len(of_documents), len(of_variants))
        for digest, (of_documents, of_variants) in carriers.items()
        if len(of_documents) + len(of_variants) > 1
    }
    assert dict(decoded(transaction, schema.DUPLICATES, schema.DUPLICATE_CODEC)) == expected


def assert_counters(
    transaction: ReadTransaction, documents: dict[bytes, Any], variants: dict[bytes, Any], conflicts: int
) -> None:
    expected = expected_totals(documents, variants)
    for _, row in decoded(transaction, schema.DUPLICATES, schema.DUPLICATE_CODEC):
        if row.documents > 1:
            add(expected, "duplicate groups", 1, 0)
            add(expected, "duplicates", row.documents - 1, (row.documents - 1) * row.size)
    add(expected, "conflicts", conflicts, 0)
    add(expected, "sightings", transaction.entries(schema.SIGHTINGS), 0)
    for name, label, count, size in stored_counters(transaction):
        if name.startswith("last "):
            assert count >= expected_last(transaction, name), name
        elif name not in {BLOB_EPOCH, FORGOTTEN_EPOCH}:  # they count what was taken away, of which nothing is kept
            assert expected.pop((name, label)) == (count, size), name
    assert not expected


def expected_totals(documents: dict[bytes, Any], variants: dict[bytes, Any]) -> Totals:
    expected: Totals = {}
    for row in documents.values():
        for name, label in schema.totals_of(row):
            add(expected, name, 1, row.size, label)
    for row in variants.values():
        add(expected, "variants", 1, row.size)
    return expected


def add(totals: Totals, name: str, count: int, size: int, label: str = "") -> None:
    if count:
        before = totals.get((name, label), (0, 0))
        totals[name, label] = before[0] + count, before[1] + size


def stored_counters(transaction: ReadTransaction) -> Iterator[tuple[str, str, int, int]]:
    for key, value in transaction.items(schema.COUNTERS):
        name, separator, _ = key.partition(b"\0")
        if separator:  # the row of the last commit has none
            row = schema.COUNTER_CODEC.decode(key, value)
            yield name.decode(), row.label, row.count, row.size


def expected_last(transaction: ReadTransaction, name: str) -> int:
    if name == PRUNED_SEQUENCE:
        first = next(transaction.items(schema.JOURNAL), None)
        assert first is None or schema.id_of(first[0]) > read_counter(transaction, name).count
        return 0
    table = {
        "last document id": schema.DOCUMENTS,
        "last variant id": schema.VARIANTS,
        "last journal sequence": schema.JOURNAL,
        "last hold id": schema.HOLDS,
    }[name]
    return schema.id_of(transaction.last_key(table) or b"")
