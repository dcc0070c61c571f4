"""Keeps LMDB's locks alive whatever else this process does with the lock file.

LMDB's locks on `lock.mdb` belong to the process: the first close of any descriptor of that file by our own process (a
copy, a hash, a walk of the folder) drops them all. Then the next process to open the environment takes itself for the
first, makes the lock table anew, and writes inside our transaction. Two things cure it (fcntl(2), "Open file
description locks"): a read lock on byte 0 that belongs to a descriptor of our own, which no stranger's close can drop,
so that nobody makes the table anew; and LMDB's write lock at the offset of the process id, by which others see that our
readers live, set again at the start of every transaction. LMDB's own read lock on byte 0 asks for no more than the
first of these, so it need not come back.
"""

from __future__ import annotations

import fcntl
import os
import struct


def _lock(kind: int, start: int) -> bytes:
    """Return a `struct flock` for one byte, as 64-bit Linux lays it out."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 1, 0)


class LockGuard:
    """Holds the descriptor. Make it after the environment is open; close it after the environment is closed."""

    __slots__ = ("_alive", "_descriptor")

    def __init__(self, lock_file: str) -> None:
        self._descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
        self._alive = _lock(fcntl.F_WRLCK, os.getpid())
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLKW, _lock(fcntl.F_RDLCK, 0))
            self.renew()
        except BaseException:
            self.close()
            raise

    def renew(self) -> None:
        """Set LMDB's lock again; it is the process's, so it makes no difference which descriptor sets it."""
        fcntl.fcntl(self._descriptor, fcntl.F_SETLK, self._alive)

    def close(self) -> None:
        """Give the descriptor back, and with it every lock of this process on the file."""
        os.close(self._descriptor)
