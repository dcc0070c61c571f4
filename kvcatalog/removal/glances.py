"""What lies at very many places, looked at in the order of their URIs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

from kvcatalog.blobs import BlobStat, BlobStore
from kvcatalog.removal.sorting import SortedRows

ASKED_ONE_BY_ONE = 1000
"""Blobs of a bucket that are asked for before it is listed, which tells of a thousand at a time, wanted or not."""


class Glances:
    """Looks at blobs; of each store they are asked for in the order of their URIs. A context manager."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._stack = ExitStack()

    def at(self, store: BlobStore, path: str) -> BlobStat | None:
        """Return what `stat` of the store would, or what it was a while ago: size and times, or None."""
        if store.local_path("-") is not None:
            return store.stat(path)
        bucket = self._buckets.get(store.uri)
        if bucket is None:
            bucket = self._buckets[store.uri] = _Bucket(store, self._stack)
        return bucket.at(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


class _Bucket:
    def __init__(self, store: BlobStore, stack: ExitStack) -> None:
        self._store = store
        self._stack = stack
        self._asked = 0
        self._listed: Iterator[tuple[str, int, int]] | None = None
        self._next: tuple[str, int, int] | None = None

    def at(self, path: str) -> BlobStat | None:
        self._asked += 1
        listed = None if self._asked <= ASKED_ONE_BY_ONE else self._in_listing(self._store.uri_of(path))
        # What the listing lacks may have been stored since.
        return self._store.stat(path) if listed is None else BlobStat(path, *listed[1:])

    def _in_listing(self, uri: str) -> tuple[str, int, int] | None:
        if self._listed is None:
            self._listed = iter(self._list())
            self._next = next(self._listed, None)
        while self._next is not None and self._next[0] < uri:
            self._next = next(self._listed, None)
        return self._next if self._next is not None and self._next[0] == uri else None

    def _list(self) -> SortedRows[tuple[str, int, int]]:
        objects = self._stack.enter_context(SortedRows(tuple[str, int, int]))
        for path, stat in self._store.listing():
            if stat is not None:
                objects.add((self._store.uri_of(path), stat.size, stat.modified))
        return objects
