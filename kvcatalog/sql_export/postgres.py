"""An export for PostgreSQL: a script for `psql`, or the same statements through a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Protocol

from kvcatalog.models import CatalogPosition
from kvcatalog.sql_export.sqlite_file import sequences
from kvcatalog.sql_schema import POSTGRES_KEY_BYTES_MAX, Index, SqlTable, tables
from kvcatalog.store.protocol import FlatRow

_NULL = "\0"
"""Stands for NULL until a batch is escaped: no text in a catalog has it."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_UTF8_BYTES_MAX = 4
_TAB = r"\t"  # as it stands in source


class Channel(Protocol):
    """What carries statements and rows to a server."""

    def execute(self, statement: str) -> None:
        """Pass on a statement."""
        ...

    def copy(self, statement: str, chunks: Iterable[bytes]) -> None:
        """Pass on a COPY statement and its rows."""
        ...


class Script:
    """A Channel that writes what `psql` reads."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        # Where a COPY failed, psql would take its rows for statements.
        write(b"\\set ON_ERROR_STOP on\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n")

    def execute(self, statement: str) -> None:
        """See Channel."""
        self._write(f"{statement}\n".encode())

    def copy(self, statement: str, chunks: Iterable[bytes]) -> None:
        """See Channel."""
        self.execute(statement)
        for chunk in chunks:
            self._write(chunk)
        self._write(b"\\.\n\n")


class Postgres:
    """A Target that speaks PostgreSQL, all in one transaction."""

    def __init__(self, channel: Channel) -> None:
        self._execute = channel.execute
        self._copy = channel.copy
        self._long: set[str] = set()
        self._is_new = False

    def create(self, *, replace: bool = False) -> None:
        """See Target; with `replace` the tables of an earlier export go first."""
        self._is_new = True
        self._begin()
        if replace:
            self._execute(f"DROP TABLE IF EXISTS {', '.join(tables())};")
        for table in tables().values():
            self._execute(table.postgres)

    def update(self, since: CatalogPosition) -> None:
        """See Target."""
        self._begin()
        for name, number in sequences(since).items():
            sequence = f"{name}_{tables()[name].key}_seq"
            self._execute(
                f"DO $$BEGIN IF (SELECT last_value + is_called::int FROM {sequence}) <= {number} THEN "
                f"RAISE EXCEPTION 'the tables are an export from before the position of this one'; END IF; END$$;"
            )

    def _begin(self) -> None:
        self._execute("BEGIN;")
        self._execute("SET LOCAL client_min_messages = warning;")

    def insert(self, table: SqlTable, batches: Iterable[list[FlatRow]]) -> int:
        """See Target."""
        counts: list[int] = []
        statement = f"COPY {table.name} ({', '.join(table.names)}) FROM stdin;"

        def chunks(batches: Iterable[list[FlatRow]]) -> Iterator[bytes]:
            for rows in batches:
                if rows:
                    counts.append(len(rows))
                    yield self._lines(table, rows)

        if self._is_new:
            self._copy(statement, chunks(batches))
        else:
            # Before each batch an index may have to be made anew for its long keys.
            for rows in batches:
                self._make_room(table, rows)
                self._copy(statement, chunks([rows]))
        return sum(counts)

    def clear(self, table: SqlTable, above: int | None = None) -> None:
        """See Target."""
        self._execute(f"DELETE FROM {table.name}{'' if above is None else f' WHERE {table.key} > {above}'};")

    def delete(self, table: SqlTable, column: str, numbers: list[int]) -> None:
        """See Target."""
        if numbers:
            self._execute(f"DELETE FROM {table.name} WHERE {column} IN ({','.join(map(str, numbers))});")

    def replace(self, table: SqlTable, rows: list[FlatRow]) -> None:
        """See Target."""
        self._make_room(table, rows)
        others = [name for name in table.names if name != table.key]
        change = ", ".join(f"{name} = excluded.{name}" for name in others)
        for row in rows:
            values = ", ".join(map(literal, row))
            self._execute(
                f"INSERT INTO {table.name} VALUES ({values}) ON CONFLICT ({table.key}) DO UPDATE SET {change};"
            )

    def finish(self, position: CatalogPosition, *, is_new: bool) -> None:
        """See Target."""
        if is_new:
            for index in _indexes():
                self._execute(index.postgres_of_long_keys if index.name in self._long else index.sqlite)
        for name, last in sequences(position).items():
            if last:
                self._execute(f"ALTER TABLE {name} ALTER COLUMN {tables()[name].key} RESTART WITH {last + 1};")
        self._execute("COMMIT;")

    def _lines(self, table: SqlTable, rows: list[FlatRow]) -> bytes:
        """Return rows as COPY takes them, and remember which indexes need other means for their keys."""
        make = _line_maker(table)
        lines = make(rows)
        if max(map(len, lines)) * _UTF8_BYTES_MAX > POSTGRES_KEY_BYTES_MAX:
            self._long.update(index.name for index in _long_indexes(table, rows))
        text = "".join(lines)
        tabs = len(rows) * (len(table.columns) - 1)
        if "\\" in text or "\r" in text or "\n" in text or text.count("\t") != tabs:
            lines = make([tuple([_escaped(value) for value in row]) for row in rows])
        lines.append("")
        return "\n".join(lines).replace(_NULL, "\\N").encode()

    def _make_room(self, table: SqlTable, rows: list[FlatRow]) -> None:
        """Let the indexes of a table that is there take keys of any length, where one is too long for what it has."""
        for index in _long_indexes(table, rows):
            if index.name not in self._long:
                self._long.add(index.name)
                self._execute(f"ALTER TABLE {table.name} DROP CONSTRAINT IF EXISTS {index.name};")
                self._execute(f"DROP INDEX IF EXISTS {index.name};")
                self._execute(index.postgres_of_long_keys)


def literal(value: str | int | None) -> str:
    """Return a value as a literal under standard_conforming_strings."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


@cache
def _line_maker(table: SqlTable) -> Callable[[list[FlatRow]], list[str]]:
    """Return what makes lines of rows: compiled once for a table, it takes half as long as any pattern does."""
    names = [f"c{place}" for place in range(len(table.columns))]
    cells = [
        f"{{null if {name} is None else {name}}}" if column.is_optional else f"{{{name}}}"
        for name, column in zip(names, table.columns, strict=True)
    ]
    source = f'lambda rows: [f"{_TAB.join(cells)}" for {",".join(names)} in rows]'
    maker: Callable[[list[FlatRow]], list[str]] = eval(source, {"null": _NULL})  # noqa: S307 - of nothing but numbers
    return maker


def _escaped(value: str | int | None) -> str | int | None:
    return value.translate(_ESCAPES) if isinstance(value, str) else value


def _indexes() -> list[Index]:
    return [index for table in tables().values() for index in table.indexes]


def _long_indexes(table: SqlTable, rows: list[FlatRow]) -> list[Index]:
    """Return the indexes for which a row has a key that is too long for a B-tree."""
    return [
        index for index in table.indexes if any(_key_bytes(table, index, row) > POSTGRES_KEY_BYTES_MAX for row in rows)
    ]


def _key_bytes(table: SqlTable, index: Index, row: FlatRow) -> int:
    parts = [row[table.names.index(column)] for column in index.columns]
    return sum(len(part.encode()) for part in parts if isinstance(part, str))
