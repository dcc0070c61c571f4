"""Lists and figures as the catalog gives them out; those without a bound come a step at a time, with where to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from kvcatalog.clock import from_micros
from kvcatalog.errors import JournalPrunedError
from kvcatalog.kv.keys import prefix_end
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.models import (
    CatalogStats,
    Conflict,
    DocumentRecord,
    DuplicateGroup,
    HaveKind,
    JournalEntry,
    Possession,
    Sighting,
    Totals,
    VariantRecord,
)
from kvcatalog.schema import (
    BY_KEY,
    BY_SHA256,
    BY_STORAGE_URI,
    BY_URL,
    COUNTER_CODEC,
    COUNTERS,
    DUPLICATE_CODEC,
    DUPLICATES,
    JOURNAL,
    JOURNAL_BY_DOCUMENT,
    JOURNAL_BY_STORAGE_URI,
    JOURNAL_CODEC,
    SIGHTING_CODEC,
    SIGHTINGS,
    SIGHTINGS_BY_DOCUMENT,
    VARIANTS_BY_SHA256,
    VARIANTS_BY_STORAGE_URI,
    DocumentRow,
    VariantRow,
    artifact_key,
    counter_key,
    id_key,
    id_of,
    location_hash,
    name_key,
    places_named,
    uri_hash,
    url_key,
)
from kvcatalog.store import reading
from kvcatalog.store.roots import RootMap
from kvcatalog.store.tally import DOCUMENT_ID, PRUNED_SEQUENCE, VARIANT_ID, read_counter
from kvcatalog.values import is_digest

Row = TypeVar("Row", DocumentRow, VariantRow)


def documents_of_artifact(transaction: ReadTransaction, artifact_id: str, roots: RootMap) -> list[DocumentRecord]:
    """Return the documents of an artifact, in the order of their keys."""
    prefix = artifact_key(artifact_id)
    records = []
    for key, value in transaction.items(BY_KEY, prefix, prefix_end(prefix)):
        document_id = id_of(value)
        row = reading.indexed(BY_KEY, value, reading.document_row(transaction, document_id))
        reading.check_index(BY_KEY, key, value, row)
        records.append(reading.document_record(document_id, row, roots))
    return records


def documents_of_digest(transaction: ReadTransaction, digest: bytes, roots: RootMap) -> list[DocumentRecord]:
    """Return the documents of a digest, by id."""
    found = reading.rows_in(transaction, BY_SHA256, digest, reading.document_row)
    return [reading.document_record(*pair, roots) for pair in found]


def variants_of_digest(transaction: ReadTransaction, digest: bytes, roots: RootMap) -> list[VariantRecord]:
    """Return the variants of a digest, by id."""
    found = reading.rows_in(transaction, VARIANTS_BY_SHA256, digest, reading.variant_row)
    return [reading.variant_record(*pair, roots) for pair in found]


def documents_of_url(transaction: ReadTransaction, source_url: str, roots: RootMap) -> list[DocumentRecord]:
    """Return the documents of a source URL, by id."""
    found = reading.rows_in(transaction, BY_URL, url_key(source_url), reading.document_row)
    return [reading.document_record(*pair, roots) for pair in found if pair[1].source_url == source_url]


def documents_at(transaction: ReadTransaction, uri: str, roots: RootMap) -> list[DocumentRecord]:
    """Return the documents whose blob lies at a storage URI, by id."""
    found: dict[int, DocumentRecord] = {}
    for table, key in _places(uri, roots, BY_STORAGE_URI, BY_SHA256):
        for document_id, row in reading.rows_in(transaction, table, key, reading.document_row):
            record = reading.document_record(document_id, row, roots)
            if record.storage_uri == uri:
                found[document_id] = record
    return [found[document_id] for document_id in sorted(found)]


def variants_at(transaction: ReadTransaction, uri: str, roots: RootMap) -> list[VariantRecord]:
    """Return the variants whose blob lies at a storage URI, by id."""
    found: dict[int, VariantRecord] = {}
    for table, key in _places(uri, roots, VARIANTS_BY_STORAGE_URI, VARIANTS_BY_SHA256):
        for variant_id, row in reading.rows_in(transaction, table, key, reading.variant_row):
            record = reading.variant_record(variant_id, row, roots)
            if record.storage_uri == uri:
                found[variant_id] = record
    return [found[variant_id] for variant_id in sorted(found)]


def digests(transaction: ReadTransaction, prefix: str, limit: int) -> list[str]:
    """Return the digests of documents and variants that begin with some hex digits, in order."""
    start = bytes.fromhex(prefix.ljust(64, "0"))
    last = bytes.fromhex(prefix.ljust(64, "f"))
    found: set[str] = set()
    of_documents = _digests_between(transaction, BY_SHA256, reading.document_row, start, last)
    of_variants = _digests_between(transaction, VARIANTS_BY_SHA256, reading.variant_row, start, last)
    for candidates in (of_documents, of_variants):
        found.update(islice(candidates, limit))
    return sorted(found)[:limit]


def possession(transaction: ReadTransaction, item: str, kind: HaveKind, wanted: str, roots: RootMap) -> Possession:
    """Return which records hold an item; `wanted` is what to look up for it."""
    if kind in {"digest", "file"} or (kind == "any" and is_digest(wanted)):
        records = documents_of_digest(transaction, bytes.fromhex(wanted), roots)
        return Possession(item, "file" if kind == "file" else "digest", tuple(records))
    if kind in {"url", "any"}:
        records = documents_of_url(transaction, wanted, roots)
        if records or kind == "url":
            return Possession(item, "url", tuple(records))
    return Possession(item, "artifact", tuple(documents_of_artifact(transaction, wanted, roots)))


def duplicate_groups(
    transaction: ReadTransaction, after: bytes | None, *, variants: bool
) -> tuple[list[DuplicateGroup], bytes | None]:
    """Return the next digests that several records carry."""
    groups = []
    pairs = list(islice(transaction.items(DUPLICATES, after=_pair(after)), reading.STEP_ROWS))
    for key, value in pairs:
        row = DUPLICATE_CODEC.decode(key, value)
        if variants or row.documents > 1:
            groups.append(DuplicateGroup(row.digest.hex(), row.size, row.documents, row.variants))
    return groups, _last(pairs)


def sightings(
    transaction: ReadTransaction, after: bytes | None, *, run_id: str | None, document_id: int | None
) -> tuple[list[Sighting], bytes | None]:
    """Return the next sightings of a run, of a document, of both, or of all."""
    if document_id is not None:
        prefix = id_key(document_id)
        keys = reading.keys_with_prefix(transaction, SIGHTINGS_BY_DOCUMENT, prefix)
        found = [_sighting(transaction, key[8:] + b"\0" + prefix, None) for key in keys]
        last = None
    else:
        prefix = b"" if run_id is None else name_key(run_id) + b"\0"
        pairs = list(
            islice(transaction.items(SIGHTINGS, prefix, prefix_end(prefix), after=_pair(after)), reading.STEP_ROWS)
        )
        found = [_sighting(transaction, key, value) for key, value in pairs]
        last = _last(pairs)
    return [sighting for sighting in found if run_id in {None, sighting.run_id}], last


def all_sightings(transaction: ReadTransaction) -> Iterator[tuple[int, str, int]]:
    """Yield the document, the run and the time of every sighting, by run."""
    for key, value in transaction.items(SIGHTINGS):
        row = SIGHTING_CODEC.decode(key, value)
        yield id_of(key[-8:]), key[:-9].decode() if row.run_id is None else row.run_id, row.seen


def conflicts(
    transaction: ReadTransaction, roots: RootMap, after: bytes | None, document_id: int | None
) -> tuple[list[Conflict], bytes | None]:
    """Return the next conflicts of a document, or of all."""
    rows = list(islice(reading.conflict_rows(transaction, document_id, after), reading.STEP_ROWS))
    return [reading.conflict(key, row, roots) for key, row in rows], _last(rows)


def journal(
    transaction: ReadTransaction, after: int, document_id: int | None, storage_uri: str | None, *, complete: bool
) -> tuple[list[JournalEntry], int | None]:
    """Return the next entries of the journal with a sequence number above `after`."""
    keys: Iterator[bytes]
    if document_id is not None:
        keys = transaction.values(JOURNAL_BY_DOCUMENT, id_key(document_id), start=id_key(after + 1))
    elif storage_uri is not None:
        keys = transaction.values(JOURNAL_BY_STORAGE_URI, uri_hash(storage_uri), start=id_key(after + 1))
    else:
        keys = (key for key, _ in transaction.items(JOURNAL, id_key(after + 1)))
    entries = []
    looked_at = list(islice(keys, reading.STEP_ROWS))
    pruned_to = read_counter(transaction, PRUNED_SEQUENCE).count if complete else 0  # after the rows were read
    if after < pruned_to:
        raise JournalPrunedError(after, pruned_to)
    for key in looked_at:
        row = JOURNAL_CODEC.decode(key, reading.indexed(JOURNAL, key, transaction.get(JOURNAL, key)))
        if document_id not in {None, row.document_id}:
            raise reading.disagreement(JOURNAL_BY_DOCUMENT, key)
        if storage_uri is None or storage_uri in places_named(row):
            entries.append(reading.journal_entry(id_of(key), row))
    return entries, id_of(looked_at[-1]) if len(looked_at) == reading.STEP_ROWS else None


def stats(transaction: ReadTransaction, *, file_bytes: int | None, used_bytes: int | None) -> CatalogStats:
    """Return the catalog's figures from its counters."""
    documents = read_counter(transaction, "documents")
    variants = read_counter(transaction, "variants")
    duplicates = read_counter(transaction, "duplicates")
    return CatalogStats(
        documents=documents.count,
        bytes=documents.size,
        documents_without_sha256=read_counter(transaction, "unhashed").count,
        variants=variants.count,
        variant_bytes=variants.size,
        duplicate_groups=read_counter(transaction, "duplicate groups").count,
        duplicate_documents=duplicates.count,
        duplicate_bytes=duplicates.size,
        conflicts=read_counter(transaction, "conflicts").count,
        sightings=read_counter(transaction, "sightings").count,
        by_resolver=_totals(transaction, "resolver"),
        by_content_type=_totals(transaction, "content type"),
        last_document_id=read_counter(transaction, DOCUMENT_ID).count,
        last_variant_id=read_counter(transaction, VARIANT_ID).count,
        file_bytes=file_bytes,
        used_bytes=used_bytes,
    )


def _totals(transaction: ReadTransaction, name: str) -> dict[str, Totals]:
    prefix = counter_key(name)
    rows = (COUNTER_CODEC.decode(key, value) for key, value in transaction.items(COUNTERS, prefix, prefix_end(prefix)))
    return {row.label: Totals(row.count, row.size) for row in rows}


def _sighting(transaction: ReadTransaction, key: bytes, value: bytes | None) -> Sighting:
    if value is None:
        value = reading.indexed(SIGHTINGS_BY_DOCUMENT, key[-8:], transaction.get(SIGHTINGS, key))
    row = SIGHTING_CODEC.decode(key, value)
    run_id = key[:-9].decode() if row.run_id is None else row.run_id
    return Sighting(run_id, id_of(key[-8:]), from_micros(row.seen))


def _digests_between(
    transaction: ReadTransaction,
    table: Table,
    read_row: Callable[[ReadTransaction, int], Row | None],
    start: bytes,
    last: bytes,
) -> Iterator[str]:
    """Yield the digests of an index from one key to another, both included."""
    while (pair := next(transaction.items(table, start, last + b"\0"), None)) is not None:
        row = reading.indexed(table, pair[1], read_row(transaction, id_of(pair[1])))
        reading.check_index(table, *pair, row)
        yield pair[0].hex()
        start = pair[0] + b"\0"


def _places(uri: str, roots: RootMap, by_location: Table, by_digest: Table) -> Iterator[tuple[Table, bytes]]:
    """Yield the index rows under which what lies at a URI may be found."""
    for root, path in roots.candidates(uri):
        yield by_location, location_hash(root, path)
    digest = roots.cas_digest(uri)
    if digest is not None:
        yield by_digest, digest


def _pair(after: bytes | None) -> tuple[bytes, bytes] | None:
    return None if after is None else (after, b"")


def _last(pairs: Sequence[tuple[bytes, object]]) -> bytes | None:
    """Return where to go on after a full step."""
    return pairs[-1][0] if len(pairs) == reading.STEP_ROWS else None
