"""A folder that appears whole under its name or not at all, whenever its maker dies."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvcatalog.durable import flush_folder, make_folders, write_whole
from kvcatalog.errors import InvalidValueError
from kvcatalog.kv.engine import translate_os_error

_SUFFIX = ".part"


def refuse_taken(field: str, folder: str) -> None:
    """Raise InvalidValueError unless nothing, or an empty folder, is there."""
    try:
        if not os.listdir(folder):
            return
    except FileNotFoundError:
        return
    except NotADirectoryError:
        pass
    except OSError as error:
        raise translate_os_error(error, folder) from error
    taken = InvalidValueError(field, f"{folder} is there already, and nothing is written over")
    raise taken.advising("Give a path that is not there yet; `restore` takes it with --to.")


@contextmanager
def new_folder(field: str, folder: str) -> Iterator[str]:
    """Yield a folder to be filled with flushed files, which comes to its place, flushed, when the context ends well.

    What others left half made there that have died is removed. InvalidValueError names `field` where the place is
    taken; errors of the operating system inside become those of a catalog.
    """
    refuse_taken(field, folder)
    parent = os.path.dirname(folder)
    try:
        make_folders(parent)
        _sweep(folder)
        temporary, descriptor = _make(folder)
        filled = os.path.join(temporary, os.path.basename(folder))
        try:
            os.mkdir(filled)
            yield filled
            flush_folder(filled)
            try:
                os.rename(filled, folder)
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise InvalidValueError(field, f"{folder} has come to be there meanwhile") from error
                raise
            flush_folder(parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(descriptor)
    except OSError as error:
        raise translate_os_error(error, error.filename or folder) from error


@contextmanager
def flushed_file(path: str) -> Iterator[Callable[[bytes], None]]:
    """Yield what writes all of its bytes to a new file, which is flushed when the context ends well."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    try:
        yield lambda content: write_whole(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(folder: str) -> tuple[str, int]:
    """Make a folder in which the new one is made, locked for as long as its maker lives."""
    parent, name = os.path.split(folder)
    while True:
        temporary = os.path.join(parent, f".{name}.{secrets.token_hex(8)}{_SUFFIX}")
        os.mkdir(temporary)
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(temporary):  # nobody took it for a dead one's before it was locked
            return temporary, descriptor
        os.close(descriptor)


def _sweep(folder: str) -> None:
    """Remove what makers that have died left."""
    parent, name = os.path.split(folder)
    for leftover in glob.glob(os.path.join(glob.escape(parent), f".{glob.escape(name)}.{'[0-9a-f]' * 16}{_SUFFIX}")):
        try:
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            pass  # its maker lives
        finally:
            os.close(descriptor)
