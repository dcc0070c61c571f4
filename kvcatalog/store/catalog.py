"""What is registered and changed in a catalog, whichever backend keeps its rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, Unpack

from kvcatalog import telemetry, values
from kvcatalog.checks import Verification
from kvcatalog.clock import to_micros
from kvcatalog.errors import (
    CatalogError,
    InvalidValueError,
)
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import (
    UNSET,
    CatalogPosition,
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
from kvcatalog.store import operations, reading, registering
from kvcatalog.store.catalog_upkeep import CatalogUpkeep
from kvcatalog.store.operations import register_documents
from kvcatalog.store.scribe import Scribe
from kvcatalog.store.tally import DOCUMENT_ID, HOLD_ID, JOURNAL_SEQUENCE, VARIANT_ID, Tally

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kvcatalog.config import StorageConfig
    from kvcatalog.store.aio import AsyncCatalog
    from kvcatalog.store.protocol import Restorable, Restored

Result = TypeVar("Result")


class Catalog(CatalogUpkeep):
    """A CatalogStore over any backend; LmdbCatalog and DynamoCatalog bring theirs."""

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
        operation = self._registering(
            RegistrationRequest(
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
        )
        if not telemetry.listening():
            return self._refer(operation)
        start = time.perf_counter()
        registration = self._refer(operation)
        telemetry.registered(time.perf_counter() - start, resolver=resolver, content_type=content_type)
        return registration

    def register_async(self, **fields: Unpack[RegistrationFields]) -> Future[Registration]:
        """See CatalogStore."""
        future = self._backend.post(self._registering(RegistrationRequest(**fields)), self._clear_stale)
        if telemetry.listening():
            start = time.perf_counter()

            def measure(done: Future[Registration]) -> None:
                if not done.cancelled() and done.exception() is None:
                    telemetry.registered(
                        time.perf_counter() - start,
                        resolver=fields["resolver"],
                        content_type=fields.get("content_type"),
                    )

            future.add_done_callback(measure)
        return future

    @property
    def aio(self) -> AsyncCatalog:
        """The catalog for asyncio: the same methods, to be awaited."""
        from kvcatalog.store.aio import AsyncCatalog

        return AsyncCatalog(self, self._backend)

    def register_many(
        self, requests: Iterable[RegistrationRequest], *, batch_size: int = 20_000
    ) -> Iterator[Registration]:
        """See CatalogStore."""
        values.positive("batch_size", batch_size)
        waiting = iter(requests)
        while batch := list(islice(waiting, batch_size)):
            with telemetry.span("kvcatalog.register_many", records=len(batch)):
                checked = [registering.checked_document(request) for request in batch]
                results = self._refer_all(checked, operations.register_all, rows=10, key=_key_of, numbers=DOCUMENT_ID)
            yield from results

    def restore(self, entries: Iterable[Restorable], *, batch_size: int = 10_000) -> Iterator[Restored]:
        """See CatalogStore."""
        from kvcatalog.store.restoring import restore  # nothing but imports needs it

        values.positive("batch_size", batch_size)
        waiting = iter(entries)
        while batch := list(islice(waiting, batch_size)):
            yield from self._refer_all(batch, restore, rows=12)

    def raise_position(self, position: CatalogPosition) -> None:
        """See CatalogStore."""
        last = {
            JOURNAL_SEQUENCE: values.size("journal", position.journal),
            DOCUMENT_ID: values.size("document", position.document),
            VARIANT_ID: values.size("variant", position.variant),
            HOLD_ID: values.size("hold", position.hold),
        }
        for name, number in last.items():
            if number > values.ID_MAX:
                raise InvalidValueError(name, f"must be at most {values.ID_MAX}")

        def operation(transaction: WriteTransaction, _: Scribe) -> None:
            tally = Tally.of(transaction)
            if any(tally.last(name) < number for name, number in last.items()):
                for name, number in last.items():
                    tally.raise_to(name, number)
                tally.write()

        self._write(operation)

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

        return self._refer(self._inside(operation, reason))

    def delete(self, record_id: int, *, reason: str | None = None) -> DocumentRecord:
        """See CatalogStore."""
        values.record_id("record_id", record_id)
        self._strip(record_id, reason)

        def operation(transaction: WriteTransaction, scribe: Scribe) -> DocumentRecord:
            row = operations.delete_document(transaction, record_id, scribe)
            return reading.document_record(record_id, row, scribe.roots)

        return self._write(operation, reason)

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

        return self._refer(self._inside(operation))

    def register_variants(
        self, requests: Iterable[VariantRegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[VariantRegistration]:
        """See CatalogStore."""
        values.positive("batch_size", batch_size)
        waiting = iter(requests)
        while batch := list(islice(waiting, batch_size)):
            checked = [registering.checked_variant_request(request) for request in batch]
            yield from self._refer_all(
                checked, _register_variants, rows=10, key=lambda request: request.document_id, numbers=VARIANT_ID
            )

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

    def record_sightings(self, sightings: Iterable[SightingRequest], *, batch_size: int = 10_000) -> Iterator[bool]:
        """See CatalogStore."""
        values.positive("batch_size", batch_size)
        waiting = iter(sightings)
        while batch := list(islice(waiting, batch_size)):
            checked = [_checked_sighting(sighting) for sighting in batch]
            yield from self._write_all(checked, _record_sightings, rows=4, key=lambda sighting: sighting[0])

    def verify(self, record_id: int, *, cfg_storage: StorageConfig | None = None) -> Verification:
        """See CatalogStore."""
        from kvcatalog.store.verifying import verify_record

        return verify_record(self, record_id, cfg_storage, self._clock, remembers=not self._read_only)

    def _registering(self, request: RegistrationRequest) -> _Registering:
        self._check_writable()
        return _Registering(registering.checked_document(request), self._roots, self._clock(), self._command)


class _Registering:
    """Registers one document, or with others many at once; all in one transaction have the time of the latest."""

    __slots__ = ("command", "now", "request", "roots")

    def __init__(self, request: registering.DocumentRequest, roots: reading.RootCache, now: int, command: str) -> None:
        self.request = request
        self.roots = roots
        self.now = now
        self.command = command

    def __call__(self, transaction: WriteTransaction) -> Registration:
        (result,) = self.together(transaction, [self])
        if isinstance(result, CatalogError):
            raise result
        return result

    def together(
        self, transaction: WriteTransaction, operations: list[_Registering]
    ) -> list[Registration | CatalogError]:
        now = max([operation.now for operation in operations])
        scribe = Scribe(self.roots.at(transaction), now, self.command)
        return register_documents(transaction, [operation.request for operation in operations], scribe)


def _key_of(request: registering.DocumentRequest) -> bytes:
    return request.key


def _register_variants(
    transaction: WriteTransaction, requests: Sequence[registering.VariantRequest], scribe: Scribe
) -> list[VariantRegistration]:
    return [
        VariantRegistration(reading.variant_record(variant_id, row, scribe.roots), outcome)
        for variant_id, row, outcome in operations.register_variants(transaction, requests, scribe)
    ]


_Sighting = tuple[int, str, int | None]


def _checked_sighting(sighting: SightingRequest) -> _Sighting:
    return (
        values.record_id("document_id", sighting.document_id),
        values.required_text("run_id", sighting.run_id),
        None if sighting.seen_at is None else to_micros(values.moment("seen_at", sighting.seen_at)),
    )


def _record_sightings(transaction: WriteTransaction, sightings: Sequence[_Sighting], scribe: Scribe) -> list[bool]:
    return [
        operations.record_sighting(transaction, document_id, run_id, scribe.now if seen is None else seen)
        for document_id, run_id, seen in sightings
    ]
