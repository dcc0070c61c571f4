"""The check of one record's blob, as any catalog does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvcatalog import values
from kvcatalog.checks import Claim, StoredBlob, Verification
from kvcatalog.clock import Clock
from kvcatalog.errors import NotFoundError
from kvcatalog.fixity import Places, check_of, verified

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.store.protocol import CatalogStore


def verify_record(
    catalog: CatalogStore, record_id: int, cfg_storage: StorageConfig | None, clock: Clock, *, remembers: bool
) -> Verification:
    """Do what `CatalogStore.verify` promises."""
    values.record_id("record_id", record_id)
    record = catalog.get_by_id(record_id)
    if record is None:
        raise NotFoundError(f"there is no document {record_id}")
    (blob,) = catalog.blobs_at((record.storage_uri,))
    own = StoredBlob(
        record.storage_uri, (Claim(record.id, None, record.sha256, record.bytes),), last_check=blob.last_check
    )
    places = Places(catalog.identity, catalog.roots(), None if cfg_storage is None else lambda: cfg_storage)
    try:
        whole = result = verified(own, places, now=clock())
        if any((claim.sha256, claim.bytes) != (record.sha256, record.bytes) for claim in blob.claims):
            whole = verified(blob, places, now=clock())  # others expect something else at its place
    finally:
        places.close()
    if remembers and whole.result != "unreachable":
        catalog.record_checks((check_of(whole),))
    return result
