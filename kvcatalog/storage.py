"""Storage roots as a catalog and its configuration see them: opened, checked, and kept open.

A catalog writes below a root only if the root's marker says that it is this catalog's, of this generation. A known root
without its marker is unreachable: a mount that is gone leaves an empty folder, and that is never taken for a new root.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, NamedTuple
from uuid import uuid4

from kvcatalog.blobs import BlobStore, Marker
from kvcatalog.errors import RootOwnershipError, RootUnreachableError
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.models import CatalogIdentity
from kvcatalog.uris import absolute_path, file_path

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.models import Root
    from kvcatalog.store.protocol import CatalogStore

_KEPT_OPEN_MAX = 32


RootState = Literal["ok", "unreachable", "of another catalog", "of another generation"]
"""`unreachable`: its folder, bucket or marker is not there, or another root is; nothing is said to be lost."""


class _Key(NamedTuple):
    """What tells one open root from another."""

    place: str
    config: StorageConfig
    identity: CatalogIdentity | None


_open: OrderedDict[_Key, BlobStore] = OrderedDict()


def open_storage(config: StorageConfig, catalog: CatalogStore | None = None) -> BlobStore:
    """Return the blob store of a configuration, kept open for later calls; with a catalog it is one of its roots.

    A place that nobody knows becomes a root of the catalog: it gets a marker, then the catalog knows it. Raises
    RootUnreachableError where a known root has no marker, RootOwnershipError where the marker names another catalog or
    generation, or where a root was copied and both places are there.
    """
    place = absolute_path(config.root_dir) if config.backend == "fs" else ""
    key = _Key(place, config, None if catalog is None else catalog.identity)
    store = _open.get(key)
    if store is None:
        store = _store(config)
        if catalog is None:
            store.prepare()
        else:
            store = _claimed(store, config, catalog)
        _open[key] = store
        if len(_open) > _KEPT_OPEN_MAX:
            _open.popitem(last=False)
    return store


def forget_storage(store: BlobStore) -> None:
    """Open a store anew next time, with all checks: what was found out about its root may hold no more."""
    for key in [key for key, known in list(_open.items()) if known is store]:
        _open.pop(key, None)


def adopt_root(config: StorageConfig, catalog: CatalogStore) -> Root:
    """Make a root this catalog's on purpose, whatever its marker says; records below it stay what they are.

    For a catalog that was restored from a backup, a root whose marker was lost, or one taken over from another catalog,
    whose garbage collection will then refuse it.
    """
    store = _store(config)
    marker = store.read_marker()
    known = next((root for root in catalog.roots() if root.uri == store.uri), None)
    uuid = marker.uuid if marker is not None else known.uuid if known is not None else str(uuid4())
    store.write_marker(Marker(uuid, catalog.identity.uuid, catalog.identity.generation), replace=True)
    return catalog.add_root(store.uri, uuid=uuid, cas_prefix=config.cas_prefix)


def root_state(root: Root, config: StorageConfig, catalog: CatalogStore) -> RootState:
    """Tell whether a known root is there and whose it is; errors but RootUnreachableError are raised.

    A bucket is asked with the endpoint and region of the configuration.
    """
    try:
        marker = _store_at(root, config).read_marker()
    except RootUnreachableError:
        return "unreachable"
    if marker is None or marker.uuid != root.uuid:
        return "unreachable"
    if marker.catalog != catalog.identity.uuid:
        return "of another catalog"
    return "ok" if marker.generation == catalog.identity.generation else "of another generation"


def _store(config: StorageConfig) -> BlobStore:
    if config.backend == "fs":
        return FileBlobStore(config.root_dir)
    from kvcatalog.s3_layout import S3BlobStore

    return S3BlobStore.from_config(config)


def _store_at(root: Root, config: StorageConfig) -> BlobStore:
    """Return the store of a known root, without any check."""
    path = file_path(root.uri)
    if path is not None:
        return FileBlobStore(path)
    bucket, _, prefix = root.uri.removeprefix("s3://").partition("/")
    return _store(config.model_copy(update={"backend": "s3", "s3_bucket": bucket, "s3_prefix": prefix}))


def _claimed(store: BlobStore, config: StorageConfig, catalog: CatalogStore) -> BlobStore:
    """Make sure that a root is the catalog's, and return the store that stands for it."""
    identity = catalog.identity
    roots = catalog.roots()
    marker = store.read_marker()
    if marker is None:
        if any(root.uri == store.uri for root in roots):
            raise RootUnreachableError(f"{store.uri} is a root of this catalog, but its marker is not there")
        marker = store.write_marker(Marker(str(uuid4()), identity.uuid, identity.generation))
    if marker.catalog != identity.uuid:
        raise RootOwnershipError(f"{store.uri} belongs to another catalog, {marker.catalog}")
    if marker.generation != identity.generation:
        raise RootOwnershipError(
            f"{store.uri} belongs to generation {marker.generation} of this catalog, which is of {identity.generation}"
        )
    for root in roots:
        if root.uri == store.uri and root.uuid != marker.uuid:
            raise RootOwnershipError(f"{store.uri} holds another root of this catalog than the one it knows there")
        if root.uri != store.uri and root.uuid == marker.uuid:
            known = _store_at(root, config)
            there = known.read_marker()
            if there is not None and there.uuid == marker.uuid:
                store = _same_folder(known, store)
    catalog.add_root(store.uri, uuid=marker.uuid, cas_prefix=config.cas_prefix)
    if isinstance(store, FileBlobStore):
        store.sweep_staging()
    return store


def _same_folder(known: BlobStore, store: BlobStore) -> BlobStore:
    """Return the root under its known name, if both names lead to one folder; RootOwnershipError if it is a copy."""
    match known, store:
        case FileBlobStore(), FileBlobStore() if os.path.samefile(known.root, store.root):
            return known
    raise RootOwnershipError(f"{store.uri} is a copy of {known.uri}, which the catalog knows and which is still there")
