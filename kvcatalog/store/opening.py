"""Making, opening and migrating the LMDB environment of a catalog."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvcatalog.clock import now_micros
from kvcatalog.errors import CatalogMissingError, CatalogUnavailableError, DatabaseDamagedError, UnsupportedFormatError
from kvcatalog.kv.engine import foreign, translate_os_error
from kvcatalog.kv.environment import MAP_SIZE_BYTES, Environment, open_environment
from kvcatalog.kv.preflight import DATA_FILE, refuse_network_file_system
from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction
from kvcatalog.schema import (
    BIRTH_KEY,
    FORMAT_KEY,
    FORMAT_VERSION,
    IDENTITY_CODEC,
    IDENTITY_KEY,
    META,
    NUMBER_CODEC,
    TABLES,
    IdentityRow,
)
from kvcatalog.store import changes
from kvcatalog.store.lmdb_catalog import LmdbCatalog

BACKUP_FILE = "backup.json"
"""The manifest of a backup; what lies beside it is never written to."""

MIGRATIONS: dict[int, Callable[[WriteTransaction], None]] = {}
"""For each format version but the newest: what turns a catalog of that version into one of the next."""


def open_lmdb_catalog(
    path: str,
    *,
    create: bool = True,
    read_only: bool = False,
    durable: bool = True,
    map_size_bytes: int | None = None,
    command: str = "library",
    locking: bool = True,
) -> LmdbCatalog:
    """Open the catalog in a folder, making or migrating it where that is needed and allowed.

    A migration is one transaction a version: killed in the middle, it starts again from the last version reached. A
    backup is opened for reading only, and like whatever nobody writes to without `locking`. Where the file is a copy of
    the one that was written to before, or was moved to another file system, the first who opens it for writing begins
    a generation, so it owns no storage root before `roots adopt`.
    """
    folder = os.path.abspath(path)
    if not os.path.exists(os.path.join(folder, DATA_FILE)):
        _refuse_what_cannot_be_seen(folder)
        if read_only or not create:
            raise CatalogMissingError(f"{folder}: there is no catalog")
        _create(folder)
    if os.path.exists(os.path.join(folder, BACKUP_FILE)):
        if not read_only:
            error = CatalogUnavailableError(f"{folder} is a backup, to which nothing is written")
            raise error.advising(f"Make a catalog of it: kvcatalog restore {folder} --to PATH --apply")
        locking = False
    with _opened(
        folder, read_only=read_only, durable=durable, map_size_bytes=map_size_bytes, locking=locking
    ) as environment:
        version = _format_version(environment)
        if version > FORMAT_VERSION:
            raise UnsupportedFormatError(f"{folder} has format {version}; this version knows up to {FORMAT_VERSION}")
        if version < FORMAT_VERSION and read_only:
            raise _older_format(folder, version)
        for old in range(version, FORMAT_VERSION):
            _migrate(environment, old)
        catalog = LmdbCatalog(environment, read_only=read_only, command=command)
        if not read_only:
            catalog.recognise_file()
        return catalog


def put_file_right(folder: str) -> None:
    """Let the catalog in a folder, which nobody has open, be the one of which it is a copy.

    For a copy that takes the place of its original, and for one that becomes another catalog anyway.
    """
    from kvcatalog.kv.birth import birth_of  # who only reads does without it

    birth = birth_of(os.path.join(folder, DATA_FILE))
    environment = open_environment(folder, (META,))
    try:
        with environment.write() as transaction:
            if birth is not None and transaction.get(META, BIRTH_KEY) is not None:
                changes.put_birth(transaction, birth)
    finally:
        environment.close()


@contextmanager
def _opened(
    folder: str, *, read_only: bool, durable: bool, map_size_bytes: int | None, locking: bool
) -> Iterator[Environment]:
    """Open an environment and close it again if what follows fails."""
    try:
        environment = open_environment(
            folder,
            TABLES,
            map_size_bytes=MAP_SIZE_BYTES if map_size_bytes is None else map_size_bytes,
            read_only=read_only,
            durable=durable,
            locking=locking,
        )
    except DatabaseDamagedError as error:
        # A reader makes no tables, and an older format has fewer.
        version = _version_alone(folder) if read_only else FORMAT_VERSION
        if version < FORMAT_VERSION:
            raise _older_format(folder, version) from error
        raise
    try:
        yield environment
    except BaseException:
        environment.close()
        raise


def _refuse_what_cannot_be_seen(folder: str) -> None:
    """Raise StoragePermissionError or CatalogUnavailableError where a catalog may be, but nobody lets us look."""
    try:
        os.lstat(os.path.join(folder, DATA_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise translate_os_error(error, folder) from error


def _create(folder: str) -> None:
    """Make a catalog with an identity of its own."""
    # Only the first opening of a catalog needs these.
    import uuid
    from pathlib import Path

    from kvcatalog.kv.creation import create_environment

    identity = IdentityRow(str(uuid.uuid4()), 1, now_micros())
    rows = [
        (META, FORMAT_KEY, NUMBER_CODEC.encode(FORMAT_KEY, FORMAT_VERSION)),
        (META, IDENTITY_KEY, IDENTITY_CODEC.encode(IDENTITY_KEY, identity)),
    ]
    parent = os.path.dirname(folder)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    refuse_network_file_system(parent)
    create_environment(Path(folder), TABLES, rows)


def _version_alone(folder: str) -> int:
    """Return the format version of a catalog of which nothing else can be read."""
    environment = open_environment(folder, (META,), read_only=True)
    try:
        return _format_version(environment)
    finally:
        environment.close()


def _older_format(folder: str, version: int) -> UnsupportedFormatError:
    error = UnsupportedFormatError(f"{folder} has format {version}; open it once for writing to bring it up to date")
    return error.advising("Run a command that writes, such as `kvcatalog verify`, or kvcatalog.open_catalog does it.")


def _format_version(environment: Environment) -> int:
    with environment.read() as transaction:
        return _read_version(transaction, environment.path)


def _read_version(transaction: ReadTransaction, path: str) -> int:
    value = transaction.get(META, FORMAT_KEY)
    if value is None:
        raise foreign(path)
    return NUMBER_CODEC.decode(FORMAT_KEY, value)


def _migrate(environment: Environment, old: int) -> None:
    transaction = environment.write()
    try:
        with transaction:
            if _read_version(transaction, environment.path) == old:  # another process may have been here first
                MIGRATIONS[old](transaction)
                transaction.put(META, FORMAT_KEY, NUMBER_CODEC.encode(FORMAT_KEY, old + 1))
    except BaseException:
        transaction.give_up()
        raise
