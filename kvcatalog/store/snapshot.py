"""One moment of a catalog, read from end to end in one transaction, as flat rows of text and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

import msgspec

from kvcatalog.checks import BlobCheck
from kvcatalog.clock import micros_to_text
from kvcatalog.custody import Hold
from kvcatalog.filters import Filter
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.models import CatalogPosition
from kvcatalog.schema import (
    DOCUMENT_CODEC,
    DOCUMENTS,
    JOURNAL,
    JOURNAL_CODEC,
    LINK_CODEC,
    LINKS,
    LINKS_BY_DOCUMENT,
    VARIANT_CODEC,
    VARIANTS,
    ConflictRow,
    DocumentRow,
    VariantRow,
    id_key,
    id_of,
)
from kvcatalog.store import checking, listing, reading, upkeep
from kvcatalog.store.protocol import FlatRow
from kvcatalog.store.roots import RootMap
from kvcatalog.store.tally import DOCUMENT_ID, HOLD_ID, JOURNAL_SEQUENCE, VARIANT_ID, read_counter

ROWS = 500
"""Rows that are handed out together."""

Item = TypeVar("Item")

_json = msgspec.json.Encoder().encode


class RowSnapshot:
    """See CatalogSnapshot; LMDB's transaction sets the locks again as it goes along."""

    def __init__(self, transaction: ReadTransaction, roots: RootMap) -> None:
        self.is_one_moment = transaction.is_snapshot
        self._transaction = transaction
        self._roots = roots
        self._cas_starts: dict[int | None, str] = {number: roots.cas_start(number) for number in roots.roots}
        self.position = CatalogPosition(
            *(read_counter(transaction, name).count for name in (JOURNAL_SEQUENCE, DOCUMENT_ID, VARIANT_ID, HOLD_ID))
        )
        self.document_count = read_counter(transaction, "documents").count
        self._seen: bytearray | None = None
        """A bit for each id that `documents` met, where others may come or go meanwhile."""
        self._walked: list[list[int]] = []
        """Behind which id each walk began, and how far it has come."""

    def documents(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """See CatalogSnapshot."""
        pairs = self._up_to(DOCUMENTS, after, self.position.document)
        if not self.is_one_moment and self._seen is None:
            self._seen = bytearray(self.position.document // 8 + 1)
        matches = self._matcher(where)
        walked = [after, after]
        self._walked.append(walked)
        while chunk := list(islice(pairs, ROWS)):
            ids = [id_of(key) for key, _ in chunk]
            if self._seen is not None:
                for document_id in ids:
                    self._seen[document_id >> 3] |= 1 << (document_id & 7)
            walked[1] = ids[-1]
            rows = zip(ids, DOCUMENT_CODEC.decode_many(chunk), strict=True)
            yield self._documents(rows if matches is None else [pair for pair in rows if matches(*pair)])
        walked[1] = self.position.document

    def _up_to(self, table: Table, after: int, last: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows with ids behind one, up to the last of the position, which later rows may be above."""
        stop = None if self.is_one_moment else id_key(last + 1)
        return self._transaction.items(table, id_key(after + 1), stop)

    def _was_there(self, document_id: object) -> bool:
        """Tell whether a document was met, where `documents` came by its id."""
        seen = self._seen
        if seen is None or not isinstance(document_id, int):
            return True
        if document_id > self.position.document:
            return False
        if not any(behind < document_id <= last for behind, last in self._walked):
            return True
        return bool(seen[document_id >> 3] & 1 << (document_id & 7))

    def document(self, document_id: int, where: Filter | None = None) -> FlatRow | None:
        """See CatalogSnapshot."""
        row = reading.document_row(self._transaction, document_id)
        matches = self._matcher(where)
        if row is None or (matches is not None and not matches(document_id, row)):
            return None
        return self._documents(((document_id, row),))[0]

    def variants(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """See CatalogSnapshot."""
        pairs = self._up_to(VARIANTS, after, self.position.variant)
        rows = ((id_of(key), VARIANT_CODEC.decode(key, value)) for key, value in pairs)
        return self._chosen(rows, where, lambda pair: pair[1].document_id, lambda pair: self._variant(*pair))

    def variants_of(self, document_id: int) -> list[FlatRow]:
        """See CatalogSnapshot."""
        return [self._variant(*found) for found in reading.variant_rows(self._transaction, document_id)]

    def sightings(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """See CatalogSnapshot."""
        return self._chosen(
            listing.all_sightings(self._transaction),
            where,
            lambda row: row[0],
            lambda row: (row[0], row[1], micros_to_text(row[2])),
        )

    def conflicts(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """See CatalogSnapshot."""
        rows = (self._conflict(key, row) for key, row in reading.conflict_rows(self._transaction, None))
        return self._chosen(_sorted_by_document(rows), where, _document_id, _itself)

    def links(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """See CatalogSnapshot."""
        return self._chosen(_sorted_by_document(self._links()), where, _document_id, _itself)

    def journal(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """See CatalogSnapshot."""
        pairs = self._up_to(JOURNAL, after, self.position.journal)
        rows = (self._entry(key, value) for key, value in pairs)
        return self._chosen(rows, where, lambda row: row[3], _itself, hangs=False)

    def roots(self) -> list[FlatRow]:
        """See CatalogSnapshot."""
        return [(root.id, root.uri, root.uuid, root.cas_prefix) for _, root in sorted(self._roots.roots.items())]

    def holds(self) -> list[Hold]:
        """See CatalogSnapshot."""
        return upkeep.holds(self._transaction)

    def checks(self) -> Iterator[list[BlobCheck]]:
        """See CatalogSnapshot."""
        checks = checking.all_checks(self._transaction, self._roots)
        while chunk := list(islice(checks, ROWS)):
            yield chunk

    def _chosen(
        self,
        rows: Iterator[Item],
        where: Filter | None,
        owner: Callable[[Item], object],
        flat: Callable[[Item], FlatRow],
        *,
        hangs: bool = True,
    ) -> Iterator[list[FlatRow]]:
        """Yield what belongs to documents that a filter lets through; what hangs on one comes only if that did."""
        last: tuple[object, bool] = (None, False)
        while chunk := list(islice(rows, ROWS)):
            chosen = []
            for row in chunk:
                if hangs and not self._was_there(owner(row)):
                    continue
                if where is not None:
                    document_id = owner(row)
                    if last[0] != document_id:
                        found = isinstance(document_id, int) and self.document(document_id, where) is not None
                        last = (document_id, found)
                    if not last[1]:
                        continue
                chosen.append(flat(row))
            yield chosen

    def _matcher(self, where: Filter | None) -> Callable[[int, DocumentRow], bool] | None:
        if where is None:
            return None
        predicate, roots = where.predicate, self._roots
        return lambda document_id, row: predicate(reading.document_record(document_id, row, roots))

    def _documents(self, rows: Iterable[tuple[int, DocumentRow]]) -> list[FlatRow]:
        """Return documents as flat rows; nearly all the time of an export is spent here and in decoding."""
        roots, starts = self._roots, self._cas_starts
        flat: list[FlatRow] = []
        second, start = None, ""
        for document_id, row in rows:
            digest, path = row.digest, row.path
            # Times of documents that follow each other are close together.
            seconds, rest = divmod(row.created, 1_000_000)
            if seconds != second:
                second, start = seconds, micros_to_text(row.created)[:-7]
            created = f"{start}{rest:06d}Z"
            digits = None if digest is None else digest.hex()
            if path is None and digits is not None and row.root in starts:
                uri = f"{starts[row.root]}{digits[:2]}/{digits[2:]}"
            else:
                uri = roots.uri((row.root, path), digest)
            flat.append(
                (
                    document_id,
                    row.artifact_id,
                    row.source_url,
                    row.resolver,
                    row.content_type,
                    row.size,
                    digits,
                    uri,
                    created,
                    micros_to_text(row.created + row.updated_after) if row.updated_after else created,
                    row.run_id,
                )
            )
        return flat

    def _variant(self, variant_id: int, row: VariantRow) -> FlatRow:
        return (
            variant_id,
            row.document_id,
            row.name,
            self._roots.uri((row.root, row.path), row.digest),
            row.size,
            row.content_type,
            None if row.digest is None else row.digest.hex(),
            micros_to_text(row.created),
        )

    def _conflict(self, key: bytes, row: ConflictRow) -> FlatRow:
        return (
            id_of(key[:8]),
            row.variant,
            None if row.digest is None else row.digest.hex(),
            row.size,
            self._roots.uri((row.root, row.path), row.digest),
            row.run_id,
            micros_to_text(row.first_seen),
            micros_to_text(row.last_seen),
            row.count,
        )

    def _links(self) -> Iterator[FlatRow]:
        for key, _ in self._transaction.items(LINKS_BY_DOCUMENT):
            link_key = key[8:] + key[:8]
            value = reading.indexed(LINKS_BY_DOCUMENT, key[:8], self._transaction.get(LINKS, link_key))
            row = LINK_CODEC.decode(link_key, value)
            yield row.document_id, self._roots.uri((row.root, row.path), None)

    def _entry(self, key: bytes, value: bytes) -> FlatRow:
        row = JOURNAL_CODEC.decode(key, value)
        changes = _json(row.changes).decode()
        at = micros_to_text(row.at)
        return id_of(key), at, row.action, row.document_id, row.variant_id, row.command, row.reason, changes


def _itself(row: FlatRow) -> FlatRow:
    return row


def _document_id(row: FlatRow) -> object:
    return row[0]


def _sorted_by_document(rows: Iterator[FlatRow]) -> Iterator[FlatRow]:
    """Bring the few rows of each document into an order that hangs on what they say alone."""
    for _, group in groupby(rows, _document_id):
        yield from sorted(group, key=lambda row: [(value is not None, value) for value in row])
