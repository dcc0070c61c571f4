"""What can be imported, whatever its form, as a SQLite database to read from.

A database file is opened read-only and as if nobody could change it, so nothing appears beside it. Text is taken apart
into a temporary database; a dump's statements run there under an authorizer that lets them make tables and rows only.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import msgspec

from kvcatalog import sqlite_files
from kvcatalog.errors import SqlSourceError, StorageFullError
from kvcatalog.sql_import.report import Tally
from kvcatalog.sql_schema import Column, tables
from kvcatalog.sqlite_files import Connection

SEQUENCES = "kvcatalog_sequences"
"""Table of a temporary database: the last number that was given out, by table."""

_HEAD_BYTES = 4096
_STATEMENT_CHARACTERS_MAX = 256 << 20
_LOGS = ("-wal", "-journal")

_COPY = re.compile(rb'COPY (?:\w+\.)?"?(\w+)"? \(([^)]*)\) FROM stdin;\s*')
_RESTART = re.compile(rb"ALTER TABLE (\w+) ALTER COLUMN \w+ RESTART WITH (\d{1,18});\s*")
_SETVAL = re.compile(
    rb"SELECT pg_catalog\.setval\('(?:\w+\.)?(\w+?)_(?:id|sequence)_seq', (\d{1,18}), (?:true|(false))\);\s*"
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

# The authorizer is not asked about all that VACUUM does, and some versions of SQLite crash where it refuses that.
_HARMLESS = re.compile(
    r"\s*(?:CREATE\s+(?:TABLE|(?:UNIQUE\s+)?INDEX)|INSERT|REPLACE|UPDATE|DELETE|BEGIN|COMMIT|END)\b", re.IGNORECASE
)

_ALLOWED = frozenset(
    (
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_REINDEX,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_TRANSACTION,
    )
)


class Source:
    """An opened source: a connection, its form, and what it has."""

    def __init__(self, connection: Connection, form: str) -> None:
        self.connection = connection
        self.format = form
        connection.text_factory = _text
        connection.execute("PRAGMA trusted_schema=OFF")
        known = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        self.tables = {name for (name,) in known}
        if "documents" not in self.tables:
            raise SqlSourceError("there is no table documents in it")

    def rows(self, table: str, condition: str = "", parameters: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield rows with the columns of `schema.sql`, by key; none where there is no such table."""
        if table not in self.tables:
            return
        made = tables()[table]
        there = {name for _, name, *_ in self.connection.execute(f"PRAGMA table_info({table})")}
        missing = [column.name for column in made.columns if column.name not in there and not column.is_optional]
        if missing:
            raise SqlSourceError(f"table {table} has no column {missing[0]}")
        columns = ", ".join(name if name in there else f"NULL AS {name}" for name in made.names)
        order = f"ORDER BY {made.key}" if made.key else ""
        yield from self.connection.execute(f"SELECT {columns} FROM {table} {condition} {order}", parameters)

    def sequences(self) -> dict[str, int]:
        """Return the last number that was given out, by table, where that is known."""
        name = "sqlite_sequence" if SEQUENCES not in self.tables else SEQUENCES
        if name not in self.tables:
            return {}
        found = self.connection.execute(f"SELECT name, seq FROM {name}")
        return {table: last for table, last in found if isinstance(last, int)}


@contextmanager
def opened(path: str, tally: Tally) -> Iterator[Source]:
    """Open what can be imported; SqlSourceError if it is none of that, cannot be read, or has changed meanwhile.

    StorageFullError where there is no room to unpack it.
    """
    try:
        with open(path, "rb") as stream:
            before = _state(path)
            with TemporaryDirectory(prefix="kvcatalog-import-") as folder, sqlite_files.translated(path):
                with _opened(path, stream, folder, tally) as source:
                    yield source
                if _state(path) != before:
                    raise SqlSourceError(f"{path} changed while it was read")
    except OSError as error:
        kind = StorageFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else SqlSourceError
        raise kind(f"{path}: {error.strerror}") from error


@contextmanager
def _opened(path: str, stream: BinaryIO, folder: str, tally: Tally) -> Iterator[Source]:
    form = _form(path, stream.read(_HEAD_BYTES))
    stream.seek(0)
    if form == "sqlite":
        logs = [path + end for end in _LOGS if os.path.exists(path + end) and os.stat(path + end).st_size]
        # What a crash left beside the file belongs to it, and reading that needs to write: in a copy.
        for name in (path, *logs) if logs else ():
            shutil.copyfile(name, os.path.join(folder, "copy" + name.removeprefix(path)))
        place = (os.path.join(folder, "copy"), "mode=rw") if logs else (os.path.abspath(path), "mode=ro&immutable=1")
        with sqlite_files.opened(*place) as connection:
            yield Source(connection, form)
        return
    with sqlite_files.opened(os.path.join(folder, "rows"), "mode=rwc") as connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        try:
            _LOADERS[form](connection, stream, tally)
        except (UnicodeDecodeError, csv.Error, ValueError, MemoryError) as error:
            raise SqlSourceError(f"{path} cannot be read as {form}: {error}") from error
        yield Source(connection, form)


def _state(path: str) -> list[tuple[int, int, int]]:
    found = [os.stat(name) for name in (path, *(path + end for end in _LOGS)) if os.path.exists(name)]
    return [(each.st_size, each.st_mtime_ns, each.st_ino) for each in found]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _form(path: str, head: bytes) -> str:
    """Tell by its first bytes what a file is."""
    first = head.lstrip().split(b"\n", 1)[0].strip()
    if head.startswith(b"SQLite format 3\0"):
        return "sqlite"
    if first.startswith(b"{"):
        return "jsonl"
    if any(mark in head for mark in (b"PostgreSQL database dump", b"SET client_encoding", b"\\set ON_ERROR_STOP")):
        return "postgres"
    if first.startswith((b".bail", b"PRAGMA", b"BEGIN", b"CREATE TABLE")):
        return "sqlite-dump"
    if {b"artifact_id", b"source_url"} <= {name.strip(b'"') for name in first.split(b",")}:
        return "csv"
    raise SqlSourceError(f"{path} is neither a SQLite database nor anything that export-sql writes")


def _load_sqlite_dump(connection: Connection, stream: BinaryIO, _tally: Tally) -> None:
    connection.set_authorizer(_authorized)
    for statement in _statements(stream):
        if _HARMLESS.match(statement):
            connection.execute(statement)
    if connection.in_transaction:
        raise ValueError("it ends before its COMMIT")
    connection.set_authorizer(None)
    _index(connection)


def _statements(stream: BinaryIO) -> Iterator[str]:
    """Yield the statements of a script for `sqlite3`, without what speaks to that program itself."""
    pending: list[str] = []
    size = 0
    for raw in stream:
        line = raw.decode()
        if not pending and (line.startswith((".", "--")) or line.isspace()):
            continue
        pending.append(line)
        size += len(line)
        if size > _STATEMENT_CHARACTERS_MAX:
            raise ValueError("a statement has no end")
        if line.rstrip().endswith(";") and sqlite3.complete_statement(statement := "".join(pending)):
            yield statement
            pending.clear()
            size = 0
    if pending:
        raise ValueError("it ends within a statement")


def _authorized(action: int, _first: str | None, _second: str | None, database: str | None, _inner: str | None) -> int:
    """Let a dump make tables and rows of its own; whatever else it says is passed over."""
    is_own = database in {None, "main", "temp"}
    return sqlite3.SQLITE_OK if action in _ALLOWED and is_own else sqlite3.SQLITE_IGNORE


def _load_postgres(connection: Connection, stream: BinaryIO, _tally: Tally) -> None:
    _make_tables(connection)
    is_whole = False
    for line in stream:
        if copy := _COPY.fullmatch(line):
            names = [name.strip(' "') for name in copy[2].decode().split(",")]
            _insert(connection, copy[1].decode(), names, _copied(stream))
            is_whole = True
        elif restart := _RESTART.fullmatch(line):
            _remember_last(connection, restart[1], int(restart[2]) - 1)
        elif setval := _SETVAL.fullmatch(line):
            _remember_last(connection, setval[1], int(setval[2]) - bool(setval[3]))
    if not is_whole:
        raise ValueError("it has no rows of COPY")
    _index(connection)


def _remember_last(connection: Connection, table: bytes, last: int) -> None:
    connection.execute(f"INSERT INTO {SEQUENCES} VALUES(?,?)", (table.decode(), last))


def _copied(stream: BinaryIO) -> Iterator[list[str | None]]:
    """Yield the rows that follow a COPY statement."""
    for line in stream:
        if line.rstrip(b"\r\n") == b"\\.":
            return
        text = line.decode().removesuffix("\n")
        yield [
            None if cell == "\\N" else cell if "\\" not in cell else _ESCAPE.sub(_unescaped, cell)
            for cell in text.split("\t")
        ]
    raise ValueError("it ends within the rows of a table")


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPED.get(match[1], match[1])


def _load_json_lines(connection: Connection, stream: BinaryIO, tally: Tally) -> None:
    _make_tables(connection)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        try:
            row = decode(line)
            table = row.pop("table", "documents")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            tally.refuse("lines", "not-json", number)
            continue
        if table == "sequences":
            pairs = [(name, last) for name, last in row.items() if isinstance(last, int) and last < 1 << 62]
            connection.executemany(f"INSERT INTO {SEQUENCES} VALUES(?,?)", pairs)
        elif isinstance(table, str) and table in tables():
            try:
                _insert(connection, table, list(row), [list(row.values())])
            except (sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError, UnicodeEncodeError):
                tally.refuse("lines", "value-of-other-type", number)
        else:
            tally.refuse("lines", "unknown-table", number)
    _index(connection)


def _load_csv(connection: Connection, stream: BinaryIO, _tally: Tally) -> None:
    _make_tables(connection)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            names = next(rows)
            _insert(connection, "documents", names, ([cell or None for cell in row] for row in rows if row))
    finally:
        csv.field_size_limit(limit)  # the limit is the whole process's
    _index(connection)


def _make_tables(connection: Connection) -> None:
    connection.execute("BEGIN")
    for table in tables().values():
        connection.execute(f"CREATE TABLE {table.name} ({', '.join(_column(each) for each in table.columns)})")
    connection.execute(f"CREATE TABLE {SEQUENCES} (name, seq)")


def _column(column: Column) -> str:
    """Declare a column; text that spells a number becomes one where numbers belong."""
    return f"{column.name} {'INTEGER' if column.is_integer else 'BLOB'}"


def _insert(connection: Connection, table: str, names: list[str], rows: Iterable[list[Any]]) -> None:
    """Insert what belongs to a known table, without columns that it does not have."""
    known = tables().get(table)
    places = [place for place, name in enumerate(names) if known and name in known.names]
    if not known or not places:
        for _ in rows:
            pass
        return
    columns = ", ".join(names[place] for place in places)
    statement = f"INSERT INTO {table} ({columns}) VALUES({','.join('?' * len(places))})"
    if places == list(range(len(names))):
        connection.executemany(statement, rows)
    else:
        connection.executemany(statement, ([row[place] for place in places] for row in rows))


def _index(connection: Connection) -> None:
    """End loading, and see that what belongs to a document is found."""
    if connection.in_transaction:
        connection.execute("COMMIT")
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    for table in tables().values():
        if table.name in there:
            if table.key:
                connection.execute(f"CREATE INDEX kvcatalog_key_{table.name} ON {table.name}({table.key})")
            if "document_id" in table.names:
                connection.execute(f"CREATE INDEX kvcatalog_document_{table.name} ON {table.name}(document_id)")


_LOADERS = {
    "sqlite-dump": _load_sqlite_dump,
    "postgres": _load_postgres,
    "jsonl": _load_json_lines,
    "csv": _load_csv,
}
