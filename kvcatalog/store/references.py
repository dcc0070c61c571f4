"""What refers to a place, whoever put it there: the one question before a file may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from kvcatalog.custody import Reference
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.keys import prefix_end
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.layout import is_path
from kvcatalog.schema import (
    BY_SHA256,
    BY_STORAGE_URI,
    CONFLICT_CODEC,
    CONFLICTS,
    CONFLICTS_BY_STORAGE_URI,
    DOCUMENT_CODEC,
    DOCUMENTS,
    ID_BYTES,
    LINK_CODEC,
    LINKS,
    VARIANT_CODEC,
    VARIANTS,
    VARIANTS_BY_SHA256,
    VARIANTS_BY_STORAGE_URI,
    cas_hash,
    id_of,
    location_hash,
    location_key,
)
from kvcatalog.store import listing, reading
from kvcatalog.store.roots import RootMap
from kvcatalog.uris import is_plain

Walked = tuple[int, bytes]
"""Where a walk along several tables stands: the number of the table, and the last key of it."""


class _Kind(NamedTuple):
    """Rows that refer to blobs, and the indexes that lead to them."""

    rows: Table
    codec: Codec[Any]
    by_digest: Table
    by_place: Table


_KINDS = (
    _Kind(DOCUMENTS, DOCUMENT_CODEC, BY_SHA256, BY_STORAGE_URI),
    _Kind(VARIANTS, VARIANT_CODEC, VARIANTS_BY_SHA256, VARIANTS_BY_STORAGE_URI),
)
_WALKED: tuple[tuple[Table, Codec[Any], Table], ...] = (
    (DOCUMENTS, DOCUMENT_CODEC, BY_STORAGE_URI),
    (VARIANTS, VARIANT_CODEC, VARIANTS_BY_STORAGE_URI),
    (CONFLICTS, CONFLICT_CODEC, CONFLICTS_BY_STORAGE_URI),
    (LINKS, LINK_CODEC, LINKS),
)
"""Rows that have places, and a table that is empty where none of them is outside the content-addressed ones."""


def references(transaction: ReadTransaction, uri: str, roots: RootMap) -> list[Reference]:
    """Return every record, variant, conflict and link that refers to a storage URI."""
    found = [Reference("document", each.id, each.sha256) for each in listing.documents_at(transaction, uri, roots)]
    variants = listing.variants_at(transaction, uri, roots)
    found += [Reference("variant", each.document_id, each.sha256) for each in variants]
    found += _conflicts_at(transaction, uri, roots)
    for root, path in roots.candidates(uri):
        prefix = location_key(root, path)
        for key, _ in transaction.items(LINKS, prefix, prefix_end(prefix)):
            if len(key) == len(prefix) + ID_BYTES:
                found.append(Reference("link", id_of(key[len(prefix) :]), None))
    return found


def _conflicts_at(transaction: ReadTransaction, uri: str, roots: RootMap) -> list[Reference]:
    found: dict[bytes, Reference] = {}
    for index_key in _conflict_keys(uri, roots):
        for value in transaction.values(CONFLICTS_BY_STORAGE_URI, index_key):
            for key, row in reading.conflict_rows(transaction, id_of(value)):
                if roots.uri((row.root, row.path), row.digest) == uri:
                    digest = None if row.digest is None else row.digest.hex()
                    found[key] = Reference("conflict", id_of(value), digest)
    return list(found.values())


def referenced(transaction: ReadTransaction, uris: Iterable[str], roots: RootMap) -> set[str]:
    """Return those storage URIs to which something refers.

    Most are found where they should be, by two lookups in the order of keys; only what is left is looked for wherever
    else it might stand.
    """
    waiting = set(uris)
    found: set[str] = set()
    for kind in _KINDS:
        if not waiting:
            break
        content_addressed = {uri: place for uri in waiting if (place := roots.cas_place(uri)) is not None}
        found |= _at_digests(transaction, kind, content_addressed)
        found |= _at_places(transaction, kind, waiting.difference(content_addressed), roots)
        waiting -= found
    for uri in _suspects(transaction, waiting, roots):
        if references(transaction, uri, roots):
            found.add(uri)
    return found


def _at_digests(transaction: ReadTransaction, kind: _Kind, places: dict[str, tuple[int, bytes]]) -> set[str]:
    """Return the URIs of content-addressed places at which the first row of the digest lies."""
    ids = transaction.first_values(kind.by_digest, sorted([digest for _, digest in places.values()]))
    rows = transaction.first_values(kind.rows, sorted(ids.values()))
    decode = kind.codec.decode
    found = set()
    for uri, (root, digest) in places.items():
        row_key = ids.get(digest)
        value = None if row_key is None else rows.get(row_key)
        if row_key is not None and value is not None:
            row = decode(row_key, value)
            if row.path is None and row.root == root and row.digest == digest:
                found.add(uri)
    return found


def _at_places(transaction: ReadTransaction, kind: _Kind, uris: Iterable[str], roots: RootMap) -> set[str]:
    """Return the URIs at whose place the first row of the index lies."""
    if transaction.is_empty(kind.by_place):
        return set()
    places = {uri: roots.locate(uri, None) for uri in uris}
    hashes = {uri: location_hash(root, path or "") for uri, (root, path) in places.items()}
    ids = transaction.first_values(kind.by_place, sorted(hashes.values()))
    rows = transaction.first_values(kind.rows, sorted(ids.values()))
    found = set()
    for uri, place in places.items():
        row_key = ids.get(hashes[uri])
        if row_key is not None and row_key in rows:
            row = kind.codec.decode(row_key, rows[row_key])
            if (row.root, row.path) == place:
                found.add(uri)
    return found


def _suspects(transaction: ReadTransaction, uris: set[str], roots: RootMap) -> set[str]:
    """Return the URIs for which any index has a row at all."""
    places = {uri: list(roots.candidates(uri)) for uri in uris}
    hashes = {uri: [location_hash(*place) for place in found] for uri, found in places.items()}
    digests = {uri: [digest] for uri in uris if (digest := roots.cas_digest(uri)) is not None}
    conflicts = {uri: _conflict_keys(uri, roots) for uri in uris}
    suspects: set[str] = set()
    for table, keys in (
        (BY_SHA256, digests),
        (VARIANTS_BY_SHA256, digests),
        (BY_STORAGE_URI, hashes),
        (VARIANTS_BY_STORAGE_URI, hashes),
        (CONFLICTS_BY_STORAGE_URI, conflicts),
    ):
        if not transaction.is_empty(table):
            hits = transaction.first_values(table, sorted({key for each in keys.values() for key in each}))
            suspects.update(uri for uri, each in keys.items() if not hits.keys().isdisjoint(each))
    if not transaction.is_empty(LINKS):
        for uri, found in places.items():
            prefixes = (location_key(*place) for place in found)
            if any(True for prefix in prefixes for _ in transaction.items(LINKS, prefix, prefix_end(prefix))):
                suspects.add(uri)
    return suspects


def _conflict_keys(uri: str, roots: RootMap) -> list[bytes]:
    keys = [location_hash(*place) for place in roots.candidates(uri)]
    place = roots.cas_place(uri)
    return keys if place is None else [*keys, cas_hash(*place)]


def irregular_uris(
    transaction: ReadTransaction, roots: RootMap, after: Walked | None
) -> tuple[list[str], Walked | None]:
    """Return the storage URIs that the next rows name and no blob store would give, and where to go on."""
    number, last = (0, b"") if after is None else after
    table, codec, places = _WALKED[number]
    found, key = [], b""
    if not transaction.is_empty(places):
        pairs = transaction.items(table, after=(last, b"") if last else None)
        for looked_at, (key, value) in enumerate(islice(pairs, reading.STEP_ROWS), 1):
            row = codec.decode(key, value)
            if row.path and (row.root is None or not (is_plain(row.path) and is_path(row.path))):
                found.append(roots.uri((row.root, row.path), None))
            if looked_at == reading.STEP_ROWS:
                return found, (number, key)
    return found, (number + 1, b"") if number + 1 < len(_WALKED) else None


def places_of(uris: Iterable[str], roots: RootMap) -> Iterator[tuple[int | None, str]]:
    """Yield the one location under which each storage URI is announced to be taken away."""
    for uri in uris:
        yield next(roots.candidates(uri))
