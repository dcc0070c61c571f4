"""Rows that a user gives in a file or on standard input: CSV with a header, or JSON lines."""

from __future__ import annotations

import csv
import json
import os
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE_BYTES_MAX = 1 << 20
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_NAMES = frozenset(("file", "artifact_id", "url", "resolver", "variant", "content_type", "run"))
_OTHER_NAMES = {"artifact": "artifact_id", "source_url": "url", "run_id": "run", "path": "file"}


class MappingRow(NamedTuple):
    """A row, the line where it ends, and why it cannot be used, if so; values that are empty are left out."""

    line: int
    values: dict[str, str]
    error: str | None = None


def read_rows(source: str, *, required: tuple[str, ...], plain: str | None = None) -> Iterator[MappingRow]:
    """Yield the rows of a file, `-` for standard input, as they are read.

    The suffix tells the form; where there is none of .csv and .jsonl, the first line does. Where `plain` names a
    column, lines that begin like a URL are also taken, each for a row of that column, and lines that begin with `#` are
    passed over. UsageError if the file cannot be read, or its header lacks a required column or has one that is not
    known: it may be one that was meant, misspelt.
    """
    with _opened(source) as stream:
        lines = _lines(stream, source)
        first = next(((number, line) for number, line in lines if line.strip()), None)
        if first is None:
            return
        rest = _chained(first, lines)
        text = first[1].lstrip()
        if source.endswith(_JSON_SUFFIXES) or (not source.endswith(".csv") and text.startswith("{")):
            rows = _json_rows(rest)
        elif plain and text.lower().startswith(("http://", "https://")):
            rows = (
                MappingRow(number, {plain: line.strip()}) for number, line in rest if line.strip()[:1] not in {"", "#"}
            )
        else:
            rows = _csv_rows(rest, source, required)
        for row in rows:
            missing = [name for name in required if name not in row.values]
            yield row._replace(error=f"there is no {missing[0]}") if missing and not row.error else row


def rows_expected(source: str) -> int | None:
    """Return how many rows a file has, roughly: as many as lines; None for standard input and what is no file."""
    if source == "-":
        return None
    try:
        with open(source, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(_LINE_BYTES_MAX), b"")) or 1
    except (OSError, ValueError):
        return None


def _csv_rows(lines: Iterator[tuple[int, str]], source: str, required: tuple[str, ...]) -> Iterator[MappingRow]:
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for reached, text in lines:
            number = reached
            yield text

    reader = csv.reader(texts(), strict=True)
    header = _header(reader, source, required)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield MappingRow(number, {}, f"no CSV: {error}")
            continue
        if cells is None:
            return
        if cells:
            values = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
            wrong = len(cells) != len(header)
            yield MappingRow(number, values, f"{len(cells)} cells for {len(header)} columns" if wrong else None)


def _header(reader: Iterator[list[str]], source: str, required: tuple[str, ...]) -> list[str]:
    try:
        header = [_known_name(name) for name in next(reader)]
    except csv.Error as error:
        raise click.UsageError(f"{source}: the header is no CSV: {error}") from error
    missing = [name for name in required if name not in header]
    if missing:
        raise click.UsageError(f"{source}: the header has no column {missing[0]}")
    unknown = [name for name in header if name not in _NAMES]
    if unknown:
        raise click.UsageError(f"{source}: there is no column {unknown[0]!r}; there are {', '.join(sorted(_NAMES))}")
    if len(set(header)) < len(header):
        raise click.UsageError(f"{source}: the header names a column twice")
    return header


def _json_rows(lines: Iterator[tuple[int, str]]) -> Iterator[MappingRow]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            yield MappingRow(number, {}, "no JSON")
            continue
        if not isinstance(fields, dict):
            yield MappingRow(number, {}, "no JSON object")
            continue
        named = {_known_name(name): value for name, value in fields.items() if value is not None and value != ""}
        values = {name: value for name, value in named.items() if isinstance(value, str)}
        wrong = [f"{name} is no text" for name in named if name not in values and name in _NAMES]
        wrong += [f"there is no column {name!r}" for name in named if name not in _NAMES]
        yield MappingRow(number, values, wrong[0] if wrong else None)


def _known_name(name: str) -> str:
    plain = name.strip().lower().replace("-", "_")
    return _OTHER_NAMES.get(plain, plain)


def _chained(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _lines(stream: BinaryIO, source: str) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers; bytes that are no UTF-8 become lone surrogates."""
    number = 0
    while line := stream.readline(_LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > _LINE_BYTES_MAX:
            raise click.UsageError(f"{source}: line {number} is longer than 1 MiB")
        content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        yield number, content.decode("utf-8", "surrogateescape")


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        if sys.stdin is None:
            raise click.UsageError("standard input is closed, so `-` has no rows")
        yield sys.stdin.buffer
        return
    try:
        stream = open(source, "rb")  # noqa: SIM115 - the error is that of opening, not of reading
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.UsageError(f"{source}: {reason}") from error
    with stream:
        yield stream
