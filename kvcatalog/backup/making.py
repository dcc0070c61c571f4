"""Making a backup: a copy of one moment while the catalog is used, audited before it has a name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from msgspec import Struct

from kvcatalog.audit import examine
from kvcatalog.backup.manifest import BackupManifest, encode_manifest, manifest_of
from kvcatalog.backup.place import flushed_file, new_folder
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.errors import CatalogMissingError, DatabaseDamagedError, InvalidValueError
from kvcatalog.kv.copying import copy_environment
from kvcatalog.kv.engine import translate_os_error
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.schema import FORMAT_VERSION
from kvcatalog.storage import refuse_among_blobs
from kvcatalog.store.opening import BACKUP_FILE, open_lmdb_catalog
from kvcatalog.uris import absolute_path

Progress = Callable[[str, int, int], object]
"""Is told what is being done, and how much of how much of it is."""


class BackupReport(Struct, frozen=True):
    """Where a backup lies and what its manifest says."""

    path: str
    manifest: BackupManifest


def backup(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> BackupReport:
    """Copy the catalog in a folder, as it is at one moment, to a new folder; writers go on meanwhile.

    The copy is flushed, read again by an audit, and described by a manifest before the folder gets its name, so there
    is a whole backup or none; what an earlier attempt left that was killed is removed. What the audit found is counted
    in the manifest and is wrong in the catalog, too. Commands that only read take a backup for a catalog.

    InvalidValueError where the destination is taken or lies among blobs or in a catalog's folder; CatalogMissingError;
    DatabaseDamagedError where the file cannot be read, and then there is no backup; StorageFullError.
    """
    folder, target = absolute_path(source), absolute_path(destination)
    if not os.path.exists(os.path.join(folder, DATA_FILE)):
        raise CatalogMissingError(f"{folder}: there is no catalog")
    if os.path.basename(target) in {"", ".", ".."}:
        raise InvalidValueError("destination", f"{target!r} names no new folder")
    refuse_among_blobs("destination", target)
    tell = progress or (lambda _what, _done, _total: None)
    made_at = from_micros(now_micros())
    with new_folder("destination", target) as temporary:
        size, sha256 = _copy(folder, temporary, tell)
        findings = _audit(folder, temporary, tell)
        with open_lmdb_catalog(temporary, create=False, read_only=True, locking=False) as catalog:
            manifest = manifest_of(
                catalog,
                made_at=made_at,
                format_version=FORMAT_VERSION,
                findings=findings,
                size=size,
                sha256=sha256,
            )
        with flushed_file(os.path.join(temporary, BACKUP_FILE)) as write:
            write(encode_manifest(manifest))
    return BackupReport(target, manifest)


def _copy(folder: str, temporary: str, tell: Progress) -> tuple[int, str]:
    """Write the copy and flush it; return its size and SHA-256."""
    path = os.path.join(temporary, DATA_FILE)
    total = _size(os.path.join(folder, DATA_FILE))
    digest, size = hashlib.sha256(), 0
    with flushed_file(path) as write:

        def keep(piece: bytes) -> None:
            nonlocal size
            digest.update(piece)
            size += len(piece)
            write(piece)
            tell("copy", min(size, total), total)

        copy_environment(folder, keep)
    return size, digest.hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise translate_os_error(error, path) from error


def _audit(folder: str, temporary: str, tell: Progress) -> int:
    """Return how many findings the copy has; DatabaseDamagedError if it is no sound database."""
    count = 0
    for finding in examine(temporary, locking=False, progress=lambda done, total: tell("audit", done, total)):
        if finding.kind == "file":
            raise DatabaseDamagedError(f"{folder}: no backup was made, since a copy is damaged: {finding.message}")
        count += 1
    return count
