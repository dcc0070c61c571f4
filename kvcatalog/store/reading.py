"""Lookups inside one transaction; a row that disagrees with the index that led to it is never returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from kvcatalog.clock import from_micros
from kvcatalog.errors import CorruptRecordError
from kvcatalog.kv.keys import prefix_end
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.models import CatalogIdentity, Conflict, DocumentRecord, JournalEntry, Root, VariantRecord
from kvcatalog.schema import (
    BIRTH_KEY,
    BY_KEY,
    CONFLICT_CODEC,
    CONFLICTS,
    DOCUMENT_CODEC,
    DOCUMENTS,
    IDENTITY_CODEC,
    IDENTITY_KEY,
    KEYS_OF,
    LINK_CODEC,
    LINKS,
    LINKS_BY_DOCUMENT,
    META,
    NUMBER_CODEC,
    ROOT_CODEC,
    ROOTS,
    ROOTS_VERSION_KEY,
    VARIANT_CODEC,
    VARIANTS,
    VARIANTS_BY_DOCUMENT,
    ConflictRow,
    DocumentRow,
    JournalRow,
    LinkRow,
    VariantRow,
    document_key,
    id_key,
    id_of,
    name_key,
)
from kvcatalog.store.roots import RootMap

Row = TypeVar("Row")

STEP_ROWS = 2000
"""Rows that one transaction of a walk looks at."""


def read_identity(transaction: ReadTransaction) -> CatalogIdentity:
    """Return which catalog this is."""
    value = transaction.get(META, IDENTITY_KEY)
    if value is None:
        raise CorruptRecordError("the catalog has lost its identity")
    row = IDENTITY_CODEC.decode(IDENTITY_KEY, value)
    return CatalogIdentity(row.uuid, row.generation, from_micros(row.created))


def read_birth(transaction: ReadTransaction) -> int | None:
    """Return when the file was made in which the catalog was written to before, None if nobody has written it down."""
    value = transaction.get(META, BIRTH_KEY)
    return None if value is None else NUMBER_CODEC.decode(BIRTH_KEY, value)


class RootCache:
    """The storage roots, read again only after they have changed."""

    def __init__(self) -> None:
        self._known: tuple[bytes | None, RootMap] = (None, RootMap(()))

    def at(self, transaction: ReadTransaction) -> RootMap:
        """Return the roots as they are in a transaction."""
        # Each change of the roots writes a version that nothing else has, so one that was not committed is never taken
        # for one that was.
        version = transaction.get(META, ROOTS_VERSION_KEY)
        known = self._known
        if known[0] != version:
            known = self._known = (version, RootMap(read_roots(transaction)))
        return known[1]


def read_roots(transaction: ReadTransaction) -> list[Root]:
    """Return the storage roots, by id."""
    rows = ((key, ROOT_CODEC.decode(key, value)) for key, value in transaction.items(ROOTS))
    return [Root(id_of(key), row.uri, row.uuid, row.cas_prefix) for key, row in rows]


def document_row(transaction: ReadTransaction, document_id: int) -> DocumentRow | None:
    """Return the row of a document."""
    key = id_key(document_id)
    value = transaction.get(DOCUMENTS, key)
    return None if value is None else DOCUMENT_CODEC.decode(key, value)


def find_document(
    transaction: ReadTransaction, artifact_id: str, source_url: str, resolver: str
) -> tuple[int, DocumentRow] | None:
    """Return the document under a composite key."""
    value = transaction.get(BY_KEY, document_key(artifact_id, source_url, resolver))
    return None if value is None else document_with_key(transaction, value, artifact_id, source_url, resolver)


def document_with_key(
    transaction: ReadTransaction, value: bytes, artifact_id: str, source_url: str, resolver: str
) -> tuple[int, DocumentRow]:
    """Return the document to which a composite key leads; CorruptRecordError if it has another key."""
    row = indexed(BY_KEY, value, document_row(transaction, id_of(value)))
    if (row.artifact_id, row.source_url, row.resolver) != (artifact_id, source_url, resolver):
        raise disagreement(BY_KEY, value)
    return id_of(value), row


def rows_in(
    transaction: ReadTransaction,
    index: Table,
    key: bytes,
    read_row: Callable[[ReadTransaction, int], Row | None],
) -> Iterator[tuple[int, Row]]:
    """Yield the rows that an index has under a key, by id; `read_row` is document_row or variant_row.

    CorruptRecordError if a row does not belong there. Where keys are hashes, other rows may share them.
    """
    last = b""
    for value in transaction.values(index, key):
        row = indexed(index, value, read_row(transaction, id_of(value)))
        check_index(index, key, value, row, after=last)
        last = value
        yield id_of(value), row


def check_index(index: Table, key: bytes, value: bytes, row: object, *, after: bytes = b"") -> None:
    """Raise CorruptRecordError unless an index is right to lead from a key to a row, and each id comes but once."""
    if key not in KEYS_OF[index](row) or value <= after:
        raise disagreement(index, value)


def variant_row(transaction: ReadTransaction, variant_id: int) -> VariantRow | None:
    """Return the row of a variant."""
    key = id_key(variant_id)
    value = transaction.get(VARIANTS, key)
    return None if value is None else VARIANT_CODEC.decode(key, value)


def find_variant(transaction: ReadTransaction, document_id: int, name: str) -> tuple[int, VariantRow] | None:
    """Return a variant of a document by its name."""
    value = transaction.get(VARIANTS_BY_DOCUMENT, id_key(document_id) + name_key(name))
    if value is None:
        return None
    row = indexed(VARIANTS_BY_DOCUMENT, value, variant_row(transaction, id_of(value)))
    if (row.document_id, row.name) != (document_id, name):
        raise disagreement(VARIANTS_BY_DOCUMENT, value)
    return id_of(value), row


def variant_rows(transaction: ReadTransaction, document_id: int) -> Iterator[tuple[int, VariantRow]]:
    """Yield the variants of a document, by name."""
    prefix = id_key(document_id)
    for key, value in transaction.items(VARIANTS_BY_DOCUMENT, prefix, prefix_end(prefix)):
        row = indexed(VARIANTS_BY_DOCUMENT, value, variant_row(transaction, id_of(value)))
        check_index(VARIANTS_BY_DOCUMENT, key, value, row)
        yield id_of(value), row


def conflict_row(transaction: ReadTransaction, key: bytes) -> ConflictRow | None:
    """Return the conflict under a key."""
    value = transaction.get(CONFLICTS, key)
    return None if value is None else CONFLICT_CODEC.decode(key, value)


def conflict_rows(
    transaction: ReadTransaction, document_id: int | None, after: bytes | None = None
) -> Iterator[tuple[bytes, ConflictRow]]:
    """Yield the conflicts of a document, or all, with their keys, behind a key."""
    prefix = b"" if document_id is None else id_key(document_id)
    pair = None if after is None else (after, b"")
    for key, value in transaction.items(CONFLICTS, prefix, prefix_end(prefix), after=pair):
        yield key, CONFLICT_CODEC.decode(key, value)


def link_rows(transaction: ReadTransaction, document_id: int) -> Iterator[LinkRow]:
    """Yield the further names of a document's blobs."""
    prefix = id_key(document_id)
    for joined in keys_with_prefix(transaction, LINKS_BY_DOCUMENT, prefix):
        key = joined[len(prefix) :] + prefix
        value = transaction.get(LINKS, key)
        if value is None:
            raise CorruptRecordError(f"index {LINKS_BY_DOCUMENT.name} points to a link that is not there")
        yield LINK_CODEC.decode(key, value)


def keys_with_prefix(transaction: ReadTransaction, table: Table, prefix: bytes) -> list[bytes]:
    """Return the keys of a table that begin with some bytes."""
    return [key for key, _ in transaction.items(table, prefix, prefix_end(prefix))]


def document_record(
    document_id: int, row: DocumentRow, roots: RootMap, storage_uri: str | None = None
) -> DocumentRecord:
    """Return a row as what the catalog gives out; `storage_uri` is the URI of its location, where that is known."""
    created = from_micros(row.created)
    return DocumentRecord(
        document_id,
        row.artifact_id,
        row.source_url,
        row.resolver,
        row.content_type,
        row.size,
        None if row.digest is None else row.digest.hex(),
        storage_uri or roots.uri((row.root, row.path), row.digest),
        created,
        from_micros(row.created + row.updated_after) if row.updated_after else created,
        row.run_id,
    )


def updated_at(row: DocumentRow) -> datetime:
    """Return when a document was changed last."""
    return from_micros(row.created + row.updated_after)


def variant_record(variant_id: int, row: VariantRow, roots: RootMap) -> VariantRecord:
    """Return a row as what the catalog gives out."""
    return VariantRecord(
        variant_id,
        row.document_id,
        row.name,
        roots.uri((row.root, row.path), row.digest),
        row.size,
        row.content_type,
        None if row.digest is None else row.digest.hex(),
        from_micros(row.created),
    )


def conflict(key: bytes, row: ConflictRow, roots: RootMap) -> Conflict:
    """Return a row as what the catalog gives out."""
    return Conflict(
        id_of(key[:8]),
        row.variant,
        None if row.digest is None else row.digest.hex(),
        row.size,
        roots.uri((row.root, row.path), row.digest),
        row.run_id,
        from_micros(row.first_seen),
        from_micros(row.last_seen),
        row.count,
    )


def journal_entry(sequence: int, row: JournalRow) -> JournalEntry:
    """Return a row as what the catalog gives out."""
    return JournalEntry(
        sequence,
        from_micros(row.at),
        row.action,
        row.document_id,
        row.variant_id,
        row.command,
        row.reason,
        row.changes,
    )


def indexed(table: Table, value: bytes, row: Row | None) -> Row:
    """Return a row to which an index points; CorruptRecordError if it is not there."""
    if row is None:
        raise CorruptRecordError(f"index {table.name} points to id {id_of(value)}, which has no row")
    return row


def disagreement(table: Table, value: bytes) -> CorruptRecordError:
    """Return the error for an index that points to a row which does not belong there."""
    return CorruptRecordError(f"index {table.name} and the row of id {id_of(value)} do not agree")
