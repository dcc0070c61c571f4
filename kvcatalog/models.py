"""What the catalog takes and gives: immutable values that own their bytes.

A digest is 64 lowercase hex digits, a size is bytes, a time is an aware `datetime` in UTC with microseconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from msgspec import UNSET, Struct, UnsetType

Outcome = Literal["registered", "existing", "enriched", "conflict"]
"""What a registration did: stored a new record, found it, gave it a digest, or met other bytes under its key."""

OnConflict = Literal["keep", "replace"]
"""What other bytes under a known key do: they are kept beside the record, or become its content."""

CheckResult = Literal["ok", "corrupt", "missing", "unreachable", "not hashed", "stored checksum only", "size only"]
"""What a check of a blob found.

`ok`: its bytes were read and are those of the record. `corrupt`: they are others, or of another number. `missing`: its
root is there, the blob is not. `unreachable`: nothing can be said, and nothing is said to be lost. `not hashed`: the
record has no digest, and the size agrees. Where bytes were not to be read: `stored checksum only` is the digest that an
object store keeps beside them, `size only` the size.
"""


class DocumentRecord(Struct, frozen=True, gc=False):
    """One stored document; (artifact_id, source_url, resolver) is unique, and so is the id, which is never reused."""

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
    """Another form of a document (html, text, supplement); (document_id, variant) is unique, ids are its own."""

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
    """Other bytes that came under the key of a document (or of one of its variants) and were kept beside it."""

    document_id: int
    variant: str | None
    sha256: str | None
    bytes: int
    storage_uri: str
    run_id: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    count: int


class Reference(Struct, frozen=True, gc=False):
    """Something that refers to a stored blob; `sha256` is what it expects there, None where that is not known."""

    kind: Literal["document", "variant", "conflict", "link"]
    document_id: int
    sha256: str | None


class Claim(Struct, frozen=True, gc=False):
    """What a document, one of its variants or a conflict says of the bytes at a place."""

    document_id: int
    variant: str | None
    sha256: str | None
    bytes: int


class BlobCheck(Struct, frozen=True, gc=False):
    """The last check of a blob; never `unreachable`, which says nothing about it.

    `checked_at` is the last look of any kind. `read_at` is when all that could be compared was read, None if that never
    was: it gives the blob's turn. `quarantined` is where the corrupt bytes were put that lay there.
    """

    storage_uri: str
    result: CheckResult
    checked_at: datetime
    read_at: datetime | None
    quarantined: str | None = None


class StoredBlob(Struct, frozen=True, gc=False):
    """A place that the catalog refers to, what is expected there, and its last check; without claims nothing is."""

    storage_uri: str
    claims: tuple[Claim, ...]
    last_check: BlobCheck | None


class Verification(Struct, frozen=True, gc=False):
    """What a check found at a place; true only if the bytes were read and are the right ones.

    `document_ids` are the documents that the result concerns, by themselves or by a variant. `sha256` is the digest of
    the bytes that lie there; `bytes_read` is 0 where that file was read under another of its names. `quarantined` is
    the storage URI where corrupt bytes lie now.
    """

    storage_uri: str
    result: CheckResult
    detail: str | None
    document_ids: tuple[int, ...]
    checked_at: datetime
    bytes_read: int = 0
    sha256: str | None = None
    quarantined: str | None = None

    def __bool__(self) -> bool:
        return self.result == "ok"


class Link(Struct, frozen=True, gc=False):
    """A further place of a blob that a document owns."""

    document_id: int
    storage_uri: str


class Condemned(Struct, frozen=True, gc=False):
    """An announcement of a plan: it is about to take away what lies at a storage URI."""

    storage_uri: str
    plan: str
    at: datetime


class BlobMove(Struct, frozen=True, gc=False):
    """What was done to a blob, or to a folder of the trash, for the journal; `target` is the URI where it lies now.

    `begin` and `finish` frame work that leaves blobs behind; its name is then the place.
    """

    action: Literal["trash", "restore", "empty-trash", "begin", "finish", "refetch"]
    storage_uri: str
    target: str | None
    bytes: int
    reason: str | None


class Deletion(Struct, frozen=True, gc=False):
    """A document that is to go, as it was when that was decided, and why, for the journal."""

    document_id: int
    updated_at: datetime
    reason: str | None = None


class Relocation(Struct, frozen=True, gc=False):
    """A blob has come to a further place, and something that refers to it is to refer to that one.

    `kind` says what: a document, its variant, its conflict (of the variant, if `variant` is given) or a link of it.
    `bytes` and `sha256` are what was found at both places. A link without a `target` is dropped. `blob_epoch` is what
    it was before the blob was stored at its target.
    """

    kind: Literal["document", "variant", "conflict", "link"]
    document_id: int
    storage_uri: str
    target: str | None
    bytes: int
    sha256: str
    blob_epoch: int
    variant: str | None = None


RelocationOutcome = Literal["moved", "changed", "condemned"]
"""It refers to the target now; it is not what it was, and stays; the target may be gone, and is to be stored again."""


class Hold(Struct, frozen=True, gc=False):
    """What must stay: all that `filters`, expressions that must all hold, let through."""

    id: int
    filters: tuple[str, ...]
    reason: str
    created_at: datetime


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


FindingKind = Literal[
    "file", "row", "index", "figure", "reference", "blob missing", "blob size", "blob unknown", "root"
]
"""What is wrong: the database file itself; a stored value; an index row or mirror that is missing or too much; a
counter; a row that refers to what is not there; a blob that is missing, has another size, or that nothing refers to; a
storage root that is not there or not ours, of whose blobs nothing is said."""

Repair = Literal["row", "duplicates", "counter", "number", "check"]
"""How what is wrong is made good from what it derives from."""


class Finding(Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that an audit found to be wrong.

    `repair` says how it can be derived anew, None that it cannot; `key` and `value` then name the row, in hex, or what
    the figure should be. `repaired` is set once that was done.
    """

    kind: FindingKind
    message: str
    table: str | None = None
    document_id: int | None = None
    variant_id: int | None = None
    storage_uri: str | None = None
    repair: Repair | None = None
    key: str = ""
    value: str = ""
    repaired: bool = False


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
    """A storage root: a folder or bucket prefix below which blobs lie, known by its UUID wherever it moves."""

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
    "BlobCheck",
    "BlobMove",
    "CatalogIdentity",
    "CatalogPosition",
    "CatalogStats",
    "CheckResult",
    "Claim",
    "Condemned",
    "Conflict",
    "CreatedCatalog",
    "Deletion",
    "DocumentRecord",
    "DuplicateGroup",
    "Finding",
    "FindingKind",
    "Hold",
    "JournalEntry",
    "JournalPruning",
    "Link",
    "OnConflict",
    "Outcome",
    "Page",
    "Possession",
    "Reference",
    "Registration",
    "RegistrationFields",
    "RegistrationRequest",
    "Relocation",
    "RelocationOutcome",
    "Repair",
    "Root",
    "Sighting",
    "SightingRequest",
    "StoredBlob",
    "Totals",
    "UnsetType",
    "VariantRecord",
    "VariantRegistration",
    "VariantRegistrationRequest",
    "Verification",
]
