"""Findings of an audit, made from the rows that they are about."""

from __future__ import annotations

from typing import TypeVar

from kvcatalog.checks import Finding, FindingKind, Repair
from kvcatalog.errors import CatalogError
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.table import Table
from kvcatalog.schema import BY_KEY, CONFLICTS, COUNTERS, DOCUMENTS, ID_BYTES, VARIANTS_BY_DOCUMENT, id_of

Row = TypeVar("Row")

UNIQUE = (BY_KEY, VARIANTS_BY_DOCUMENT)
"""Indexes that lead to one id."""


def found(
    kind: FindingKind, message: str, table: Table, key: bytes, value: bytes = b"", *, repair: Repair | None = None
) -> Finding:
    """Return a finding about a row, with the ids that the row tells of; of a counter `value` is text."""
    document_id = variant_id = None
    number = value if table.sets or table in UNIQUE else key
    if (table.name.endswith("_by_document") and table not in UNIQUE) or table is CONFLICTS:
        document_id = _id_in(key[:ID_BYTES])
    elif table.name.startswith("variants"):
        variant_id = _id_in(number)
    elif table is DOCUMENTS or table.name.startswith("by_"):
        document_id = _id_in(number)
    written = value.decode() if table is COUNTERS else value.hex()
    return Finding(kind, message, table.name, document_id, variant_id, repair=repair, key=key.hex(), value=written)


def decoded(codec: Codec[Row], key: bytes, value: bytes | None) -> Row | None:
    """Return a row, None where there is none or it cannot be read."""
    if value is None:
        return None
    try:
        return codec.decode(key, value)
    except CatalogError:
        return None


def _id_in(key: bytes) -> int | None:
    return id_of(key) if len(key) == ID_BYTES else None
