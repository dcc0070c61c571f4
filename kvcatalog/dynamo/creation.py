"""Making a table, and looking whether there is one that a catalog can be in."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from kvcatalog.dynamo.connection import AmbiguousError, Connection, TableInUseError
from kvcatalog.dynamo.items import attributes_of
from kvcatalog.dynamo.layout import ItemKey
from kvcatalog.dynamo.patience import pause
from kvcatalog.errors import (
    CatalogError,
    CatalogMissingError,
    CatalogUnavailableError,
    StorageFailedError,
    StoragePermissionError,
)

_ATTRIBUTES = {"pk": "S", "sk": "B"}
_KEYS = {"pk": "HASH", "sk": "RANGE"}
_USABLE = {"ACTIVE", "UPDATING"}
_ACTIVE_SECONDS_MAX = 120.0
_LOOK_SECONDS = 0.2
_RECOVERY_ATTEMPTS = 6


def make_table(connection: Connection) -> bool:
    """Make the table, unless it is there, and wait until it can be used; tell whether it was made.

    It is billed on demand. CatalogUnavailableError if a table of the name is none of ours.
    """
    is_there = _described(connection) is not None
    if not is_there:
        _create(connection)
    until = time.monotonic() + _ACTIVE_SECONDS_MAX
    while True:
        table = _described(connection)  # one that was just made is not always seen at once
        if table is not None and table["TableStatus"] in _USABLE:
            _check(connection, table)
            return not is_there
        if time.monotonic() > until or (table is not None and table["TableStatus"] == "DELETING"):
            error = CatalogUnavailableError(f"{connection.place.url}: the table is not ready yet")
            raise error.advising("Run it again in some minutes, or look at the table's state in the console.")
        time.sleep(_LOOK_SECONDS)


def _create(connection: Connection) -> None:
    try:
        connection.call(
            "create_table",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in _ATTRIBUTES.items()],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in _KEYS.items()],
            BillingMode="PAY_PER_REQUEST",
        )
    except AmbiguousError:
        pass  # whether it is made is looked for anyway
    except TableInUseError:
        pass  # by another who makes it at this moment, or by ourselves, unheard


def _described(connection: Connection) -> dict[str, Any] | None:
    try:
        return describe(connection)
    except CatalogMissingError:
        return None


def enable_recovery(connection: Connection) -> str | None:
    """Let the table be recovered to any second of the last 35 days; return why that is not to be had, None if it is."""
    for attempt in range(_RECOVERY_ATTEMPTS):
        try:
            connection.call(
                "update_continuous_backups", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
            )
        except (CatalogError, AmbiguousError) as error:
            refusal = str(error)
            if "ContinuousBackupsUnavailable" not in refusal:
                return refusal
            pause(attempt + 3)
        else:
            return None
    return refusal


def is_recoverable(connection: Connection) -> bool:
    """Tell whether the table can be recovered to a moment of the past."""
    found = connection.read("describe_continuous_backups")["ContinuousBackupsDescription"]
    state: str = found.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus", "DISABLED")
    return state == "ENABLED"


def describe(connection: Connection) -> dict[str, Any]:
    """Return what the service says of the table; CatalogMissingError if there is none."""
    found: dict[str, Any] = connection.read("describe_table")["Table"]
    return found


def birth_of(connection: Connection) -> int | None:
    """Return a number that no other table has; None where the service gives none, or does not let us ask."""
    try:
        found = describe(connection).get("TableId")
    except StoragePermissionError:
        return None
    return None if found is None else int.from_bytes(hashlib.sha256(found.encode()).digest()[:7], "big")


def is_empty(connection: Connection) -> bool:
    """Tell whether the table holds nothing."""
    return not connection.read("scan", Limit=1, ConsistentRead=True)["Items"]


def read_together(connection: Connection, keys: Sequence[ItemKey]) -> list[bytes | None]:
    """Return the values of items as of one moment, None for one that is not there.

    It is a transaction, so CatalogUnavailableError tells of a service that has none.
    """
    table = connection.place.table
    wanted = [{"Get": {"TableName": table, "Key": attributes_of(key)}} for key in keys]
    try:
        answer = connection.repeated(lambda: connection.ask("transact_get_items", TransactItems=wanted))
    except StorageFailedError as error:
        _check(connection, describe(connection))
        failure = CatalogUnavailableError(f"{connection.place.url}: the service makes no transactions: {error}")
        advice = "Use DynamoDB itself, or a compatible server that has TransactWriteItems."
        raise failure.advising(advice) from error
    items = [response.get("Item") for response in answer["Responses"]]
    return [item["v"]["B"] if item and "v" in item else None for item in items]


def _check(connection: Connection, table: dict[str, Any]) -> None:
    keys = {each["AttributeName"]: each["KeyType"] for each in table["KeySchema"]}
    kinds = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    if keys != _KEYS or {name: kinds.get(name) for name in _ATTRIBUTES} != _ATTRIBUTES:
        error = CatalogUnavailableError(f"{connection.place.url}: the table has other keys than a catalog's")
        raise error.advising("Give another name; `kvcatalog init` makes a table.")
