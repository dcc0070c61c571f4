"""The manifest of a backup: which catalog at which time, and how to tell that the file beside it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from kvcatalog.errors import BackupError
from kvcatalog.kv.engine import translate_os_error
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.store.opening import BACKUP_FILE

if TYPE_CHECKING:
    from kvcatalog.store.lmdb_catalog import LmdbCatalog

VERSION = 1

_MANIFEST_BYTES_MAX = 1 << 16
_CHUNK_BYTES = 1 << 20


class BackupManifest(msgspec.Struct, frozen=True):
    """What `backup.json` says; `made_at` is when the copy began, and the copy is of a moment after it.

    `bytes` and `sha256` are those of `data.mdb` beside it; `findings` is how many an audit of the copy had, all of
    which the catalog had, too.
    """

    version: int
    made_at: datetime
    catalog: str
    generation: int
    format: int
    documents: int
    variants: int
    journal_sequence: int
    findings: int
    bytes: int
    sha256: str


def manifest_of(
    catalog: LmdbCatalog, *, made_at: datetime, format_version: int, findings: int, size: int, sha256: str
) -> BackupManifest:
    """Return the manifest of a copy, which is open."""
    figures = catalog.stats()
    return BackupManifest(
        VERSION,
        made_at,
        catalog.identity.uuid,
        catalog.identity.generation,
        format_version,
        figures.documents,
        figures.variants,
        catalog.journal_end(),
        findings,
        size,
        sha256,
    )


def encode_manifest(manifest: BackupManifest) -> bytes:
    """Return a manifest as it is written."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(folder: str | os.PathLike[str]) -> BackupManifest:
    """Return what the backup in a folder says of itself; BackupError if there is none that this version knows."""
    path = os.path.join(folder, BACKUP_FILE)
    try:
        with open(path, "rb") as file:
            text = file.read(_MANIFEST_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError) as error:
        failure = BackupError(f"{os.fspath(folder)}: there is no backup")
        raise failure.advising(f"Check the path: a backup is a folder with {BACKUP_FILE} in it.") from error
    except OSError as error:
        raise translate_os_error(error, path) from error
    try:
        manifest = msgspec.json.decode(text, type=BackupManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BackupError(f"{path}: is no manifest of a backup: {error}") from error
    if manifest.version != VERSION:
        failure = BackupError(f"{path}: is of version {manifest.version}; this program knows version {VERSION}")
        raise failure.advising("Use the version of kvcatalog that made it.")
    return manifest


def check_bytes(
    folder: str | os.PathLike[str],
    manifest: BackupManifest,
    sink: Callable[[bytes], object] = lambda _: None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Read the copy in a backup, pass it on a piece at a time, and raise BackupError if it is not what was written.

    What was passed on is good only once this returns.
    """
    path = os.path.join(folder, DATA_FILE)
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                sink(piece)
                if progress is not None:
                    progress(min(size, manifest.bytes), manifest.bytes)
    except FileNotFoundError as error:
        raise BackupError(f"{path} is missing") from error
    except OSError as error:
        raise translate_os_error(error, path) from error
    if (size, digest.hexdigest()) != (manifest.bytes, manifest.sha256):
        raise BackupError(f"{path} has {size} bytes with SHA-256 {digest.hexdigest()}, which its manifest denies")
