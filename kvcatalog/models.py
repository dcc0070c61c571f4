"""What the catalog takes and gives: immutable values that own their bytes.

A digest is 64 lowercase hex digits, a size is bytes, a time is an aware `datetime` in UTC with microseconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NotRequired, Self, TypedDict

from msgspec import UNSET, Struct, UnsetType

Outcome = Literal["registered", "existing", "enriched", "conflict"]
"""What a registration did: stored a new record, found it, gave it a digest, or met other bytes under its key."""

HaveKind = Literal["any", "url", "artifact", "digest", "file"]
"""What `have` is asked about."""

SortOrder = Literal["id", "artifact", "created"]
"""By what a search is ordered."""

OnConflict = Literal["keep", "replace"]
"""What other bytes under a known key do: they are kept beside the record, or become its content."""


class DocumentRecord(Struct, frozen=True, gc=False):
    """One stored document; (artifact_id, source_url, resolver) is unique, and so is the id, which is never reused.

    `sha256` is lowercase hex, None where nobody gave it; times are in UTC; `run_id` is the run that came first.
    """

    id: int
    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    bytes: int
    sha256: str | None
    storage_uri: str
    created_at: datetime
    updated_at: datetime
    run_id: str | None


class VariantRecord(Struct, frozen=True, gc=False):
    """Another form of a document (html, text, supplement); (document_id, variant) is unique, ids are its own.

    `sha256` and times are as in DocumentRecord.
    """

    id: int
    document_id: int
    variant: str
    storage_uri: str
    bytes: int
    content_type: str | None
    sha256: str | None
    created_at: datetime


class RegistrationRequest(Struct, frozen=True, kw_only=True, gc=False):
    """What `register_many` takes for each document; `created_at` None means the moment of registration.

    `links` are further places of the same blob, which the record owns. `blob_epoch` is what `CatalogStore.blob_epoch`
    was before the caller made sure that the blob is there.
    """

    artifact_id: str
    source_url: str
    resolver: str
    bytes: int
    storage_uri: str
    content_type: str | None = None
    sha256: str | None = None
    run_id: str | None = None
    created_at: datetime | None = None
    on_conflict: OnConflict = "keep"
    blob_epoch: int | None = None
    links: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: DocumentRecord, links: tuple[str, ...] = ()) -> Self:
        """Return what registers a record as it is, but for its id and the time of its last change."""
        return cls(
            artifact_id=record.artifact_id,
            source_url=record.source_url,
            resolver=record.resolver,
            bytes=record.bytes,
            storage_uri=record.storage_uri,
            content_type=record.content_type,
            sha256=record.sha256,
            run_id=record.run_id,
            created_at=record.created_at,
            links=links,
        )


class VariantRegistrationRequest(Struct, frozen=True, kw_only=True, gc=False):
    """What `register_variants` takes for each variant; `created_at` None means the moment of registration."""

    document_id: int
    variant: str
    storage_uri: str
    bytes: int
    content_type: str | None = None
    sha256: str | None = None
    created_at: datetime | None = None
    on_conflict: OnConflict = "keep"
    blob_epoch: int | None = None
    links: tuple[str, ...] = ()


class SightingRequest(Struct, frozen=True, gc=False):
    """What `record_sightings` takes for each document that a run met; `seen_at` None means now."""

    document_id: int
    run_id: str
    seen_at: datetime | None = None


class RegistrationFields(TypedDict):
    """The keywords of `register`, for those who pass them on; the fields of RegistrationRequest."""

    artifact_id: str
    source_url: str
    resolver: str
    bytes: int
    storage_uri: str
    content_type: NotRequired[str | None]
    sha256: NotRequired[str | None]
    run_id: NotRequired[str | None]
    created_at: NotRequired[datetime | None]
    on_conflict: NotRequired[OnConflict]
    blob_epoch: NotRequired[int | None]
    links: NotRequired[tuple[str, ...]]


class Registration(Struct, frozen=True, gc=False):
    """The record that stands after a registration, and what the registration did.

    After `conflict` the record holds the content that stands: the old one with on_conflict="keep", the new one with
    "replace".
    """

    record: DocumentRecord
    outcome: Outcome


class VariantRegistration(Struct, frozen=True, gc=False):
    """The variant that stands after a registration, and what the registration did."""

    record: VariantRecord
    outcome: Outcome


class Conflict(Struct, frozen=True, gc=False):
    """Other bytes that came under the key of a document (or of one of its variants) and were kept beside it.

    The content is told as in DocumentRecord; it came `count` times, from `first_seen_at` to `last_seen_at` (UTC).
    """

    document_id: int
    variant: str | None
    sha256: str | None
    bytes: int
    storage_uri: str
    run_id: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    count: int


class Link(Struct, frozen=True, gc=False):
    """A further place of a blob that a document owns."""

    document_id: int
    storage_uri: str


class Sighting(Struct, frozen=True, gc=False):
    """A later run met a document that an earlier one had registered."""

    run_id: str
    document_id: int
    seen_at: datetime


class JournalEntry(Struct, frozen=True, gc=False):
    """What was done to something that was already stored, in the order of `sequence`; never a plain registration.

    `changes` maps a field to its values before and after, in JSON's types.
    """

    sequence: int
    at: datetime
    action: str
    document_id: int | None
    variant_id: int | None
    command: str
    reason: str | None
    changes: dict[str, tuple[str | int | None, str | int | None]]


class JournalPruning(Struct, frozen=True, gc=False):
    """How many of the oldest entries of the journal were forgotten, or would be; the sequence and time of the last."""

    entries: int
    last_sequence: int | None
    last_at: datetime | None


class DuplicateGroup(Struct, frozen=True, gc=False):
    """A digest that several records carry; `bytes` is the size of one copy."""

    sha256: str
    bytes: int
    document_count: int
    variant_count: int


class Possession(Struct, frozen=True, gc=False):
    """The answer to `have`: what was asked, how it was understood, and the records that hold it (none: not here)."""

    item: str
    kind: Literal["url", "artifact", "digest", "file"]
    records: tuple[DocumentRecord, ...]


class Page(Struct, frozen=True, gc=False):
    """Records of one page of a search; `next` continues it, None at the end."""

    records: tuple[DocumentRecord, ...]
    next: str | None


class Root(Struct, frozen=True, gc=False):
    """A storage root: a folder or bucket prefix below which blobs lie, known by its UUID wherever it moves.

    `uri` has no slash at its end; content-addressed blobs lie below `cas/<cas_prefix>/` there.
    """

    id: int
    uri: str
    uuid: str
    cas_prefix: str


class CatalogIdentity(Struct, frozen=True, gc=False):
    """Which catalog this is; one that was restored from a backup has another generation."""

    uuid: str
    generation: int
    created_at: datetime


class CatalogPosition(Struct, frozen=True, gc=False):
    """A moment of a catalog by what had been given out: the last sequence number of its journal, and the last ids."""

    journal: int
    document: int
    variant: int
    hold: int = 0


class CreatedCatalog(Struct, frozen=True, gc=False):
    """A catalog that is there now, `was_made` if it was not before; `notes` tell of what is not as it was wished."""

    place: str
    identity: CatalogIdentity
    was_made: bool
    notes: tuple[str, ...] = ()


class Totals(Struct, frozen=True, gc=False):
    """How many documents, and the sum of their sizes in bytes."""

    documents: int
    bytes: int


class CatalogStats(Struct, frozen=True, gc=False):
    """Figures kept with every write, so that reading them scans nothing.

    `duplicate_documents` counts the records beyond the first of each digest, `duplicate_bytes` their sizes.
    `file_bytes` is what the catalog takes where it is kept, `used_bytes` how much of that is in use. Of DynamoDB the
    first is what the service tells, which is hours old, and the second is not known; so are None.
    """

    documents: int
    bytes: int
    documents_without_sha256: int
    variants: int
    variant_bytes: int
    duplicate_groups: int
    duplicate_documents: int
    duplicate_bytes: int
    conflicts: int
    sightings: int
    by_resolver: dict[str, Totals]
    by_content_type: dict[str, Totals]
    last_document_id: int
    last_variant_id: int
    file_bytes: int | None
    used_bytes: int | None


__all__ = [
    "UNSET",
    "CatalogIdentity",
    "CatalogPosition",
    "CatalogStats",
    "Conflict",
    "CreatedCatalog",
    "DocumentRecord",
    "DuplicateGroup",
    "HaveKind",
    "JournalEntry",
    "JournalPruning",
    "Link",
    "OnConflict",
    "Outcome",
    "Page",
    "Possession",
    "Registration",
    "RegistrationFields",
    "RegistrationRequest",
    "Root",
    "Sighting",
    "SightingRequest",
    "SortOrder",
    "Totals",
    "UnsetType",
    "VariantRecord",
    "VariantRegistration",
    "VariantRegistrationRequest",
]
