"""The catalog for asyncio.

Registrations wait for their turn without a thread of their own; whatever else may touch the disk runs in one of the
threads of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Unpack

from kvcatalog.filters import Filter
from kvcatalog.models import (
    CatalogStats,
    DocumentRecord,
    HaveKind,
    OnConflict,
    Page,
    Possession,
    Registration,
    RegistrationFields,
    SortOrder,
    VariantRecord,
    VariantRegistration,
)

if TYPE_CHECKING:
    from kvcatalog.store.backend import Backend
    from kvcatalog.store.protocol import CatalogStore


class AsyncCatalog:
    """What a coroutine asks of a catalog; each method is that of CatalogStore with the same name, to be awaited.

    A coroutine that is cancelled while its registration has not begun stores nothing; once it has, it is stored.
    """

    def __init__(self, catalog: CatalogStore, backend: Backend) -> None:
        self._catalog = catalog
        self._backend = backend

    async def register(self, **fields: Unpack[RegistrationFields]) -> Registration:
        """See CatalogStore; where very many calls wait, a thread helps to work them off, and not the loop."""
        while self._backend.is_crowded:
            await asyncio.to_thread(self._backend.make_room)
        return await asyncio.wrap_future(self._catalog.register_async(**fields))

    async def register_or_get(self, **fields: Unpack[RegistrationFields]) -> DocumentRecord:
        """See CatalogStore."""
        return (await self.register(**fields)).record

    async def register_variant(
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
        return await asyncio.to_thread(
            self._catalog.register_variant,
            document_id=document_id,
            variant=variant,
            storage_uri=storage_uri,
            bytes=bytes,
            content_type=content_type,
            sha256=sha256,
            created_at=created_at,
            on_conflict=on_conflict,
            blob_epoch=blob_epoch,
            links=links,
        )

    async def get(self, *, artifact_id: str, source_url: str, resolver: str) -> DocumentRecord | None:
        """See CatalogStore."""
        return await asyncio.to_thread(
            self._catalog.get, artifact_id=artifact_id, source_url=source_url, resolver=resolver
        )

    async def get_by_id(self, record_id: int) -> DocumentRecord | None:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.get_by_id, record_id)

    async def get_by_artifact(self, artifact_id: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.get_by_artifact, artifact_id)

    async def get_by_sha256(self, sha256: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.get_by_sha256, sha256)

    async def get_by_url(self, source_url: str) -> list[DocumentRecord]:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.get_by_url, source_url)

    async def get_variants(self, document_id: int) -> list[VariantRecord]:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.get_variants, document_id)

    async def have(self, items: Sequence[str | PathLike[str]], *, kind: HaveKind = "any") -> list[Possession]:
        """See CatalogStore."""
        return await asyncio.to_thread(lambda: list(self._catalog.have(items, kind=kind)))

    async def search(
        self,
        where: Filter | None = None,
        *,
        sort: SortOrder | None = None,
        reverse: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        """See CatalogStore."""
        return await asyncio.to_thread(
            self._catalog.search, where, sort=sort, reverse=reverse, limit=limit, after=after
        )

    async def delete(self, record_id: int, *, reason: str | None = None) -> DocumentRecord:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.delete, record_id, reason=reason)

    async def record_sighting(self, document_id: int, run_id: str) -> bool:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.record_sighting, document_id, run_id)

    async def stats(self) -> CatalogStats:
        """See CatalogStore."""
        return await asyncio.to_thread(self._catalog.stats)
