"""copy: everything that a catalog says, stored in another one as it is, then read back and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice

from msgspec import Struct

from kvcatalog import telemetry, values
from kvcatalog.copying.comparing import unmatched
from kvcatalog.copying.tables import TABLES, Row, Table
from kvcatalog.errors import CopyTargetError, InvalidValueError
from kvcatalog.models import CatalogIdentity, Root
from kvcatalog.store.protocol import CatalogSnapshot, CatalogStore

BATCH_ROWS = 10_000
LEASE = "copy"
_EXAMPLES = 5
_NAMED_STRANGERS = 3
_TOLD_ROWS = 500

Progress = Callable[[str, int, int], object]
"""Is told what is being done, and how many rows of how many of that have been looked at."""


class TableCopy(Struct, frozen=True):
    """One kind of rows: how many the source has, how many of them this run stored, and what differs in the end.

    `missing` are in the source only, `extra` in the target only; a row that is not the same counts as both. `examples`
    are what tells some of them from others: an id, a sequence number, a place.
    """

    name: str
    rows: int
    copied: int
    missing: int
    extra: int
    examples: tuple[str, ...]


class CopyReport(Struct, frozen=True):
    """What became of a copy, or of a comparison: then nothing was `applied`, and there may be no target.

    `roots` are the storage roots that the target knows from the source; their markers name the source until they are
    adopted.
    """

    source: CatalogIdentity
    target: CatalogIdentity | None
    tables: tuple[TableCopy, ...]
    roots: tuple[Root, ...]
    applied: bool

    @property
    def is_same(self) -> bool:
        """Tell whether both say the same."""
        return not any(table.missing or table.extra for table in self.tables)


def copy_catalog(
    source: CatalogStore, target: CatalogStore, *, batch_size: int = BATCH_ROWS, progress: Progress | None = None
) -> CopyReport:
    """Store all that a catalog says in another one, with its ids and times, and see that both say the same then.

    Copied are documents, variants, sightings, conflicts, links, the journal, the roots, holds, checks, and which ids
    were given last; not announcements of garbage collections, nor who the catalog is. So the target is a catalog of its
    own: it neither writes nor removes anything below a root before that is adopted, and then the source does not any
    more. The target has to be empty, or hold a part of the same rows, as a copy leaves it that was killed: then it is
    gone on with, and rows that have come to the source since come along. What the report says is found by reading both
    in full once everything is stored.

    The source is read as of one moment, as far as its engine can: nobody should change or delete anything there until
    the target takes its place, since what was copied earlier is not changed.

    CopyTargetError where the target holds anything that the source does not, before anything is stored;
    CatalogLockedError where another copy to it is at work; InvalidValueError where both are one catalog.
    """
    values.positive("batch_size", batch_size)
    _refuse_itself(source, target)
    with telemetry.span("kvcatalog.copy"), target.lease(LEASE), source.snapshot() as moment:
        _refuse_strangers(moment, target)
        follow = _Follower(progress, source, moment)
        copied = {table.name: _fill(table, moment, target, batch_size, follow) for table in TABLES}
        target.raise_position(moment.position)
        tables = tuple(_compared(table, moment, target, copied[table.name], follow) for table in TABLES)
    return CopyReport(source.identity, target.identity, tables, tuple(target.roots()), applied=True)


def plan_copy(source: CatalogStore, target: CatalogStore | None, *, progress: Progress | None = None) -> CopyReport:
    """See what `copy_catalog` would have to store, and whether it could, with its errors; None is a target to be made.

    Nothing is changed.
    """
    _refuse_itself(source, target)
    if target is not None:
        with source.snapshot() as moment:
            _refuse_strangers(moment, target)
    return compare_catalogs(source, target, progress=progress)


def compare_catalogs(
    source: CatalogStore, target: CatalogStore | None, *, progress: Progress | None = None
) -> CopyReport:
    """Hold all that a catalog says against what another one says, row by row; without a target all is missing.

    InvalidValueError where both are one catalog.
    """
    _refuse_itself(source, target)
    with telemetry.span("kvcatalog.compare"), source.snapshot() as moment:
        follow = _Follower(progress, source, moment)
        tables = tuple(_compared(table, moment, target, 0, follow) for table in TABLES)
        roots = tuple(source.roots())
    return CopyReport(source.identity, None if target is None else target.identity, tables, roots, applied=False)


def _refuse_itself(source: CatalogStore, target: CatalogStore | None) -> None:
    if target is not None and source.identity.uuid == target.identity.uuid:
        raise InvalidValueError("target", "is the same catalog as the source, or was made of a backup of it")


def _refuse_strangers(moment: CatalogSnapshot, target: CatalogStore) -> None:
    strangers = [(table.name, _strangers(table, moment, target)) for table in TABLES]
    named = [f"{name} {', '.join(keys)}" for name, keys in strangers if keys]
    if named:
        raise CopyTargetError(f"the target holds what the source does not: {'; '.join(named)}")


def _strangers(table: Table, moment: CatalogSnapshot, target: CatalogStore) -> list[str]:
    """Return the keys of some rows of the target that the source has not."""
    theirs = _rows_of(table, target)
    first = next(theirs, None)
    if first is None:
        return []
    pairs = unmatched(table.rows(moment), chain((first,), theirs))
    return list(islice((_key(table, row) for _, row in pairs if row is not None), _NAMED_STRANGERS))


def _fill(table: Table, moment: CatalogSnapshot, target: CatalogStore, batch_size: int, follow: _Follower) -> int:
    """Store what the target lacks, and return how many rows that were."""
    ours, copied = follow.rows("copy", table, moment), 0
    missing = (row for row, _ in unmatched(ours, _rows_of(table, target)) if row is not None)
    while batch := list(islice(missing, batch_size)):
        outcomes = target.restore(map(table.entry, batch), batch_size=batch_size)
        for row, outcome in zip(batch, outcomes, strict=True):
            if outcome not in {"stored", "existing"}:
                raise CopyTargetError(f"{table.name} {_key(table, row)} cannot be stored in the target: {outcome}")
            copied += outcome == "stored"
    return copied


def _compared(
    table: Table, moment: CatalogSnapshot, target: CatalogStore | None, copied: int, follow: _Follower
) -> TableCopy:
    missing = extra = 0
    examples: dict[str, None] = {}
    theirs = iter(()) if target is None else _rows_of(table, target)
    for our, their in unmatched(follow.rows("compare", table, moment), theirs):
        missing += our is not None
        extra += their is not None
        if target is not None and len(examples) < _EXAMPLES:
            examples[_key(table, their if our is None else our)] = None
    return TableCopy(table.name, follow.count, copied, missing, extra, tuple(examples))


def _rows_of(table: Table, target: CatalogStore) -> Iterator[Row]:
    """Yield the rows of a target; its snapshot ends with them, so that it is not in the way of what is written."""
    with target.snapshot() as snapshot:
        yield from table.rows(snapshot)


def _key(table: Table, row: Row) -> str:
    key = table.key(row)
    return " ".join(str(part) for part in key if part is not None) if isinstance(key, tuple) else str(key)


class _Follower:
    """Tells how far a copy or a comparison is; `count` are the rows that the last table has."""

    def __init__(self, progress: Progress | None, source: CatalogStore, moment: CatalogSnapshot) -> None:
        stats = source.stats()
        self._progress = progress
        self._totals = {
            "documents": moment.document_count,
            "variants": stats.variants,
            "sightings": stats.sightings,
            "conflicts": stats.conflicts,
            "journal": moment.position.journal - source.journal_start() + 1,
        }
        self.count = 0

    def rows(self, what: str, table: Table, moment: CatalogSnapshot) -> Iterator[Row]:
        """Yield the rows of a table, telling now and then how many that were."""
        self.count = 0
        for row in table.rows(moment):
            self.count += 1
            if not self.count % _TOLD_ROWS:
                self._tell(what, table)
            yield row
        self._tell(what, table)

    def _tell(self, what: str, table: Table) -> None:
        if self._progress:
            total = max(self.count, self._totals.get(table.name, 0))
            self._progress(f"{what} {table.name}", self.count, total)
