"""An export as a SQLite database file: built without a journal, indexes last, or brought up to date in one step."""

from __future__ import annotations

from collections.abc import Iterable

from kvcatalog.errors import InvalidValueError, SqlSourceError
from kvcatalog.models import CatalogPosition
from kvcatalog.sql_schema import SqlTable, tables
from kvcatalog.sqlite_files import Connection
from kvcatalog.store.protocol import FlatRow

NUMBERS = 500
"""How many numbers a statement takes; older versions of SQLite end at 999 parameters."""


class SqliteFile:
    """A Target that writes through an open connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._counts: dict[str, int] = {}

    def create(self) -> None:
        """See Target; a file in the making needs no journal, since nobody sees it before it is whole."""
        for setting in ("page_size=8192", "journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "threads=2"):
            self._execute(f"PRAGMA {setting}")
        self._execute("BEGIN")
        for table in tables().values():
            self._execute(table.sqlite)

    def update(self, since: CatalogPosition) -> None:
        """See Target; others see either all of it or nothing."""
        self._execute("PRAGMA foreign_keys=OFF")
        self._execute("BEGIN IMMEDIATE")
        for table in tables().values():
            found = tuple(name for _, name, *_ in self._execute(f"PRAGMA table_info({table.name})"))
            if found != table.names:
                raise SqlSourceError(f"table {table.name} is not as an export makes it")
        last = dict(self._execute("SELECT name, seq FROM sqlite_sequence"))
        if any(last.get(name, 0) < number for name, number in sequences(since).items()):
            raise InvalidValueError("since", "the file is an export from before that")

    def insert(self, table: SqlTable, batches: Iterable[list[FlatRow]]) -> int:
        """See Target."""
        places = ",".join("?" * len(table.columns))
        statement = f"INSERT INTO {table.name} VALUES({places})"
        count = 0
        for rows in batches:
            self._connection.executemany(statement, rows)
            count += len(rows)
        self._counts[table.name] = count
        return count

    def clear(self, table: SqlTable, above: int | None = None) -> None:
        """See Target."""
        bound = "" if above is None else f" WHERE {table.key} > {above}"
        self._execute(f"DELETE FROM {table.name}{bound}")

    def delete(self, table: SqlTable, column: str, numbers: list[int]) -> None:
        """See Target."""
        for start in range(0, len(numbers), NUMBERS):
            part = numbers[start : start + NUMBERS]
            self._execute(f"DELETE FROM {table.name} WHERE {column} IN ({','.join('?' * len(part))})", part)

    def replace(self, table: SqlTable, rows: list[FlatRow]) -> None:
        """See Target; foreign keys are off, so nothing follows a row that is replaced."""
        places = ",".join("?" * len(table.columns))
        self._connection.executemany(f"REPLACE INTO {table.name} VALUES({places})", rows)

    def finish(self, position: CatalogPosition, *, is_new: bool) -> None:
        """See Target; SqlSourceError if the file is not what it should be."""
        if is_new:
            for table in tables().values():
                for index in table.indexes:
                    self._execute(index.sqlite)
        for name, last in sequences(position).items():
            self._execute("DELETE FROM sqlite_sequence WHERE name=?", (name,))
            if last:
                self._execute("INSERT INTO sqlite_sequence(name, seq) VALUES(?,?)", (name, last))
        self._execute("COMMIT")
        if is_new:
            self._check()

    def _check(self) -> None:
        found = [message for (message,) in self._execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise SqlSourceError(f"the database that was written is damaged: {found[0]}")
        for name, count in self._counts.items():
            (written,) = self._execute(f"SELECT count(*) FROM {name}").fetchone()
            if written != count:
                raise SqlSourceError(f"table {name} has {written} rows of {count} that were written")


def sequences(position: CatalogPosition) -> dict[str, int]:
    """Return the last number that was given out for each table that counts."""
    return {"documents": position.document, "variants": position.variant, "journal": position.journal}
