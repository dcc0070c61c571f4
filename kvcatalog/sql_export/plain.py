"""An export as JSON lines, a table's name in each, or as CSV of one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable

import msgspec

from kvcatalog.models import CatalogPosition
from kvcatalog.sql_export.sqlite_file import sequences
from kvcatalog.sql_schema import SqlTable
from kvcatalog.store.protocol import FlatRow

_json = msgspec.json.Encoder().encode


def write_csv(write: Callable[[bytes], object], table: SqlTable, batches: Iterable[list[FlatRow]]) -> int:
    """Write a table as CSV (RFC 4180, UTF-8) with a header, and return how many rows it has; NULL is an empty cell."""
    count = 0
    write(_csv([table.names]))
    for rows in batches:
        write(_csv(rows))
        count += len(rows)
    return count


def write_json_lines(write: Callable[[bytes], object], table: SqlTable, batches: Iterable[list[FlatRow]]) -> int:
    """Write a table as JSON lines, its name under `table`, and return how many rows it has."""
    count, names = 0, ("table", *table.names)
    for rows in batches:
        write(b"".join([_json(dict(zip(names, (table.name, *row), strict=True))) + b"\n" for row in rows]))
        count += len(rows)
    return count


def write_sequences(write: Callable[[bytes], object], position: CatalogPosition) -> None:
    """Write as the last of the JSON lines which ids and sequence numbers had been given out."""
    write(_json({"table": "sequences", **sequences(position)}) + b"\n")


def _csv(rows: Iterable[tuple[object, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
