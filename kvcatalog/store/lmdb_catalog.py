"""LmdbCatalog: the catalog of one host, in an LMDB environment that its threads and processes share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar, get_args

from kvcatalog import telemetry, values
from kvcatalog.clock import Clock, now_micros, to_micros
from kvcatalog.errors import (
    BlobCondemnedError,
    CatalogClosedError,
    CatalogLockedError,
    InvalidValueError,
    NotFoundError,
    StoragePermissionError,
)
from kvcatalog.filters import Condition, Filter
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.transaction import ReadTransaction, WriteTransaction
from kvcatalog.kv.writer import Writer
from kvcatalog.models import (
    UNSET,
    CatalogStats,
    Conflict,
    DocumentRecord,
    DuplicateGroup,
    JournalEntry,
    OnConflict,
    Page,
    Possession,
    Registration,
    RegistrationRequest,
    Root,
    Sighting,
    UnsetType,
    VariantRecord,
    VariantRegistration,
)
from kvcatalog.schema import COUNTERS, RootRow
from kvcatalog.store import listing, operations, reading, registering, searching
from kvcatalog.store.operations import Scribe
from kvcatalog.store.protocol import HaveKind, SortOrder
from kvcatalog.store.roots import RootMap
from kvcatalog.store.tally import BLOB_EPOCH, read_counter, write_tally

if TYPE_CHECKING:
    from pathlib import Path

Result = TypeVar("Result")
Item = TypeVar("Item")
Position = TypeVar("Position")

_HAVE_ITEMS = 256
"""Items that one snapshot of `have` answers."""

_EVERYTHING = Filter()

GC_LEASE = "gc"
"""What a garbage collection holds while what it has condemned is its to take."""


class LmdbCatalog:
    """A CatalogStore; made by `open_catalog`. Any thread may use it, and a forked child goes on with its own files."""

    def __init__(
        self,
        environment: Environment,
        *,
        read_only: bool = False,
        clock: Clock = now_micros,
        command: str = "library",
    ) -> None:
        self._environment = environment
        self._read_only = read_only
        self._clock = clock
        self._command = command
        self._roots = reading.RootCache()
        self._writer = Writer(environment, COUNTERS, write_tally, telemetry.batch_committed)
        self._closed = False
        with self._read() as transaction:
            self.identity = reading.read_identity(transaction)

    @property
    def path(self) -> Path:
        """The folder in which the catalog lies, absolute."""
        from pathlib import Path

        return Path(self._environment.path)

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
        """See CatalogStore."""
        return self.register(
            artifact_id=artifact_id,
            source_url=source_url,
            resolver=resolver,
            content_type=content_type,
            bytes=bytes,
            sha256=sha256,
            storage_uri=storage_uri,
            run_id=run_id,
        ).record

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
        """See CatalogStore."""
        request = RegistrationRequest(
            artifact_id=artifact_id,
            source_url=source_url,
            resolver=resolver,
            content_type=content_type,
            bytes=bytes,
            sha256=sha256,
            storage_uri=storage_uri,
            run_id=run_id,
            created_at=created_at,
            on_conflict=on_conflict,
            blob_epoch=blob_epoch,
            links=tuple(links),
        )
        if not telemetry.listening():
            return self._register_batch([request])[0]
        start = time.perf_counter()
        registration = self._register_batch([request])[0]
        telemetry.registered(time.perf_counter() - start, resolver=resolver, content_type=content_type)
        return registration

    def register_many(
        self, requests: Iterable[RegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[Registration]:
        """See CatalogStore."""
        values.positive("batch_size", batch_size)
        waiting = iter(requests)
        while batch := list(islice(waiting, batch_size)):
            yield from self._register_batch(batch)

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
        """See CatalogStore."""
        values.record_id("record_id", record_id)
        fields = {
            name: values.optional_text(name, value)
            for name, value in (("content_type", content_type), ("run_id", run_id))
            if value is not UNSET
        }
        content = None
        if bytes is not UNSET and sha256 is not UNSET and storage_uri is not UNSET:
            content = registering.checked_content(bytes, sha256, storage_uri)
        elif not (bytes is UNSET and sha256 is UNSET and storage_uri is UNSET):
            missing = [n for n, v in (("bytes", bytes), ("sha256", sha256), ("storage_uri", storage_uri)) if v is UNSET]
            raise InvalidValueError(missing[0], "bytes, sha256 and storage_uri describe one content: give all three")

        def operation(transaction: WriteTransaction, scribe: Scribe) -> DocumentRecord:
            row = operations.update_document(transaction, record_id, fields, content, scribe)
            return reading.document_record(record_id, row, scribe.roots)

        return self._refer(operation, reason)

    def delete(self, record_id: int, *, reason: str | None = None) -> DocumentRecord:
        """See CatalogStore."""
        values.record_id("record_id", record_id)

        def operation(transaction: WriteTransaction, scribe: Scribe) -> DocumentRecord:
            row = operations.delete_document(transaction, record_id, scribe)
            return reading.document_record(record_id, row, scribe.roots)

        return self._write(operation, reason)

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
            with self._read() as transaction:
                roots = self._roots.at(transaction)
                answers = [listing.possession(transaction, *question, roots) for question in batch]
            yield from answers

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
        where = where or _EVERYTHING
        walk = searching.plan(where, "id")

        def step(
            transaction: ReadTransaction, roots: RootMap, after: searching.Position | None
        ) -> tuple[list[DocumentRecord], searching.Position | None]:
            found, position = searching.step(
                transaction, walk, where, roots, after=after, reverse=False, limit=searching.STEP_ROWS
            )
            return [record for _, record in found], position

        return self._stepwise(step)

    def find_duplicates(self, *, variants: bool = False) -> Iterator[DuplicateGroup]:
        """See CatalogStore."""
        return self._stepwise(lambda txn, _, after: listing.duplicate_groups(txn, after, variants=variants))

    def stats(self) -> CatalogStats:
        """See CatalogStore."""
        file_bytes, used_bytes = self._environment.file_figures()
        with self._read() as transaction:
            return listing.stats(transaction, file_bytes=file_bytes, used_bytes=used_bytes)

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
        """See CatalogStore."""
        request = registering.checked_variant(
            document_id,
            variant,
            registering.checked_content(bytes, sha256, storage_uri),
            content_type=content_type,
            created_at=created_at,
            on_conflict=on_conflict,
            blob_epoch=blob_epoch,
            links=links,
        )

        def operation(transaction: WriteTransaction, scribe: Scribe) -> VariantRegistration:
            variant_id, row, outcome = operations.register_variant(transaction, request, scribe)
            return VariantRegistration(reading.variant_record(variant_id, row, scribe.roots), outcome)

        return self._refer(operation)

    def blob_epoch(self) -> int:
        """See CatalogStore."""
        with self._read() as transaction:
            return read_counter(transaction, BLOB_EPOCH).count

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """See CatalogStore; the kernel keeps it, so it cannot outlive its process or expire under it."""
        descriptor = os.open(os.path.join(self._environment.path, f"{name}.lease"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CatalogLockedError(f"{self._environment.path}: another process is at work: {name}") from error
            yield
        finally:
            os.close(descriptor)

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

    def delete_variant(self, document_id: int, variant: str, *, reason: str | None = None) -> VariantRecord:
        """See CatalogStore."""
        values.record_id("document_id", document_id)
        values.required_text("variant", variant)

        def operation(transaction: WriteTransaction, scribe: Scribe) -> VariantRecord:
            found = operations.delete_variant(transaction, document_id, variant, scribe)
            return reading.variant_record(*found, scribe.roots)

        return self._write(operation, reason)

    def record_sighting(self, document_id: int, run_id: str, *, seen_at: datetime | None = None) -> bool:
        """See CatalogStore."""
        values.record_id("document_id", document_id)
        values.required_text("run_id", run_id)
        seen = self._clock() if seen_at is None else to_micros(values.moment("seen_at", seen_at))
        return self._write(lambda txn, _: operations.record_sighting(txn, document_id, run_id, seen))

    def get_sightings(self, *, run_id: str | None = None, document_id: int | None = None) -> Iterator[Sighting]:
        """See CatalogStore."""
        run_id = values.optional_text("run_id", run_id)
        if document_id is not None:
            values.record_id("document_id", document_id)
        return self._stepwise(
            lambda txn, _, after: listing.sightings(txn, after, run_id=run_id, document_id=document_id)
        )

    def get_conflicts(self, document_id: int | None = None) -> Iterator[Conflict]:
        """See CatalogStore."""
        if document_id is not None:
            values.record_id("document_id", document_id)
        return self._stepwise(lambda txn, roots, after: listing.conflicts(txn, roots, after, document_id))

    def journal(self, *, after: int = 0, document_id: int | None = None) -> Iterator[JournalEntry]:
        """See CatalogStore."""
        values.size("after", after)
        if document_id is not None:
            values.record_id("document_id", document_id)
        return self._stepwise(
            lambda txn, _, position: listing.journal(txn, after if position is None else position, document_id)
        )

    def add_root(self, uri: str, *, uuid: str, cas_prefix: str = "sha256") -> Root:
        """See CatalogStore."""
        row = RootRow(
            values.required_text("uri", uri).removesuffix("/"),
            values.required_text("uuid", uuid),
            values.required_text("cas_prefix", cas_prefix),
        )
        return self._write(lambda txn, scribe: operations.add_root(txn, row, scribe))

    def roots(self) -> list[Root]:
        """See CatalogStore."""
        with self._read() as transaction:
            return reading.read_roots(transaction)

    def close(self) -> None:
        """See CatalogStore."""
        if not self._closed:
            self._writer.close()
            self._environment.close()
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _register_batch(self, requests: list[RegistrationRequest]) -> list[Registration]:
        checked = [registering.checked_document(request) for request in requests]

        def operation(transaction: WriteTransaction, scribe: Scribe) -> list[Registration]:
            results = []
            for request in checked:
                document_id, row, outcome = operations.register_document(transaction, request, scribe)
                results.append(Registration(reading.document_record(document_id, row, scribe.roots), outcome))
            return results

        return self._refer(operation)

    def _refer(self, operation: Callable[[WriteTransaction, Scribe], Result], reason: str | None = None) -> Result:
        """Write what refers to blobs; announcements of a garbage collection that is no more do not stand in the way."""
        try:
            return self._write(operation, reason)
        except BlobCondemnedError:
            with suppress(CatalogLockedError), self.lease(GC_LEASE):
                # Nobody knows how far it came, so the blob has to be looked for all the same.
                self._write(operations.clear_stale)
            raise

    def _read(self) -> ReadTransaction:
        if self._closed:
            raise CatalogClosedError(f"{self._environment.path} is closed")
        return self._environment.read()

    def _write(self, operation: Callable[[WriteTransaction, Scribe], Result], reason: str | None = None) -> Result:
        """Put an operation through the writing door, with the time of the call and the roots of its transaction."""
        if self._read_only:
            raise StoragePermissionError(f"{self._environment.path} was opened for reading only")
        now, why = self._clock(), values.optional_text("reason", reason)
        return self._writer.submit(lambda txn: operation(txn, Scribe(self._roots.at(txn), now, self._command, why)))

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


def _question(item: str | os.PathLike[str], kind: HaveKind) -> tuple[str, HaveKind, str]:
    """Return an item as text, what it is taken for, and what is looked up."""
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
