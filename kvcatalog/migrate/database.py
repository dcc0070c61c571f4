"""The SQLite file beside a manifest: each row of its table `manifests` as the line that it was made from.

Its columns decide, not `user_version`, so every version is read in one way. The file is opened read-only and immutable:
no lock is taken, and nothing beside it is read or written.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from msgspec import Raw

from kvcatalog.errors import ManifestError
from kvcatalog.migrate.lines import Nested
from kvcatalog.migrate.reading import LINE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvcatalog.migrate.side_files import Row

_MAGIC = b"SQLite format 3\0"
_COLUMNS = {"work_id", "classification"}
_WAITING = ("-wal", "-journal")
_skip_array = msgspec.json.Decoder(Nested).decode


def is_database(path: Path) -> bool:
    """Tell whether a file is a SQLite database; a pipe is not looked into."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def has_manifests(path: Path) -> bool:
    """Tell whether a database has the table that holds a manifest."""
    with suppress(sqlite3.Error), closing(_connected(path)) as connection:
        return _columns(connection, "manifests") >= _COLUMNS
    return False


@contextmanager
def opened(path: Path) -> Iterator[tuple[Iterator[tuple[int, Row]], Callable[[], int]]]:
    """Open a database for its rows, each with its rowid, and a function for how many bytes of the file that is.

    First come the attempts that stored a page, where there is a table of them. ManifestError for what cannot be read.
    """
    for suffix in _WAITING:
        with suppress(OSError):
            if os.stat(f"{path}{suffix}").st_size:
                raise ManifestError(
                    f"{path} was not closed: part of it is in {path.name}{suffix}; "
                    f"let sqlite3 finish it (on a copy, if it must stay as it is): sqlite3 FILE .tables"
                )
    try:
        with closing(_connected(path)) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LINE_BYTES_MAX)
            connection.text_factory = _text
            if not _columns(connection, "manifests") >= _COLUMNS:
                raise ManifestError(f"{path} has no table manifests with {' and '.join(sorted(_COLUMNS))}")
            last = connection.execute("SELECT max(rowid) FROM manifests").fetchone()[0] or 1
            size, reached = path.stat().st_size, 0

            def rows() -> Iterator[tuple[int, Row]]:
                nonlocal reached
                if _columns(connection, "attempts") >= {"work_id", "status"}:
                    yield from _rows(connection, "attempts WHERE status = 'html'", record_type="attempt")
                for number, row in _rows(connection, "manifests"):
                    reached = number
                    yield number, row

            yield _translated(rows(), path), lambda: size * max(reached, 0) // last
    except (sqlite3.Error, OSError) as error:
        raise ManifestError(f"cannot read {path}: {error}") from error


def _connected(path: Path) -> sqlite3.Connection:
    name = quote(os.path.abspath(path))
    return sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True)


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    return {str(row[0]).lower() for row in rows}


def _translated(rows: Iterator[tuple[int, Row]], path: Path) -> Iterator[tuple[int, Row]]:
    try:
        yield from rows
    except sqlite3.Error as error:
        raise ManifestError(f"cannot read {path}: {error}") from error


def _rows(connection: sqlite3.Connection, source: str, **fields: str) -> Iterator[tuple[int, bytes]]:
    table, _, condition = source.partition(" ")
    cursor = connection.execute(f"SELECT rowid, * FROM {table} {condition} ORDER BY rowid")  # noqa: S608 - ours
    names = [str(column[0]).lower() for column in cursor.description[1:]]
    for number, *found in cursor:
        yield number, _line(fields | dict(zip(names, found, strict=True)))


def _line(fields: dict[str, object]) -> bytes:
    pages = fields.get("html_paths")
    if isinstance(pages, str) and pages.lstrip().startswith("["):
        # It is JSON in text; what is none stays text, and is then taken for a path.
        with suppress(ValueError, RecursionError):
            encoded = pages.encode()
            _skip_array(encoded)
            fields["html_paths"] = Raw(encoded)
    if fields.get("dry_run") in (0, 1):
        fields["dry_run"] = bool(fields["dry_run"])
    for name, value in fields.items():
        if isinstance(value, bytes):
            fields[name] = _text(value)
    try:
        line = msgspec.json.encode(fields)
    except UnicodeEncodeError:
        line = json.dumps(fields, default=lambda raw: json.loads(bytes(raw))).encode()
    return line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"


def _text(raw: bytes) -> str:
    """Return text whose bytes may not be UTF-8 as what a JSON line can say, so that file names get them back."""
    return raw.decode("utf-8", "surrogateescape")
