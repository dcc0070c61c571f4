"""An export into a PostgreSQL server, through psycopg, which the extra `postgres` brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvcatalog.errors import ConfigError, OutputExistsError, SqlServerError
from kvcatalog.sql_schema import tables

if TYPE_CHECKING:
    import psycopg


class Server:
    """A Channel to a server; everything is one transaction."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str) -> None:
        """See Channel."""
        self._connection.execute(statement.encode())

    def copy(self, statement: str, chunks: Iterable[bytes]) -> None:
        """See Channel."""
        with self._connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for chunk in chunks:
                copy.write(chunk)

    def refuse_what_is_there(self) -> None:
        """Raise OutputExistsError if a table that is to be made is there."""
        for name in tables():
            found = self._connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
            if found is not None and found[0] is not None:
                raise OutputExistsError(f"the database has a table {name} already")


@contextmanager
def connected(dsn: str) -> Iterator[Server]:
    """Connect to a server; its errors become ours, and what has not been committed is rolled back."""
    try:
        import psycopg
    except ImportError as error:
        failure = ConfigError("--dsn needs psycopg, which is not installed")
        raise failure.advising("pip install 'kvcatalog[postgres]'") from error
    try:
        # Statements begin and end the transaction, as they do in a script.
        with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8", application_name="kvcatalog") as connection:
            connection.execute("SET standard_conforming_strings = on")
            yield Server(connection)
    except psycopg.Error as error:
        raise SqlServerError(str(error).strip() or type(error).__name__) from error
