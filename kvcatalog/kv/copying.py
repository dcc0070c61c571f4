"""Copies of an environment, and what tells their content, made by the engine in a process of its own.

`copy_environment` copies pages as they are at one moment: writers go on meanwhile, and since the pages that are read
stay where they are, the file grows as under any long snapshot. `copy_rows` writes the rows of an environment that
nobody writes to, in order, so that pages are full and none is free; the engine's own compacting copy dies of large
sets (3.0 of the binding, both engines).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO

import xxhash

from kvcatalog.kv import engine, preflight
from kvcatalog.kv.apart import answering, serve
from kvcatalog.kv.environment import MAP_SIZE_BYTES, Environment, affordable, open_environment
from kvcatalog.kv.table import Table

_MODULE = "kvcatalog.kv.copying"
_CHUNK_BYTES = 1 << 20
_COMMIT_ROWS = 100_000

Content = dict[str, tuple[int, str]]
"""For each table how many rows it has, and a checksum over all of them."""

Progress = Callable[[int, int], object]
"""Is told how many rows of how many are done."""


def copy_environment(folder: engine.StrPath, sink: Callable[[bytes], object]) -> None:
    """Pass the bytes of a data file that holds one moment to `sink`, a piece at a time.

    It is whole once this returns, and others may write meanwhile. Raises CatalogUnavailableError or one of its kinds,
    DatabaseDamagedError also where the engine dies of the file.
    """
    with answering(_MODULE, folder, "pages") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            sink(piece)


def copy_rows(folder: engine.StrPath, target: engine.StrPath, progress: Progress | None = None) -> None:
    """Make an environment with all tables and rows in an empty folder; errors as `copy_environment`.

    Nobody may write to the one that is copied. What is made is not flushed.
    """
    with answering(_MODULE, folder, "rows", os.fspath(target), str(os.getpid())) as stream:
        _followed(stream, progress)


def content(folder: engine.StrPath, progress: Progress | None = None) -> Content:
    """Return what tells the content of an environment that nobody writes to; errors as `copy_environment`."""
    with answering(_MODULE, folder, "content") as stream:
        told = _followed(stream, progress)
    return {name: (count, checksum) for name, (count, checksum) in json.loads(told).items()}


def _followed(stream: IO[bytes], progress: Progress | None) -> bytes:
    """Pass on how many rows of how many are done, and return the line that tells of anything else."""
    told = b""
    for line in stream:
        if line.startswith(b"{"):
            told = line
        elif progress is not None:
            done, total = line.split()
            progress(int(done), int(total))
    return told


def _serve(folder: str, work: str, *arguments: str) -> None:
    environment = open_environment(folder, (), read_only=True, locking=work == "pages")
    try:
        match work:
            case "pages":
                with environment.read():
                    pass  # a table of readers that is full, or a map that others made larger, is cured here
                environment.copy(sys.stdout.fileno())
            case "rows":
                _write_rows(environment, arguments[0], parent=int(arguments[1]))
            case _:
                counting = _Counting(environment)
                sys.stdout.write(json.dumps(environment.walk(lambda _, rows: _summary(rows, counting))) + "\n")
    finally:
        environment.close()


class _Counting:
    """Tells the parent how many rows are done, a line each time."""

    def __init__(self, environment: Environment) -> None:
        self._done, self._total = 0, environment.count_rows()

    def add(self, rows: int) -> None:
        self._done += rows
        sys.stdout.write(f"{self._done} {self._total}\n")
        sys.stdout.flush()


def _summary(rows: engine.RawCursor, counting: _Counting) -> tuple[int, str]:
    count, checksum = 0, xxhash.xxh3_128()
    for key, value in rows.iternext():
        count += 1
        checksum.update(b"%d %d " % (len(key), len(value)))
        checksum.update(key)
        checksum.update(value)
        if not count % _COMMIT_ROWS:
            counting.add(_COMMIT_ROWS)
    counting.add(count % _COMMIT_ROWS)
    return count, checksum.hexdigest()


def _write_rows(environment: Environment, target: str, *, parent: int) -> None:
    kind = preflight.check_data_file(environment.path)
    counting = _Counting(environment)
    preflight.prepare_lock_file(target)  # the engine would die where there is no room for it
    try:
        raw = engine.create_raw(target, map_size_bytes=affordable(MAP_SIZE_BYTES), engine=kind, flushed=False)
        try:

            def write(table: Table, rows: engine.RawCursor) -> None:
                with raw.begin(write=True) as transaction:
                    handle = engine.open_table(raw, transaction, table, create=True)
                for first in _pieces(rows):
                    if os.getppid() != parent:
                        raise BrokenPipeError  # nobody waits for it any more
                    with raw.begin(write=True) as transaction, transaction.cursor(handle) as cursor:
                        counting.add(cursor.putmulti(first, append=True)[1])

            environment.walk(write)
        finally:
            raw.close()
    except engine.Error as error:
        raise engine.translate(error, target) from error


def _pieces(rows: engine.RawCursor) -> Iterator[Iterator[tuple[bytes, bytes]]]:
    """Yield rows in pieces, each to be used up before the next is asked for."""
    remaining = rows.iternext()
    for row in remaining:
        yield _with_first(row, islice(remaining, _COMMIT_ROWS))


def _with_first(row: tuple[bytes, bytes], rest: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    yield row
    yield from rest


if __name__ == "__main__":
    serve(_serve)
