"""The roots that a removal works on: each is there, this catalog's, and of its generation, or nothing is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.blobs import BlobStore
from kvcatalog.errors import NotFoundError
from kvcatalog.models import Root
from kvcatalog.removal.aliases import Aliases
from kvcatalog.storage import check_root, open_known_root

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.store.protocol import CatalogStore


class OpenRoot(Struct, frozen=True):
    """A root and its store."""

    root: Root
    store: BlobStore


class OpenRoots:
    """Roots of one catalog, open."""

    def __init__(self, catalog: CatalogStore, opened: list[OpenRoot]) -> None:
        self._catalog = catalog
        # The longest first, so that a root inside another one wins.
        self._opened = sorted(opened, key=lambda each: len(each.root.uri), reverse=True)

    @property
    def stores(self) -> list[BlobStore]:
        """The stores, in the order of their URIs."""
        return sorted((each.store for each in self._opened), key=lambda store: store.uri)

    def locate(self, uri: str) -> tuple[BlobStore, str] | None:
        """Return the store below which a storage URI lies, and its path there."""
        for each in self._opened:
            path = each.store.path_of(uri)
            if path is not None:
                return each.store, path
        return None

    def check(self, store: BlobStore) -> None:
        """Read the marker of a root once more; RootUnreachableError or RootOwnershipError."""
        for each in self._opened:
            if each.store is store:
                check_root(each.root, store, self._catalog)

    def aliases(self) -> Aliases:
        """Return which files below these roots records know by other names."""
        return Aliases(self._catalog.irregular_uris(), self.stores)


@contextmanager
def open_roots(catalog: CatalogStore, config: StorageConfig, *, only: str | None = None) -> Iterator[OpenRoots]:
    """Open every root of a catalog, or `only` the one with a URI, for as long as the context lasts.

    Raises RootUnreachableError where one is not there, RootOwnershipError where its marker names another catalog or
    generation, NotFoundError if the catalog does not know the one that is asked for.
    """
    roots = [root for root in catalog.roots() if only in {None, root.uri}]
    if only is not None and not roots:
        error = NotFoundError(f"{only} is no storage root of this catalog")
        raise error.advising("Check --root: `kvcatalog roots list` lists what there is.")
    with ExitStack() as stack:
        opened = []
        for root in roots:
            store = open_known_root(root, config, catalog)
            stack.callback(store.close)
            opened.append(OpenRoot(root, store))
        yield OpenRoots(catalog, opened)
