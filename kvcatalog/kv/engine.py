"""The one module that imports lmdb: opening the engine, and its errors as ours."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
from lmdb import _envid

from kvcatalog.errors import (
    CatalogError,
    CatalogUnavailableError,
    DatabaseDamagedError,
    MapLimitError,
    StorageFailedError,
    StorageFullError,
    TooManyReadersError,
)
from kvcatalog.kv.table import Table

ENGINE_0_9 = 0
ENGINE_1_0 = 1
DEFAULT_ENGINE = ENGINE_0_9
"""Engine 0.9 writes the file format that every other LMDB tool reads."""

READERS_MAX = 1000
"""Threads and processes that may read at once; each costs a 64-byte slot in the lock file."""

TABLES_MAX = 64

Error = lmdb.Error
MapFull = lmdb.MapFullError
MapResized = lmdb.MapResizedError
NotFound = lmdb.NotFoundError
ReadersFull = lmdb.ReadersFullError
Panic = lmdb.PanicError
RawDatabase = lmdb._Database  # noqa: SLF001  the binding's own stub gives it no other name
RawEnvironment = lmdb.Environment
if TYPE_CHECKING:
    RawTransaction = lmdb.Transaction[bytes]
    RawCursor = lmdb.Cursor[bytes]
else:
    RawTransaction = lmdb.Transaction
    RawCursor = lmdb.Cursor

_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.BadDbiError,
    lmdb.IncompatibleError,
)


_env_keys = _envid.env_keys


def _keys_of_this_process(path: str, subdir: int) -> tuple[object, ...]:
    """Return the binding's identities of an environment's files, told apart by process.

    The binding refuses to open an environment twice in a process by a set of such keys. A forked child inherits the set
    and must leave the environment in it alone, so without the process id in them it could never open its own.
    """
    return tuple((os.getpid(), key) for key in _env_keys(path, subdir))


_envid.env_keys = _keys_of_this_process


def keep_forever(inherited: RawEnvironment) -> None:
    """In a forked child: see to it that an environment of the parent is never closed, not even at exit.

    Closing it would free the parent's reader slots.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def version(engine: int = DEFAULT_ENGINE) -> str:
    """Return the version of an engine that the binding carries, such as `0.9.36`."""
    return ".".join(str(part) for part in lmdb.version(lib_version=engine))


def open_raw(path: Path, *, map_size_bytes: int, read_only: bool, durable: bool, engine: int) -> RawEnvironment:
    """Open the environment in a folder that has one; raises the engine's own errors.

    `durable=False` leaves out the flush of the meta page: after a crash of the operating system the last commits may be
    gone, and the file is still sound.
    """
    return lmdb.open(
        str(path),
        map_size=map_size_bytes,
        subdir=True,
        readonly=read_only,
        metasync=durable,
        sync=True,
        create=False,
        mode=0o664,
        readahead=False,
        max_readers=READERS_MAX,
        max_dbs=TABLES_MAX,
        max_spare_txns=4,
        lib_version=engine,
    )


def create_raw(path: Path, *, map_size_bytes: int, engine: int) -> RawEnvironment:
    """Make an environment in a folder that is empty but for its lock file; raises the engine's own errors."""
    return lmdb.open(
        str(path), map_size=map_size_bytes, create=True, mode=0o664, max_dbs=TABLES_MAX, lib_version=engine
    )


def open_table(raw: RawEnvironment, transaction: RawTransaction | None, table: Table, *, create: bool) -> RawDatabase:
    """Return the handle of a table; it holds once the transaction, which must write, has committed."""
    return raw.open_db(table.name.encode(), transaction, dupsort=table.sets, dupfixed=table.sets, create=create)


def translate(error: lmdb.Error, path: Path) -> CatalogError:
    """Return the error of ours that stands for one of the engine's."""
    text = f"{path}: {error}"
    code = error.code
    if code in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError(text)
    if code in {errno.EACCES, errno.EPERM, errno.EROFS} or isinstance(error, lmdb.ReadonlyError):
        return CatalogUnavailableError(f"{text}: no permission to use it this way")
    if isinstance(error, lmdb.MapFullError | lmdb.MapResizedError) or code == errno.ENOMEM:
        return MapLimitError(text)
    if isinstance(error, lmdb.ReadersFullError):
        return TooManyReadersError(text)
    if isinstance(error, _DAMAGED):
        return DatabaseDamagedError(text)
    if isinstance(error, lmdb.DiskError | lmdb.PanicError) or code > 0:
        return StorageFailedError(text)
    return CatalogUnavailableError(text)
