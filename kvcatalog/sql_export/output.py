"""A file that gets its name only when it is whole and durable."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kvcatalog.durable import flush_folder
from kvcatalog.errors import OutputExistsError, of_file

_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


class NewFile:
    """A file in the making, `part`; it has its final name once `publish` returns."""

    def __init__(self, path: str, *, force: bool) -> None:
        self.path = os.path.realpath(path)
        self._force = force
        folder, name = os.path.split(self.path)
        self._folder = folder
        self.refuse_what_is_there()
        self._remove_remains(f".{name}.", ".part")
        self.part = os.path.join(folder, f".{name}.{os.getpid()}.part")
        self._descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # it tells that somebody is at work on it

    def refuse_what_is_there(self) -> None:
        """Raise OutputExistsError unless the name is free, or is a regular file's that may be replaced."""
        with suppress(FileNotFoundError):
            mode = os.lstat(self.path).st_mode
            if not self._force or not stat.S_ISREG(mode):
                kind = "is there already" if stat.S_ISREG(mode) else "is no regular file"
                raise OutputExistsError(f"{self.path} {kind}")

    def publish(self) -> int:
        """Make what was written durable, give it its name, and return its size."""
        os.fsync(self._descriptor)
        size = os.fstat(self._descriptor).st_size
        if self._force:
            self.refuse_what_is_there()
            os.replace(self.part, self.path)
        else:
            self._link()
        flush_folder(self._folder)
        return size

    def close(self) -> None:
        """Give up what was not published."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(self.part)
        finally:
            os.close(self._descriptor)

    def _link(self) -> None:
        try:
            os.link(self.part, self.path)
        except FileExistsError:
            self.refuse_what_is_there()
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self.refuse_what_is_there()
            os.replace(self.part, self.path)

    def _remove_remains(self, start: str, end: str) -> None:
        """Remove what exports to this name left that were killed: nobody holds its lock any more."""
        for name in os.listdir(self._folder):
            if name.startswith(start) and name.endswith(end) and name[len(start) : -len(end)].isdecimal():
                with suppress(OSError):
                    path = os.path.join(self._folder, name)
                    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(path)
                    finally:
                        os.close(descriptor)


@contextmanager
def new_file(path: str, *, force: bool) -> Iterator[NewFile]:
    """Give a file to write; what is not published at the end is removed."""
    file = NewFile(path, force=force)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise the operating system's errors as ours; a reader that has left (BrokenPipeError) stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise of_file(error, path) from error
