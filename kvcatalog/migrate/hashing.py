"""Digests of files, several at a time, in the order in which they were asked for."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, cast

from kvcatalog.digest import sha256_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_TELL_SECONDS = 0.25

Hashed = tuple[str, int]
"""A digest in lowercase hex, and the number of bytes that it is of."""


class Hashing:
    """Reads files with as many threads as there are cores; `told` is called now and then by who waits for them.

    `files` and `bytes` say how much was read so far.
    """

    def __init__(self, told: Callable[[], object]) -> None:
        self._told = told
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "kvcatalog-hashing")
        self._lock = Lock()
        self._is_stopped = False
        self.files = 0
        self.bytes = 0

    def digests(self, paths: Sequence[str]) -> Iterator[Hashed | None]:
        """Yield the digest and size of each file, None where it cannot be read."""
        for future in [self._pool.submit(self._digest, path) for path in paths]:
            yield self._result(future)

    def close(self) -> None:
        """Let files that are being read be, and wait for the threads."""
        self._is_stopped = True
        self._pool.shutdown(cancel_futures=True)

    def _result(self, future: Future[Hashed | None]) -> Hashed | None:
        while True:
            try:
                result = future.result(_TELL_SECONDS)
            except TimeoutError:
                self._told()
                continue
            self.files += result is not None
            self._told()
            return result

    def _digest(self, path: str) -> Hashed | None:
        try:
            with open(path, "rb", buffering=0) as stream:
                return sha256_stream(cast("BinaryIO", _Counted(stream, self._count)))
        except OSError:
            return None

    def _count(self, count: int) -> None:
        if self._is_stopped:
            raise InterruptedError
        with self._lock:
            self.bytes += count


class _Counted:
    """Counts what is read through it."""

    def __init__(self, stream: BinaryIO, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def readinto(self, buffer: bytearray) -> int:
        count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._count(count)
        return count
