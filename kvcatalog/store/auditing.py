"""Every row held against those that it follows from, and back, in one snapshot; nothing is repaired in passing.

What is expected is counted while it is looked up: where all of it is there and the table has no more rows, none can be
too much, so only tables that disagree are walked the other way. Memory does not grow with the catalog.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterator
from itertools import islice
from typing import Any

from kvcatalog.checks import Finding
from kvcatalog.errors import CatalogError
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.schema import (
    BIRTH_KEY,
    BY_SHA256,
    CHECKS,
    CONDEMNED,
    CONDEMNED_CODEC,
    CONFLICTS,
    COUNTERS,
    DOCUMENTS,
    FORMAT_KEY,
    HOLD_CODEC,
    HOLDS,
    ID_BYTES,
    IDENTITY_CODEC,
    IDENTITY_KEY,
    META,
    NUMBER_CODEC,
    ROOT_CODEC,
    ROOTS,
    ROOTS_VERSION_KEY,
    SIGHTINGS,
    TABLES,
    DocumentRow,
    VariantRow,
    id_key,
    id_of,
    totals_of,
)
from kvcatalog.store import figures, reading
from kvcatalog.store.derived import PRIMARIES, DerivedRow, Primary, is_wanted
from kvcatalog.store.findings import UNIQUE, found

_BATCH_ROWS = 2000
_STEP_ROWS = 10_000

Progress = Callable[[int, int], object]
"""Is told how many steps of how many are done."""

_COUNTED = (CONFLICTS, SIGHTINGS)
"""Tables of which a counter of their name says how many rows they have."""

_META: tuple[tuple[bytes, Codec[Any]], ...] = (
    (FORMAT_KEY, NUMBER_CODEC),
    (IDENTITY_KEY, IDENTITY_CODEC),
    (ROOTS_VERSION_KEY, NUMBER_CODEC),
    (BIRTH_KEY, NUMBER_CODEC),
)
_OPTIONAL = (ROOTS_VERSION_KEY, BIRTH_KEY)


def audit(transaction: ReadTransaction, progress: Progress) -> Iterator[Finding]:
    """Yield all that is wrong with the rows of a catalog.

    Without a snapshot others may change rows in between, so each finding is looked at again, and of a counter that
    moves meanwhile nothing is said.
    """
    findings = _Audit(transaction, progress).findings()
    if transaction.is_snapshot:
        return findings
    from kvcatalog.store.confirming import confirmed  # audits of one moment do without it

    return confirmed(transaction, findings)


class _Audit:
    def __init__(self, transaction: ReadTransaction, progress: Progress) -> None:
        self._transaction = transaction
        self._progress = progress
        self._done = 0
        rows = dict.fromkeys(TABLES, 0)
        if transaction.is_snapshot:
            rows = {table: transaction.entries(table) for table in TABLES}
        self._moving: dict[bytes, bytes] = {} if transaction.is_snapshot else dict(transaction.items(COUNTERS))
        self._total = sum(rows.values()) + sum(rows[primary.table] for primary in PRIMARIES) + rows[BY_SHA256]
        self._roots: set[int] | None = None
        self._unreadable: set[Table] = set()
        self._totals = figures.Totals()

    def findings(self) -> Iterator[Finding]:
        broken = list(self._tables()) if self._transaction.is_snapshot else []
        yield from broken
        if broken:  # what is looked up in such a table may be there all the same
            return
        yield from figures.last_numbers(self._transaction)  # first: whoever repairs writes it down under a number
        yield from self._others()
        for primary in PRIMARIES:
            yield from self._derived(primary)
        yield from figures.duplicates(self._transaction, self._totals, self._step)
        found = figures.counters(self._transaction, self._totals, self._unreadable)
        if self._transaction.is_snapshot:
            yield from found
        else:
            moved = self._moving.items() ^ dict(self._transaction.items(COUNTERS)).items()
            keys = {key.hex() for key, _ in moved}
            yield from (finding for finding in found if finding.key not in keys)
        self._progress(self._total, self._total)

    def _step(self, rows: int) -> None:
        before = self._done // _STEP_ROWS
        self._done += rows
        if self._done // _STEP_ROWS > before:
            self._progress(min(self._done, self._total), self._total)

    def _tables(self) -> Iterator[Finding]:
        """Read every page: rows ascend, and are as many as the table says."""
        for table in TABLES:
            count, last = 0, (b"", b"")  # no key is empty
            for count, pair in enumerate(self._transaction.items(table), 1):
                if pair <= last if table.sets else pair[0] <= last[0]:
                    yield Finding("file", f"row {count} of {table.name} is out of order", table.name)
                    return
                last = pair
                if not count % _STEP_ROWS:
                    self._step(_STEP_ROWS)
            self._step(count % _STEP_ROWS)
            entries = self._transaction.entries(table)
            if count != entries:
                yield Finding("file", f"{table.name} has {count} rows and says {entries}", table.name)

    def _others(self) -> Iterator[Finding]:
        """Read the rows from which nothing follows."""
        for key, codec in _META:
            value = self._transaction.get(META, key)
            if value is not None:
                yield from self._readable(META, codec, key, value)
            elif key not in _OPTIONAL:
                yield Finding("row", f"the row {key.decode()} is missing", META.name)
        others: tuple[tuple[Table, Codec[Any]], ...] = (
            (ROOTS, ROOT_CODEC),
            (HOLDS, HOLD_CODEC),
            (CONDEMNED, CONDEMNED_CODEC),
        )
        for table, codec in others:
            for key, value in self._transaction.items(table):
                yield from self._readable(table, codec, key, value)
        if ROOTS not in self._unreadable:
            self._roots = {root.id for root in reading.read_roots(self._transaction)}

    def _readable(self, table: Table, codec: Codec[Any], key: bytes, value: bytes) -> Iterator[Finding]:
        try:
            codec.decode(key, value)
        except CatalogError as error:
            self._unreadable.add(table)
            yield found("row", str(error), table, key, repair="check" if table is CHECKS else None)

    def _decoded(
        self, primary: Primary, batch: list[tuple[bytes, bytes]]
    ) -> Generator[Finding, None, list[tuple[bytes, Any]]]:
        """Return the rows that can be read, and yield the others as findings."""
        decoded: list[tuple[bytes, Any]] = []
        for key, value in batch:
            if primary.table in _COUNTED:
                self._totals.add(primary.table.name)
            try:
                decoded.append((key, primary.codec.decode(key, value)))
            except CatalogError:
                yield from self._readable(primary.table, primary.codec, key, value)
        return decoded

    def _derived(self, primary: Primary) -> Iterator[Finding]:
        """Look up what follows from each row of a table, then whether there is more."""
        expected: Counter[Table] = Counter()
        suspicious: set[Table] = set()
        items = self._transaction.items(primary.table)
        latest: tuple[bytes, set[DerivedRow]] = (b"", set())
        while batch := list(islice(items, _BATCH_ROWS)):
            pairs: defaultdict[Table, list[tuple[bytes, bytes]]] = defaultdict(list)
            decoded = yield from self._decoded(primary, batch)
            owners = {id_key(owner) for pair in decoded if (owner := primary.owner(*pair)) is not None}
            there = self._transaction.first_values(DOCUMENTS, sorted(owners)).keys()
            for key, row in decoded:
                yield from self._row(primary, key, row, there)
                rows = set(primary.expected(key, row))
                if primary.table is CONFLICTS:
                    # Conflicts of one document at one place share an index row.
                    document = key[:ID_BYTES]
                    known = latest[1] if latest[0] == document else set()
                    latest = document, known | rows
                    rows -= known
                for table, index_key, index_value in rows:
                    pairs[table].append((index_key, index_value))
            for table, wanted in pairs.items():
                expected[table] += len(wanted)
                for index_key, index_value in self._transaction.missing(table, sorted(wanted)):
                    suspicious.add(table)
                    yield self._missing(table, index_key, index_value)
            self._step(len(batch))
        for table in primary.derived:
            if (
                not self._transaction.is_snapshot
                or table in suspicious
                or self._transaction.entries(table) != expected[table]
            ):
                yield from self._strays(table)

    def _row(
        self,
        primary: Primary,
        key: bytes,
        row: Any,  # noqa: ANN401 - of any table
        there: Collection[bytes],
    ) -> Iterator[Finding]:
        """Count a row, and look at what it refers to; `there` are the documents to which rows of the batch belong."""
        if isinstance(row, DocumentRow):
            for name, label in totals_of(row):
                self._totals.add(name, label, size=row.size)
        elif isinstance(row, VariantRow):
            self._totals.add("variants", size=row.size)
        owner = primary.owner(key, row)
        if owner is not None and id_key(owner) not in there:
            text = f"a row of {primary.table.name} belongs to document {owner}, which is not there"
            yield found("reference", text, primary.table, key)
        root = getattr(row, "root", None)
        if root is not None and self._roots is not None and root not in self._roots:
            yield found("reference", f"a row lies in root {root}, which is not known", primary.table, key)

    def _missing(self, table: Table, key: bytes, value: bytes) -> Finding:
        number = id_of(value) if table.sets or table in UNIQUE else None
        if table in UNIQUE:
            other = self._transaction.get(table, key)
            if other is not None and is_wanted(self._transaction, table, key, other):
                return found("index", f"ids {id_of(other)} and {number} have the same key", table, key)
        text = f"{table.name} lacks a row" + ("" if number is None else f" for id {number}")
        return found("index", text, table, key, value, repair="row")

    def _strays(self, table: Table) -> Iterator[Finding]:
        for key, value in self._transaction.items(table):
            if is_wanted(self._transaction, table, key, value) is False:
                yield found("index", f"{table.name} has a row too much", table, key, value, repair="row")
