"""Folders whose names survive a crash of the machine: a name is durable once the folder that holds it is flushed."""

from __future__ import annotations

import os

StrPath = str | os.PathLike[str]


def flush_folder(folder: StrPath) -> None:
    """Flush the names in a folder; OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all of some bytes: where room runs out on the way, the first write only says that it was less; OSError."""
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])


def make_folders(folder: StrPath) -> None:
    """Make a folder and those above it that are missing, each flushed into the one above; OSError."""
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        make_folders(parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        flush_folder(parent)
