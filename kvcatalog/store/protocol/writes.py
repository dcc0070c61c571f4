"""What a pipeline tells a catalog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, Unpack

from kvcatalog.models import (
    UNSET,
    DocumentRecord,
    OnConflict,
    Registration,
    RegistrationFields,
    RegistrationRequest,
    SightingRequest,
    UnsetType,
    VariantRecord,
    VariantRegistration,
    VariantRegistrationRequest,
)

if TYPE_CHECKING:
    from concurrent.futures import Future


class CatalogWrites(Protocol):
    """Documents, their variants, and where runs met them."""

    def register_or_get(
        self,
        *,
        artifact_id: str,
        source_url: str,
        resolver: str,
        content_type: str | None,
        bytes: int,  # noqa: A002
        sha256: str | None,
        storage_uri: str,
        run_id: str | None,
    ) -> DocumentRecord:
        """Store a document under (artifact_id, source_url, resolver), or return what is stored there.

        The first call for a key stores; later ones return the stored record, whoever calls. A digest where there was
        none is added. Other bytes under a known key are kept as a conflict, which this method does not show: use
        `register` where that matters. A later run that meets the key is remembered as a sighting.
        """
        ...

    def register(
        self,
        *,
        artifact_id: str,
        source_url: str,
        resolver: str,
        content_type: str | None = None,
        bytes: int,  # noqa: A002
        sha256: str | None = None,
        storage_uri: str,
        run_id: str | None = None,
        created_at: datetime | None = None,
        on_conflict: OnConflict = "keep",
        blob_epoch: int | None = None,
        links: Iterable[str] = (),
    ) -> Registration:
        """Do as `register_or_get` does and tell what was done.

        `on_conflict="replace"` makes other bytes the record's content on purpose. `links` are further places of the
        same blob, which the record then owns. BlobCondemnedError if garbage collection is taking the blob away, or may
        have done so since the epoch was `blob_epoch`: then nothing is stored, and the blob is to be stored again.
        """
        ...

    def register_async(self, **fields: Unpack[RegistrationFields]) -> Future[Registration]:
        """Do as `register` does without waiting; the future has its result once the record is durable.

        Values are checked at once. Where very many calls wait already, this one helps to work them off. A future that
        is cancelled before its turn stores nothing; what was accepted is stored before the process exits.
        """
        ...

    def register_many(
        self, requests: Iterable[RegistrationRequest], *, batch_size: int = 20_000
    ) -> Iterator[Registration]:
        """Register a stream, `batch_size` requests a transaction, and yield the results in its order.

        Nothing is read or stored before the iterator is advanced. A batch is durable when its first result appears. A
        bad request raises InvalidValueError and stores nothing of its batch.
        """
        ...

    def update(
        self,
        record_id: int,
        *,
        content_type: str | UnsetType | None = UNSET,
        run_id: str | UnsetType | None = UNSET,
        bytes: int | UnsetType = UNSET,  # noqa: A002
        sha256: str | UnsetType | None = UNSET,
        storage_uri: str | UnsetType = UNSET,
        reason: str | None = None,
    ) -> DocumentRecord:
        """Change a record on purpose and return it; `updated_at` moves on and the journal keeps what changed and why.

        `bytes`, `sha256` and `storage_uri` describe one content: give all three or none.
        """
        ...

    def delete(self, record_id: int, *, reason: str | None = None) -> DocumentRecord:
        """Take a record out of the catalog with its variants, conflicts, sightings and links, and return it.

        Its blob is not touched.
        """
        ...

    def register_variant(
        self,
        *,
        document_id: int,
        variant: str,
        storage_uri: str,
        bytes: int,  # noqa: A002
        content_type: str | None = None,
        sha256: str | None = None,
        created_at: datetime | None = None,
        on_conflict: OnConflict = "keep",
        blob_epoch: int | None = None,
        links: Iterable[str] = (),
    ) -> VariantRegistration:
        """Store another form of a document under its name, with the rules of `register`."""
        ...

    def register_variants(
        self, requests: Iterable[VariantRegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[VariantRegistration]:
        """Register a stream of variants, with the promises of `register_many`.

        A request for a document that is not there raises NotFoundError and stores nothing of its batch.
        """
        ...

    def delete_variant(self, document_id: int, variant: str, *, reason: str | None = None) -> VariantRecord:
        """Take a variant out of the catalog and return it; its blob is not touched."""
        ...

    def record_sighting(self, document_id: int, run_id: str, *, seen_at: datetime | None = None) -> bool:
        """Remember that a run met a document again; False if that was known, or if it is the record's own run."""
        ...

    def record_sightings(self, sightings: Iterable[SightingRequest], *, batch_size: int = 10_000) -> Iterator[bool]:
        """Remember a stream of sightings, with the answers of `record_sighting` and the promises of `register_many`.

        A document that is not there raises NotFoundError, and nothing of its batch is stored.
        """
        ...
