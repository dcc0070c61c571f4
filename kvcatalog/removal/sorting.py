"""Rows that are sorted on disk, so that memory does not grow with their number."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, Generic, Self, TypeVar

from msgspec import msgpack

Row = TypeVar("Row", bound=tuple[Any, ...])

_RUN_ROWS = 50_000
"""Rows that are sorted in memory."""

_LENGTH_BYTES = 4
_encode = msgpack.Encoder().encode


class SortedRows(Generic[Row]):
    """Takes tuples of one type in any order, and gives them back sorted; a context manager."""

    def __init__(self, row_type: type[Row]) -> None:
        self._decode = msgpack.Decoder(row_type).decode
        self._rows: list[Row] = []
        self._runs: list[BinaryIO] = []
        self._stack = ExitStack()

    def add(self, row: Row) -> None:
        """Take a row."""
        self._rows.append(row)
        if len(self._rows) == _RUN_ROWS:
            self._write_run()

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in order; they may be asked for again, and by one reader at a time."""
        if not self._runs:
            self._rows.sort()
            yield from self._rows
            return
        if self._rows:
            self._write_run()
        yield from heapq.merge(*map(self._read_run, self._runs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _write_run(self) -> None:
        self._rows.sort()
        run = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        for row in self._rows:
            data = _encode(row)
            run.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        self._runs.append(run)
        self._rows = []

    def _read_run(self, run: BinaryIO) -> Iterator[Row]:
        run.seek(0)
        while head := run.read(_LENGTH_BYTES):
            yield self._decode(run.read(int.from_bytes(head, "big")))
