"""What the upkeep of blobs and roots writes into a catalog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

from msgspec import structs

from kvcatalog import values
from kvcatalog.checks import BlobCheck, Finding
from kvcatalog.clock import to_micros
from kvcatalog.custody import BlobMove, Deletion, Hold, Relocation, RelocationOutcome
from kvcatalog.errors import CorruptRecordError, InvalidValueError
from kvcatalog.filters import Filter
from kvcatalog.models import CatalogIdentity, DocumentRecord, JournalPruning, Root
from kvcatalog.schema import RootRow
from kvcatalog.store import lifetime, operations, upkeep
from kvcatalog.store.catalog_writing import CatalogWriting
from kvcatalog.store.tally import JOURNAL_SEQUENCE, read_counter

_REPAIRED_AT_ONCE = 500


class CatalogUpkeep(CatalogWriting):
    """What keeps a catalog and its blobs in order; Catalog adds what is registered."""

    def add_root(self, uri: str, *, uuid: str, cas_prefix: str = "sha256", adopted: bool = False) -> Root:
        """See CatalogStore."""
        from kvcatalog.store import upkeep_operations

        row = RootRow(
            values.required_text("uri", uri).removesuffix("/"),
            values.required_text("uuid", uuid),
            values.required_text("cas_prefix", cas_prefix),
        )
        return self._write(lambda txn, scribe: upkeep_operations.add_root(txn, row, scribe, adopted=adopted))

    def record_checks(self, checks: Iterable[BlobCheck], *, gone: Sequence[str] = ()) -> None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        found: list[BlobCheck | str] = [*checks, *gone]
        self._write_all(found, checking.remember_all, rows=6, key=checking.place_of_check)

    def begin_quarantine(self, check: BlobCheck) -> None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        self._write(lambda txn, scribe: checking.begin_quarantine(txn, check, scribe))

    def end_quarantine(self, check: BlobCheck) -> None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        self._write(lambda txn, scribe: checking.end_quarantine(txn, check, scribe))

    def prune_journal(self, before: datetime, *, dry_run: bool = False, reason: str | None = None) -> JournalPruning:
        """See CatalogStore."""
        cutoff = to_micros(values.moment("before", before))
        count, last = 0, None
        with self._read() as transaction:
            # What pruning itself writes down is newer than all that goes, whatever the clock says.
            up_to = read_counter(transaction, JOURNAL_SEQUENCE).count
            if dry_run:
                for last in lifetime.old_entries(transaction, before=cutoff, up_to=up_to):  # noqa: B007 - the last counts
                    count += 1
                return lifetime.pruning(count, last)
        done = JournalPruning(0, None, None)
        while True:
            step = self._write(partial(lifetime.prune_journal, cutoff, up_to, self._backend.rows_max), reason)
            if not step.entries:
                return done
            done = JournalPruning(done.entries + step.entries, step.last_sequence, step.last_at)

    def repair(self, findings: Iterable[Finding], *, reason: str | None = None) -> Iterator[Finding]:
        """See CatalogStore."""
        from kvcatalog.store.repairing import repair  # only who audits needs it

        waiting = iter(findings)
        while batch := list(islice(waiting, _REPAIRED_AT_ONCE)):
            try:
                done = self._write_all(batch, repair, rows=10, reason=reason)
            except CorruptRecordError:
                done = [self._repaired_alone(finding, reason) for finding in batch]
            for finding, repaired in zip(batch, done, strict=True):
                yield structs.replace(finding, repaired=repaired)

    def _repaired_alone(self, finding: Finding, reason: str | None) -> bool:
        from kvcatalog.store.repairing import repair

        try:
            return self._write(lambda txn, scribe: repair(txn, [finding], scribe), reason)[0]
        except CorruptRecordError:  # it derives from what cannot be read
            return False

    def begin_generation(self, *, reason: str | None = None) -> CatalogIdentity:
        """See CatalogStore."""
        rows_max = self._backend.rows_max
        while rows_max is not None and self._write(lambda txn, _: upkeep.clear_some(txn, rows_max)):
            pass
        self.identity = self._write(lifetime.begin_generation, reason)
        return self.identity

    def condemn(self, storage_uris: Iterable[str], *, plan: str) -> None:
        """See CatalogStore."""
        from kvcatalog.store import upkeep_operations

        uris = [values.required_text("storage_uris", uri) for uri in storage_uris]
        label = values.required_text("plan", plan)
        self._write_all(uris, partial(upkeep_operations.condemn, label), rows=3)

    def settle_condemned(self, storage_uris: Iterable[str], moves: Iterable[BlobMove] = ()) -> None:
        """See CatalogStore."""
        from kvcatalog.store import upkeep_operations

        done: dict[str | None, list[BlobMove]] = {}
        for move in moves:
            done.setdefault(move.storage_uri, []).append(move)
        ended: list[tuple[str | None, list[BlobMove]]] = [(uri, done.pop(uri, [])) for uri in storage_uris]
        ended += [(None, left) for left in done.values()]
        self._write_all(ended, upkeep_operations.settle_condemned, rows=8)

    def forget_condemned(self) -> int:
        """See CatalogStore."""
        rows_max, forgotten = self._backend.rows_max, 0
        while some := self._write(lambda txn, _: upkeep.forget_cleared(txn, rows_max)):
            forgotten += some
            if rows_max is None:
                break
        return forgotten

    def relocate(self, relocations: Iterable[Relocation], *, reason: str | None = None) -> list[RelocationOutcome]:
        """See CatalogStore."""
        from kvcatalog.store.relocating import relocate  # only who moves stores needs it

        wanted = list(relocations)
        for each in wanted:
            values.raw_digest("sha256", each.sha256)
        return self._write_all(wanted, relocate, rows=16, key=lambda each: each.document_id, reason=reason)

    def delete_many(self, deletions: Iterable[Deletion], *, batch_size: int = 1000) -> Iterator[DocumentRecord | None]:
        """See CatalogStore."""
        values.positive("batch_size", batch_size)
        waiting = iter(deletions)
        while batch := list(islice(waiting, batch_size)):
            for each in batch:
                self._strip(each.document_id, each.reason, updated_at=each.updated_at)
            yield from self._write_all(
                batch, operations.delete_documents, rows=20, key=lambda deletion: deletion.document_id
            )

    def _strip(self, document_id: int, reason: str | None, *, updated_at: datetime | None = None) -> None:
        """Take away what hangs on a document, as far as it is too much to go together with it in one transaction."""
        rows_max = self._backend.rows_max
        if rows_max is not None:
            while self._write(partial(operations.strip_document, document_id, updated_at, rows_max), reason):
                pass

    def record_moves(self, moves: Iterable[BlobMove]) -> None:
        """See CatalogStore."""
        from kvcatalog.store import upkeep_operations

        self._write_all(list(moves), upkeep_operations.record_moves, rows=6)

    def add_hold(self, where: Filter, *, reason: str) -> Hold:
        """See CatalogStore."""
        from kvcatalog.store import upkeep_operations

        if not where.conditions:
            raise InvalidValueError("filters", "a hold needs a filter: say what must stay")
        filters = tuple(map(str, where.conditions))
        why = values.required_text("reason", reason)
        return self._write(lambda txn, scribe: upkeep_operations.add_hold(txn, filters, why, scribe))

    def release_hold(self, hold_id: int, *, reason: str | None = None) -> Hold:
        """See CatalogStore."""
        from kvcatalog.store import upkeep_operations

        values.record_id("hold_id", hold_id)
        return self._write(lambda txn, scribe: upkeep_operations.release_hold(txn, hold_id, scribe), reason)
