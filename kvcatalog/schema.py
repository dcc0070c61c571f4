"""Every sub-database of the catalog, what its keys are made of, and which question it answers.

Ids are eight bytes, most significant first. Stored fields are compared with the index that led to them on every read.
Digests are declared by callers, so an index has them whole: one that begins alike is easily made up. A location is a
root's id and the path below it, or a whole URI outside all roots; a content-addressed path is not stored at all (path
None), since root and digest give it.
Times are signed microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import Struct

from kvcatalog.errors import CorruptRecordError
from kvcatalog.kv import keys
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.table import Index, Table
from kvcatalog.values import media_type

FORMAT_VERSION = 1
"""What stands below must not change within a version; a store of each is kept with the tests (`tools/freeze.py`)."""

ID_BYTES = 8
ARTIFACT_BYTES_MAX = 400
NAME_BYTES_MAX = 200
LOCATION_BYTES_MAX = 400

DOCUMENTS = Table("documents")  # document id -> record; in order of registration
BY_KEY = Table(
    "by_key"
)  # artifact, NUL, digest of (url, resolver) -> id; one artifact's documents, artifacts by prefix
BY_SHA256 = Table("by_sha256", sets=True)  # digest -> ids; where is it, what is equal
BY_URL = Table("by_url", sets=True)  # hash of the URL -> ids
BY_RUN = Table("by_run", sets=True)  # run -> ids; what a run registered
BY_CONTENT_TYPE = Table("by_content_type", sets=True)  # media type -> ids
BY_STORAGE_URI = Table("by_storage_uri", sets=True)  # hash of the location, unless content-addressed -> ids
BY_CREATED = Table("by_created", sets=True)  # time -> ids; by age

VARIANTS = Table("variants")  # variant id -> record
VARIANTS_BY_DOCUMENT = Table("variants_by_document")  # document id, variant's name -> variant id
VARIANTS_BY_SHA256 = Table("variants_by_sha256", sets=True)  # digest -> variant ids
VARIANTS_BY_STORAGE_URI = Table("variants_by_storage_uri", sets=True)  # hash of the location -> variant ids

SIGHTINGS = Table("sightings")  # run, NUL, document id -> time; what a later run saw again
SIGHTINGS_BY_DOCUMENT = Table("sightings_by_document")  # document id, run -> nothing

CONFLICTS = Table("conflicts")  # document id, variant's name, NUL, content -> what came; same key, other bytes
CONFLICTS_BY_STORAGE_URI = Table(
    "conflicts_by_storage_uri", sets=True
)  # hash of the location, or of root and digest -> document ids

LINKS = Table("links")  # location, document id -> path in full; further names of a blob that a record owns
LINKS_BY_DOCUMENT = Table("links_by_document")  # document id, location -> nothing

DUPLICATES = Table("duplicates")  # digest -> how many documents and variants carry it, where that is above one
COUNTERS = Table("counters")  # name -> totals, last ids, the last commit; figures without a scan
ROOTS = Table("roots")  # root id -> its URI, UUID and content-addressed folder

CONDEMNED = Table("condemned")  # location -> plan, time and end; what is about to be taken away, or was
CHECKS = Table("checks")  # location -> time and result of its last check
CHECKS_BY_TIME = Table("checks_by_time")  # time, location -> nothing; the oldest check first
HOLDS = Table("holds")  # hold id -> filter and reason; what must stay

JOURNAL = Table("journal")  # sequence -> what was done to something stored, by which command and why
JOURNAL_BY_DOCUMENT = Table("journal_by_document", sets=True)  # document id -> sequences
JOURNAL_BY_STORAGE_URI = Table("journal_by_storage_uri", sets=True)  # hash of a URI that an entry names -> sequences
META = Table("meta")  # name -> format version, identity of the catalog and of its file, version of the roots

TABLES = tuple(value for value in list(globals().values()) if isinstance(value, Table))


class DocumentRow(Struct, frozen=True, array_like=True, gc=False):
    """A document as it is stored under its id; `updated_after` is how long after `created` it last changed."""

    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    size: int
    digest: bytes | None
    root: int | None
    path: str | None
    created: int
    updated_after: int
    run_id: str | None


class VariantRow(Struct, frozen=True, array_like=True, gc=False):
    """A variant as it is stored under its id."""

    document_id: int
    name: str
    content_type: str | None
    size: int
    digest: bytes | None
    root: int | None
    path: str | None
    created: int


class SightingRow(Struct, frozen=True, array_like=True, gc=False):
    """A sighting; the run's id stands here only where the key has it cut."""

    seen: int
    run_id: str | None


class ConflictRow(Struct, frozen=True, array_like=True, gc=False):
    """Other bytes that came under a known key."""

    variant: str | None
    size: int
    digest: bytes | None
    root: int | None
    path: str | None
    run_id: str | None
    first_seen: int
    last_seen: int
    count: int


class LinkRow(Struct, frozen=True, array_like=True, gc=False):
    """A further name of a document's blob."""

    document_id: int
    root: int | None
    path: str


class DuplicateRow(Struct, frozen=True, array_like=True, gc=False):
    """How many documents and variants carry a digest, and how many bytes one copy has."""

    digest: bytes
    size: int
    documents: int
    variants: int


class CounterRow(Struct, frozen=True, array_like=True, gc=False):
    """A number of things and the sum of their bytes; `label` is what is counted by, since the key may have it cut.

    A sum of sizes may exceed 64 bits, so it is kept in two parts: sum = high * 2^62 + low.
    """

    count: int
    high: int
    low: int
    label: str

    @property
    def size(self) -> int:
        """Return the sum of bytes."""
        return (self.high << 62) + self.low

    def plus(self, count: int, size: int) -> CounterRow:
        """Return the counter with some things and their bytes more."""
        total = self.size + size
        return CounterRow(self.count + count, total >> 62, total & ((1 << 62) - 1), self.label)


class RootRow(Struct, frozen=True, array_like=True, gc=False):
    """A storage root."""

    uri: str
    uuid: str
    cas_prefix: str


class CondemnedRow(Struct, frozen=True, array_like=True, gc=False):
    """A blob that a plan is about to take away, or, if `cleared` has the blob epoch of that, was about to."""

    root: int | None
    path: str
    plan: str
    at: int
    cleared: int | None = None


class CheckRow(Struct, frozen=True, array_like=True, gc=False):
    """The last check of a blob.

    `at` is when its bytes were read, 0 if they never were, and gives its turn; `looked_at` is the last look of any
    kind. `quarantined` is the storage URI where the bytes lie, or are about to, that were found corrupt.
    """

    root: int | None
    path: str
    at: int
    result: str
    looked_at: int = 0
    quarantined: str | None = None


class HoldRow(Struct, frozen=True, array_like=True, gc=False):
    """What must stay: all that a filter lets through."""

    filters: tuple[str, ...]
    reason: str
    at: int


class JournalRow(Struct, frozen=True, array_like=True, gc=False):
    """What was done to something stored; `changes` maps a field to its values before and after."""

    at: int
    action: str
    document_id: int | None
    variant_id: int | None
    command: str
    reason: str | None
    changes: dict[str, tuple[str | int | None, str | int | None]]


class IdentityRow(Struct, frozen=True, array_like=True, gc=False):
    """Which catalog this is; a restored backup gets another generation."""

    uuid: str
    generation: int
    created: int


DOCUMENT_CODEC = Codec(DocumentRow, "document")
VARIANT_CODEC = Codec(VariantRow, "variant")
SIGHTING_CODEC = Codec(SightingRow, "sighting")
CONFLICT_CODEC = Codec(ConflictRow, "conflict")
LINK_CODEC = Codec(LinkRow, "link")
DUPLICATE_CODEC = Codec(DuplicateRow, "duplicate count")
COUNTER_CODEC = Codec(CounterRow, "counter")
ROOT_CODEC = Codec(RootRow, "root")
CONDEMNED_CODEC = Codec(CondemnedRow, "condemned blob")
CHECK_CODEC = Codec(CheckRow, "check")
HOLD_CODEC = Codec(HoldRow, "hold")
JOURNAL_CODEC = Codec(JournalRow, "journal entry")
IDENTITY_CODEC = Codec(IdentityRow, "catalog identity")
NUMBER_CODEC = Codec(int, "number")

FORMAT_KEY = b"format version"
IDENTITY_KEY = b"identity"
BIRTH_KEY = b"birth of the file"
ROOTS_VERSION_KEY = b"roots version"


def id_key(number: int) -> bytes:
    """Return the key of an id; order of keys is order of ids."""
    return keys.unsigned(number)


def id_of(key: bytes) -> int:
    """Return the id of its key; CorruptRecordError for what is too long for one, as a damaged page may give it."""
    if len(key) > ID_BYTES:
        raise CorruptRecordError(f"{key.hex()} stands where an id should be")
    return keys.from_unsigned(key)


def artifact_key(artifact_id: str) -> bytes:
    """Return what every composite key of an artifact begins with.

    No artifact id contains NUL, so no other artifact's keys begin so, and NUL sorts before every continuation of the
    id: artifacts are in the order of their UTF-8 bytes up to the cut.
    """
    return keys.text(artifact_id, ARTIFACT_BYTES_MAX) + b"\0"


def document_key(artifact_id: str, source_url: str, resolver: str) -> bytes:
    """Return the composite key of a document, unique by 128 bits of BLAKE2b over URL and resolver."""
    return artifact_key(artifact_id) + keys.digest(source_url.encode(), resolver.encode())


def url_key(source_url: str) -> bytes:
    """Return the key of a source URL; other URLs may share it."""
    return keys.short_hash(source_url.encode())


@lru_cache(maxsize=256)
def name_key(name: str) -> bytes:
    """Return the key of a run, a media type, a variant or a label."""
    return keys.text(name, NAME_BYTES_MAX)


def time_key(micros: int) -> bytes:
    """Return the key of a time; order of keys is order of times."""
    return keys.signed(micros)


def location_key(root: int | None, path: str) -> bytes:
    """Return the key of a location, unique; locations of one root stand together, those outside all roots first."""
    return (root or 0).to_bytes(4, "big") + keys.text(path, LOCATION_BYTES_MAX)


def location_hash(root: int | None, path: str) -> bytes:
    """Return the key of a location in an index; other locations may share it."""
    return keys.short_hash(location_key(root, path))


def cas_hash(root: int | None, digest: bytes) -> bytes:
    """Return the key of a content-addressed location in the index of conflicts; no path has NUL."""
    return keys.short_hash((root or 0).to_bytes(4, "big") + b"\0" + digest)


def uri_hash(uri: str) -> bytes:
    """Return the key of a storage URI in an index; other URIs may share it."""
    return keys.short_hash(uri.encode())


def sighting_key(run_id: str, document_id: int) -> bytes:
    """Return the key of a sighting."""
    return name_key(run_id) + b"\0" + id_key(document_id)


def link_key(root: int | None, path: str, document_id: int) -> bytes:
    """Return the key of a link; several documents may own a blob at one place."""
    return location_key(root, path) + id_key(document_id)


def conflict_key(document_id: int, variant: str | None, content: bytes) -> bytes:
    """Return the key of a conflict; `content` is the digest, or what `unhashed_content` gives."""
    return id_key(document_id) + name_key(variant or "") + b"\0" + content


def unhashed_content(size: int, root: int | None, path: str) -> bytes:
    """Return what stands for a content whose digest is not known: 16 bytes, where a digest has 32."""
    return keys.digest(size.to_bytes(8, "big"), location_key(root, path))


def _digest_keys(row: DocumentRow | VariantRow) -> tuple[bytes, ...]:
    return () if row.digest is None else (row.digest,)


def _location_keys(row: DocumentRow | VariantRow) -> tuple[bytes, ...]:
    return () if row.path is None else (location_hash(row.root, row.path),)


def _conflict_location_keys(row: ConflictRow) -> tuple[bytes, ...]:
    if row.path is not None:
        return (location_hash(row.root, row.path),)
    return () if row.digest is None else (cas_hash(row.root, row.digest),)


def _run_keys(row: DocumentRow) -> tuple[bytes, ...]:
    return () if row.run_id is None else (name_key(row.run_id),)


def _content_type_keys(row: DocumentRow) -> tuple[bytes, ...]:
    media = media_type(row.content_type)
    return () if media is None else (name_key(media),)


DOCUMENT_INDEXES: tuple[Index[DocumentRow], ...] = (
    Index(BY_KEY, lambda row: (document_key(row.artifact_id, row.source_url, row.resolver),)),
    Index(BY_SHA256, _digest_keys, "sha256", bytes.fromhex),
    Index(BY_URL, lambda row: (url_key(row.source_url),), "url", url_key),
    Index(BY_RUN, _run_keys, "run", name_key),
    Index(BY_CONTENT_TYPE, _content_type_keys, "type", name_key),
    Index(BY_STORAGE_URI, _location_keys),
    Index(BY_CREATED, lambda row: (time_key(row.created),)),
)
"""Rows (key -> document id) that follow from a document. A search follows the first that its filter may ask, so the
most selective come first.
"""

VARIANT_INDEXES: tuple[Index[VariantRow], ...] = (
    Index(VARIANTS_BY_DOCUMENT, lambda row: (id_key(row.document_id) + name_key(row.name),)),
    Index(VARIANTS_BY_SHA256, _digest_keys),
    Index(VARIANTS_BY_STORAGE_URI, _location_keys),
)
"""Rows (key -> variant id) that follow from a variant."""

CONFLICT_INDEXES: tuple[Index[ConflictRow], ...] = (Index(CONFLICTS_BY_STORAGE_URI, _conflict_location_keys),)
"""Rows (key -> document id) that follow from a conflict."""


def places_named(row: JournalRow) -> set[str]:
    """Return the storage URIs that a journal entry names, under which it is found."""
    return {value for value in row.changes.get("storage_uri", ()) if isinstance(value, str)}


_LEADING: tuple[Index[Any], ...] = DOCUMENT_INDEXES + VARIANT_INDEXES
KEYS_OF = {index.table: index.keys for index in _LEADING}
"""For each table that leads to rows, the keys under which a row belongs there."""


SUMMED = frozenset(
    (
        "documents",
        "resolver",
        "content type",
        "unhashed",
        "variants",
        "conflicts",
        "sightings",
        "duplicate groups",
        "duplicates",
    )
)
"""Counters that follow from the rows that they count; what other counters give out is never given again."""


def totals_of(row: DocumentRow) -> Iterator[tuple[str, str]]:
    """Yield the counters (name, label) in which a document counts."""
    return totals(row.resolver, row.content_type, row.digest is None)


def totals(resolver: str, content_type: str | None, is_unhashed: bool) -> Iterator[tuple[str, str]]:  # noqa: FBT001
    """Yield those of documents that are alike in this."""
    yield "documents", ""
    yield "resolver", resolver
    yield "content type", media_type(content_type) or ""
    if is_unhashed:
        yield "unhashed", ""


def counter_key(name: str, label: str = "") -> bytes:
    """Return the key of a counter."""
    return name.encode() + b"\0" + name_key(label)
