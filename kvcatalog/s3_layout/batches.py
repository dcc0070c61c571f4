"""Many objects moved or removed at once, several requests at a time: a server takes its time for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kvcatalog.blobs import BlobStat, BlobStore, MoveOutcome
from kvcatalog.errors import BlobNotFoundError, InvalidValueError

REQUESTS = 8
"""Objects that are worked on at the same time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def move_many(store: BlobStore, moves: Sequence[tuple[str, str]]) -> list[MoveOutcome]:
    """Give objects other paths; see BlobStore.move_many."""

    def move(pair: tuple[str, str]) -> MoveOutcome:
        try:
            store.move(*pair)
        except BlobNotFoundError:
            return "missing"
        except InvalidValueError as error:  # a key that is too long for its new place cannot have it either
            return "taken" if error.field == "target" else "unsafe"
        return "moved"

    return _together(move, moves)


def delete_many(store: BlobStore, paths: Sequence[str]) -> list[BlobStat]:
    """Remove objects; see BlobStore.delete_many."""

    def delete(path: str) -> BlobStat | None:
        found = store.stat(path)
        return found if found is not None and store.delete(path) else None

    return [found for found in _together(delete, paths) if found is not None]


def _together(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    if len(items) <= 1:
        return list(map(work, items))
    with ThreadPoolExecutor(min(REQUESTS, len(items))) as pool:
        return list(pool.map(work, items))
