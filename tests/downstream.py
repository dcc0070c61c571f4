"""A program of somebody else that collects papers: it uses what `import kvcatalog` offers and nothing else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import kvcatalog
from kvcatalog import (
    CatalogStore,
    DocumentRecord,
    DownloadOutcome,
    Filter,
    HashingWriter,
    NotFoundError,
    Registration,
    RegistrationRequest,
    StorageConfig,
)


class Collector:
    """Keeps papers in a catalog that it is given, of whatever kind."""

    def __init__(self, catalog: CatalogStore, storage: StorageConfig) -> None:
        self._catalog = catalog
        self._storage = storage

    def keep(self, artifact_id: str, url: str, body: bytes, folder: Path) -> DocumentRecord:
        """Store a paper's bytes unless they are there."""
        known = self._catalog.get(artifact_id=artifact_id, source_url=url, resolver="crawl")
        if known is not None:
            return known
        with HashingWriter(folder / "paper.part") as file:
            file.write(body)
        outcome: DownloadOutcome = kvcatalog.finalize_candidate_download(
            file,
            artifact_id=artifact_id,
            source_url=url,
            resolver="crawl",
            content_type="application/pdf",
            run_id="first",
            catalog=self._catalog,
            cfg_storage=self._storage,
        )
        if not outcome.ok or not isinstance(outcome.record, DocumentRecord):
            raise RuntimeError(outcome.reason or "not stored")
        return outcome.record

    def mention(self, urls: list[str]) -> Iterator[str]:
        """Register what lies elsewhere, and tell what became of each."""
        requests = [
            RegistrationRequest(artifact_id=url, source_url=url, resolver="elsewhere", bytes=1, storage_uri=url)
            for url in urls
        ]
        for registration in self._catalog.register_many(requests):
            yield f"{registration.record.artifact_id}: {registration.outcome}"

    async def mention_later(self, url: str) -> Registration:
        """Do so in a program of coroutines."""
        return await self._catalog.aio.register(
            artifact_id=url, source_url=url, resolver="elsewhere", bytes=1, storage_uri=url
        )

    def pages(self, where: Filter) -> Iterator[DocumentRecord]:
        """Yield what passes a filter, page by page."""
        after: str | None = None
        while True:
            page = self._catalog.search(where, after=after, limit=2)
            yield from page.records
            after = page.next
            if after is None:
                return

    def forget(self, record_id: int) -> bool:
        """Tell whether there was such a record."""
        try:
            self._catalog.delete(record_id, reason="withdrawn")
        except NotFoundError as error:
            print(error, error.advice, sep=": ", file=sys.stderr)
            return False
        return True


def main(folder: Path) -> None:
    """Collect, look, check, hand on."""
    storage = StorageConfig(root_dir=str(folder / "docs"), layout="cas")
    with kvcatalog.open_catalog(folder / "catalog") as catalog:
        collector = Collector(catalog, storage)
        record = collector.keep("doi:10.1/a", "https://example.org/a.pdf", b"%PDF-1.7", folder)
        print(record.id, record.sha256, record.created_at.isoformat())
        print(*collector.mention(["s3://bucket/b", "s3://bucket/c"]), sep="\n")
        print(asyncio.run(collector.mention_later("s3://bucket/d")).record.id)
        future = catalog.register_async(
            artifact_id="e", source_url="e", resolver="elsewhere", bytes=1, storage_uri="s3://bucket/e"
        )
        print(future.result().outcome)
        print([each.artifact_id for each in collector.pages(kvcatalog.parse_filter(["resolver=elsewhere"]))])
        print(collector.forget(2), collector.forget(99))
        for verification in kvcatalog.verify_blobs(catalog, catalog.get_by_run("first"), cfg_storage=storage):
            print(verification.storage_uri, verification.result)
        print([entry.action for entry in catalog.journal()], catalog.stats().documents)
        print(kvcatalog.export_sql(catalog, folder / "lines", format="jsonl").documents)
        with kvcatalog.open_catalog(folder / "imported") as other:
            print(kvcatalog.import_sql(folder / "lines", other).registered)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
