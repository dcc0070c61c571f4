"""What lies below a folder; roots of their own and what is ours are passed over, symbolic links not followed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from kvcatalog import layout
from kvcatalog.blobs import BlobStat
from kvcatalog.fs_layout.folders import is_root

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INODE_BITS = 64

Found = TypeVar("Found")


def walk(folder: int, start: str) -> Iterator[BlobStat]:
    """Yield the files below an open folder whose path is `start`."""
    for entry, path in _entries(folder, start):
        with suppress(FileNotFoundError):
            yield blob_stat(path, entry.stat(follow_symlinks=False))


def listing(folder: int, start: str) -> Iterator[tuple[str, None]]:
    """Yield the paths of the files below an open folder whose path is `start`, as quickly as can be."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield start + entry.name, None
            elif entry.is_dir(follow_symlinks=False):
                yield from _below(folder, start, entry.name, listing)


def blob_stat(path: str, status: os.stat_result) -> BlobStat:
    """Return what is known of a file."""
    file = status.st_dev << _INODE_BITS | status.st_ino
    return BlobStat(path, status.st_size, status.st_mtime_ns // 1000, None, status.st_nlink, file)


def _entries(folder: int, start: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield entry, start + entry.name
            elif entry.is_dir(follow_symlinks=False):
                yield from _below(folder, start, entry.name, _entries)


def _below(folder: int, start: str, name: str, walker: Callable[[int, str], Iterator[Found]]) -> Iterator[Found]:
    """Yield what a walker finds in a folder, unless that is to be passed over."""
    below = _entered(folder, start, name)
    if below >= 0:
        try:
            yield from walker(below, f"{start}{name}/")
        finally:
            os.close(below)


def _entered(folder: int, start: str, name: str) -> int:
    """Open a folder; -1 if it is ours, a root of its own, or gone."""
    if start + name == layout.OURS:
        return -1
    try:
        below = os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        return -1
    if is_root(below):
        os.close(below)
        return -1
    return below
