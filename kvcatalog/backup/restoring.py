"""Restoring a backup: a new catalog in a new place, which owns no storage root until one is adopted."""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Struct

from kvcatalog.backup.manifest import BackupManifest, check_bytes, read_manifest
from kvcatalog.backup.place import flushed_file, new_folder, refuse_taken
from kvcatalog.errors import UnsupportedFormatError
from kvcatalog.kv.preflight import DATA_FILE, refuse_network_file_system
from kvcatalog.models import CatalogIdentity, Root
from kvcatalog.schema import FORMAT_VERSION
from kvcatalog.storage import refuse_among_blobs
from kvcatalog.store.opening import open_lmdb_catalog, put_file_right
from kvcatalog.uris import absolute_path


class RestoreReport(Struct, frozen=True):
    """Where a backup was restored to, or would be; then there is no identity yet.

    `roots` are the storage roots that the catalog knows, all of which are to be adopted before it writes there.
    """

    path: str
    applied: bool
    manifest: BackupManifest
    identity: CatalogIdentity | None = None
    roots: tuple[Root, ...] = ()


def restore(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    apply: bool = False,
    command: str = "library",
    progress: Callable[[int, int], object] | None = None,
) -> RestoreReport:
    """Make the catalog that a backup holds anew, in a new place; without `apply` only check that it can be done.

    All bytes are read and held against the manifest. The catalog gets a generation of its own, so it writes to none of
    the storage roots, and takes nothing from them, before they are adopted: what was stored since the backup is not in
    danger. It appears whole or not at all; what an earlier attempt left that was killed is removed.

    InvalidValueError where the target is taken; BackupError where the backup is none or damaged;
    UnsupportedFormatError; NetworkFileSystemError.
    """
    folder, path = absolute_path(source), absolute_path(target)
    manifest = read_manifest(folder)
    if manifest.format > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{folder} has format {manifest.format}; this version knows up to {FORMAT_VERSION}"
        )
    refuse_taken("target", path)
    refuse_among_blobs("target", path)
    refuse_network_file_system(_existing(path))
    if not apply:
        check_bytes(folder, manifest, progress=progress)
        return RestoreReport(path, applied=False, manifest=manifest)
    with new_folder("target", path) as temporary:
        _copy(folder, temporary, manifest, progress)
        put_file_right(temporary)  # for it begins a generation of its own below
        with open_lmdb_catalog(temporary, create=False, command=command) as catalog:
            catalog.begin_generation(reason=f"restored from the backup of {manifest.made_at:%Y-%m-%dT%H:%M:%SZ}")
            identity, roots = catalog.identity, tuple(catalog.roots())
    return RestoreReport(path, applied=True, manifest=manifest, identity=identity, roots=roots)


def _copy(folder: str, temporary: str, manifest: BackupManifest, progress: Callable[[int, int], object] | None) -> None:
    with flushed_file(os.path.join(temporary, DATA_FILE)) as write:
        check_bytes(folder, manifest, write, progress)


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
