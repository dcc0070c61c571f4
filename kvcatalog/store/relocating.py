"""What a call that says where blobs lie now does inside the write transaction; it may be run again."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from kvcatalog.custody import Relocation, RelocationOutcome
from kvcatalog.errors import BlobCondemnedError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.schema import ConflictRow, DocumentRow, LinkRow, VariantRow
from kvcatalog.store import changes, reading, registering, upkeep
from kvcatalog.store.contents import locate, settle
from kvcatalog.store.roots import Location
from kvcatalog.store.scribe import Scribe, Target, place_of, write_journal

ACTION = "relocate"


def relocate(
    transaction: WriteTransaction, relocations: Iterable[Relocation], scribe: Scribe
) -> list[RelocationOutcome]:
    """Let each refer to its target, if it is still what it was."""
    return [_relocated(transaction, each, scribe) for each in relocations]


def _relocated(transaction: WriteTransaction, wanted: Relocation, scribe: Scribe) -> RelocationOutcome:
    digest = bytes.fromhex(wanted.sha256)
    try:
        target = None if wanted.target is None else _safe(transaction, wanted, wanted.target, digest, scribe)
    except BlobCondemnedError:
        return "condemned"
    if wanted.kind == "link":
        return _link(transaction, wanted, target, scribe)
    if target is None:
        return "changed"
    if wanted.kind == "conflict":
        return _conflict(transaction, wanted, digest, scribe)
    change = _variant if wanted.kind == "variant" else _document
    return change(transaction, wanted, digest, target, scribe)


def _document(
    transaction: WriteTransaction, wanted: Relocation, digest: bytes, target: Location, scribe: Scribe
) -> RelocationOutcome:
    old = reading.document_row(transaction, wanted.document_id)
    if old is None or not _is_what_it_was(old, wanted, digest, scribe):
        return "changed"
    new = structs.replace(old, digest=digest, root=target[0], path=target[1])
    new = registering.touched(new, scribe.now)
    changes.put_document(transaction, wanted.document_id, old, new)
    settle(transaction, Target(wanted.document_id), old, new, scribe, action=ACTION)
    return "moved"


def _variant(
    transaction: WriteTransaction, wanted: Relocation, digest: bytes, target: Location, scribe: Scribe
) -> RelocationOutcome:
    found = reading.find_variant(transaction, wanted.document_id, wanted.variant or "")
    if found is None or not _is_what_it_was(found[1], wanted, digest, scribe):
        return "changed"
    variant_id, old = found
    new = structs.replace(old, digest=digest, root=target[0], path=target[1])
    changes.put_variant(transaction, variant_id, old, new)
    settle(transaction, Target(wanted.document_id, variant_id, old.name), old, new, scribe, action=ACTION)
    return "moved"


def _conflict(transaction: WriteTransaction, wanted: Relocation, digest: bytes, scribe: Scribe) -> RelocationOutcome:
    for _, old in list(reading.conflict_rows(transaction, wanted.document_id)):
        if old.variant == wanted.variant and _is_what_it_was(old, wanted, digest, scribe):
            # Without a digest its place is its identity; one that is found now does not change what it is.
            root, path = scribe.roots.locate(wanted.target or "", old.digest)
            new = structs.replace(old, root=root, path=path)
            known = reading.conflict_row(transaction, changes.key_of_conflict(wanted.document_id, new))
            changes.put_conflict(transaction, wanted.document_id, old, None)
            if known is None or known == old:
                changes.put_conflict(transaction, wanted.document_id, None, new)
            _tell(transaction, wanted, scribe)
            return "moved"
    return "changed"


def _link(
    transaction: WriteTransaction, wanted: Relocation, target: Location | None, scribe: Scribe
) -> RelocationOutcome:
    places = scribe.roots.candidates(wanted.storage_uri)
    if not any(changes.delete_link(transaction, wanted.document_id, *place) for place in places):
        return "changed"
    if target is not None and wanted.target is not None:
        root, path = scribe.roots.locate(wanted.target, None)
        changes.put_link(transaction, LinkRow(wanted.document_id, root, path or ""))
    _tell(transaction, wanted, scribe)
    return "moved"


def _safe(transaction: WriteTransaction, wanted: Relocation, target: str, digest: bytes, scribe: Scribe) -> Location:
    """Return where a target lies; BlobCondemnedError if it is being taken away, or may have been since then."""
    if upkeep.may_condemn(transaction) and any(
        upkeep.was_cleared(transaction, *place, after=wanted.blob_epoch) for place in scribe.roots.candidates(target)
    ):
        raise BlobCondemnedError(f"{target}: garbage collection was at what lay there since it was stored")
    # Only now: what was forgotten before the row was looked for is known to be forgotten.
    if upkeep.has_forgotten(transaction, scribe.roots.candidates(target), after=wanted.blob_epoch):
        raise BlobCondemnedError(f"{target}: blobs were taken away since it was stored")
    return locate(transaction, target, digest, scribe)


def _is_what_it_was(
    row: DocumentRow | VariantRow | ConflictRow, wanted: Relocation, digest: bytes, scribe: Scribe
) -> bool:
    is_same = row.size == wanted.bytes and row.digest in {None, digest}
    return is_same and place_of(row, scribe) == wanted.storage_uri


def _tell(transaction: WriteTransaction, wanted: Relocation, scribe: Scribe) -> None:
    moved = {"storage_uri": (wanted.storage_uri, wanted.target)}
    write_journal(transaction, ACTION, {**moved}, scribe, Target(wanted.document_id))
