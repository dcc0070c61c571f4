"""Corrupt bytes leave their place for the quarantine of their root, so that nobody takes them for good.

First it is written down where they will go, then they are moved, then that is written down: whenever that is cut off,
the next check of the place finds the bytes at one end or the other and completes it. Registrations are kept from the
place meanwhile as garbage collection keeps them, under its lease.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import structs

from kvcatalog import layout
from kvcatalog.blobs import BlobStore, new_label, read_digest
from kvcatalog.checks import Verification
from kvcatalog.errors import CatalogError, CatalogLockedError
from kvcatalog.fixity import Places, check_of
from kvcatalog.store.backend import GC_LEASE

if TYPE_CHECKING:
    from kvcatalog.store.protocol import CatalogStore

_LEASE_TRIES = 20
_LEASE_WAIT_SECONDS = 0.1


def put_aside(corrupt: Verification, places: Places, catalog: CatalogStore) -> Verification:
    """Move corrupt bytes to quarantine, durably and journalled, and return the result with where they are.

    They stay where they are, and `detail` says why, if they were not read, lie outside the catalog's roots, are what
    somebody else expects there, or if others hold the lease of garbage collection.
    """
    try:
        return _moved(corrupt, places, catalog)
    except CatalogError as error:
        return _left(corrupt, str(error))


def _moved(corrupt: Verification, places: Places, catalog: CatalogStore) -> Verification:
    spot = places.spot(corrupt.storage_uri)
    if spot is None or spot.path.split("/")[0] == layout.OURS:
        return _left(corrupt, "it lies outside the roots")
    store, path = spot
    target = layout.set_aside_path(layout.QUARANTINE_PATH, new_label(), path)
    intent = structs.replace(check_of(corrupt), quarantined=store.uri_of(target))
    with _lease(catalog):
        expected = {each.sha256 for each in catalog.references(corrupt.storage_uri)}
        if corrupt.sha256 is None or corrupt.sha256 in expected:
            return _left(corrupt, "another record expects what is there" if corrupt.sha256 else "it was not read")
        outcome = intent
        catalog.begin_quarantine(intent)
        try:
            try:
                store.move(path, target)
            except CatalogError:
                outcome = structs.replace(intent, quarantined=None)
                raise
            outcome = structs.replace(intent, result="missing")
            if _reads_as(store, target, expected) and _is_back(store, target, path):
                outcome = structs.replace(intent, quarantined=None)
                return _left(corrupt, "somebody has put the right bytes there meanwhile")
        finally:
            catalog.end_quarantine(outcome)
    return structs.replace(corrupt, quarantined=intent.quarantined)


def _reads_as(store: BlobStore, path: str, expected: set[str | None]) -> bool:
    """Tell whether bytes that were moved are good after all: they may have been repaired since they were read."""
    with suppress(CatalogError):
        return read_digest(store, path)[0] in expected
    return False


def _is_back(store: BlobStore, target: str, path: str) -> bool:
    with suppress(CatalogError):
        store.move(target, path)
        return True
    return False  # whoever found the place empty has filled it


def _left(corrupt: Verification, reason: str) -> Verification:
    return structs.replace(corrupt, detail=f"{corrupt.detail}; left in its place: {reason}")


@contextmanager
def _lease(catalog: CatalogStore) -> Iterator[None]:
    """Hold the lease of garbage collection; another quarantine has it for a moment only."""
    with ExitStack() as stack:
        for tries_left in reversed(range(_LEASE_TRIES)):
            try:
                stack.enter_context(catalog.lease(GC_LEASE))
                break
            except CatalogLockedError:
                if not tries_left:
                    raise
                time.sleep(_LEASE_WAIT_SECONDS)
        yield
