"""SHA-256 of files and streams, the digest that records carry."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from hashlib import _Hash

_READ_BYTES = 1 << 20


def new_hasher() -> _Hash:
    """Return a new SHA-256; OpenSSL is loaded by then and not before."""
    from hashlib import sha256

    return sha256()


def sha256_file(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Return the lowercase hex SHA-256 of a file and its size in bytes, both from the same read; OSError as `open`."""
    with open(path, "rb", buffering=0) as stream:
        return sha256_stream(stream)


def sha256_stream(stream: BinaryIO) -> tuple[str, int]:
    """Return the lowercase hex SHA-256 of what is left of a binary stream, and how many bytes that was."""
    hasher = new_hasher()
    size = 0
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        hasher.update(view[:count])
        size += count
    return hasher.hexdigest(), size


class HashingWriter:
    """A new file that is hashed while it is written; once it is closed, finalize_candidate_download takes it.

    `path` must not exist (FileExistsError). `sha256` is None until then, and stays so without `hashing`.
    """

    def __init__(self, path: str | os.PathLike[str], *, hashing: bool = True) -> None:
        self.path = os.fspath(path)
        self.size = 0
        self.sha256: str | None = None
        self._hasher = new_hasher() if hashing else None
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - the writer is what is closed

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of some bytes and return their number; OSError."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += self._file.write(view[written:])
        if self._hasher is not None:
            self._hasher.update(view)
        self.size += written
        return written

    def close(self) -> None:
        """End the file; from now on `sha256` and `size` say what was written."""
        self._file.close()
        if self._hasher is not None:
            self.sha256 = self._hasher.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
