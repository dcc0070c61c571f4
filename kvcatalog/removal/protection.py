"""Which blobs below a root are nobody's to take: held ones, and files that were never ours."""

from __future__ import annotations

from functools import lru_cache

from kvcatalog.blobs import BlobStore

_FOREIGN_FOLDERS = frozenset(
    ("@eadir", "#recycle", "@recycle", "lost+found", "$recycle.bin", "system volume information")
)
_FOREIGN_NAMES = frozenset(("thumbs.db", "desktop.ini", "data.mdb", "lock.mdb", "gc.lease"))


def is_foreign(path: str) -> bool:
    """Tell whether a path is none that we would give: what file managers, snapshots and other programs leave behind.

    No part of a path of ours begins with a dot; and a catalog's files are never blobs.
    """
    *folders, name = path.lower().split("/")
    return (
        path.startswith(".")
        or "/." in path
        or name in _FOREIGN_NAMES
        or any(folder in _FOREIGN_FOLDERS for folder in folders)
    )


class Ground:
    """What belongs to a root itself, and not to a root of its own below it."""

    def __init__(self, store: BlobStore) -> None:
        self._is_root = lru_cache(maxsize=4096)(store.is_root)

    def holds(self, path: str) -> bool:
        """Tell whether a path lies in no further root."""
        parts = path.split("/")
        return not any(self._is_root("/".join(parts[:depth])) for depth in range(1, len(parts)))
