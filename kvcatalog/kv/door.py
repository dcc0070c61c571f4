"""The door to an environment's files: whoever opens them passes it, and it is shut while they are exchanged.

The door is a lock of the folder itself (flock(2)), which a process that dies lets go of. Passing lasts as long as
opening does; by then LMDB's own lock on byte 0 of the lock file tells that somebody is inside.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kvcatalog.errors import CatalogLockedError
from kvcatalog.kv import engine, preflight

WAIT_SECONDS_MAX = 10.0
_PAUSE_SECONDS = 0.002

_LOCK_HEADER_BYTES = 4096


@contextmanager
def passing(folder: engine.StrPath) -> Iterator[None]:
    """Hold the door open while the files of an environment are opened; CatalogLockedError if it stays shut."""
    with _held(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def alone(folder: engine.StrPath) -> Iterator[None]:
    """Be the only one who has the environment in a folder, of all processes and this one; CatalogLockedError.

    Who comes meanwhile waits at the door. A program that knows nothing of the door waits for LMDB's own lock, and is
    then turned away by the lock table, which `forget_lock_table` has emptied.
    """
    lock_file = os.path.join(folder, preflight.LOCK_FILE)
    with _held(folder, fcntl.LOCK_EX):
        preflight.prepare_lock_file(folder)
        try:
            descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise engine.translate_os_error(error, lock_file) from error
        try:
            # A lock of the descriptor's own conflicts with LMDB's, also with those of this process.
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
        except BlockingIOError as error:
            os.close(descriptor)
            raise CatalogLockedError(f"{folder} is open: in this process, or in another one") from error
        except OSError as error:
            os.close(descriptor)
            raise engine.translate_os_error(error, lock_file) from error
        try:
            yield
        finally:
            os.close(descriptor)


def forget_lock_table(folder: engine.StrPath) -> None:
    """Empty the lock table, for who is `alone`: the next to open the environment makes it anew.

    It names the last transaction of the files that are exchanged, and who waits for LMDB's own lock would believe it.
    """
    lock_file = os.path.join(folder, preflight.LOCK_FILE)
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, bytes(_LOCK_HEADER_BYTES), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise engine.translate_os_error(error, lock_file) from error


@contextmanager
def _held(folder: engine.StrPath, kind: int) -> Iterator[None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise engine.translate_os_error(error, folder) from error
    holder = os.getpid()
    try:
        _lock(descriptor, kind, folder)
        yield
    finally:
        # A child that was forked meanwhile shares the lock: it must neither keep it nor end it.
        if os.getpid() == holder:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(descriptor: int, kind: int, folder: engine.StrPath) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise CatalogLockedError(f"{folder} is being compacted by another process") from error
            time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            raise engine.translate_os_error(error, folder) from error
        else:
            return
