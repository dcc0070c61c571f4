"""import_sql: rows of SQL become records, with their ids where that can be, registered anew where not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, TypedDict, TypeVar

from kvcatalog import sql_rows, telemetry
from kvcatalog.errors import InvalidValueError, SqlSourceError
from kvcatalog.models import (
    CatalogPosition,
    Conflict,
    DocumentRecord,
    Link,
    RegistrationRequest,
    Sighting,
    VariantRecord,
)
from kvcatalog.sql_import import sources
from kvcatalog.sql_import.report import SqlImportReport, Tally
from kvcatalog.values import ID_MAX

if TYPE_CHECKING:
    from kvcatalog.sql_import.sources import Source
    from kvcatalog.store.protocol import CatalogStore, Restorable

Record = TypeVar("Record")
Belonging = TypeVar("Belonging", VariantRecord, Sighting, Conflict, Link)

BATCH_ROWS = 10_000
_THREADS = 16
"""Variants and the like are written one by one; what several threads bring is committed together."""


class Content(TypedDict):
    """What describes one content."""

    bytes: int
    sha256: str | None
    storage_uri: str


def import_sql(
    source: str | os.PathLike[str],
    catalog: CatalogStore,
    *,
    progress: Callable[[int], object] | None = None,
) -> SqlImportReport:
    """Import a SQLite database with the tables `documents` and `variants`, or what `export_sql` wrote, and report.

    `source` is the path of a database file (it is only read, and nothing appears beside it), of a dump for `sqlite3` or
    `psql` (those of `sqlite3 .dump` and `pg_dump` too), of JSON lines, or of a CSV of documents. Where the catalog is
    empty, or its last document is the source's own, rows come in as they are: ids, times, sightings, conflicts, links,
    roots, the journal, and which ids were given last. Otherwise documents are registered, with new ids, and what
    belongs to them with them; then the time of their last change is not kept. Either way the import is idempotent: run
    again after it was killed it completes. Every row that cannot be imported is counted with its reason. `progress` is
    called with the number of documents so far. SqlSourceError if the source cannot be read, and what the catalog
    raises.
    """
    path, tally = os.fspath(source), Tally()
    with telemetry.span("kvcatalog.import_sql"), sources.opened(path, tally) as opened:
        keeps = _continues(catalog, opened)
        if keeps:
            _Restoring(catalog, opened, tally, progress).run()
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                _Registering(catalog, opened, tally, progress, pool).run()
        return tally.report(path, opened.format, kept_ids=keeps)


def _continues(catalog: CatalogStore, source: Source) -> bool:
    """Tell whether ids can be kept: every document that is there, if any, is the source's with that id."""
    theirs = source.rows("documents")
    with catalog.snapshot() as snapshot:
        if not snapshot.document_count:
            return not (snapshot.position.document or snapshot.position.variant)
        # Ids ascend on both sides; what the source has and the catalog has not was refused, or is to come.
        documents = chain.from_iterable(snapshot.documents())
        return all(any(row[:4] == document[:4] for row in theirs) for document in documents)


def _try(make: Callable[[sql_rows.Row], Record], row: sql_rows.Row) -> Record | InvalidValueError:
    try:
        return make(row)
    except InvalidValueError as error:
        return error


class _Import:
    """What both ways have in common."""

    def __init__(
        self, catalog: CatalogStore, source: Source, tally: Tally, progress: Callable[[int], object] | None
    ) -> None:
        self._catalog = catalog
        self._source = source
        self._tally = tally
        self._progress = progress

    def _records(
        self, table: str, make: Callable[[sql_rows.Row], Record], found: Iterable[sql_rows.Row]
    ) -> Iterator[tuple[sql_rows.Row, Record]]:
        """Yield rows as records; those that are none are counted."""
        for row in found:
            record = _try(make, row)
            if isinstance(record, InvalidValueError):
                self._tally.refuse(table, f"invalid-{record.field.replace('_', '-')}", row[0])
            else:
                yield row, record

    def _followed(self, count: int) -> None:
        self._tally.figures["documents"] += count
        if self._progress:
            self._progress(self._tally.figures["documents"])


class _Restoring(_Import):
    """Takes rows in as they are."""

    def run(self) -> None:
        """Import everything, what refers to a document after the documents."""
        self._restore("roots", sql_rows.root, "roots")
        self._restore("documents", sql_rows.document, "registered")
        self._restore("variants", sql_rows.variant, "variants")
        self._restore("sightings", sql_rows.sighting, "sightings")
        self._restore("conflicts", sql_rows.conflict, "kept_conflicts")
        self._restore("links", sql_rows.link, "links")
        if self._journal_continues():
            self._restore("journal", sql_rows.entry, "journal")
        else:
            self._tally.figures["left_out"] += sum(1 for _ in self._source.rows("journal"))
        last = self._source.sequences()
        numbers = [last.get(name, 0) for name in ("journal", "documents", "variants")]
        if not all(0 <= number <= ID_MAX for number in numbers):
            raise SqlSourceError("its sequences are beyond what ids can be")
        self._catalog.raise_position(CatalogPosition(*numbers))

    def _restore(self, table: str, make: Callable[[sql_rows.Row], Restorable], figure: str) -> None:
        records = self._records(table, make, self._source.rows(table))
        while chunk := list(islice(records, BATCH_ROWS)):
            done = self._catalog.restore([record for _, record in chunk], batch_size=BATCH_ROWS)
            for (row, _), outcome in zip(chunk, done, strict=True):
                if outcome == "stored" or (outcome == "existing" and table != "documents"):
                    self._tally.figures[figure] += 1
                elif outcome == "existing":
                    self._tally.figures["existing"] += 1
                elif table == "roots":
                    self._tally.figures["left_out"] += 1
                else:
                    self._tally.refuse(table, outcome.replace(" ", "-"), row[0])
                if table == "documents" and outcome in {"stored", "existing"}:
                    self._tally.figures["documents"] += 1
            if table == "documents":
                self._followed(0)

    def _journal_continues(self) -> bool:
        with self._catalog.snapshot() as snapshot:
            last = snapshot.position.journal
        if not last:
            return True
        kept = next(self._catalog.journal(after=last - 1), None)
        found = [_try(sql_rows.entry, row) for row in self._source.rows("journal", "WHERE sequence=?", (last,))]
        return kept is not None and kept in found


class _Registering(_Import):
    """Registers rows; what belongs to a document goes with its batch, so that new ids are needed no longer."""

    def __init__(
        self,
        catalog: CatalogStore,
        source: Source,
        tally: Tally,
        progress: Callable[[int], object] | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        super().__init__(catalog, source, tally, progress)
        self._pool = pool

    def run(self) -> None:
        """Import everything but the journal and the roots."""
        records = self._records("documents", sql_rows.document, self._source.rows("documents"))
        after = -1
        while chunk := [record for _, record in islice(records, BATCH_ROWS)]:
            self._take(chunk, after)
            after = chunk[-1].id
        # What belongs to documents up to the last is taken; the rest belongs to none.
        condition = "WHERE document_id IS NULL OR document_id < 0 OR document_id > ?"
        for table in ("variants", "sightings", "conflicts", "links"):
            for row in self._source.rows(table, condition, (max(after, -1),)):
                self._tally.refuse(table, "no-such-document", row[0])
        for table in ("journal", "roots"):
            self._tally.figures["left_out"] += sum(1 for _ in self._source.rows(table))

    def _take(self, documents: list[DocumentRecord], after: int) -> None:
        links = self._belonging("links", sql_rows.link, documents, after)
        places: dict[int, list[str]] = {}
        for link in links:
            places.setdefault(link.document_id, []).append(link.storage_uri)
        requests = [RegistrationRequest.of(record, tuple(places.get(record.id, ()))) for record in documents]
        new_ids: dict[int, DocumentRecord] = {}
        for record, result in zip(documents, self._catalog.register_many(requests, batch_size=BATCH_ROWS), strict=True):
            new_ids[record.id] = result.record
            figure = "conflicts" if result.outcome == "conflict" else result.outcome
            self._tally.figures[figure] += 1
        self._tally.figures["links"] += len(links)
        self._each("variants", sql_rows.variant, documents, after, lambda each: self._variant(each, new_ids))
        self._each("sightings", sql_rows.sighting, documents, after, lambda each: self._sighting(each, new_ids))
        self._each("conflicts", sql_rows.conflict, documents, after, lambda each: self._conflict(each, new_ids))
        self._followed(len(documents))

    def _each(
        self,
        table: str,
        make: Callable[[sql_rows.Row], Belonging],
        documents: list[DocumentRecord],
        after: int,
        write: Callable[[Belonging], object],
    ) -> None:
        found = self._belonging(table, make, documents, after)
        for _ in self._pool.map(write, found):
            self._tally.figures["kept_conflicts" if table == "conflicts" else table] += 1

    def _belonging(
        self, table: str, make: Callable[[sql_rows.Row], Belonging], documents: list[DocumentRecord], after: int
    ) -> list[Belonging]:
        """Return what a table has for a batch of documents, which are all from behind an id up to the last."""
        there = {record.id for record in documents}
        condition = "WHERE document_id > ? AND document_id <= ?"
        found = []
        rows_of_batch = self._source.rows(table, condition, (after, documents[-1].id))
        for row, record in self._records(table, make, rows_of_batch):
            if record.document_id in there:
                found.append(record)
            else:
                self._tally.refuse(table, "no-such-document", row[0])
        return found

    def _variant(self, variant: VariantRecord, documents: dict[int, DocumentRecord]) -> None:
        self._catalog.register_variant(
            document_id=documents[variant.document_id].id,
            variant=variant.variant,
            storage_uri=variant.storage_uri,
            bytes=variant.bytes,
            content_type=variant.content_type,
            sha256=variant.sha256,
            created_at=variant.created_at,
        )

    def _sighting(self, sighting: Sighting, documents: dict[int, DocumentRecord]) -> None:
        document_id = documents[sighting.document_id].id
        self._catalog.record_sighting(document_id, sighting.run_id, seen_at=sighting.seen_at)

    def _conflict(self, conflict: Conflict, documents: dict[int, DocumentRecord]) -> None:
        """Meet other bytes again as they were met first and last."""
        document = documents[conflict.document_id]
        content: Content = {
            "bytes": conflict.bytes,
            "sha256": conflict.sha256,
            "storage_uri": conflict.storage_uri,
        }
        for seen in sorted({conflict.first_seen_at, conflict.last_seen_at}):
            if conflict.variant is not None:
                self._catalog.register_variant(
                    document_id=document.id, variant=conflict.variant, created_at=seen, **content
                )
            else:
                self._catalog.register(
                    artifact_id=document.artifact_id,
                    source_url=document.source_url,
                    resolver=document.resolver,
                    run_id=conflict.run_id,
                    created_at=seen,
                    **content,
                )
