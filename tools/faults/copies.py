"""Copies of a catalog that pass for the catalog itself, for harnesses that put everything back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvcatalog.kv.birth import birth_of
from kvcatalog.store import lmdb_catalog, opening


@contextmanager
def taken_for_originals() -> Iterator[None]:
    """Open files as if nobody knew when they were made, in this process and those that it forks."""
    _let_tell(lambda _: None)
    try:
        yield
    finally:
        _let_tell(birth_of)


def _let_tell(birth: Callable[[str], int | None]) -> None:
    owners: tuple[Any, ...] = (lmdb_catalog, opening)
    for owner in owners:
        owner.birth_of = birth
