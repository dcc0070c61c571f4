"""Which rows follow from which: what an audit holds the catalog against, and what a repair brings back.

Tables that others derive from are primary. `expected` gives what follows from a primary row, `is_wanted` tells of one
derived row whether it follows from anything; the two are each other's proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from kvcatalog.errors import CatalogError
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.keys import prefix_end
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Index, Table
from kvcatalog.schema import (
    CHECK_CODEC,
    CHECKS,
    CHECKS_BY_TIME,
    CONFLICT_CODEC,
    CONFLICT_INDEXES,
    CONFLICTS,
    DOCUMENT_CODEC,
    DOCUMENT_INDEXES,
    DOCUMENTS,
    ID_BYTES,
    JOURNAL,
    JOURNAL_BY_DOCUMENT,
    JOURNAL_BY_STORAGE_URI,
    JOURNAL_CODEC,
    KEYS_OF,
    LINK_CODEC,
    LINKS,
    LINKS_BY_DOCUMENT,
    SIGHTING_CODEC,
    SIGHTINGS,
    SIGHTINGS_BY_DOCUMENT,
    VARIANT_CODEC,
    VARIANT_INDEXES,
    VARIANTS,
    id_key,
    places_named,
    time_key,
    uri_hash,
)

DerivedRow = tuple[Table, bytes, bytes]


class Primary(Struct, frozen=True):
    """A table from whose rows others follow; `owner` returns the id of the document that a row belongs to."""

    table: Table
    codec: Codec[Any]
    derived: tuple[Table, ...]
    expected: Callable[[bytes, Any], Iterator[DerivedRow]]
    owner: Callable[[bytes, Any], int | None] = lambda _key, _row: None


def _by_indexes(indexes: tuple[Index[Any], ...], value: Callable[[bytes], bytes]) -> Any:  # noqa: ANN401 - as Primary
    def expected(key: bytes, row: Any) -> Iterator[DerivedRow]:  # noqa: ANN401 - as Primary
        for index in indexes:
            for index_key in index.keys(row):
                yield index.table, index_key, value(key)

    return expected


def _same(key: bytes) -> bytes:
    return key


def _sighting_mirror(key: bytes, _row: object) -> Iterator[DerivedRow]:
    yield SIGHTINGS_BY_DOCUMENT, key[-ID_BYTES:] + key[: -ID_BYTES - 1], b""


def _link_mirror(key: bytes, _row: object) -> Iterator[DerivedRow]:
    yield LINKS_BY_DOCUMENT, key[-ID_BYTES:] + key[:-ID_BYTES], b""


def _check_turn(key: bytes, row: Any) -> Iterator[DerivedRow]:  # noqa: ANN401 - as Primary
    yield CHECKS_BY_TIME, time_key(row.at) + key, b""


def _led_to_journal(key: bytes, row: Any) -> Iterator[DerivedRow]:  # noqa: ANN401 - as Primary
    if row.document_id is not None:
        yield JOURNAL_BY_DOCUMENT, id_key(row.document_id), key
    for uri in places_named(row):
        yield JOURNAL_BY_STORAGE_URI, uri_hash(uri), key


def _last_id(key: bytes, _row: object) -> int:
    return int.from_bytes(key[-ID_BYTES:], "big")


PRIMARIES = (
    Primary(
        DOCUMENTS,
        DOCUMENT_CODEC,
        tuple(index.table for index in DOCUMENT_INDEXES),
        _by_indexes(DOCUMENT_INDEXES, _same),
    ),
    Primary(
        VARIANTS,
        VARIANT_CODEC,
        tuple(index.table for index in VARIANT_INDEXES),
        _by_indexes(VARIANT_INDEXES, _same),
        lambda _key, row: row.document_id,
    ),
    Primary(
        CONFLICTS,
        CONFLICT_CODEC,
        tuple(index.table for index in CONFLICT_INDEXES),
        _by_indexes(CONFLICT_INDEXES, lambda key: key[:ID_BYTES]),
        lambda key, _row: int.from_bytes(key[:ID_BYTES], "big"),
    ),
    Primary(SIGHTINGS, SIGHTING_CODEC, (SIGHTINGS_BY_DOCUMENT,), _sighting_mirror, _last_id),
    Primary(LINKS, LINK_CODEC, (LINKS_BY_DOCUMENT,), _link_mirror, _last_id),
    Primary(CHECKS, CHECK_CODEC, (CHECKS_BY_TIME,), _check_turn),
    Primary(JOURNAL, JOURNAL_CODEC, (JOURNAL_BY_DOCUMENT, JOURNAL_BY_STORAGE_URI), _led_to_journal),
)
DERIVED = {table.name: (table, primary) for primary in PRIMARIES for table in primary.derived}
"""Every derived table by name, with that from which it follows."""


def is_wanted(transaction: ReadTransaction, table: Table, key: bytes, value: bytes) -> bool | None:
    """Tell whether a derived row follows from what is there; None where that cannot be read, so nobody knows."""
    primary = DERIVED[table.name][1]
    try:
        for source_key, row in _sources(transaction, primary, key, value):
            if table in KEYS_OF:
                if key in KEYS_OF[table](row):
                    return True
            elif (table, key, value) in primary.expected(source_key, row):
                return True
    except CatalogError:
        return None
    return False


def source_of(primary: Primary, key: bytes, value: bytes) -> tuple[Table, bytes]:
    """Return the row that changes whenever a derived row of a primary table may begin or cease to follow."""
    match primary.table.name:
        case CONFLICTS.name:
            return DOCUMENTS, value
        case SIGHTINGS.name:
            return SIGHTINGS, key[ID_BYTES:] + b"\0" + key[:ID_BYTES]
        case LINKS.name:
            return LINKS, key[ID_BYTES:] + key[:ID_BYTES]
        case CHECKS.name:
            return CHECKS, key[ID_BYTES:]
    return primary.table, value


def _sources(transaction: ReadTransaction, primary: Primary, key: bytes, value: bytes) -> Iterator[tuple[bytes, Any]]:
    """Yield the rows from which a derived one may follow; errors as the codec."""
    if primary.table is CONFLICTS:
        for found, stored in transaction.items(CONFLICTS, value, prefix_end(value)):
            yield found, primary.codec.decode(found, stored)
        return
    _, source = source_of(primary, key, value)
    stored_row = transaction.get(primary.table, source) if source else None
    if stored_row is not None:
        yield source, primary.codec.decode(source, stored_row)
