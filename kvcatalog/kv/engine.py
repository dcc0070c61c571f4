"""The one module that imports lmdb: opening the engine, and its errors as ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import lmdb
from lmdb import _envid

from kvcatalog.errors import (
    OS_ERRORS,
    CatalogError,
    CatalogUnavailableError,
    DatabaseDamagedError,
    MapLimitError,
    StorageFailedError,
    StorageFullError,
    StoragePermissionError,
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

StrPath = str | os.PathLike[str]

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

_BY_CODE: dict[int, type[CatalogError]] = OS_ERRORS | {errno.ENOMEM: MapLimitError}
_BY_KIND: tuple[tuple[tuple[type[lmdb.Error], ...], type[CatalogError]], ...] = (
    ((lmdb.MapFullError, lmdb.MapResizedError), MapLimitError),
    ((lmdb.ReadersFullError,), TooManyReadersError),
    ((lmdb.ReadonlyError,), StoragePermissionError),
    ((lmdb.DiskError, lmdb.PanicError), StorageFailedError),
)
_DAMAGED = (
    lmdb.BadDbiError,
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
_FULL_BYTES = 1 << 20

_env_keys: Callable[[str, int], tuple[object, ...]] = _envid.env_keys


def _keys_of_this_process(path: str, subdir: int) -> tuple[object, ...]:
    """Return the binding's identities of an environment's files, told apart by process.

    The binding refuses to open an environment twice in a process by a set of such keys. A forked child inherits the set
    and must leave the environment in it alone, so without the process id in them it could never open its own.
    """
    return tuple((os.getpid(), key) for key in _env_keys(path, subdir))


_envid.env_keys = _keys_of_this_process


def keep_forever(inherited: RawEnvironment | RawTransaction) -> None:
    """In a forked child: see to it that what the parent opened or began is never ended, not even at exit.

    That would free the parent's reader slots, or let go of its write lock.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def version(engine: int = DEFAULT_ENGINE) -> str:
    """Return the version of an engine that the binding carries, such as `0.9.36`."""
    return ".".join(str(part) for part in lmdb.version(lib_version=engine))


def open_raw(
    path: StrPath, *, map_size_bytes: int, read_only: bool, durable: bool, engine: int, locking: bool = True
) -> RawEnvironment:
    """Open the environment in a folder that has one; raises the engine's own errors.

    `durable=False` leaves out the flush of the meta page, which comes with the data of the next commit: a crash of the
    operating system may undo the last commit, and that alone (MDB_NOMETASYNC); the file is sound.
    `locking=False` is for files that nobody writes to.
    """
    return lmdb.open(
        os.fspath(path),
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
        lock=locking,
        lib_version=engine,
    )


def create_raw(path: StrPath, *, map_size_bytes: int, engine: int, flushed: bool = True) -> RawEnvironment:
    """Make an environment in a folder that is empty but for its lock file; raises the engine's own errors.

    With `flushed=False` nothing of it is sure to be on the disk.
    """
    return lmdb.open(
        os.fspath(path),
        map_size=map_size_bytes,
        create=True,
        mode=0o664,
        max_dbs=TABLES_MAX,
        sync=flushed,
        lib_version=engine,
    )


def open_table(raw: RawEnvironment, transaction: RawTransaction | None, table: Table, *, create: bool) -> RawDatabase:
    """Return the handle of a table; it holds once the transaction, which must write, has committed."""
    return raw.open_db(table.name.encode(), transaction, dupsort=table.sets, dupfixed=table.sets, create=create)


def tables_in(raw: RawEnvironment) -> dict[Table, RawDatabase]:
    """Return every table that an environment has, with its handle."""
    with raw.begin() as transaction, transaction.cursor() as cursor:
        names = list(cursor.iternext(keys=True, values=False))
    handles = [(name.decode(), raw.open_db(name, create=False)) for name in names]
    return {Table(name, sets=bool(handle.flags()["dupsort"])): handle for name, handle in handles}


def has_readers_of_this_process(raw: RawEnvironment) -> bool:
    """Tell whether the lock table holds a slot with this process's id."""
    lines = raw.readers().splitlines()[1:]  # a heading, then process, thread and transaction
    return any(line.split()[:1] == [str(os.getpid())] for line in lines)


def foreign(path: StrPath) -> CatalogError:
    """Return the error for an environment that another program has made."""
    error = DatabaseDamagedError(f"{path} is an LMDB environment, but no catalog of ours")
    return error.advising("Check the path: the database belongs to another program, and was left as it is.")


def has_table(raw: RawEnvironment, table: Table) -> bool:
    """Tell whether an environment has a table."""
    try:
        open_table(raw, None, table, create=False)
    except (lmdb.NotFoundError, lmdb.IncompatibleError):
        return False
    return True


def code(error: lmdb.Error) -> int:
    """Return the number of an error: the operating system's or, below zero, the engine's; 0 for the binding's own."""
    return getattr(error, "code", 0)


def translate(error: lmdb.Error, path: StrPath) -> CatalogError:
    """Return the error of ours that stands for one of the engine's."""
    said = str(error)
    text = said if said.startswith(f"{path}:") else f"{path}: {said}"
    if code(error) == errno.EIO and _is_full(path):
        return StorageFullError(f"{path}: no space left on the disk")  # the engine calls a write that came up short so
    if code(error) == errno.EAGAIN:
        return _process_id_taken(path)
    by_code = _BY_CODE.get(code(error))
    if by_code is not None:
        return by_code(text)
    for kinds, ours in _BY_KIND:
        if isinstance(error, kinds):
            return ours(text)
    if isinstance(error, _DAMAGED):
        return DatabaseDamagedError(f"{path}: the database file is damaged: {error}")
    return StorageFailedError(text) if code(error) > 0 else CatalogUnavailableError(text)


def _process_id_taken(path: StrPath) -> CatalogError:
    """Return the error for a lock by which others see that this process lives, and which another one has."""
    error = CatalogUnavailableError(f"{path}: a process in another container has the id {os.getpid()} as well")
    return error.advising("Run both in one process namespace, or give each container a catalog of its own.")


def _is_full(path: StrPath) -> bool:
    try:
        figures = os.statvfs(path)
    except OSError:
        return False
    return figures.f_bavail * figures.f_frsize < _FULL_BYTES


def translate_os_error(error: OSError, path: StrPath) -> CatalogError:
    """Return the error of ours that stands for one of the operating system's on a file of the environment."""
    if error.errno == errno.EAGAIN:
        return _process_id_taken(path)
    kind = _BY_CODE.get(error.errno or 0, CatalogUnavailableError)
    return kind(f"{path}: {error.strerror or error}")
