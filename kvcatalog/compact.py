"""Giving back the pages that a catalog's file has free, since LMDB only uses them again."""

from __future__ import annotations

import os

from msgspec import Struct

from kvcatalog.errors import CatalogMissingError, CatalogUnavailableError
from kvcatalog.kv.compaction import Progress, compact_environment
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.store.opening import BACKUP_FILE, put_file_right
from kvcatalog.uris import absolute_path


class Compaction(Struct, frozen=True):
    """How large a catalog's file was, and is, in bytes."""

    path: str
    bytes_before: int
    bytes_after: int


def compact(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Compaction:
    """Put a compact copy in the place of a catalog's file, checked to hold the same rows.

    Nobody may have the catalog open, this process included: CatalogLockedError. Who opens it meanwhile waits, up to ten
    seconds, then has that error. The copy takes its place in one step, so a crash leaves the one or the other. As much
    room as the rows need must be free beside it: StorageFullError, CatalogMissingError, DatabaseDamagedError.
    `progress` is told what is being done, and how many rows of how many are.
    """
    folder = absolute_path(path)
    if not os.path.exists(os.path.join(folder, DATA_FILE)):
        raise CatalogMissingError(f"{folder}: there is no catalog")
    if os.path.exists(os.path.join(folder, BACKUP_FILE)):
        error = CatalogUnavailableError(f"{folder} is a backup, and stays as it is")
        raise error.advising("Compact the catalog itself; what `kvcatalog restore` makes of a backup is a catalog.")
    return Compaction(folder, *compact_environment(folder, seal=put_file_right, progress=progress))
