"""Folders and names below a root's own handle: no step follows a symbolic link or leaves the root."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from kvcatalog import layout
from kvcatalog.blobs import translated
from kvcatalog.durable import flush_folder, make_folders
from kvcatalog.errors import RootUnreachableError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import CDLL

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = frozenset(((layout.OURS,), tuple(layout.STAGING_PATH.split("/"))))
_RENAME_NOREPLACE = 1

NO_LINK = frozenset(
    (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT)
)
"""What link(2) answers where a hard link is not to be had, but a copy may be; ENOENT for a file without a name."""

_NO_RENAME = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))


class RootFolder:
    """One root, held open from its first use on, and the folders below it.

    Once another folder has come to the root's place, everything raises RootUnreachableError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1
        self._identity = (0, 0)
        self._durable: set[tuple[str, ...]] = set()
        self._lock = Lock()

    def descriptor(self) -> int:
        """Return the root's descriptor; RootUnreachableError if its place is empty or holds another folder by now."""
        try:
            status = os.stat(self.path)
            with self._lock:
                if self._descriptor < 0:
                    self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    opened = os.fstat(self._descriptor)
                    self._identity = (opened.st_dev, opened.st_ino)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RootUnreachableError(f"{self.path}: there is no such folder") from error
        if self._identity != (status.st_dev, status.st_ino):
            raise RootUnreachableError(f"{self.path}: another folder or file system has come to this place")
        return self._descriptor

    def make(self) -> None:
        """Make the root, and the folders above it that are missing, durably."""
        with translated(self.path):
            with suppress(FileExistsError):  # what is no folder is told of when it is opened
                make_folders(self.path)
            with suppress(PermissionError):  # a folder that may be entered and not be read
                flush_folder(os.path.dirname(self.path))  # whoever made the root may not have come to that

    @contextmanager
    def folder(self, path: str, *, create: bool = False) -> Iterator[int]:
        """Open a folder and yield its descriptor; a missing one is made, durably, or raises FileNotFoundError.

        UnsafePathError where a part of the path is a symbolic link or no folder.
        """
        parts = path.split("/") if path else []
        with translated(os.path.join(self.path, path)):
            descriptor = os.dup(self.descriptor())
            try:
                for depth in range(len(parts)):
                    below = self._step(descriptor, parts[: depth + 1], create=create)
                    os.close(descriptor)
                    descriptor = below
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def folder_of(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that a path lies in, and yield it with the name in it; as `folder`."""
        folder, _, name = layout.checked_path(path).rpartition("/")
        with self.folder(folder, create=create) as descriptor:
            yield descriptor, name

    @contextmanager
    def staged_name(self) -> Iterator[tuple[int, str, int]]:
        """Yield the staging folder, and the name and descriptor of a new file there, which is gone afterwards.

        It is locked while it is used, so that `sweep_staging` knows what nobody uses any more.
        """
        with self.folder(layout.STAGING_PATH, create=True) as folder:
            while True:
                name = os.urandom(8).hex()
                descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:
                    break
                os.close(descriptor)  # swept before it was locked
            try:
                yield folder, name, descriptor
            finally:
                try:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
                finally:
                    os.close(descriptor)

    def nameless(self) -> int:
        """Open a new file below the root that has no name, so that nothing is left of it when the process is killed."""
        with translated(self.path):
            try:
                return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=self.descriptor())
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                    raise
        with self.staged_name() as (_, _, descriptor):
            return os.dup(descriptor)

    def sweep_staging(self) -> None:
        """Remove what processes left in the staging folder that are no more."""
        with suppress(FileNotFoundError), self.folder(layout.STAGING_PATH) as folder:
            for name in os.listdir(folder):
                with suppress(OSError):
                    descriptor = os.open(name, READ, dir_fd=folder)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(name, dir_fd=folder)
                    finally:
                        os.close(descriptor)

    def close(self) -> None:
        """Let the root go."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def _step(self, parent: int, parts: list[str], *, create: bool) -> int:
        name = parts[-1]
        while True:
            try:
                descriptor = os.open(name, _FOLDER, dir_fd=parent)
                break
            except FileNotFoundError:
                if not create:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(name, 0o777, dir_fd=parent)
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                    place = "/".join((self.path, *parts))
                    raise UnsafePathError(f"{place} is a symbolic link or no folder") from error
                raise
        try:
            if create:
                self._refuse_root(descriptor, parts)
                self._make_durable(parent, tuple(parts))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _make_durable(self, parent: int, parts: tuple[str, ...]) -> None:
        """Flush the name of a folder: whoever made it may not have done so yet.

        Once is enough for folders that nobody removes: those of the content-addressed layout, and our own. Others may
        be tidied away when they are empty, and made anew.
        """
        if parts in self._durable:
            return
        os.fsync(parent)
        if parts[0] == layout.CAS or parts in _OURS:
            self._durable.add(parts)

    def _refuse_root(self, descriptor: int, parts: list[str]) -> None:
        if parts[0] not in {layout.CAS, layout.OURS} and is_root(descriptor):
            raise UnsafePathError(f"{'/'.join((self.path, *parts))} is a storage root of its own")


def is_root(folder: int) -> bool:
    """Tell whether a folder is a storage root, by its marker."""
    try:
        os.stat(layout.MARKER_PATH, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def is_written(descriptor: int) -> bool:
    """Tell whether an open file is open for writing anywhere on this host; False where the kernel does not say.

    A lease for reading is refused just then. Where it is given it is given back at once; whoever opens the file in
    between would have us sent SIGIO, which ends a process, so another signal is asked for, which nobody minds.
    """
    import signal  # lookups do without it

    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def regular_status(folder: int, name: str, place: str) -> os.stat_result | None:
    """Return what a name in a folder is, None if there is none; UnsafePathError if it is no regular file."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{place} is a symbolic link or no file")
    return status


def link_descriptor(descriptor: int, folder: int, name: str) -> str | None:
    """Give an open file a further name; FileExistsError if that is taken.

    Where a link is not to be had, return why: the name of an errno.
    """
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return errno.errorcode[error.errno or 0]
    return None


def rename_exclusively(folder: int, name: str, target_folder: int, target: str) -> None:
    """Rename without replacing anything; FileExistsError if the target is taken."""
    library, errno_of_call = _library()
    if library.renameat2(folder, os.fsencode(name), target_folder, os.fsencode(target), _RENAME_NOREPLACE):
        code = errno_of_call()
        if code not in _NO_RENAME:
            raise OSError(code, os.strerror(code), name)
        os.link(name, target, src_dir_fd=folder, dst_dir_fd=target_folder, follow_symlinks=False)
        os.unlink(name, dir_fd=folder)


@cache
def _library() -> tuple[CDLL, Callable[[], int]]:
    """Return the C library, and what tells the errno of the last call."""
    import ctypes

    return ctypes.CDLL(None, use_errno=True), ctypes.get_errno
