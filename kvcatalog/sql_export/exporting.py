"""export_sql: one moment of a catalog, whole or as what has changed since an earlier export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Literal, assert_never, get_args

from kvcatalog import sqlite_files, telemetry, values
from kvcatalog.errors import InvalidValueError, UnsupportedError
from kvcatalog.models import CatalogPosition
from kvcatalog.sql_export import plain
from kvcatalog.sql_export.output import new_file, translated
from kvcatalog.sql_export.postgres import Postgres, Script
from kvcatalog.sql_export.report import ExportReport, Progress, parse_position, position_text
from kvcatalog.sql_export.sqlite_file import SqliteFile
from kvcatalog.sql_export.sqlite_text import SqliteText
from kvcatalog.sql_schema import SqlTable, tables

if TYPE_CHECKING:
    from kvcatalog.filters import Filter
    from kvcatalog.sql_export.target import Target
    from kvcatalog.store.protocol import CatalogSnapshot, CatalogStore, FlatRow

TextFormat = Literal["sqlite-dump", "postgres", "csv", "jsonl"]
Format = Literal["sqlite", TextFormat]
_UPDATING: frozenset[Format] = frozenset(("sqlite", "sqlite-dump", "postgres"))
"""Formats that can say what was changed or removed."""

_BUFFER_BYTES = 1 << 20
_WHOLE = ("sightings", "conflicts", "links", "roots")
"""Tables whose changes the journal does not tell; they are small, or cheap beside the documents."""


def export_sql(
    catalog: CatalogStore,
    output: str | os.PathLike[str] | BinaryIO,
    *,
    format: Format = "sqlite",  # noqa: A002 - the name of the option
    table: str = "documents",
    where: Filter | None = None,
    since: str | None = None,
    force: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> ExportReport:
    """Write one moment of a catalog, which others may go on to change, and return what was written.

    `output` is a path, or for all but `sqlite` a binary stream. A file gets its name when it is whole and durable; an
    existing one is replaced with `force` only (OutputExistsError). `sqlite` is a database file; `sqlite-dump` and
    `postgres` are scripts for `sqlite3` and `psql`; `jsonl` is every table as JSON lines, `csv` one `table`. Ids, and
    which were given last, are the catalog's. With a filter come the documents that it lets through and what belongs to
    them.

    `since` is the position of an earlier export with the same filter: then a script brings that export up to date, and
    with `sqlite` the file that is there is brought up to date in one transaction. InvalidValueError if the position is
    not of this catalog, or the journal does not reach back to it; StorageFullError and its kin where the output cannot
    be written, and what the catalog raises. UnsupportedError on DynamoDB, where an export has no position.
    """
    values.choice("format", format, get_args(Format))
    values.choice("table", table, tuple(tables()))
    if since is not None and format not in _UPDATING:
        raise InvalidValueError("since", f"{format} has no form for what was changed or removed")
    with telemetry.span("kvcatalog.export"), ExitStack() as stack:
        run = _Run(stack.enter_context(catalog.snapshot()), catalog, where, since, progress)
        if format == "sqlite":
            if not isinstance(output, str | os.PathLike):
                raise InvalidValueError("output", "must be a path: a database file cannot be streamed")
            path = os.fspath(output)
            size = _sqlite_file(run, path, stack, force=force)
        elif isinstance(output, str | os.PathLike):
            path = os.fspath(output)
            with translated(path), new_file(path, force=force) as file:
                with open(file.part, "wb", buffering=_BUFFER_BYTES) as stream:
                    _text(run, stream.write, format, table)
                size = file.publish()
        else:
            counter = _Counter(output)
            _text(run, counter.write, format, table)
            output.flush()
            size = counter.bytes
        return run.report(format, size)


def export_to_postgres(
    catalog: CatalogStore,
    dsn: str,
    *,
    where: Filter | None = None,
    since: str | None = None,
    force: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> ExportReport:
    """Do as `export_sql` does, straight into a PostgreSQL server and in one transaction there.

    `dsn` is a connection string or URL of libpq. Tables of an earlier export are replaced with `force` only
    (OutputExistsError). SqlServerError if the server cannot be reached or refuses; then nothing is changed there.
    """
    from kvcatalog.sql_export.postgres_server import connected

    with telemetry.span("kvcatalog.export"), catalog.snapshot() as snapshot, connected(dsn) as server:
        run = _Run(snapshot, catalog, where, since, progress)
        target = Postgres(server)
        if run.since is not None:
            target.update(run.since)
        else:
            if not force:
                server.refuse_what_is_there()
            target.create(replace=force)
        run.fill(target)
        return run.report("postgres", None)


def _sqlite_file(run: _Run, path: str, stack: ExitStack, *, force: bool) -> int:
    with translated(path), sqlite_files.translated(path):
        if run.since is not None:
            if not os.path.isfile(path):
                raise InvalidValueError("since", f"there is no file {path} to bring up to date")
            with sqlite_files.opened(path) as connection:
                target = SqliteFile(connection)
                target.update(run.since)
                run.fill(target)
            return os.stat(path).st_size
        with new_file(path, force=force) as file:
            with sqlite_files.opened(file.part) as connection:
                target = SqliteFile(connection)
                target.create()
                run.fill(target, after_rows=stack.close)
            return file.publish()


def _text(run: _Run, write: Callable[[bytes], object], form: TextFormat, table: str) -> None:
    match form:
        case "csv":
            run.counts[table] = plain.write_csv(write, tables()[table], run.batches(tables()[table]))
        case "jsonl":
            for each in tables().values():
                run.counts[each.name] = plain.write_json_lines(write, each, run.batches(each))
            plain.write_sequences(write, run.position)
        case "sqlite-dump":
            run.script(SqliteText(write))
        case "postgres":
            run.script(Postgres(Script(write)))
        case _:
            assert_never(form)


class _Run:
    """One export: what it reads, and what it has counted."""

    def __init__(
        self,
        snapshot: CatalogSnapshot,
        catalog: CatalogStore,
        where: Filter | None,
        since: str | None,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        if since is not None and not snapshot.is_one_moment:
            raise UnsupportedError(
                "since: several hosts write to this catalog, and what gets a low number may come after what has a"
                " higher one, so no export can be brought up to date; export everything"
            )
        self.since = None if since is None else parse_position(since, catalog.identity, snapshot)
        self.position = snapshot.position
        self.counts: dict[str, int] = dict.fromkeys((*tables(), "changed", "removed"), 0)
        self._snapshot = snapshot
        self._identity = catalog.identity
        self._where = where if where is not None and where.conditions else None
        self._progress = progress
        self._total = snapshot.document_count

    def script(self, target: Target) -> None:
        """Write a whole export, or what brings an earlier one up to date."""
        if self.since is None:
            target.create()
        else:
            target.update(self.since)
        self.fill(target)

    def fill(self, target: Target, after_rows: Callable[[], object] = lambda: None) -> None:
        """Write everything to a target whose transaction has begun; `after_rows` is called once all rows are read."""
        if self.since is not None:
            self._write_changes(target, self.since)
        for table in tables().values():
            self.counts[table.name] = target.insert(table, self.batches(table))
        after_rows()
        target.finish(self.position, is_new=self.since is None)

    def batches(self, table: SqlTable) -> Iterator[list[FlatRow]]:
        """Yield the rows of a table, those from before the earlier export left out."""
        snapshot, where, since = self._snapshot, self._where, self.since or CatalogPosition(0, 0, 0)
        makers: dict[str, Callable[[], Iterator[list[FlatRow]]]] = {
            "documents": lambda: self._followed(snapshot.documents(where, after=since.document)),
            "variants": lambda: snapshot.variants(where, after=since.variant),
            "sightings": lambda: snapshot.sightings(where),
            "conflicts": lambda: snapshot.conflicts(where),
            "links": lambda: snapshot.links(where),
            "roots": lambda: iter([snapshot.roots()]),
            "journal": lambda: snapshot.journal(where, after=since.journal if where is None else 0),
        }
        return makers[table.name]()

    def report(self, form: str, size: int | None) -> ExportReport:
        """Return what was written."""
        goes_on = self._snapshot.is_one_moment
        position = position_text(self._identity, self.position) if goes_on else None
        return ExportReport(format=form, bytes=size, position=position, **self.counts)

    def _write_changes(self, target: Target, since: CatalogPosition) -> None:
        """Write what became of rows that the earlier export has; whatever is new comes afterwards."""
        for name in _WHOLE:
            target.clear(tables()[name])
        # Whoever applies a script twice finds what is new there already.
        target.clear(tables()["journal"], since.journal if self._where is None else 0)
        target.clear(tables()["variants"], since.variant)
        target.clear(tables()["documents"], since.document)
        first = None
        for entries in self._snapshot.journal(after=since.journal):
            first = first or entries[0][0]
            self._write_changed_documents(target, since, entries)
        if first != (None if since.journal == self.position.journal else since.journal + 1):
            raise InvalidValueError("since", "the journal does not reach back to it; export everything")

    def _write_changed_documents(self, target: Target, since: CatalogPosition, entries: list[FlatRow]) -> None:
        named = sorted({number for _, _, _, number, *_ in entries if isinstance(number, int)})
        known = [number for number in named if number <= since.document]
        found = {number: self._snapshot.document(number, self._where) for number in known}
        rows = [row for row in found.values() if row is not None]
        variants = [
            variant
            for number, row in found.items()
            if row is not None
            for variant in self._snapshot.variants_of(number)
            if isinstance(variant[0], int) and variant[0] <= since.variant
        ]
        target.delete(tables()["variants"], "document_id", known)
        target.delete(tables()["documents"], "id", [number for number, row in found.items() if row is None])
        target.replace(tables()["documents"], rows)
        target.replace(tables()["variants"], variants)
        self.counts["changed"] += len(rows)
        self.counts["removed"] += len(known) - len(rows)

    def _followed(self, batches: Iterable[list[FlatRow]]) -> Iterator[list[FlatRow]]:
        count = 0
        for rows in batches:
            yield rows
            count += len(rows)
            if self._progress:
                self._progress(Progress(count, self._total))


class _Counter:
    """Counts the bytes that go into a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self.bytes += len(data)
