"""What is broken, records without their blob, and what is unknown, blobs without a record; both by size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from kvcatalog.blobs import BlobStore
from kvcatalog.errors import UnsafePathError
from kvcatalog.holds import Holds
from kvcatalog.removal.protection import Ground, is_foreign

if TYPE_CHECKING:
    from kvcatalog.filters import Filter
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

_CHUNK = 10_000


class Broken(NamedTuple):
    """A document or a variant whose blob, below a storage root, is missing or known to be corrupt."""

    bytes: int
    sha256: str
    storage_uri: str
    document_id: int
    variant: str
    state: Literal["missing", "corrupt"]


class Unknown(NamedTuple):
    """A blob that nothing refers to."""

    bytes: int
    storage_uri: str


def broken(catalog: CatalogStore, roots: OpenRoots, where: Filter) -> Iterator[Broken]:
    """Yield what is broken of the documents that a filter lets through; without a digest nothing can be done for it.

    A blob is corrupt if its size is not that of the record, or if the last `verify` said so.
    """
    for record in catalog.iter_records(where):
        claims = [(record.storage_uri, record.bytes, record.sha256, "")]
        claims += [
            (each.storage_uri, each.bytes, each.sha256, each.variant) for each in catalog.get_variants(record.id)
        ]
        for uri, size, sha256, variant in claims:
            state = None if sha256 is None else _state(catalog, roots, uri, size)
            if state is not None:
                yield Broken(size, sha256 or "", uri, record.id, variant, state)


def unknown(catalog: CatalogStore, roots: OpenRoots) -> Iterator[Unknown]:
    """Yield the blobs below the roots that nothing refers to, without files that are none of ours or are written to."""
    aliases, holds = roots.aliases(), Holds(catalog.holds())
    for store in roots.stores:
        ground = Ground(store)
        listing = store.listing()
        while chunk := list(islice(listing, _CHUNK)):
            places = {store.uri_of(path): path for path, _ in chunk}
            for uri in sorted(places.keys() - catalog.referenced(places)):
                path = places[uri]
                if is_foreign(path) or not ground.holds(path) or aliases.has(store, path) or holds.of_place(uri):
                    continue
                with suppress(UnsafePathError):
                    found = store.stat(path)
                    if found is not None and not store.is_written(path):
                        yield Unknown(found.size, uri)


def _state(catalog: CatalogStore, roots: OpenRoots, uri: str, size: int) -> Literal["missing", "corrupt"] | None:
    located = roots.locate(uri)
    if located is None:
        return None
    found = _found(*located)
    if found is None:
        return "missing"
    check = catalog.last_check(uri)
    is_corrupt = check is not None and check.result == "corrupt" and check.quarantined is None
    return "corrupt" if found != size or is_corrupt else None


def _found(store: BlobStore, path: str) -> int | None:
    """Return the size of a blob, None if it is not there."""
    with suppress(UnsafePathError):
        found = store.stat(path)
        return None if found is None else found.size
    return None
