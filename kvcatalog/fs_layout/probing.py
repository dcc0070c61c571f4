"""What the file system of a root can do, found out by trying it on files of our own that are gone afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

from kvcatalog.blobs import Capability
from kvcatalog.errors import OS_ERRORS, StorageFullError
from kvcatalog.fs_layout.folders import RootFolder, link_descriptor, rename_exclusively


def probe(root: str) -> Iterator[Capability]:
    """Yield what works below a folder that is a root; errors as those of FileBlobStore where nothing can be written.

    The files lie in the staging folder, locked, so that others sweep away what a killed process leaves.
    """
    folder = RootFolder(root)
    try:
        with folder.staged_name() as (staging, name, descriptor):
            yield _durable(root, staging, descriptor)
            yield _nameless(staging)
            others = f"{name}-a", f"{name}-b"
            try:
                reason = link_descriptor(descriptor, staging, others[0])
                yield Capability("hard links", reason is None, reason)
                yield _exclusive(staging, name, *others, linked=reason is None)
            finally:
                for other in others:
                    with suppress(FileNotFoundError):
                        os.unlink(other, dir_fd=staging)
    finally:
        folder.close()


def _durable(root: str, staging: int, descriptor: int) -> Capability:
    try:
        os.write(descriptor, b"kvcatalog")
        os.fsync(descriptor)
        os.fsync(staging)
    except OSError as error:
        if OS_ERRORS.get(error.errno or 0) is StorageFullError:  # that says nothing of what it can do
            raise StorageFullError(f"{root}: {error.strerror}") from error
        return Capability("durable writes", works=False, detail=error.strerror)
    return Capability("durable writes", works=True)


def _nameless(staging: int) -> Capability:
    try:
        os.close(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=staging))
    except OSError as error:
        return Capability("nameless files", works=False, detail=errno.errorcode.get(error.errno or 0))
    return Capability("nameless files", works=True)


def _exclusive(staging: int, name: str, taken: str, free: str, *, linked: bool) -> Capability:
    """Try to rename over a file, which must be refused, and to a new name."""
    if not linked:
        os.close(os.open(taken, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=staging))
    try:
        with suppress(FileExistsError):
            rename_exclusively(staging, name, staging, taken)
            return Capability("exclusive renames", works=False, detail="a file that was there was replaced")
        rename_exclusively(staging, taken, staging, free)
    except OSError as error:
        return Capability("exclusive renames", works=False, detail=errno.errorcode.get(error.errno or 0))
    return Capability("exclusive renames", works=True)
