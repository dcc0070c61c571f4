"""Storage roots as a catalog and its configuration see them: opened, checked, and kept open.

A catalog writes below a root only if the root's marker says that it is this catalog's, of this generation. A known root
without its marker is unreachable: a mount that is gone leaves an empty folder, and that is never taken for a new root.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from msgspec import Struct

from kvcatalog import layout
from kvcatalog.blob_backends import places_above, store_at, store_of
from kvcatalog.blobs import BlobStore, Marker, RootState, state_of
from kvcatalog.errors import ConfigError, InvalidValueError, RootOwnershipError, RootUnreachableError
from kvcatalog.filters import Condition, Filter
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.models import CatalogIdentity
from kvcatalog.uris import absolute_path

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.models import Root
    from kvcatalog.store.protocol import CatalogStore

_KEPT_OPEN_MAX = 32
_BUCKET_CHECK_SECONDS = 10.0
_LOOKED_FOR_MAX = 16


class _Key(NamedTuple):
    """What tells one open root from another."""

    place: str
    config: StorageConfig
    identity: CatalogIdentity | None


class _Opened(Struct):
    """A root that is kept open; `checked` is when its marker was read last, in seconds of the monotonic clock."""

    store: BlobStore
    marker: Marker | None
    checked: float


_open: OrderedDict[_Key, _Opened] = OrderedDict()


def open_storage(config: StorageConfig, catalog: CatalogStore | None = None) -> BlobStore:
    """Return the blob store of a configuration, kept open for later calls; with a catalog it is one of its roots.

    A place that nobody knows becomes a root of the catalog: it gets a marker, then the catalog knows it. Raises
    RootUnreachableError where a known root has no marker, RootOwnershipError where the marker names another catalog or
    generation, where a root was moved or copied, or lies inside a root of another catalog. The marker of a folder is
    read at each call, that of a bucket at most every few seconds, so a root that was taken over is noticed.
    """
    place = absolute_path(config.root_dir) if config.backend == "fs" else ""
    key = _Key(place, config, None if catalog is None else catalog.identity)
    opened = _open.get(key)
    if opened is not None and _still_holds(opened):
        return opened.store
    store, marker = store_of(config), None
    if catalog is None:
        store.prepare()
    else:
        store, marker = _claimed(store, config, catalog)
    _open[key] = _Opened(store, marker, monotonic())
    if len(_open) > _KEPT_OPEN_MAX:
        _open.popitem(last=False)
    return store


def _still_holds(opened: _Opened) -> bool:
    if opened.marker is None:
        return True
    if not isinstance(opened.store, FileBlobStore) and monotonic() < opened.checked + _BUCKET_CHECK_SECONDS:
        return True
    try:
        opened.checked = monotonic()
        return opened.store.read_marker() == opened.marker
    except RootUnreachableError:
        return False


def forget_storage(store: BlobStore) -> None:
    """Open a store anew next time, with all checks: what was found out about its root may hold no more."""
    for key in [key for key, opened in list(_open.items()) if opened.store is store]:
        _open.pop(key, None)


def adopt_root(config: StorageConfig, catalog: CatalogStore, *, force: bool = False) -> Root:
    """Make a root this catalog's on purpose, whatever its marker says; records below it stay what they are.

    For a root that was moved, a catalog that was restored from a backup, a marker that was lost, or a root that is
    taken over from another catalog, which then writes and removes nothing there any more: RootOwnershipError unless
    `force` is given. Where the catalog knows blobs below the root and none of some that are looked for is there,
    RootUnreachableError unless `force` is given: it may be the empty folder below a mount that is gone.
    RootOwnershipError if the catalog knows another root there. Garbage collection counts no blob's age from before.
    """
    store = store_of(config)
    try:
        marker = store.read_marker()
    except RootUnreachableError:
        marker = None  # it cannot be read, and is written anew
    if marker is not None and marker.catalog != catalog.identity.uuid and not force:
        raise RootOwnershipError(f"{store.uri} belongs to catalog {marker.catalog}; --force takes it from that one")
    roots = catalog.roots()
    there = next((root for root in roots if root.uri == store.uri), None)
    uuid = marker.uuid if marker is not None else there.uuid if there is not None else str(uuid4())
    if there is not None and there.uuid != uuid:
        raise RootOwnershipError(
            f"{store.uri} holds root {uuid}, and the catalog knows root {there.uuid} there: adopt that one where it is"
            " now, first"
        )
    known = next((root for root in roots if root.uuid == uuid), None)
    if known is not None and known.cas_prefix != config.cas_prefix:
        raise ConfigError(f"storage.cas_prefix: the root has {known.cas_prefix!r}, and its blobs lie there")
    if known is not None and not force:
        _find_some(known, store, catalog)
    store.write_marker(Marker(uuid, catalog.identity.uuid, catalog.identity.generation), replace=True)
    return catalog.add_root(store.uri, uuid=uuid, cas_prefix=config.cas_prefix, adopted=True)


def _find_some(known: Root, store: BlobStore, catalog: CatalogStore) -> None:
    where = Filter((Condition("uri", "=", f"{known.uri}/", prefix=True),))
    records = catalog.search(where, sort="id", reverse=True, limit=_LOOKED_FOR_MAX).records
    start = len(known.uri)
    paths = [store.path_of(store.uri + record.storage_uri[start:]) for record in records]
    if paths and not any(path is not None and store.stat(path) is not None for path in paths):
        error = RootUnreachableError(f"{store.uri}: none of {len(paths)} blobs that were looked for is there")
        raise error.advising("Check the path, and that it is mounted; `roots adopt --force` adopts it all the same.")


def root_state(root: Root, config: StorageConfig, catalog: CatalogStore) -> RootState:
    """Tell whether a known root is there and whose it is; errors but RootUnreachableError are raised.

    A bucket is asked with the endpoint and region of the configuration.
    """
    return state_of(store_at(root.uri, lambda: config), root, catalog.identity)


def open_known_root(root: Root, config: StorageConfig, catalog: CatalogStore) -> BlobStore:
    """Return the store of a known root, after `check_root`; whoever opens it closes it."""
    store = store_at(root.uri, lambda: config)
    try:
        check_root(root, store, catalog)
    except BaseException:
        store.close()
        raise
    return store


def root_uri(config: StorageConfig) -> str:
    """Return the URI of the root that a configuration names, whether it is there or not."""
    store = store_of(config)
    store.close()
    return store.uri


def check_root(root: Root, store: BlobStore, catalog: CatalogStore) -> None:
    """Raise RootUnreachableError or RootOwnershipError unless the marker at a root's place is the one of this root."""
    marker = store.read_marker()
    if marker is None:
        raise RootUnreachableError(f"{root.uri} is a root of this catalog, but its marker is not there")
    if marker.uuid != root.uuid:
        raise RootOwnershipError(f"{root.uri} holds another root than the one that this catalog knows there")
    if marker.catalog != catalog.identity.uuid:
        raise RootOwnershipError(f"{root.uri} belongs to another catalog, {marker.catalog}")
    if marker.generation != catalog.identity.generation:
        raise _other_generation(root.uri, marker, catalog)


def _other_generation(uri: str, marker: Marker, catalog: CatalogStore) -> RootOwnershipError:
    """Return the error for a root that is of this catalog as it was before, or as it is elsewhere."""
    error = RootOwnershipError(
        f"{uri} belongs to generation {marker.generation} of this catalog, which is of {catalog.identity.generation}:"
        " it was restored from a backup, copied, or moved to another disk"
    )
    return error.advising(
        "If no other copy of the catalog is to go on with this root, take it over with `kvcatalog roots adopt`; else"
        " work with that one."
    )


def refuse_what_is_kept(path: str, store: BlobStore, catalog: CatalogStore | None) -> None:
    """Raise InvalidValueError for a source that somebody keeps: a file of a catalog, or of a root that is not ours."""
    _refuse_own_files("source", path)
    for folder in _roots_above(path):
        marker = FileBlobStore(folder).read_marker()
        is_ours = catalog is not None and marker is not None and marker.catalog == catalog.identity.uuid
        is_same = isinstance(store, FileBlobStore) and os.path.samefile(folder, store.root)
        if not (is_ours or is_same):
            raise InvalidValueError("source", f"{path!r} lies in {folder}, a storage root of another catalog")


def refuse_among_blobs(field: str, path: str) -> None:
    """Raise InvalidValueError for a file to be written that lies below a storage root or in a catalog's folder."""
    _refuse_own_files(field, path)
    for folder in _roots_above(path):
        raise InvalidValueError(field, f"{path!r} lies in {folder}, a storage root")


def _refuse_own_files(field: str, path: str) -> None:
    folder = os.path.dirname(os.path.realpath(path))
    if layout.OURS in folder.split("/"):
        raise InvalidValueError(field, f"{path!r} is kept by a storage root")
    if all(os.path.exists(os.path.join(folder, name)) for name in ("data.mdb", "lock.mdb")):
        raise InvalidValueError(field, f"{path!r} lies in the folder of a catalog")


def _roots_above(path: str) -> Iterator[str]:
    """Yield the folders above a file or folder that are storage roots, the nearest first."""
    folder = os.path.dirname(os.path.realpath(path))
    while (parent := os.path.dirname(folder)) != folder:
        if os.path.exists(os.path.join(folder, layout.MARKER_PATH)):
            yield folder
        folder = parent


def _claimed(store: BlobStore, config: StorageConfig, catalog: CatalogStore) -> tuple[BlobStore, Marker]:
    """Make sure that a root is the catalog's, and return the store that stands for it, with its marker."""
    identity = catalog.identity
    roots = catalog.roots()
    marker = store.read_marker()
    if marker is None:
        if any(root.uri == store.uri for root in roots):
            raise RootUnreachableError(f"{store.uri} is a root of this catalog, but its marker is not there")
        _refuse_place(store, config, catalog)
        marker = store.write_marker(Marker(str(uuid4()), identity.uuid, identity.generation))
    if marker.catalog != identity.uuid:
        raise RootOwnershipError(f"{store.uri} belongs to another catalog, {marker.catalog}")
    if marker.generation != identity.generation:
        raise _other_generation(store.uri, marker, catalog)
    for root in roots:
        if root.uri == store.uri and root.uuid != marker.uuid:
            raise RootOwnershipError(f"{store.uri} holds another root of this catalog than the one it knows there")
        if root.uri != store.uri and root.uuid == marker.uuid:
            store = _same_folder(store_at(root.uri, lambda: config), store)
    catalog.add_root(store.uri, uuid=marker.uuid, cas_prefix=config.cas_prefix)
    if isinstance(store, FileBlobStore):
        store.sweep_staging()
    return store, marker


def _same_folder(known: BlobStore, store: BlobStore) -> BlobStore:
    """Return the root under its known name, if both names lead to one folder; RootOwnershipError if they do not."""
    match known, store:
        case FileBlobStore(), FileBlobStore() if _is_same_folder(known.root, store.root):
            return known
    raise RootOwnershipError(
        f"{store.uri} is a copy of the root that the catalog knows as {known.uri}, or that root was moved there"
    )


def _is_same_folder(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _refuse_place(store: BlobStore, config: StorageConfig, catalog: CatalogStore) -> None:
    """Refuse a place for a new root that lies inside a root of another catalog, or where this catalog lies."""
    for above in _places_above(store, config):
        marker = above.read_marker()
        if marker is not None and marker.catalog != catalog.identity.uuid:
            raise RootOwnershipError(f"{store.uri} lies inside {above.uri}, which belongs to another catalog")
    if isinstance(store, FileBlobStore):
        place = f"{os.path.realpath(store.root)}/"
        catalog_folder = getattr(catalog, "path", None)
        if layout.OURS in place.split("/"):
            raise ConfigError(f"{store.root} is kept by a storage root")
        if catalog_folder is not None:
            folder = f"{os.path.realpath(catalog_folder)}/"
            if place.startswith(folder) or folder.startswith(place):
                raise ConfigError(f"{store.root} and the catalog {catalog_folder} lie one inside the other; part them")


def _places_above(store: BlobStore, config: StorageConfig) -> Iterator[BlobStore]:
    if isinstance(store, FileBlobStore):
        yield from map(FileBlobStore, _roots_above(store.root))
        return
    for uri in places_above(store.uri):
        yield store_at(uri, lambda: config)
