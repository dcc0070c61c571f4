"""Faults of what a catalog stands on: a disk that is full or read-only, a root that is not there.

Each is put up before a call and taken away after it, as the failing calls of shim.c are.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

PAGE = 4096
_ENOUGH_IN_A_ROW = 6
_TMPFS_BYTES = 16 << 20
_EXT4_BYTES = 48 << 20


class NoMountError(Exception):
    """No file system can be mounted here."""


class Source(Protocol):
    """Where faults come from; one that `opens_late` must be there before the catalog is opened."""

    opens_late: bool

    def arm(self, kind: str, number: int, code: int, *, forever: bool) -> None:
        """Let a fault be: the one of that number, from 1 on."""
        ...

    def disarm(self, *, failed: bool) -> int:
        """Take it away; 0 says that there was none any more."""
        ...


class FullDisk:
    """Leaves `number` - 1 pages of 4 KiB free, until calls have gone on for some levels."""

    opens_late = False

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"
        self._went_on = 0

    def arm(self, kind: str, number: int, code: int, *, forever: bool) -> None:  # noqa: ARG002
        """Fill the disk."""
        descriptor = os.open(self._filler, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _leave(descriptor, (number - 1) * PAGE)
        finally:
            os.close(descriptor)

    def disarm(self, *, failed: bool) -> int:
        """Make room."""
        self._filler.unlink()
        self._went_on = 0 if failed else self._went_on + 1
        if self._went_on < _ENOUGH_IN_A_ROW:
            return 1
        self._went_on = 0
        return 0


class ReadOnlyDisk:
    """Mounts the file system anew, for reading only."""

    opens_late = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def arm(self, kind: str, number: int, code: int, *, forever: bool) -> None:  # noqa: ARG002
        """Let nothing be written."""
        self._number = number
        run("mount", "-o", "remount,ro", str(self._folder))

    def disarm(self, *, failed: bool) -> int:  # noqa: ARG002
        """Let everything be written."""
        run("mount", "-o", "remount,rw", str(self._folder))
        return int(self._number == 1)


class MissingRoot:
    """Takes the root away: first nothing is in its place, then an empty folder, as below a mount that is gone."""

    opens_late = False
    _ways: ClassVar = ("nothing", "empty folder")

    def __init__(self, place: Path) -> None:
        self._root = place / "root"
        self._aside = place / "root.aside"
        self._number = 0

    def arm(self, kind: str, number: int, code: int, *, forever: bool) -> None:  # noqa: ARG002
        """Take it away."""
        self._number = number
        self._root.rename(self._aside)
        if number == 2:
            self._root.mkdir()

    def disarm(self, *, failed: bool) -> int:  # noqa: ARG002
        """Put it back; OSError if something was stored in its place."""
        if self._root.exists():
            self._root.rmdir()
        self._aside.rename(self._root)
        return int(self._number <= len(self._ways))


def _leave(descriptor: int, free: int) -> None:
    """Make a file as large as the disk lets it, but for some bytes; what describes the file takes room as well."""
    largest = _EXT4_BYTES
    while largest >= PAGE:
        figures, size = os.fstatvfs(descriptor), os.fstat(descriptor).st_size
        spare = min(figures.f_bavail * figures.f_frsize - free, largest)
        if spare <= 0:
            os.ftruncate(descriptor, size + spare)
            return
        try:
            os.posix_fallocate(descriptor, size, spare)
        except OSError:
            largest = spare // 2 // PAGE * PAGE


@contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Path]:
    """Mount a small file system of a kind, tmpfs or ext4, below a folder; NoMountError."""
    place = folder / f"mount-{kind}"
    place.mkdir()
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={_TMPFS_BYTES}", "none", str(place))
    else:
        image = folder / "image"
        with image.open("wb") as stream:
            stream.truncate(_EXT4_BYTES)
        run("mkfs.ext4", "-q", "-m", "0", str(image))
        run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        run("umount", "-l", str(place))


def run(*command: str) -> str:
    """Run a program of the system and return what it printed; NoMountError where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoMountError(f"there is no {command[0]}") from error
    if done.returncode:
        raise NoMountError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
