"""What a catalog answers without writing, whichever backend keeps its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, get_args

from kvcatalog import values
from kvcatalog.checks import BlobCheck, Finding, StoredBlob
from kvcatalog.clock import now_micros, to_micros
from kvcatalog.custody import Condemned, Hold, Reference
from kvcatalog.errors import (
    CatalogClosedError,
    InvalidValueError,
    NotFoundError,
)
from kvcatalog.filters import Condition, Filter
from kvcatalog.kv.protocol import ReadTransaction
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
from kvcatalog.store import listing, reading, upkeep
from kvcatalog.store.backend import Backend
from kvcatalog.store.roots import RootMap
from kvcatalog.store.tally import BLOB_EPOCH, JOURNAL_SEQUENCE, PRUNED_SEQUENCE, read_counter

if TYPE_CHECKING:
    from datetime import datetime

    from kvcatalog.store.snapshot import RowSnapshot

Item = TypeVar("Item")
Position = TypeVar("Position")

_HAVE_ITEMS = 256
"""Items that one snapshot of `have` answers."""

_EVERYTHING = Filter()

Question = tuple[str, HaveKind, str]
"""An item as text, what it is taken for, and what is looked up."""


class CatalogReader:
    """What a catalog answers; Catalog adds what it changes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._roots = reading.RootCache()
        self._closed = False
        with self._read() as transaction:
            self.identity = reading.read_identity(transaction)

    def get(self, *, artifact_id: str, source_url: str, resolver: str) -> DocumentRecord | None:
        """See CatalogStore."""
        values.required_text("artifact_id", artifact_id)
        values.required_text("source_url", source_url)
        values.required_text("resolver", resolver)
        with self._read() as transaction:
            found = reading.find_document(transaction, artifact_id, source_url, resolver)
            return None if found is None else reading.document_record(*found, self._roots.at(transaction))

    def get_by_id(self, record_id: int) -> DocumentRecord | None:
        """See CatalogStore."""
        values.record_id("record_id", record_id)
        with self._read() as transaction:
            row = reading.document_row(transaction, record_id)
            return None if row is None else reading.document_record(record_id, row, self._roots.at(transaction))

    def get_by_artifact(self, artifact_id: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        values.required_text("artifact_id", artifact_id)
        with self._read() as transaction:
            return listing.documents_of_artifact(transaction, artifact_id, self._roots.at(transaction))

    def get_by_sha256(self, sha256: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        digest = _digest(sha256)
        with self._read() as transaction:
            return listing.documents_of_digest(transaction, digest, self._roots.at(transaction))

    def get_by_url(self, source_url: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        values.required_text("source_url", source_url)
        with self._read() as transaction:
            return listing.documents_of_url(transaction, source_url, self._roots.at(transaction))

    def get_by_storage_uri(self, storage_uri: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        values.required_text("storage_uri", storage_uri)
        with self._read() as transaction:
            return listing.documents_at(transaction, storage_uri, self._roots.at(transaction))

    def references(self, storage_uri: str) -> list[Reference]:
        """See CatalogStore."""
        from kvcatalog.store.references import references  # lookups do without it

        values.required_text("storage_uri", storage_uri)
        with self._read() as transaction:
            return references(transaction, storage_uri, self._roots.at(transaction))

    def blobs_to_check(self, *, read_before: datetime) -> Iterator[str]:
        """See CatalogStore."""
        from kvcatalog.store import checking

        before = to_micros(values.moment("read_before", read_before))
        now = now_micros()
        return self._stepwise(lambda txn, roots, after: checking.queue_step(txn, roots, after, before, now))

    def blobs_at(
        self,
        storage_uris: Iterable[str],
        *,
        looked_before: datetime | None = None,
        read_before: datetime | None = None,
    ) -> list[StoredBlob]:
        """See CatalogStore."""
        from kvcatalog.store import checking

        looked = None if looked_before is None else to_micros(values.moment("looked_before", looked_before))
        read = None if read_before is None else to_micros(values.moment("read_before", read_before))
        uris = [values.required_text("storage_uris", uri) for uri in storage_uris]
        with self._read() as transaction:
            roots = self._roots.at(transaction)
            now = now_micros()
            found = (
                checking.blob_at(transaction, uri, roots, looked_before=looked, read_before=read, now=now)
                for uri in uris
            )
            return [blob for blob in found if blob is not None]

    def last_check(self, storage_uri: str) -> BlobCheck | None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        values.required_text("storage_uri", storage_uri)
        with self._read() as transaction:
            return checking.last_check(transaction, storage_uri, self._roots.at(transaction))

    def referenced(self, storage_uris: Iterable[str]) -> set[str]:
        """See CatalogStore."""
        from kvcatalog.store.references import referenced

        uris = list(storage_uris)
        if not "".join(uris).isascii():
            uris = [values.required_text("storage_uris", uri) for uri in uris]
        with self._read() as transaction:
            return referenced(transaction, uris, self._roots.at(transaction))

    def irregular_uris(self) -> Iterator[str]:
        """See CatalogStore."""
        from kvcatalog.store.references import irregular_uris

        return self._stepwise(irregular_uris)

    def condemned(self) -> list[Condemned]:
        """See CatalogStore."""
        with self._read() as transaction:
            return upkeep.condemned(transaction, self._roots.at(transaction))

    def holds(self) -> list[Hold]:
        """See CatalogStore."""
        with self._read() as transaction:
            return upkeep.holds(transaction)

    def get_by_run(self, run_id: str) -> Iterator[DocumentRecord]:
        """See CatalogStore."""
        return self.iter_records(Filter((Condition("run", "=", values.required_text("run_id", run_id)),)))

    def get_by_content_type(self, content_type: str) -> Iterator[DocumentRecord]:
        """See CatalogStore."""
        media_type = values.media_type(values.required_text("content_type", content_type))
        if media_type is None:
            raise InvalidValueError("content_type", f"{content_type!r} names no media type")
        return self.iter_records(Filter((Condition("type", "=", media_type),)))

    def digests(self, prefix: str, *, limit: int = 10) -> list[str]:
        """See CatalogStore."""
        values.positive("limit", limit)
        with self._read() as transaction:
            return listing.digests(transaction, values.digest_prefix("prefix", prefix), limit)

    def have(self, items: Iterable[str | os.PathLike[str]], *, kind: HaveKind = "any") -> Iterator[Possession]:
        """See CatalogStore."""
        values.choice("kind", kind, get_args(HaveKind))
        waiting = iter(items)
        while batch := [_question(item, kind) for item in islice(waiting, _HAVE_ITEMS)]:
            yield from self._possessions(batch)

    def _possessions(self, questions: Sequence[Question]) -> list[Possession]:
        with self._read() as transaction:
            roots = self._roots.at(transaction)
            return [listing.possession(transaction, *question, roots) for question in questions]

    def search(
        self,
        where: Filter | None = None,
        *,
        sort: SortOrder | None = None,
        reverse: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        """See CatalogStore."""
        from kvcatalog.store import searching  # lookups do without it

        values.positive("limit", limit)
        where = where or _EVERYTHING
        walk = searching.plan(where, sort)
        position = searching.position(after, walk, reverse=reverse)
        found: list[tuple[searching.Position, DocumentRecord]] = []
        while True:
            with self._read() as transaction:
                more, position = searching.step(
                    transaction,
                    walk,
                    where,
                    self._roots.at(transaction),
                    after=position,
                    reverse=reverse,
                    limit=limit + 1 - len(found),
                )
            found += more
            if position is None or len(found) > limit:
                break
        # One record more than asked for tells whether there is a next page.
        last = found[limit - 1][0] if len(found) > limit else None
        records = tuple(record for _, record in found[:limit])
        return Page(records, searching.token(walk, last, reverse=reverse))

    def iter_records(self, where: Filter | None = None) -> Iterator[DocumentRecord]:
        """See CatalogStore."""
        from kvcatalog.store import searching

        where = where or _EVERYTHING
        walk = searching.plan(where, "id")

        def step(
            transaction: ReadTransaction, roots: RootMap, after: searching.Position | None
        ) -> tuple[list[DocumentRecord], searching.Position | None]:
            found, position = searching.step(
                transaction, walk, where, roots, after=after, reverse=False, limit=reading.STEP_ROWS
            )
            return [record for _, record in found], position

        return self._stepwise(step)

    def find_duplicates(self, *, variants: bool = False) -> Iterator[DuplicateGroup]:
        """See CatalogStore."""
        return self._stepwise(lambda txn, _, after: listing.duplicate_groups(txn, after, variants=variants))

    def stats(self) -> CatalogStats:
        """See CatalogStore."""
        file_bytes, used_bytes = self._backend.figures()
        with self._read() as transaction:
            return listing.stats(transaction, file_bytes=file_bytes, used_bytes=used_bytes)

    def blob_epoch(self, *, recent: bool = False) -> int:  # noqa: ARG002 - asking costs nothing here
        """See CatalogStore."""
        with self._read() as transaction:
            return read_counter(transaction, BLOB_EPOCH).count

    def get_variants(self, document_id: int) -> list[VariantRecord]:
        """See CatalogStore."""
        values.record_id("document_id", document_id)
        with self._read() as transaction:
            roots = self._roots.at(transaction)
            return [reading.variant_record(*found, roots) for found in reading.variant_rows(transaction, document_id)]

    def get_variants_by_sha256(self, sha256: str) -> list[VariantRecord]:
        """See CatalogStore."""
        digest = _digest(sha256)
        with self._read() as transaction:
            return listing.variants_of_digest(transaction, digest, self._roots.at(transaction))

    def get_variants_by_storage_uri(self, storage_uri: str) -> list[VariantRecord]:
        """See CatalogStore."""
        values.required_text("storage_uri", storage_uri)
        with self._read() as transaction:
            return listing.variants_at(transaction, storage_uri, self._roots.at(transaction))

    def get_sightings(self, *, run_id: str | None = None, document_id: int | None = None) -> Iterator[Sighting]:
        """See CatalogStore."""
        run_id = values.optional_text("run_id", run_id)
        if document_id is not None:
            values.record_id("document_id", document_id)
        return self._stepwise(
            lambda txn, _, after: listing.sightings(txn, after, run_id=run_id, document_id=document_id)
        )

    def get_links(self, document_id: int) -> list[Link]:
        """See CatalogStore."""
        values.record_id("document_id", document_id)
        with self._read() as transaction:
            roots = self._roots.at(transaction)
            rows = list(reading.link_rows(transaction, document_id))
            return [Link(document_id, roots.uri((row.root, row.path), None)) for row in rows]

    def get_conflicts(self, document_id: int | None = None) -> Iterator[Conflict]:
        """See CatalogStore."""
        if document_id is not None:
            values.record_id("document_id", document_id)
        return self._stepwise(lambda txn, roots, after: listing.conflicts(txn, roots, after, document_id))

    def journal(
        self,
        *,
        after: int = 0,
        document_id: int | None = None,
        storage_uri: str | None = None,
        complete: bool = False,
    ) -> Iterator[JournalEntry]:
        """See CatalogStore."""
        values.size("after", after)
        if document_id is not None:
            values.record_id("document_id", document_id)
        uri = values.optional_text("storage_uri", storage_uri)
        return self._stepwise(
            lambda txn, _, position: listing.journal(
                txn, after if position is None else position, document_id, uri, complete=complete
            )
        )

    def journal_start(self) -> int:
        """See CatalogStore."""
        with self._read() as transaction:
            return read_counter(transaction, PRUNED_SEQUENCE).count + 1

    def journal_end(self) -> int:
        """See CatalogStore."""
        with self._read() as transaction:
            return read_counter(transaction, JOURNAL_SEQUENCE).count

    def audit(self, progress: Callable[[int, int], object] | None = None) -> Iterator[Finding]:
        """See CatalogStore."""
        from kvcatalog.store.auditing import audit  # lookups do without it

        with self._read() as transaction:
            yield from audit(transaction, progress or (lambda _done, _total: None))

    def roots(self) -> list[Root]:
        """See CatalogStore."""
        with self._read() as transaction:
            return reading.read_roots(transaction)

    @contextmanager
    def snapshot(self) -> Iterator[RowSnapshot]:
        """See CatalogStore."""
        from kvcatalog.store.snapshot import RowSnapshot  # lookups do without it

        with self._read() as transaction:
            yield RowSnapshot(transaction, self._roots.at(transaction))

    def _read(self) -> AbstractContextManager[ReadTransaction]:
        if self._closed:
            raise CatalogClosedError(f"{self._backend.place} is closed")
        return self._backend.read()

    def _stepwise(
        self, step: Callable[[ReadTransaction, RootMap, Position | None], tuple[list[Item], Position | None]]
    ) -> Iterator[Item]:
        """Yield what a bounded step gives, each in a transaction of its own, until it says that this was all."""
        position = None
        while True:
            with self._read() as transaction:
                items, position = step(transaction, self._roots.at(transaction), position)
            yield from items
            if position is None:
                return


def _digest(sha256: str) -> bytes:
    return bytes.fromhex(values.digest("sha256", values.required_text("sha256", sha256)) or "")


def _question(item: str | os.PathLike[str], kind: HaveKind) -> Question:
    if not isinstance(item, str | os.PathLike):
        raise InvalidValueError("item", f"must be text or a path, not {type(item).__name__}")
    text = os.fspath(item)
    if kind == "file" or (kind == "any" and not isinstance(item, str)):
        return text, "file", _digest_of_file(text)
    values.required_text("item", text)
    if kind == "digest":
        values.digest("item", text)
    return text, kind, text


def _digest_of_file(path: str) -> str:
    from kvcatalog.digest import sha256_file

    try:
        return sha256_file(path)[0]
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise InvalidValueError("item", f"{path!r} cannot be read: {error}") from error
