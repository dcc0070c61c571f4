"""What a filter would protect as a hold, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.fixity import Places
from kvcatalog.holds import named_places
from kvcatalog.removal.sorting import SortedRows

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.filters import Filter
    from kvcatalog.store.protocol import CatalogStore


class Protected(Struct, frozen=True):
    """How many records a filter lets through, and the blobs that are theirs, their variants', or at places it names."""

    records: int
    blobs: int


def protected(catalog: CatalogStore, where: Filter, settings: Callable[[], StorageConfig] | None = None) -> Protected:
    """Return what a hold of a filter protects now; `settings` gives the configuration by which buckets are reached.

    Blobs without a record are looked for at the places that the filter names in full; memory does not grow with what
    is found.
    """
    records = 0
    with SortedRows(tuple[str]) as places:
        for record in catalog.iter_records(where):
            records += 1
            places.add((record.storage_uri,))
            for variant in catalog.get_variants(record.id):
                places.add((variant.storage_uri,))
        for uri in _lying(catalog, named_places(where), settings):
            places.add((uri,))
        return Protected(records, sum(1 for _ in groupby(places)))


def _lying(catalog: CatalogStore, uris: list[str], settings: Callable[[], StorageConfig] | None) -> Iterator[str]:
    """Yield those places at which a blob lies."""
    if not uris:
        return
    with closing(Places(catalog.identity, catalog.roots(), settings)) as places:
        for uri in uris:
            if places.examine(uri, reads=False).state == "there":
                yield uri
