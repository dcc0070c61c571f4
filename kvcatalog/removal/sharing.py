"""How many bytes go with files: one with several names goes with the last of them."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from typing import BinaryIO, Self

_RUN_FILES = 100_000
"""Files that are sorted in memory."""

_FORMAT = struct.Struct(">16sQQ")

_Name = tuple[bytes, int, int]
"""What all names of a file have in common, how many there are, and the file's size."""


class FreedBytes:
    """Adds up what removing files frees, if nothing else does; files with several names are sorted on disk.

    A context manager; memory does not grow with the number of files.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._names: list[_Name] = []
        self._runs: list[BinaryIO] = []
        self._stack = ExitStack()

    def add(self, size: int, links: int, file: int | None) -> None:
        """Take one name of a file into account."""
        if links <= 1 or file is None:
            self._bytes += size
            return
        self._names.append((file.to_bytes(16, "big"), links, size))
        if len(self._names) == _RUN_FILES:
            self._write_run()

    def total(self) -> int:
        """Return the sum: a file counts once all of its names were added."""
        self._names.sort()
        runs = [*map(_read_run, self._runs), iter(self._names)]
        shared = 0
        for _, names in groupby(heapq.merge(*runs), key=lambda name: name[0]):
            several = list(names)
            _, links, size = several[-1]
            shared += size if len(several) >= links else 0
        return self._bytes + shared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _write_run(self) -> None:
        self._names.sort()
        run = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        run.writelines(_FORMAT.pack(*name) for name in self._names)
        self._runs.append(run)
        self._names = []


def _read_run(run: BinaryIO) -> Iterator[_Name]:
    run.seek(0)
    while data := run.read(_FORMAT.size):
        yield _FORMAT.unpack(data)
