"""What a run leaves beside its manifest, row by row as lines of a manifest: the index (JSON) and the last table (CSV).

Both hold what each work came to in the end.
"""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kvcatalog.errors import ManifestError
from kvcatalog.migrate.reading import LINE_BYTES_MAX, lines, translated

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

_PIECE_BYTES = 1 << 16
_COLUMNS = {"work_id", "classification"}
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|(?P<open>\Z|\\\Z))|[{}\[\],]', re.DOTALL)
_NAME = re.compile(rb'\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:', re.DOTALL)


class Unreadable(Struct, gc=False):
    """A row that is no line of a manifest, word for word, and why."""

    reason: str
    raw: bytes


Row = bytes | Unreadable | None
"""A line with its end, or what stands for it; None for one that was too long to be held."""


def table_rows(
    stream: io.BufferedReader[Any], label: str, overlong: Callable[[bytes], object]
) -> Iterator[tuple[int, Row]]:
    """Yield each row below the header, with the number of the line where it ends.

    A quote that is never closed costs what follows up to the limit of a field, 128 KiB. ManifestError without header.
    """
    source = _Physical(stream, label, overlong)
    rows = _parsed(csv.reader(source.texts()))
    header = next(rows, None)
    if header is None or not set(header) >= _COLUMNS:
        raise ManifestError(f"{label} has no header that names {' and '.join(sorted(_COLUMNS))}")
    source.held.clear()
    for row in rows:
        raw = b"".join(source.held)
        source.held.clear()
        if row is None:
            yield source.number, Unreadable("not-csv", raw)
        elif not row:
            yield source.number, b"\n" if raw else None
        elif len(row) != len(header):
            yield source.number, Unreadable("wrong-columns", raw)
        else:
            yield source.number, json.dumps(dict(zip(header, row, strict=True))).encode() + b"\n"


class _Physical:
    """The lines of a table: how many there were so far, and those that no row was made of yet."""

    def __init__(self, stream: io.BufferedReader[Any], label: str, overlong: Callable[[bytes], object]) -> None:
        self._lines = lines(stream, label, overlong)
        self.number = 0
        self.held: list[bytes] = []

    def texts(self) -> Iterator[str]:
        """Yield lines as text; one that was too long to be held is empty, without even a line end."""
        for raw in self._lines:
            self.number += 1
            self.held.append(raw or b"")
            # Bytes that are not UTF-8 become what a JSON line can say, and file names get them back.
            yield (raw or b"").decode("utf-8", "surrogateescape")


def _parsed(reader: Iterator[list[str]]) -> Iterator[list[str] | None]:
    """Yield rows, None for one that cannot be made out."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None


def index_rows(stream: io.BufferedReader[Any], label: str) -> Iterator[tuple[int, Row]]:
    """Yield each member of the object, with its number: the name is the work's id, the value says what is known of it.

    ManifestError where the file ends early or is so damaged that no member can be made out.
    """
    for number, member in enumerate(_members(stream, label), 1):
        name = _NAME.match(member)
        value = member[name.end() :].strip() if name else b""
        if name is None or not value.startswith(b"{"):
            yield number, Unreadable("not-an-object", member.strip() + b"\n")
        else:
            rest = value[1:].lstrip()
            comma = b"" if rest.startswith(b"}") else b", "
            line = b'{"work_id": ' + name[1] + comma + rest
            # White space between tokens means nothing.
            yield number, line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"


def _members(stream: io.BufferedReader[Any], label: str) -> Iterator[bytes]:
    """Yield the members of the one object in a stream as they stand there."""
    depth = start = position = 0
    buffer = _read(stream, label).removeprefix(b"\xef\xbb\xbf")
    if not buffer.lstrip().startswith(b"{"):
        raise ManifestError(f"{label} is not the index of a manifest")
    while True:
        token = _TOKEN.search(buffer, position)
        if token is None or token["open"] is not None:
            position = (len(buffer) if token is None else token.start()) - start
            buffer, start = buffer[start:] + _more(stream, label, len(buffer) - start), 0
            continue
        position = token.end()
        match token[0]:
            case b"{" | b"[":
                depth += 1
                start = position if depth == 1 else start
            case b"}" | b"]":
                depth -= 1
        if depth == 0 or (depth == 1 and token[0] == b","):
            member = buffer[start : position - 1]
            start = position
            if member.strip() or depth:
                yield member
        if depth == 0:
            break
    if buffer[position:].strip() or _read(stream, label).strip():
        raise ManifestError(f"{label} is damaged: something stands behind its end")


def _more(stream: io.BufferedReader[Any], label: str, held_bytes: int) -> bytes:
    piece = _read(stream, label)
    if not piece:
        raise ManifestError(f"{label} is cut short")
    if held_bytes > LINE_BYTES_MAX:
        raise ManifestError(f"{label} is damaged: a member of it has no end")
    return piece


def _read(stream: io.BufferedReader[Any], label: str) -> bytes:
    with translated(label):
        return stream.read(_PIECE_BYTES)
