"""SQLite as a file format: connections with the settings that exports and imports need, and its errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

from kvcatalog.errors import CatalogError, SqlSourceError, StorageFailedError, StorageFullError, StoragePermissionError

Connection = sqlite3.Connection

_CACHE_KIB = 64 << 10

_ERRORS: dict[str, type[CatalogError]] = {
    "SQLITE_FULL": StorageFullError,
    "SQLITE_IOERR": StorageFailedError,
    "SQLITE_PERM": StoragePermissionError,
    "SQLITE_READONLY": StoragePermissionError,
    "SQLITE_CANTOPEN": StoragePermissionError,
}


@contextmanager
def opened(path: str, query: str = "mode=rw") -> Iterator[Connection]:
    """Open a database file as a URI with a query; transactions are begun and ended by statements alone."""
    connection = sqlite3.connect(f"file:{quote(path)}?{query}", uri=True, isolation_level=None)
    try:
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        yield connection
    finally:
        with suppress(sqlite3.Error):
            connection.close()


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise SQLite's errors as ours, with the path of the file; what is wrong with its content is a SqlSourceError."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        kind = next((kind for start, kind in _ERRORS.items() if name.startswith(start)), SqlSourceError)
        raise kind(f"{path}: {error}") from error
