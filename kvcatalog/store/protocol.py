"""CatalogStore: what every catalog can do, whichever engine keeps it.

Arguments are checked before anything is stored: InvalidValueError names the field. Lookups for what is not there return
None or nothing; changes to it raise NotFoundError. Every method may raise CatalogUnavailableError, CatalogClosedError
and, where a stored value fails its checksum, CorruptRecordError. A method that writes returns when its change is
durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Literal, Protocol, Self, Unpack

from kvcatalog.filters import Filter
from kvcatalog.models import (
    UNSET,
    BlobCheck,
    BlobMove,
    CatalogIdentity,
    CatalogPosition,
    CatalogStats,
    Condemned,
    Conflict,
    Deletion,
    DocumentRecord,
    DuplicateGroup,
    Finding,
    Hold,
    JournalEntry,
    JournalPruning,
    Link,
    OnConflict,
    Page,
    Possession,
    Reference,
    Registration,
    RegistrationFields,
    RegistrationRequest,
    Relocation,
    RelocationOutcome,
    Root,
    Sighting,
    SightingRequest,
    StoredBlob,
    UnsetType,
    VariantRecord,
    VariantRegistration,
    VariantRegistrationRequest,
    Verification,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kvcatalog.config import StorageConfig
FlatRow = tuple[str | int | None, ...]
"""A row whose columns are those of its table in `schema.sql`; times are text as `clock.to_text` gives it."""

Restorable = Root | DocumentRecord | VariantRecord | Sighting | Conflict | Link | JournalEntry | Hold | BlobCheck
"""What `CatalogStore.restore` takes."""

Restored = Literal["stored", "existing", "id is taken", "key is taken", "no such document"]
"""What became of it; the last three stored nothing."""
GC_LEASE = "gc"
"""What a garbage collection holds while what it has condemned is its to take."""

HaveKind = Literal["any", "url", "artifact", "digest", "file"]
SortOrder = Literal["id", "artifact", "created"]


class CatalogSnapshot(Protocol):
    """One moment of a catalog; rows come in lists, never all at once.

    With a filter only those documents come that it lets through, and only what belongs to them. `after` goes on behind
    an id or sequence number. Raises as the methods of CatalogStore.
    """

    position: CatalogPosition
    """What had been given out at that moment."""

    is_one_moment: bool
    """Whether all rows are of that moment. Otherwise each is as it was when it was read; none has an id or number above
    the position, and some below it may still be on their way, so it is nothing to go on from. What hangs on a document
    comes only if the document came, where `documents` was read first."""

    document_count: int
    """How many documents there are in all."""

    def documents(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """Yield the documents, by id."""
        ...

    def document(self, document_id: int, where: Filter | None = None) -> FlatRow | None:
        """Return one document; None if it is not there or the filter does not let it through."""
        ...

    def variants(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """Yield the variants, by id."""
        ...

    def variants_of(self, document_id: int) -> list[FlatRow]:
        """Return the variants of a document, by name."""
        ...

    def sightings(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """Yield the sightings, by run."""
        ...

    def conflicts(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """Yield the conflicts, by document."""
        ...

    def links(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """Yield the links, by document."""
        ...

    def journal(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """Yield the journal, by sequence number; with a filter, what it says of the documents let through."""
        ...

    def roots(self) -> list[FlatRow]:
        """Return the known storage roots, by id."""
        ...

    def holds(self) -> list[Hold]:
        """Return what is protected, by id."""
        ...

    def checks(self) -> Iterator[list[BlobCheck]]:
        """Yield the last check of each blob, by root and path."""
        ...


class CatalogStore(Protocol):
    """The catalog; a context manager, usable from any thread."""

    identity: CatalogIdentity
    """Which catalog this is."""

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

    def delete_many(self, deletions: Iterable[Deletion], *, batch_size: int = 1000) -> Iterator[DocumentRecord | None]:
        """Take documents away as `delete` does, and yield each, or None where it is not what it was, or not there.

        A batch is one transaction, and durable when its first result appears; nothing is read or done before the
        iterator is advanced.
        """
        ...

    def relocate(self, relocations: Iterable[Relocation], *, reason: str | None = None) -> list[RelocationOutcome]:
        """Let records, variants, conflicts and links refer to further places of their blobs, in one transaction.

        Each stays as it is unless it refers to that place and content; a digest where there was none is added.
        `updated_at` of documents moves on, and the journal tells of each, with the action `relocate`.
        """
        ...

    def get(self, *, artifact_id: str, source_url: str, resolver: str) -> DocumentRecord | None:
        """Return the record under a key."""
        ...

    def get_by_id(self, record_id: int) -> DocumentRecord | None:
        """Return the record with an id."""
        ...

    def get_by_artifact(self, artifact_id: str) -> list[DocumentRecord]:
        """Return all documents of an artifact, in no promised order."""
        ...

    def get_by_sha256(self, sha256: str) -> list[DocumentRecord]:
        """Return all records of a digest, by id."""
        ...

    def get_by_url(self, source_url: str) -> list[DocumentRecord]:
        """Return all records of a source URL, by id."""
        ...

    def get_by_storage_uri(self, storage_uri: str) -> list[DocumentRecord]:
        """Return all records whose blob lies at a storage URI, by id."""
        ...

    def references(self, storage_uri: str) -> list[Reference]:
        """Return every record, variant, conflict and link that refers to a storage URI."""
        ...

    def referenced(self, storage_uris: Iterable[str]) -> set[str]:
        """Return those of some thousand storage URIs to which anything refers, all as of one moment."""
        ...

    def irregular_uris(self) -> Iterator[str]:
        """Yield the storage URIs that anything refers to by below no root, or in a form that is not the usual one.

        Such a form holds a character that URIs have encoded, or what has one for a name. Some come repeatedly.
        """
        ...

    def get_by_run(self, run_id: str) -> Iterator[DocumentRecord]:
        """Yield the records that a run registered, by id; `get_sightings` gives those that it met again."""
        ...

    def get_by_content_type(self, content_type: str) -> Iterator[DocumentRecord]:
        """Yield the records of a media type, by id; parameters and letter case make no difference."""
        ...

    def digests(self, prefix: str, *, limit: int = 10) -> list[str]:
        """Return the digests of records and variants that begin with some hex digits, in order, `limit` at most."""
        ...

    def have(self, items: Iterable[str | PathLike[str]], *, kind: HaveKind = "any") -> Iterator[Possession]:
        """Answer for each item, in order, which records hold it.

        With `any` a path object is a file, 64 hex digits are a digest, and other text is looked up as a URL, then as an
        artifact id. A file is found by the digest of its content.
        """
        ...

    def search(
        self,
        where: Filter | None = None,
        *,
        sort: SortOrder | None = None,
        reverse: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        """Return up to `limit` records that a filter lets through, and where to go on (pass `next` as `after`).

        Without `sort` the order is by artifact where the filter asks for one or for a prefix, else by id.
        """
        ...

    def iter_records(self, where: Filter | None = None) -> Iterator[DocumentRecord]:
        """Yield all records that a filter lets through, by id.

        No transaction is held between records: what is registered meanwhile may or may not be seen.
        """
        ...

    def find_duplicates(self, *, variants: bool = False) -> Iterator[DuplicateGroup]:
        """Yield each digest that more than one record (with `variants`: record or variant) carries, by digest."""
        ...

    def stats(self) -> CatalogStats:
        """Return the catalog's figures, without a scan."""
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

    def blob_epoch(self) -> int:
        """Return a number that grows whenever a blob may have been taken away.

        Whoever stores a blob asks first, and registers with the answer: so no record refers to a blob that went in
        between. Other blobs that went do not matter, unless it was so long ago that the catalog has forgotten which.
        """
        ...

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Hold something for one process of all; CatalogLockedError if another has it. A process that dies lets go."""
        ...

    def condemned(self) -> list[Condemned]:
        """Return the announcements that stand: what is being taken away, or was when its collection was killed."""
        ...

    def condemn(self, storage_uris: Iterable[str], *, plan: str) -> None:
        """Announce that a plan is about to take blobs away: from now on no registration refers to them.

        Whoever calls holds GC_LEASE until `settle_condemned`, and looks again before each blob whether anything refers
        to it by now.
        """
        ...

    def settle_condemned(self, storage_uris: Iterable[str], moves: Iterable[BlobMove] = ()) -> None:
        """End announcements, and write into the journal what was moved, in one step; moves the blob epoch on."""
        ...

    def forget_condemned(self) -> int:
        """Forget announcements that have ended, and return how many; whoever stored before that stores again."""
        ...

    def record_moves(self, moves: Iterable[BlobMove]) -> None:
        """Write into the journal what was moved."""
        ...

    def add_hold(self, where: Filter, *, reason: str) -> Hold:
        """Protect what a filter lets through, now and later; InvalidValueError for one without conditions."""
        ...

    def holds(self) -> list[Hold]:
        """Return what is protected, by id."""
        ...

    def release_hold(self, hold_id: int, *, reason: str | None = None) -> Hold:
        """End a protection and return it; NotFoundError."""
        ...

    def get_variants(self, document_id: int) -> list[VariantRecord]:
        """Return the variants of a document, by name."""
        ...

    def get_variants_by_sha256(self, sha256: str) -> list[VariantRecord]:
        """Return the variants of a digest, by id."""
        ...

    def get_variants_by_storage_uri(self, storage_uri: str) -> list[VariantRecord]:
        """Return the variants whose blob lies at a storage URI, by id."""
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

    def get_sightings(self, *, run_id: str | None = None, document_id: int | None = None) -> Iterator[Sighting]:
        """Yield the sightings of a run, of a document, or (with neither) all."""
        ...

    def get_links(self, document_id: int) -> list[Link]:
        """Return the further places of blobs that a document owns."""
        ...

    def get_conflicts(self, document_id: int | None = None) -> Iterator[Conflict]:
        """Yield the conflicts of a document, or all."""
        ...

    def journal(
        self,
        *,
        after: int = 0,
        document_id: int | None = None,
        storage_uri: str | None = None,
        complete: bool = False,
    ) -> Iterator[JournalEntry]:
        """Yield what was done to stored things, from the first sequence number above `after` on.

        With `document_id` only what was done to that document; with `storage_uri` only what names that place. With
        `complete` JournalPrunedError tells that not all of these entries are there any more.
        """
        ...

    def journal_start(self) -> int:
        """Return the sequence number from which on the journal is complete: 1 unless it was pruned."""
        ...

    def journal_end(self) -> int:
        """Return the last sequence number that the journal gave, 0 if none."""
        ...

    def prune_journal(self, before: datetime, *, dry_run: bool = False, reason: str | None = None) -> JournalPruning:
        """Forget the entries at the journal's beginning that are older than a time, up to the first that is not.

        It goes a step at a time, each written down itself, so it may be interrupted. A dry run only counts.
        """
        ...

    def audit(self, progress: Callable[[int, int], object] | None = None) -> Iterator[Finding]:
        """Yield all that is wrong with what the catalog keeps, of one moment; nothing is changed.

        A snapshot is held until the iterator ends. `progress` is told how many steps of how many are done. Of a damaged
        database file the process may die: `kvcatalog.audit` looks at it from another one.
        """
        ...

    def repair(self, findings: Iterable[Finding], *, reason: str | None = None) -> Iterator[Finding]:
        """Derive anew what audits found to be wrong and can be derived, and yield each finding with what came of it.

        Each is judged again first, so others may write meanwhile, and each repair stands in the journal. What follows
        from a counter that cannot be read comes behind that.
        """
        ...

    def begin_generation(self, *, reason: str | None = None) -> CatalogIdentity:
        """Become another catalog than all others made from the same files, as is right for a restored backup.

        The storage roots stay with the former generation until they are adopted.
        """
        ...

    def verify(self, record_id: int, *, cfg_storage: StorageConfig | None = None) -> Verification:
        """Read the blob of a record, compare it with the record, and remember the result; NotFoundError.

        What cannot be read is told, not raised, and a root that is not there or not ours is `unreachable`, never a
        loss. A record without digest is `not hashed`. `cfg_storage` says how to reach a bucket. A catalog that is open
        for reading only remembers nothing. `kvcatalog.verify.verify_blobs` checks many, and variants.
        """
        ...

    def blobs_to_check(self, *, read_before: datetime) -> Iterator[str]:
        """Yield the storage URIs of the blobs of documents and variants: never checked, then by the oldest check.

        What was read since then is not given, nor, as far as can be told, what others check meanwhile; some may come
        twice, and some to which nothing refers any more.
        """
        ...

    def blobs_at(
        self,
        storage_uris: Iterable[str],
        *,
        looked_before: datetime | None = None,
        read_before: datetime | None = None,
    ) -> list[StoredBlob]:
        """Return what is expected at places, without those that were looked at, or read, since then."""
        ...

    def last_check(self, storage_uri: str) -> BlobCheck | None:
        """Return the last check of the blob at a storage URI, None if there was none."""
        ...

    def record_checks(self, checks: Iterable[BlobCheck], *, gone: Sequence[str] = ()) -> None:
        """Remember checks, each in place of the one before of its blob, and forget those of blobs that are `gone`.

        A check without `read_at` takes no turn in the queue.
        """
        ...

    def begin_quarantine(self, check: BlobCheck) -> None:
        """Announce that corrupt bytes are about to leave their place; the caller holds the lease `gc` meanwhile.

        Until `end_quarantine` no registration refers to the place, and one that made sure of the blob before is made
        to store it again.
        """
        ...

    def end_quarantine(self, check: BlobCheck) -> None:
        """End that with what became of it; the journal tells of a blob that is `missing` and `quarantined` now."""
        ...

    def add_root(self, uri: str, *, uuid: str, cas_prefix: str = "sha256", adopted: bool = False) -> Root:
        """Make a storage root known, or return it; a known UUID under another URI means that the root has moved.

        With `adopted` the journal says from when on the catalog answers for what lies there.
        """
        ...

    def roots(self) -> list[Root]:
        """Return the known storage roots, by id."""
        ...

    def snapshot(self) -> AbstractContextManager[CatalogSnapshot]:
        """Return one moment of the catalog to read from end to end, in the thread that entered it.

        Writers go on meanwhile; what they replace is kept until the snapshot ends, so the catalog may grow. Over
        DynamoDB it is not one moment (`CatalogSnapshot.is_one_moment`).
        """
        ...

    def restore(self, entries: Iterable[Restorable], *, batch_size: int = 10_000) -> Iterator[Restored]:
        """Store what another catalog or an export holds as it is, ids and times included; yield the results in order.

        An entry that is there already, or whose id, key or document stands in the way, changes nothing. Variants,
        sightings, conflicts and links come after their documents, ids and sequence numbers in ascending order. A batch
        is durable when its first result appears; nothing is read or stored before the iterator is advanced. Nothing is
        written to the journal but the entries that are given; it is complete from the first on that an empty one gets.
        InvalidValueError where a value cannot be stored: then nothing of its batch is.
        """
        ...

    def raise_position(self, position: CatalogPosition) -> None:
        """See that ids and sequence numbers up to a position are never given again, as if they had been."""
        ...

    def close(self) -> None:
        """Give everything back; calls that come later raise CatalogClosedError. Closing twice does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...
