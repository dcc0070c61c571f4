"""Keeps the writers of one host apart: at most one of all its threads and processes works on a key at a time.

Conditional requests cannot do that: servers let two through, refuse the header, or ignore it for large objects. The
locks are open-file-description locks (fcntl(2)) on one byte for each key, in one file for each bucket, in a folder
below the temporary one that belongs to this user alone. They end with the process that holds them. Other hosts, other
users and a process with another temporary folder are not kept apart.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b

from kvcatalog.errors import StorageFailedError, StoragePermissionError

_OFFSET_BITS = 62
"""Keeps the offset of a byte within what a file may have; two keys that meet there only wait for each other."""


class HostLocks:
    """The locks of one bucket; `scope` names it for every process of the host alike."""

    def __init__(self, scope: str) -> None:
        self._name = f"s3-{blake2b(scope.encode(), digest_size=16).hexdigest()}.lock"

    @contextmanager
    def held(self, *keys: str) -> Iterator[None]:
        """Hold the keys' locks; waits as long as others hold them.

        StoragePermissionError if the folder of the locks is not ours alone, StorageFailedError if it cannot be used.
        """
        with ExitStack() as stack:
            try:
                descriptor = _opened(self._name)
                stack.callback(os.close, descriptor)
                # In one order for everybody, and each byte once, so that nobody waits in a circle.
                for offset in sorted({_offset(key) for key in keys}):
                    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _lock(fcntl.F_WRLCK, offset))
                    # A child forked meanwhile holds the same description: closing ours alone would leave it locked.
                    stack.callback(fcntl.fcntl, descriptor, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, offset))
            except OSError as error:
                raise StorageFailedError(f"cannot use the lock file {self._name}: {error}") from error
            yield


def _offset(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) >> (64 - _OFFSET_BITS)


def _lock(kind: int, offset: int) -> bytes:
    """Return a `struct flock` for one byte, as 64-bit Linux lays it out."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, offset, 1, 0)


def _opened(name: str) -> int:
    folder = os.open(_folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    # Those who clean temporary folders take what is old; a file that is used must not look so.
    os.utime(descriptor)
    return descriptor


def _folder() -> str:
    path = os.path.join(tempfile.gettempdir(), f"kvcatalog-{os.geteuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            error = StoragePermissionError(
                f"{path} is no folder that belongs to this user alone (mode 0700); the locks for buckets go there"
            )
            raise error.advising("Remove it, or set TMPDIR to a folder of your own.") from None
    return path
