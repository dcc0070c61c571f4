"""What an operation knows of its surroundings, and how the journal tells what it did."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct

from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.schema import (
    ConflictRow,
    DocumentRow,
    JournalRow,
    VariantRow,
)
from kvcatalog.store import changes
from kvcatalog.store.roots import RootMap

Row = TypeVar("Row", DocumentRow, VariantRow)


Changes = dict[str, tuple[str | int | None, str | int | None]]


class Scribe(Struct, frozen=True):
    """What an operation knows of its surroundings: the roots, the time, who asks for it, and why."""

    roots: RootMap
    now: int
    command: str
    reason: str | None = None


class Target(Struct, frozen=True):
    """What an operation changes: a document, or a variant of one."""

    document_id: int
    variant_id: int | None = None
    variant: str | None = None


def write_journal(
    transaction: WriteTransaction, action: str, differences: Changes, scribe: Scribe, target: Target | None = None
) -> None:
    """Write down what was done to what."""
    document_id, variant_id = (None, None) if target is None else (target.document_id, target.variant_id)
    row = JournalRow(scribe.now, action, document_id, variant_id, scribe.command, scribe.reason, differences)
    changes.put_journal_entry(transaction, row)


def place_of(row: DocumentRow | VariantRow | ConflictRow, scribe: Scribe) -> str:
    """Return the storage URI of a row."""
    return scribe.roots.uri((row.root, row.path), row.digest)


def differences_of(old: Row, new: Row | None, roots: RootMap) -> Changes:
    """Return the fields that differ, in the form in which the catalog gives them out; all of them if `new` is None."""
    before = _facts(old, roots)
    after = dict.fromkeys(before) if new is None else _facts(new, roots)
    return {field: (before[field], after[field]) for field in before if before[field] != after[field]}


def _facts(row: DocumentRow | VariantRow, roots: RootMap) -> dict[str, str | int | None]:
    facts: dict[str, str | int | None] = {
        "content_type": row.content_type,
        "bytes": row.size,
        "sha256": None if row.digest is None else row.digest.hex(),
        "storage_uri": roots.uri((row.root, row.path), row.digest),
    }
    if isinstance(row, VariantRow):
        return {"variant": row.name, **facts}
    return {
        "artifact_id": row.artifact_id,
        "source_url": row.source_url,
        "resolver": row.resolver,
        **facts,
        "run_id": row.run_id,
    }
