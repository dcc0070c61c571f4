"""Files below a root that records know by another name: over symbolic links, or by a URI that is written otherwise."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

from kvcatalog.blobs import BlobStore
from kvcatalog.uris import file_path


class Aliases:
    """The files below some roots that irregular storage URIs lead to; eight bytes of memory for each.

    They are kept as hashes, so a file that shares one is taken for known, too, and stays.
    """

    def __init__(self, uris: Iterable[str], stores: Iterable[BlobStore]) -> None:
        folders = (store.local_path("-") for store in stores)
        self._roots = {
            os.path.dirname(path): os.path.realpath(os.path.dirname(path)) for path in folders if path is not None
        }
        starts = tuple(f"{real.removesuffix('/')}/" for real in self._roots.values())
        real_folder = lru_cache(maxsize=4096)(os.path.realpath)
        found = array("q")
        for uri in uris if starts else ():
            path = file_path(uri)
            if path is not None:
                folder, name = os.path.split(path)
                real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folder(folder), name)
                if real.startswith(starts):
                    found.append(hash(real))
        self._hashes = array("q", sorted(found))

    def has(self, store: BlobStore, path: str) -> bool:
        """Tell whether a blob is known by another name."""
        if not self._hashes:
            return False
        root = os.path.dirname(store.local_path("-") or "")
        wanted = hash(os.path.join(self._roots.get(root, root), path))
        place = bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted
