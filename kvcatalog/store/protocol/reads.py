"""What a catalog is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from os import PathLike
from typing import Protocol

from kvcatalog.checks import BlobCheck, Finding, StoredBlob
from kvcatalog.custody import Condemned, Hold, Reference
from kvcatalog.filters import Filter
from kvcatalog.models import (
    CatalogStats,
    Conflict,
    DocumentRecord,
    DuplicateGroup,
    HaveKind,
    JournalEntry,
    Link,
    Page,
    Possession,
    Root,
    Sighting,
    SortOrder,
    VariantRecord,
)
from kvcatalog.store.protocol.snapshot import CatalogSnapshot


class CatalogReads(Protocol):
    """Lookups, lists and figures; none of them changes anything."""

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

    def blob_epoch(self, *, recent: bool = False) -> int:
        """Return a number that grows whenever a blob may have been taken away.

        Whoever stores a blob asks first, and registers with the answer: so no record refers to a blob that went in
        between. Other blobs that went do not matter, unless it was so long ago that the catalog has forgotten which.

        A `recent` one may be up to a second old where asking costs: it is as safe, since a lower number only refuses
        more. Who is refused asks for the one of now.
        """
        ...

    def condemned(self) -> list[Condemned]:
        """Return the announcements that stand: what is being taken away, or was when its collection was killed."""
        ...

    def holds(self) -> list[Hold]:
        """Return what is protected, by id."""
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

    def audit(self, progress: Callable[[int, int], object] | None = None) -> Iterator[Finding]:
        """Yield all that is wrong with what the catalog keeps, of one moment; nothing is changed.

        A snapshot is held until the iterator ends. `progress` is told how many steps of how many are done. Of a damaged
        database file the process may die: `kvcatalog.audit` looks at it from another one.
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

    def roots(self) -> list[Root]:
        """Return the known storage roots, by id."""
        ...

    def snapshot(self) -> AbstractContextManager[CatalogSnapshot]:
        """Return one moment of the catalog to read from end to end, in the thread that entered it.

        Writers go on meanwhile; what they replace is kept until the snapshot ends, so the catalog may grow. Over
        DynamoDB it is not one moment (`CatalogSnapshot.is_one_moment`).
        """
        ...
