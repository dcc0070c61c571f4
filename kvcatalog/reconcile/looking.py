"""What is broken, records without their blob, and what is unknown, blobs without a record; both by size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from kvcatalog.errors import UnsafePathError
from kvcatalog.holds import Holds
from kvcatalog.models import DocumentRecord
from kvcatalog.removal.glances import Glances
from kvcatalog.removal.protection import Ground, is_foreign
from kvcatalog.removal.sorting import SortedRows

if TYPE_CHECKING:
    from kvcatalog.filters import Filter
    from kvcatalog.models import VariantRecord
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


class _Claim(NamedTuple):
    """A document or a variant, and what it says of its blob, which lies at `place`, however its URI is spelled."""

    place: str
    bytes: int
    sha256: str
    storage_uri: str
    document_id: int
    variant: str


def broken(catalog: CatalogStore, roots: OpenRoots, where: Filter) -> Iterator[Broken]:
    """Yield what is broken of the documents that a filter lets through; without a digest nothing can be done for it.

    A blob is corrupt if its size is not that of the record, or if the last `verify` said so.
    """
    with SortedRows(_Claim) as in_buckets, Glances() as glances:
        for claim in _claims(catalog, roots, where):
            located = roots.locate(claim.place)
            if located is not None and located[0].local_path("-") is None:
                in_buckets.add(claim)
            else:
                yield from _judged(catalog, roots, claim, glances)
        for claim in in_buckets:
            yield from _judged(catalog, roots, claim, glances)


def _claims(catalog: CatalogStore, roots: OpenRoots, where: Filter) -> Iterator[_Claim]:
    for record in catalog.iter_records(where):
        owners: list[DocumentRecord | VariantRecord] = [record, *catalog.get_variants(record.id)]
        for owner in owners:
            located = roots.locate(owner.storage_uri)
            if located is not None and owner.sha256 is not None:
                variant = "" if isinstance(owner, DocumentRecord) else owner.variant
                place = located[0].uri_of(located[1])
                yield _Claim(place, owner.bytes, owner.sha256, owner.storage_uri, record.id, variant)


def unknown(catalog: CatalogStore, roots: OpenRoots) -> Iterator[Unknown]:
    """Yield the blobs below the roots that nothing refers to, without files that are none of ours or are written to."""
    aliases, holds = roots.aliases(), Holds(catalog.holds())
    for store in roots.stores:
        ground = Ground(store)
        listing = store.listing()
        while chunk := list(islice(listing, _CHUNK)):
            places = {store.uri_of(path): (path, stat) for path, stat in chunk}
            for uri in sorted(places.keys() - catalog.referenced(places)):
                path, stat = places[uri]
                if is_foreign(path) or not ground.holds(path) or aliases.has(store, path) or holds.of_place(uri):
                    continue
                with suppress(UnsafePathError):
                    found = stat or store.stat(path)
                    if found is not None and not store.is_written(path):
                        yield Unknown(found.size, uri)


def _judged(catalog: CatalogStore, roots: OpenRoots, claim: _Claim, glances: Glances) -> Iterator[Broken]:
    """Yield what is broken of a claim."""
    located = roots.locate(claim.place)
    if located is None:
        return
    found = None
    with suppress(UnsafePathError):
        found = glances.at(*located)
    check = None if found is None else catalog.last_check(claim.storage_uri)
    is_corrupt = check is not None and check.result == "corrupt" and check.quarantined is None
    if found is None or found.size != claim.bytes or is_corrupt:
        state: Literal["missing", "corrupt"] = "missing" if found is None else "corrupt"
        yield Broken(claim.bytes, claim.sha256, claim.storage_uri, claim.document_id, claim.variant, state)
