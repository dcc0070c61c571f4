"""SHA-256 of files and streams, the digest that records carry."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

_READ_BYTES = 1 << 20


def sha256_file(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Return the lowercase hex SHA-256 of a file and its size in bytes, both from the same read; OSError as `open`."""
    with open(path, "rb", buffering=0) as stream:
        return sha256_stream(stream)


def sha256_stream(stream: BinaryIO) -> tuple[str, int]:
    """Return the lowercase hex SHA-256 of what is left of a binary stream, and how many bytes that was."""
    hasher = hashlib.sha256()
    size = 0
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        hasher.update(view[:count])
        size += count
    return hasher.hexdigest(), size
