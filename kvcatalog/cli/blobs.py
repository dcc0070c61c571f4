"""A glance at blobs: whether a local file is where a record says."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal

from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.fixity import Places
    from kvcatalog.store.protocol import CatalogStore

BlobState = Literal["present", "missing", "other size", "unreachable"]


class Glance:
    """Looks at blobs without reading them; what tells a loss from a mount that is gone is loaded when it is needed."""

    def __init__(self, catalog: CatalogStore) -> None:
        self._catalog = catalog
        self._places: Places | None = None

    def state(self, storage_uri: str, size: int) -> BlobState | None:
        """Return what a look at the file tells, None where the URI names no local file.

        `unreachable`: its root is not there or not ours, so nothing is said to be lost.
        """
        path = file_path(storage_uri)
        if path is None:
            return None
        try:
            status = os.lstat(path)
            is_linked = os.path.realpath(path) != path
        except OSError:
            return self._examined(storage_uri, size)
        if is_linked or not stat.S_ISREG(status.st_mode):
            return self._examined(storage_uri, size)
        return "present" if status.st_size == size else "other size"

    def _examined(self, storage_uri: str, size: int) -> BlobState:
        if self._places is None:
            from kvcatalog.fixity import Places

            self._places = Places(self._catalog.identity, self._catalog.roots())
        found = self._places.examine(storage_uri, reads=False)
        if found.state == "there":  # over a link outside the roots
            return "present" if found.size == size else "other size"
        return found.state

    def close(self) -> None:
        """Let go of the roots that were looked at."""
        if self._places is not None:
            self._places.close()
