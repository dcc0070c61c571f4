"""Giving free pages back: a compact copy takes the place of an environment's file, while nobody has it open."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from functools import partial

from kvcatalog.durable import flush_folder
from kvcatalog.errors import DatabaseDamagedError
from kvcatalog.kv import door, engine, preflight
from kvcatalog.kv.copying import content, copy_rows
from kvcatalog.kv.paging import refuse_pages_out_of_place

_FOLDER = "compacting.new"

Progress = Callable[[str, int, int], object]
"""Is told what is being done, and how many rows of how many are."""


def compact_environment(
    folder: engine.StrPath, *, seal: Callable[[str], object] | None = None, progress: Progress | None = None
) -> tuple[int, int]:
    """Put a compact copy in the place of the data file, and return the size of both in bytes.

    Needs the environment for itself: CatalogLockedError where a process (this one, too) has it open, and who opens it
    meanwhile waits. The copy has the same rows, which is checked, is flushed, and takes its place in one step; what an
    earlier attempt left that was killed is removed. `seal` may write to the copy, in a folder of its own, before that.
    Errors as `copy_environment`, and StorageFullError.
    """
    folder = os.path.realpath(folder)
    data_file = os.path.join(folder, preflight.DATA_FILE)
    temporary = os.path.join(folder, _FOLDER)
    preflight.refuse_network_file_system(folder)
    preflight.check_data_file(folder)
    with door.alone(folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            os.mkdir(temporary, 0o700)
            try:
                size = os.stat(data_file).st_size
                refuse_pages_out_of_place(folder)  # a copy would make the rows of an outdated page right
                _copy(folder, temporary, _told(progress, "copy"))
                if content(temporary, _told(progress, "check the copy")) != content(folder, _told(progress, "compare")):
                    raise DatabaseDamagedError(f"{folder}: a compact copy has other rows; the file was left as it is")
                if seal is not None:
                    seal(temporary)
                door.forget_lock_table(folder)
                os.rename(os.path.join(temporary, preflight.DATA_FILE), data_file)
                flush_folder(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return size, os.stat(data_file).st_size
        except OSError as error:
            raise engine.translate_os_error(error, folder) from error


def _told(progress: Progress | None, what: str) -> Callable[[int, int], object] | None:
    return None if progress is None else partial(progress, what)


def _copy(folder: str, temporary: str, progress: Callable[[int, int], object] | None) -> None:
    """Write the copy, with owner and mode of the file whose place it takes, and flush it."""
    copy_rows(folder, temporary, progress)
    status = os.stat(os.path.join(folder, preflight.DATA_FILE))
    descriptor = os.open(os.path.join(temporary, preflight.DATA_FILE), os.O_RDWR | os.O_CLOEXEC)
    try:
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
