"""Opening a catalog in a DynamoDB table, and making one."""

from __future__ import annotations

import uuid

from kvcatalog.clock import now_micros
from kvcatalog.dynamo import creation
from kvcatalog.dynamo.layout import item_key
from kvcatalog.dynamo.place import parse_place
from kvcatalog.errors import (
    CatalogMissingError,
    CatalogUnavailableError,
    CorruptRecordError,
    DatabaseDamagedError,
    UnsupportedFormatError,
)
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import CreatedCatalog
from kvcatalog.schema import (
    FORMAT_KEY,
    FORMAT_VERSION,
    IDENTITY_KEY,
    META,
    NUMBER_CODEC,
    IdentityRow,
)
from kvcatalog.store import changes, reading
from kvcatalog.store.dynamo_backend import DynamoBackend
from kvcatalog.store.dynamo_catalog import DynamoCatalog


def open_dynamo_catalog(url: str, *, read_only: bool = False, command: str = "library") -> DynamoCatalog:
    """Open the catalog in a table; it is never made here, since a slip of the pen would make tables.

    Raises ConfigError, CatalogMissingError, UnsupportedFormatError, StoragePermissionError, CatalogUnavailableError.
    """
    backend = DynamoBackend(parse_place(url))
    try:
        _check_format(backend)
        catalog = DynamoCatalog(backend, read_only=read_only, command=command)
        if not read_only:
            catalog.recognise_table()
    except BaseException:
        backend.close()
        raise
    return catalog


def _check_format(backend: DynamoBackend) -> None:
    version = _format_version(backend)
    if version is None:
        missing = CatalogMissingError(f"{backend.place}: the table holds no catalog")
        raise missing.advising("Check the table's name; `kvcatalog init` makes a catalog in a table that is empty.")
    if version != FORMAT_VERSION:
        error = UnsupportedFormatError(f"{backend.place} has format {version}; this version knows {FORMAT_VERSION}")
        if version < FORMAT_VERSION:
            error = error.advising(
                "With the version that wrote it, `kvcatalog copy` brings it to a folder; with this one, from there to a"
                " new table."
            )
        raise error


def create_dynamo_catalog(url: str, *, point_in_time_recovery: bool = True) -> CreatedCatalog:
    """Do what `init_catalog` does in a table, which is billed on demand.

    CatalogUnavailableError where the table is none of ours, holds other things, or knows no transactions.
    """
    backend = DynamoBackend(parse_place(url))
    try:
        made_table = creation.make_table(backend.connection)
        notes = [] if made_table else ["the table was there"]
        refusal = creation.enable_recovery(backend.connection) if point_in_time_recovery else None
        if refusal is not None:
            notes.append(f"no point-in-time recovery: {refusal}")
        was_made = _format_version(backend) is None
        if was_made:
            if not creation.is_empty(backend.connection):
                error = CatalogUnavailableError(f"{backend.place}: the table holds other things than a catalog")
                raise error.advising("Give another name: `kvcatalog init` makes a table, or uses one that is empty.")
            was_made = backend.submit(_begin)
        _check_format(backend)
        with backend.read() as transaction:
            identity = reading.read_identity(transaction)
        return CreatedCatalog(backend.place, identity, was_made, tuple(notes))
    finally:
        backend.close()


def _begin(transaction: WriteTransaction) -> bool:
    """Write down which catalog this is, unless another process was quicker."""
    if transaction.get(META, FORMAT_KEY) is not None:
        return False
    transaction.put(META, FORMAT_KEY, NUMBER_CODEC.encode(FORMAT_KEY, FORMAT_VERSION))
    transaction.get(META, IDENTITY_KEY)
    changes.put_identity(transaction, IdentityRow(str(uuid.uuid4()), 1, now_micros()))
    return True


def _format_version(backend: DynamoBackend) -> int | None:
    value, _ = creation.read_together(backend.connection, [item_key(META, FORMAT_KEY), item_key(META, IDENTITY_KEY)])
    try:
        return None if value is None else NUMBER_CODEC.decode(FORMAT_KEY, value)
    except CorruptRecordError as error:
        damaged = DatabaseDamagedError(f"{backend.place}: what the table says of its format cannot be read: {error}")
        raise damaged.advising("Recover the table as it was at an earlier moment, under another name.") from error
