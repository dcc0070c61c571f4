"""The one place that writes rows of what is registered: each function makes a change whole, from what was to what is.

What the upkeep of blobs writes down is in `upkeep`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TypeVar

from kvcatalog.errors import CatalogError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.kv.table import Index, Table, index_changes
from kvcatalog.schema import (
    BIRTH_KEY,
    BY_KEY,
    BY_SHA256,
    CONFLICT_CODEC,
    CONFLICT_INDEXES,
    CONFLICTS,
    DOCUMENT_CODEC,
    DOCUMENT_INDEXES,
    DOCUMENTS,
    DUPLICATE_CODEC,
    DUPLICATES,
    ID_BYTES,
    IDENTITY_CODEC,
    IDENTITY_KEY,
    JOURNAL,
    JOURNAL_BY_DOCUMENT,
    JOURNAL_BY_STORAGE_URI,
    JOURNAL_CODEC,
    LINK_CODEC,
    LINKS,
    LINKS_BY_DOCUMENT,
    META,
    NUMBER_CODEC,
    SIGHTING_CODEC,
    SIGHTINGS,
    SIGHTINGS_BY_DOCUMENT,
    VARIANT_CODEC,
    VARIANT_INDEXES,
    VARIANTS,
    VARIANTS_BY_SHA256,
    ConflictRow,
    DocumentRow,
    DuplicateRow,
    IdentityRow,
    JournalRow,
    LinkRow,
    SightingRow,
    VariantRow,
    conflict_key,
    id_key,
    id_of,
    link_key,
    location_key,
    name_key,
    places_named,
    sighting_key,
    totals,
    totals_of,
    unhashed_content,
    uri_hash,
)
from kvcatalog.store import reading
from kvcatalog.store.hanging import Hanging
from kvcatalog.store.tally import JOURNAL_SEQUENCE, Tally

Source = TypeVar("Source")

_FEW_DOCUMENTS = 2
"""So few are stored one by one sooner than as many."""


def put_document(transaction: WriteTransaction, document_id: int, old: DocumentRow, new: DocumentRow | None) -> None:
    """Make a stored document `new`, or take it away if that is None, with its index rows and counters."""
    key = id_key(document_id)
    if new is None:
        transaction.delete(DOCUMENTS, key)
    else:
        transaction.replace(DOCUMENTS, key, DOCUMENT_CODEC.encode(key, old), DOCUMENT_CODEC.encode(key, new))
    _put_index_rows(transaction, DOCUMENT_INDEXES, key, old, new)
    tally = Tally.of(transaction)
    for row, sign in ((old, -1), (new, 1)):
        if row is not None:
            for name, label in totals_of(row):
                tally.add(name, label, count=sign, size=sign * row.size)
    _count_duplicates(transaction, old, new)


def put_new_documents(
    transaction: WriteTransaction, numbers: Iterable[int], rows_by_key: dict[bytes, DocumentRow]
) -> None:
    """Store new documents under ascending ids, with index rows and counters.

    `rows_by_key` has them under their composite keys. Many go in table by table, each in the order of its keys.
    """
    if len(rows_by_key) <= _FEW_DOCUMENTS:
        for document_id, (key, row) in zip(numbers, rows_by_key.items(), strict=True):
            _put_new_document(transaction, id_key(document_id), key, row)
        return
    rows = list(rows_by_key.values())
    ids = [id_key(number) for number in numbers]
    encode = DOCUMENT_CODEC.encode
    transaction.put_many(DOCUMENTS, ((key, encode(key, row)) for key, row in zip(ids, rows, strict=True)), append=True)
    defers = Tally.of(transaction).defers
    digests = sorted([row.digest for row in rows if row.digest is not None and not defers(row.digest, is_added=True)])
    repeated = {digest for digest, following in pairwise(digests) if digest == following}
    repeated.update(transaction.first_values(BY_SHA256, digests))
    repeated.update(transaction.first_values(VARIANTS_BY_SHA256, digests))
    for index in DOCUMENT_INDEXES:
        if index.table is BY_KEY:
            joined = [key + number for key, number in zip(rows_by_key, ids, strict=True)]
        else:
            keys_of = index.keys
            joined = [key + number for row, number in zip(rows, ids, strict=True) for key in keys_of(row)]
        # Bytes cost the garbage collector nothing, and every id has the same length.
        joined.sort()
        pairs = ((key[:-ID_BYTES], key[-ID_BYTES:]) for key in joined)
        transaction.put_many(index.table, pairs, append=index.table.sets)
    _count_new_documents(transaction, rows)
    for digest in repeated:
        count_duplicates(transaction, digest)


def _put_new_document(transaction: WriteTransaction, document_id: bytes, key: bytes, row: DocumentRow) -> None:
    put = transaction.put
    put(DOCUMENTS, document_id, DOCUMENT_CODEC.encode(document_id, row), append=True)
    digest = row.digest
    is_repeated = (
        digest is not None
        and not Tally.of(transaction).defers(digest, is_added=True)
        and (transaction.get(BY_SHA256, digest) is not None or transaction.get(VARIANTS_BY_SHA256, digest) is not None)
    )
    for index in DOCUMENT_INDEXES:
        table = index.table
        for index_key in (key,) if table is BY_KEY else index.keys(row):
            put(table, index_key, document_id, append=table.sets)
    _count_new_documents(transaction, [row])
    if digest is not None and is_repeated:
        count_duplicates(transaction, digest)


def _count_new_documents(transaction: WriteTransaction, rows: list[DocumentRow]) -> None:
    alike: dict[tuple[str, str | None, bool], list[int]] = {}
    for row in rows:
        alike.setdefault((row.resolver, row.content_type, row.digest is None), []).append(row.size)
    tally = Tally.of(transaction)
    for group, sizes in alike.items():
        for name, label in totals(*group):
            tally.add(name, label, count=len(sizes), size=sum(sizes))


def put_variant(transaction: WriteTransaction, variant_id: int, old: VariantRow | None, new: VariantRow | None) -> None:
    """Make a variant `new`, or take it away if that is None, with its index rows and counters."""
    key = id_key(variant_id)
    for row in (old, new):
        if row is not None:
            transaction.touch(DOCUMENTS, id_key(row.document_id))
    if new is None:
        transaction.delete(VARIANTS, key)
    elif old is None:
        transaction.put(VARIANTS, key, VARIANT_CODEC.encode(key, new), append=True)
    else:
        transaction.replace(VARIANTS, key, VARIANT_CODEC.encode(key, old), VARIANT_CODEC.encode(key, new))
    _put_index_rows(transaction, VARIANT_INDEXES, key, old, new)
    tally = Tally.of(transaction)
    for row, sign in ((old, -1), (new, 1)):
        if row is not None:
            tally.add("variants", count=sign, size=sign * row.size)
    _count_duplicates(transaction, old, new)


def put_conflict(
    transaction: WriteTransaction, document_id: int, old: ConflictRow | None, new: ConflictRow | None
) -> None:
    """Make a conflict of a document `new`, or take it away if that is None; both are the same content."""
    transaction.touch(DOCUMENTS, id_key(document_id))
    if new is None:
        if old is None:
            return
        transaction.delete(CONFLICTS, key_of_conflict(document_id, old))
        # Other conflicts of the document may lie at the same place, and share the index row.
        kept = [other for _, other in reading.conflict_rows(transaction, document_id)]
        still = {key for other in kept for index in CONFLICT_INDEXES for key in index.keys(other)}
        for table, index_key in index_changes(CONFLICT_INDEXES, old, None)[0]:
            if index_key not in still:
                transaction.delete(table, index_key, id_key(document_id))
    else:
        key = key_of_conflict(document_id, new)
        if old is None:
            transaction.put(CONFLICTS, key, CONFLICT_CODEC.encode(key, new))
        else:
            transaction.replace(CONFLICTS, key, CONFLICT_CODEC.encode(key, old), CONFLICT_CODEC.encode(key, new))
        _put_index_rows(transaction, CONFLICT_INDEXES, id_key(document_id), old, new)
    Tally.of(transaction).add("conflicts", count=(new is not None) - (old is not None))


def put_sighting(transaction: WriteTransaction, document_id: int, run_id: str, seen: int) -> bool:
    """Remember that a run met a document; False if that was known."""
    key = sighting_key(run_id, document_id)
    if transaction.get(SIGHTINGS, key) is not None:
        return False
    run_key = name_key(run_id)
    transaction.touch(DOCUMENTS, id_key(document_id))
    row = SightingRow(seen, None if run_key == run_id.encode() else run_id)
    transaction.put(SIGHTINGS, key, SIGHTING_CODEC.encode(key, row))
    transaction.put(SIGHTINGS_BY_DOCUMENT, id_key(document_id) + run_key, b"")
    Tally.of(transaction).add("sightings", count=1)
    return True


def delete_sighting(transaction: WriteTransaction, document_id: int, run_id: str) -> None:
    """Forget that a run met a document again."""
    _delete_sighting(transaction, document_id, name_key(run_id))


def _delete_sighting(transaction: WriteTransaction, document_id: int, run_key: bytes) -> None:
    prefix = id_key(document_id)
    transaction.touch(DOCUMENTS, prefix)
    if transaction.delete(SIGHTINGS, run_key + b"\0" + prefix):
        transaction.delete(SIGHTINGS_BY_DOCUMENT, prefix + run_key)
        Tally.of(transaction).add("sightings", count=-1)


def put_link(transaction: WriteTransaction, row: LinkRow) -> None:
    """Remember a further name of a document's blob."""
    key = link_key(row.root, row.path, row.document_id)
    transaction.touch(DOCUMENTS, id_key(row.document_id))
    transaction.put(LINKS, key, LINK_CODEC.encode(key, row))
    transaction.put(LINKS_BY_DOCUMENT, id_key(row.document_id) + location_key(row.root, row.path), b"")


def delete_link(transaction: WriteTransaction, document_id: int, root: int | None, path: str) -> bool:
    """Forget a further name of a document's blob; False if it was not known."""
    transaction.touch(DOCUMENTS, id_key(document_id))
    transaction.delete(LINKS_BY_DOCUMENT, id_key(document_id) + location_key(root, path))
    return transaction.delete(LINKS, link_key(root, path, document_id))


def put_journal_entry(transaction: WriteTransaction, row: JournalRow) -> int:
    """Write down what was done, and return its sequence number."""
    sequence = Tally.of(transaction).next(JOURNAL_SEQUENCE)
    key = id_key(sequence)
    transaction.put(JOURNAL, key, JOURNAL_CODEC.encode(key, row), append=True)
    if row.document_id is not None:
        transaction.put(JOURNAL_BY_DOCUMENT, id_key(row.document_id), key, append=True)
    for uri in places_named(row):
        transaction.put(JOURNAL_BY_STORAGE_URI, uri_hash(uri), key)
    return sequence


def delete_journal_entry(transaction: WriteTransaction, sequence: int, row: JournalRow) -> None:
    """Forget what was done; its sequence number is never given again."""
    key = id_key(sequence)
    transaction.delete(JOURNAL, key)
    if row.document_id is not None:
        transaction.delete(JOURNAL_BY_DOCUMENT, id_key(row.document_id), key)
    for uri in places_named(row):
        transaction.delete(JOURNAL_BY_STORAGE_URI, uri_hash(uri), key)


def put_identity(transaction: WriteTransaction, row: IdentityRow) -> None:
    """Say which catalog this is."""
    transaction.put(META, IDENTITY_KEY, IDENTITY_CODEC.encode(IDENTITY_KEY, row))


def put_birth(transaction: WriteTransaction, birth: int) -> None:
    """Say in which file the catalog lies: when that was made, in nanoseconds since the epoch."""
    transaction.put(META, BIRTH_KEY, NUMBER_CODEC.encode(BIRTH_KEY, birth))


def delete_hanging(transaction: WriteTransaction, document_id: int, hanging: Hanging) -> None:
    """Take away what hangs on a document, or some of it."""
    prefix = id_key(document_id)
    for variant_id, variant in hanging.variants:
        put_variant(transaction, variant_id, variant, None)
    for _, conflict in hanging.conflicts:
        put_conflict(transaction, document_id, conflict, None)
    transaction.expect(SIGHTINGS, [run_key + b"\0" + prefix for run_key in hanging.sightings])
    for run_key in hanging.sightings:
        _delete_sighting(transaction, document_id, run_key)
    for link in hanging.links:
        delete_link(transaction, document_id, link.root, link.path)


def delete_variant(transaction: WriteTransaction, variant_id: int, row: VariantRow) -> None:
    """Take a variant away with its conflicts."""
    for _, conflict in list(reading.conflict_rows(transaction, row.document_id)):
        if conflict.variant == row.name:
            put_conflict(transaction, row.document_id, conflict, None)
    put_variant(transaction, variant_id, row, None)


def key_of_conflict(document_id: int, row: ConflictRow) -> bytes:
    """Return the key of a conflict's row."""
    content = unhashed_content(row.size, row.root, row.path or "") if row.digest is None else row.digest
    return conflict_key(document_id, row.variant, content)


def _put_index_rows(
    transaction: WriteTransaction,
    indexes: Iterable[Index[Source]],
    value: bytes,
    old: Source | None,
    new: Source | None,
) -> None:
    removed, added = index_changes(indexes, old, new)
    for table, key in removed:
        transaction.delete(table, key, value)
    for table, key in added:
        transaction.put(table, key, value, append=old is None and table.sets)


def set_derived_row(transaction: WriteTransaction, table: Table, key: bytes, value: bytes, *, wanted: bool) -> None:
    """Make a row of a table without checksums be there or not, where it was found not to follow from what it should."""
    if wanted:
        transaction.put(table, key, value)
    else:
        transaction.delete(table, key, value if table.sets else b"")
    if table in {BY_SHA256, VARIANTS_BY_SHA256}:
        recount_duplicates(transaction, key)


def recount_duplicates(transaction: WriteTransaction, digest: bytes) -> None:
    """Count anew who carries a digest; of a count that cannot be read, the totals know nothing."""
    value = transaction.get(DUPLICATES, digest)
    if value is not None:
        try:
            DUPLICATE_CODEC.decode(digest, value)
        except CatalogError:
            transaction.delete(DUPLICATES, digest)
    count_duplicates(transaction, digest)


def _count_duplicates(
    transaction: WriteTransaction,
    old: DocumentRow | VariantRow | None,
    new: DocumentRow | VariantRow | None,
) -> None:
    """Bring the duplicate counts of both digests up to date, once the index rows are."""
    before = None if old is None else old.digest
    after = None if new is None else new.digest
    if before != after or (old is not None and new is not None and old.size != new.size):
        for digest in {before, after}:
            if digest is not None and not Tally.of(transaction).defers(digest):
                count_duplicates(transaction, digest)


def count_duplicates(transaction: WriteTransaction, digest: bytes) -> None:
    """Bring the duplicate count of a digest up to date with its index rows."""
    value = transaction.get(DUPLICATES, digest)  # first: what others count meanwhile is counted again
    documents = transaction.count(BY_SHA256, digest)
    variants = transaction.count(VARIANTS_BY_SHA256, digest)
    tally = Tally.of(transaction)
    if value is not None:
        _tally_duplicates(tally, DUPLICATE_CODEC.decode(digest, value), -1)
    if documents + variants > 1:
        row = DuplicateRow(digest, _size_of_copy(transaction, digest), documents, variants)
        transaction.put(DUPLICATES, digest, DUPLICATE_CODEC.encode(digest, row))
        _tally_duplicates(tally, row, 1)
    elif value is not None:
        transaction.delete(DUPLICATES, digest)


def _tally_duplicates(tally: Tally, row: DuplicateRow, sign: int) -> None:
    if row.documents > 1:
        tally.add("duplicate groups", count=sign)
        tally.add("duplicates", count=sign * (row.documents - 1), size=sign * (row.documents - 1) * row.size)


def _size_of_copy(transaction: WriteTransaction, digest: bytes) -> int:
    """Return the size that the first record of a digest has: should records disagree, the figures still follow one."""
    row: DocumentRow | VariantRow | None
    if (value := transaction.get(BY_SHA256, digest)) is not None:
        row = reading.indexed(BY_SHA256, value, reading.document_row(transaction, id_of(value)))
    else:
        value = transaction.get(VARIANTS_BY_SHA256, digest) or b""
        row = reading.indexed(VARIANTS_BY_SHA256, value, reading.variant_row(transaction, id_of(value)))
    return row.size
