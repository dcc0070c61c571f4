"""What is asked of a store about many blobs: of a bucket some at a time, since its server takes its time for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kvcatalog.blobs import BlobStore

REQUESTS = 8
"""Questions that are asked of a bucket at once."""

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")


def asked(store: BlobStore, question: Callable[[Thing], Answer], things: Sequence[Thing]) -> list[Answer]:
    """Return the answers to a question, which any thread may ask, in the order of what they are about."""
    if store.local_path("-") is not None or len(things) <= 1:
        return list(map(question, things))
    with ThreadPoolExecutor(min(REQUESTS, len(things))) as pool:
        return list(pool.map(question, things))
