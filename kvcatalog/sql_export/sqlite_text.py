"""An export as statements for the `sqlite3` program: printable text, whatever the values hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kvcatalog.models import CatalogPosition
from kvcatalog.sql_export.sqlite_file import sequences
from kvcatalog.sql_schema import SqlTable, tables
from kvcatalog.store.protocol import FlatRow


class SqliteText:
    """A Target that writes statements, all in one transaction."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def create(self) -> None:
        """See Target."""
        self._begin()
        for table in tables().values():
            self._say(table.sqlite)

    def update(self, since: CatalogPosition) -> None:
        """See Target; the constraint of a temporary table is what ends the script."""
        self._begin()
        self._say("CREATE TEMP TABLE kvcatalog_export (is_recent_enough CHECK (is_recent_enough));")
        for name, number in sequences(since).items():
            last = f"coalesce((SELECT seq FROM sqlite_sequence WHERE name='{name}'), 0)"
            self._say(f"INSERT INTO kvcatalog_export VALUES({last} >= {number});")
        self._say("DROP TABLE temp.kvcatalog_export;")

    def _begin(self) -> None:
        # Without .bail the program would go on behind an error, and commit what is left.
        self._say(".bail on", "PRAGMA foreign_keys=OFF;", "BEGIN;")

    def insert(self, table: SqlTable, batches: Iterable[list[FlatRow]]) -> int:
        """See Target."""
        count = 0
        for rows in batches:
            self._say(*[f"INSERT INTO {table.name} VALUES({','.join(map(literal, row))});" for row in rows])
            count += len(rows)
        return count

    def clear(self, table: SqlTable, above: int | None = None) -> None:
        """See Target."""
        self._say(f"DELETE FROM {table.name}{'' if above is None else f' WHERE {table.key} > {above}'};")

    def delete(self, table: SqlTable, column: str, numbers: list[int]) -> None:
        """See Target."""
        if numbers:
            self._say(f"DELETE FROM {table.name} WHERE {column} IN ({','.join(map(str, numbers))});")

    def replace(self, table: SqlTable, rows: list[FlatRow]) -> None:
        """See Target; foreign keys are off, so nothing follows a row that is replaced."""
        self._say(*[f"REPLACE INTO {table.name} VALUES({','.join(map(literal, row))});" for row in rows])

    def finish(self, position: CatalogPosition, *, is_new: bool) -> None:
        """See Target."""
        for name, last in sequences(position).items():
            self._say(f"DELETE FROM sqlite_sequence WHERE name='{name}';")
            if last:
                self._say(f"INSERT INTO sqlite_sequence(name, seq) VALUES('{name}',{last});")
        if is_new:
            self._say(*[index.sqlite for table in tables().values() for index in table.indexes])
        self._say("COMMIT;")

    def _say(self, *statements: str) -> None:
        if statements:
            self._write(("\n".join(statements) + "\n").encode())


def literal(value: str | int | None) -> str:
    """Return a value as SQLite's literal.

    What is not printable comes as its bytes: the program drops carriage returns before line ends, also in strings.
    """
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    if not value.isprintable():
        return f"CAST(X'{value.encode().hex()}' AS TEXT)"
    return "'" + value.replace("'", "''") + "'"
