"""Making an environment so that a crash at any moment leaves either none or a whole one."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from kvcatalog.durable import flush_folder, make_folders
from kvcatalog.errors import CatalogUnavailableError
from kvcatalog.kv import engine, preflight
from kvcatalog.kv.table import Table

_MAP_SIZE_BYTES = 1 << 24
_SUFFIX = ".new"


def create_environment(
    path: Path, tables: Iterable[Table], rows: Iterable[tuple[Table, bytes, bytes]], *, kind: int | None = None
) -> bool:
    """Make an environment with tables and first rows at `path`, which may be missing or an empty folder.

    It is made in a folder beside, committed once, flushed, and moved into place; an engine that dies inside its own
    creation would leave a file that never opens. Returns False if an environment is there already. What earlier
    attempts left that were killed is removed.
    """
    try:
        make_folders(path.parent)
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise engine.translate_os_error(error, error.filename or path.parent) from error
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # one creation at a time, so whatever lies there half made is nobody's
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}{_SUFFIX}"):
            shutil.rmtree(leftover, ignore_errors=True)
        missing = not (path / preflight.DATA_FILE).exists()
        if missing:
            _make(path, tables, rows, engine.DEFAULT_ENGINE if kind is None else kind)
        os.fsync(parent)  # also for one that was killed before it came to this
    except engine.Error as error:
        raise engine.translate(error, path) from error
    except OSError as error:
        raise engine.translate_os_error(error, path) from error
    finally:
        os.close(parent)
    return missing


def _make(path: Path, tables: Iterable[Table], rows: Iterable[tuple[Table, bytes, bytes]], kind: int) -> None:
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}"
    temporary.mkdir()
    try:
        _fill(temporary, tables, rows, kind)
        flush_folder(temporary)
        temporary.rename(path)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            failure = CatalogUnavailableError(f"{path} is in the way: it is neither a catalog nor an empty folder")
            raise failure.advising("Give the catalog a path of its own.") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, tables: Iterable[Table], rows: Iterable[tuple[Table, bytes, bytes]], kind: int) -> None:
    preflight.prepare_lock_file(folder)
    raw = engine.create_raw(folder, map_size_bytes=_MAP_SIZE_BYTES, engine=kind)
    try:
        with raw.begin(write=True) as transaction:
            handles = {table: engine.open_table(raw, transaction, table, create=True) for table in tables}
            for table, key, value in rows:
                transaction.put(key, value, db=handles[table])
        raw.sync(force=True)
    finally:
        raw.close()
