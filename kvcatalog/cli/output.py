"""Results on standard output: one writer for every command and format.

A command gives rows, which map names to values. JSON holds whole rows; tables and CSV hold the columns that the command
names. Text in tables is always made visible. CSV is exact in pipes and files and made visible on a terminal; JSON is
ASCII. Sizes and times are readable on a terminal and exact everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Any, Literal, TextIO, get_args

import msgspec
from click import UsageError

from kvcatalog import clock
from kvcatalog.cli.text import size_text, visible

Format = Literal["table", "json", "jsonl", "csv", "ids"]
FORMATS: tuple[str, ...] = get_args(Format)
Row = Mapping[str, Any]

_TABLE_ROWS = 1000
"""Rows whose widths are taken together, so that a long listing streams."""

_PADDED_MAX = 64
"""A longer value stands out of its column unless most are as long, so that one does not make every row as long."""

_FOLDED_MIN = 8
"""Characters to a line of a folded value, at least."""

_NESTED_ROWS = 20
_SHORT_DIGEST = 12
_GAP = "  "


class _UntilError:
    """Rows up to the first error, which is kept."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Row]:
        try:
            for row in self._rows:  # noqa: UP028 - whoever stops here leaves the rest to others
                yield row
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - it is raised later
            self._error = error

    def raise_it(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error

    def begun(self) -> Iterable[Row]:
        """Return the rows once it is known how they begin; raises the error that comes in place of the first."""
        rows = iter(self)
        first = list(islice(rows, 1))
        if not first:
            self.raise_it()
        return chain(first, rows)


class Output:
    """Writes results in one format to one stream."""

    def __init__(self, output_format: Format, stream: TextIO) -> None:
        self.format = output_format
        self._stream = stream
        self._terminal = stream.isatty()

    def rows(self, rows: Iterable[Row], columns: Sequence[str], *, identity: str | None = "id") -> None:
        """Write rows as they come; `identity` is the column that the format `ids` prints, None if there is none.

        Where the rows end in an error, those before it are written whole, and then the error is raised. If there are
        none before it, nothing is written: that would be an empty result.
        """
        self._refuse_ids(identity)
        until_error = _UntilError(rows)
        if self.format == "table":
            self._write_table(until_error.begun(), columns)
        else:
            self._write_machine_readable(until_error.begun(), columns, identity)
        until_error.raise_it()

    def details(self, rows: Iterable[Row], columns: Sequence[str], *, identity: str | None = "id") -> None:
        """Write each row by itself where the format is table: a line for each value, a table for each list."""
        if self.format != "table":
            self.rows(rows, columns, identity=identity)
            return
        for number, row in enumerate(rows):
            self._stream.write("\n" if number else "")
            self._write_details(row)

    def item(self, row: Row) -> None:
        """Write a result that is one row by nature; JSON holds the object itself."""
        if self.format == "json":
            self._stream.write(_json(row) + "\n")
        else:
            self.details((row,), [name for name, value in row.items() if not _is_nested(value)], identity=None)

    def _write_machine_readable(self, rows: Iterable[Row], columns: Sequence[str], identity: str | None) -> None:
        match self.format:
            case "json":
                self._write_json(rows)
            case "jsonl":
                for row in rows:
                    self._stream.write(_json(row) + "\n")
            case "csv":
                self._write_csv(rows, columns)
            case _:
                self._write_ids(rows, identity)

    def _write_json(self, rows: Iterable[Row]) -> None:
        separator = "[\n"
        for row in rows:
            self._stream.write(separator + _json(row))
            separator = ",\n"
        self._stream.write("[]\n" if separator == "[\n" else "\n]\n")

    def _write_csv(self, rows: Iterable[Row], columns: Sequence[str]) -> None:
        import csv

        # RFC 4180: the line ends with CRLF, which also makes the writer quote a lone CR.
        writer = csv.writer(self._stream, lineterminator="\r\n")
        writer.writerow(columns)
        for row in rows:
            cells = [_csv_cell(row.get(column)) for column in columns]
            writer.writerow(map(visible, cells) if self._terminal else cells)

    def _refuse_ids(self, identity: str | None) -> None:
        if self.format == "ids" and identity is None:
            raise UsageError("this command has no identifiers to print; choose another --format")

    def _write_ids(self, rows: Iterable[Row], identity: str | None) -> None:
        for row in rows:
            found = row[identity or ""]
            self._stream.writelines(
                f"{visible(str(each))}\n"
                for each in (found if isinstance(found, list) else [found])
                if each is not None
            )

    def _write_table(self, rows: Iterable[Row], columns: Sequence[str]) -> None:
        remaining = iter(rows)
        first = True
        while chunk := list(islice(remaining, _TABLE_ROWS)):
            if self._terminal:
                self._write_rich_table(chunk, columns)
            else:
                self._stream.writelines(self._plain_lines(chunk, columns, header=first))
            first = False

    def _write_rich_table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        cells = [[self._cell(column, row.get(column)) for column in columns] for row in rows]
        if console.width < _width_min(columns, cells):
            self._write_narrowly(rows, columns)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            justify: Literal["left", "right"] = "right" if _is_numeric(rows, column) else "left"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=justify == "right")
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)

    def _write_narrowly(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Write each row by itself, where columns would be left out for want of room."""
        for row in rows:
            self._write_details({column: row.get(column) for column in columns})
            self._stream.write("\n")

    def _plain_lines(self, rows: Sequence[Row], columns: Sequence[str], *, header: bool) -> Iterator[str]:
        lines = [[self._cell(column, row.get(column)) for column in columns] for row in rows]
        widths = [_width([len(text) for text in cells]) for cells in zip(columns, *lines, strict=True)]
        right = [_is_numeric(rows, column) for column in columns]
        for cells in ([list(columns)] if header else []) + lines:
            padded = (
                text.rjust(width) if to_right else text.ljust(width)
                for text, width, to_right in zip(cells, widths, right, strict=True)
            )
            yield _GAP.join(padded).rstrip() + "\n"

    def _write_details(self, row: Row) -> None:
        width = max(len(name) for name in row)
        nested = {name: value for name, value in row.items() if _is_nested(value)}
        for name, value in row.items():
            if name not in nested:
                text = visible(value) if isinstance(value, str) else self._cell(name, value)
                self._stream.write(f"{name:{width}}{_GAP}{text}\n")
        for name, rows in nested.items():
            if not rows:
                continue
            self._stream.write(f"{name} ({len(rows)})\n")
            shown = rows[:_NESTED_ROWS]
            for line in self._plain_lines(shown, list(shown[0]), header=True):
                self._stream.write(_GAP + line)
            if len(rows) > len(shown):
                self._stream.write(f"{_GAP}... and {len(rows) - len(shown)} more, which --json lists\n")

    def _cell(self, column: str, value: object) -> str:
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if self._terminal and (readable := _readable(column, value)):
            return readable
        if isinstance(value, (list, tuple)):
            return ", ".join(self._cell(column, item) for item in value) or "-"
        return visible(_csv_cell(value))


def _width(lengths: Sequence[int]) -> int:
    """Return how wide a column is: as the longest of its cells that does not stand out."""
    most = max(_PADDED_MAX, sorted(lengths)[(len(lengths) - 1) // 2] * 5 // 4)
    return max(length for length in lengths if length <= most)


def _width_min(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Return how wide a table must be to show all of its columns, the long ones folded."""
    longest = [max(map(len, each)) for each in zip(columns, *cells, strict=True)]
    return sum(min(width, _FOLDED_MIN) for width in longest) + len(_GAP) * (len(longest) - 1)


def _readable(column: str, value: object) -> str | None:
    """Return a size, a time or a digest as people like to read it, None for all else."""
    if isinstance(value, int) and (column.endswith("bytes") or column.startswith("bytes_")):
        return size_text(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    return str(value)[:_SHORT_DIGEST] if column == "sha256" else None


def _is_nested(value: object) -> bool:
    """Tell whether a value is a list of rows, which stands in a table of its own; an empty list counts as one."""
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _is_numeric(rows: Sequence[Row], column: str) -> bool:
    values = [row.get(column) for row in rows]
    return all(value is None or (isinstance(value, int) and not isinstance(value, bool)) for value in values)


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return clock.to_text(value)
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    return _json(value)


def _json(value: object) -> str:
    import json

    # The encoder leaves DEL, the one control character of ASCII above the printable ones, as it is.
    return json.dumps(value, default=_json_value).replace("\x7f", "\\u007f")


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return clock.to_text(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in a result")
