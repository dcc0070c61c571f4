"""What an import would do, found out on a scratch catalog that knows what the real one knows."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kvcatalog.models import (
    DocumentRecord,
    Registration,
    RegistrationRequest,
    SightingRequest,
    VariantRecord,
    VariantRegistration,
    VariantRegistrationRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvcatalog.migrate.batch import Target
    from kvcatalog.store.protocol import CatalogStore


@contextmanager
def rehearsal(catalog: CatalogStore) -> Iterator[Target]:
    """Give a target that answers as `catalog` would, which is only read; what it keeps goes to a temporary folder.

    Rules of registration stay in the one place where they are, and memory stays bounded however large the manifest is.
    """
    from kvcatalog.store import open_catalog

    with (
        TemporaryDirectory(prefix="kvcatalog-dry-run-") as folder,
        open_catalog(Path(folder) / "scratch.lmdb") as scratch,
    ):
        yield _Rehearsal(catalog, scratch)


class _Rehearsal:
    """Before an artifact is touched for the first time, all that the real catalog has of it is copied."""

    def __init__(self, catalog: CatalogStore, scratch: CatalogStore) -> None:
        self._catalog = catalog
        self._scratch = scratch

    def register_many(
        self, requests: Iterable[RegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[Registration]:
        waiting = iter(requests)
        while batch := list(islice(waiting, batch_size)):
            self._copy(dict.fromkeys(request.artifact_id for request in batch))
            yield from self._scratch.register_many(batch, batch_size=batch_size)

    def get(self, *, artifact_id: str, source_url: str, resolver: str) -> DocumentRecord | None:
        self._copy([artifact_id])
        return self._scratch.get(artifact_id=artifact_id, source_url=source_url, resolver=resolver)

    def get_by_artifact(self, artifact_id: str) -> list[DocumentRecord]:
        self._copy([artifact_id])
        return self._scratch.get_by_artifact(artifact_id)

    def get_variants(self, document_id: int) -> list[VariantRecord]:
        return self._scratch.get_variants(document_id)

    def register_variants(
        self, requests: Iterable[VariantRegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[VariantRegistration]:
        return self._scratch.register_variants(requests, batch_size=batch_size)

    def record_sightings(self, sightings: Iterable[SightingRequest], *, batch_size: int = 10_000) -> Iterator[bool]:
        return self._scratch.record_sightings(sightings, batch_size=batch_size)

    def _copy(self, artifact_ids: Iterable[str]) -> None:
        """Copy the documents of artifacts that the scratch catalog does not know, oldest first, and their variants.

        Ids differ, and their order within an artifact, on which matching by path relies, stays.
        """
        unknown = (artifact_id for artifact_id in artifact_ids if not self._scratch.get_by_artifact(artifact_id))
        records = [
            record
            for artifact_id in unknown
            for record in sorted(self._catalog.get_by_artifact(artifact_id), key=lambda record: record.id)
        ]
        copies = self._scratch.register_many(map(RegistrationRequest.of, records))
        variants = (
            VariantRegistrationRequest(
                document_id=copy.record.id,
                variant=variant.variant,
                storage_uri=variant.storage_uri,
                bytes=variant.bytes,
                content_type=variant.content_type,
                sha256=variant.sha256,
                created_at=variant.created_at,
            )
            for record, copy in zip(records, copies, strict=True)
            for variant in self._catalog.get_variants(record.id)
        )
        deque(self._scratch.register_variants(variants), maxlen=0)
