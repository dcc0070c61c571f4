"""What each writing call does inside the write transaction; every one may be run again from the start."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct, structs

from kvcatalog.errors import CatalogError, InvalidValueError, NotFoundError
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.models import Outcome, Root
from kvcatalog.schema import (
    CONFLICT_CODEC,
    CONFLICTS,
    META,
    NUMBER_CODEC,
    ROOT_CODEC,
    ROOTS,
    ROOTS_VERSION_KEY,
    ConflictRow,
    DocumentRow,
    JournalRow,
    LinkRow,
    RootRow,
    VariantRow,
    id_key,
)
from kvcatalog.store import changes, reading, registering
from kvcatalog.store.registering import Content, DocumentRequest, VariantRequest
from kvcatalog.store.roots import RootMap
from kvcatalog.store.tally import DOCUMENT_ID, VARIANT_ID, Tally
from kvcatalog.values import ID_MAX

Row = TypeVar("Row", DocumentRow, VariantRow)
Changes = dict[str, tuple[str | int | None, str | int | None]]


class Scribe(Struct, frozen=True):
    """Who writes and when: the time in microseconds, the command, and the reason that the journal gets."""

    now: int
    command: str
    reason: str | None = None


def register_document(
    transaction: WriteTransaction, request: DocumentRequest, roots: RootMap, scribe: Scribe
) -> tuple[int, DocumentRow, Outcome]:
    """Store a document, or add to what is stored under its key."""
    content = request.content
    location = roots.locate(content.storage_uri, content.digest)
    found = reading.find_document(transaction, request.artifact_id, request.source_url, request.resolver)
    if found is None:
        document_id = _next_id(transaction, DOCUMENT_ID)
        row = registering.new_document(request, location, scribe.now)
        changes.put_document(transaction, document_id, None, row)
        return document_id, row, "registered"
    document_id, old = found
    outcome = registering.outcome_of(old, content)
    row = old
    if outcome == "enriched" or (outcome == "conflict" and request.replaces):
        row = registering.touched(old, scribe.now, **_content_fields(content, roots))
        if outcome == "conflict" and request.content_type is not None:
            row = structs.replace(row, content_type=request.content_type)
        changes.put_document(transaction, document_id, old, row)
        _settle(transaction, document_id, old, row, None, roots, scribe)
    elif outcome == "conflict":
        _keep_conflict(transaction, document_id, None, content, roots, request.run_id, scribe)
    if request.run_id is not None and request.run_id != row.run_id:
        seen = scribe.now if request.created is None else request.created
        changes.put_sighting(transaction, document_id, request.run_id, seen)
    return document_id, row, outcome


def register_variant(
    transaction: WriteTransaction, request: VariantRequest, roots: RootMap, scribe: Scribe
) -> tuple[int, VariantRow, Outcome]:
    """Store a variant of a document, or add to what is stored under its name."""
    content = request.content
    location = roots.locate(content.storage_uri, content.digest)
    document_id = request.document_id
    if reading.document_row(transaction, document_id) is None:
        raise NotFoundError(f"there is no document {document_id}")
    found = reading.find_variant(transaction, document_id, request.name)
    if found is None:
        variant_id = _next_id(transaction, VARIANT_ID)
        row = registering.new_variant(request, location, scribe.now)
        changes.put_variant(transaction, variant_id, None, row)
        return variant_id, row, "registered"
    variant_id, old = found
    outcome = registering.outcome_of(old, content)
    row = old
    if outcome == "enriched" or (outcome == "conflict" and request.replaces):
        row = structs.replace(old, **_content_fields(content, roots))
        if outcome == "conflict" and request.content_type is not None:
            row = structs.replace(row, content_type=request.content_type)
        changes.put_variant(transaction, variant_id, old, row)
        _settle(transaction, document_id, old, row, variant_id, roots, scribe)
    elif outcome == "conflict":
        _keep_conflict(transaction, document_id, request.name, content, roots, None, scribe)
    return variant_id, row, outcome


def update_document(
    transaction: WriteTransaction,
    document_id: int,
    fields: dict[str, str | None],
    content: Content | None,
    roots: RootMap,
    scribe: Scribe,
) -> DocumentRow:
    """Change some fields of a document on purpose; NotFoundError if there is none."""
    old = _existing(transaction, document_id)
    new = structs.replace(old, **fields, **({} if content is None else _content_fields(content, roots)))
    if new == old:
        return old
    new = registering.touched(new, scribe.now)
    changes.put_document(transaction, document_id, old, new)
    _settle(transaction, document_id, old, new, None, roots, scribe, action="update")
    return new


def delete_document(transaction: WriteTransaction, document_id: int, roots: RootMap, scribe: Scribe) -> DocumentRow:
    """Take a document and all that hangs on it out of the catalog; NotFoundError if there is none."""
    old = _existing(transaction, document_id)
    changes.delete_document(transaction, document_id, old)
    _write_journal(transaction, scribe, "delete", _differences(old, None, roots), document_id)
    return old


def delete_variant(
    transaction: WriteTransaction, document_id: int, name: str, roots: RootMap, scribe: Scribe
) -> tuple[int, VariantRow]:
    """Take a variant out of the catalog; NotFoundError if there is none."""
    found = reading.find_variant(transaction, document_id, name)
    if found is None:
        raise NotFoundError(f"document {document_id} has no variant {name!r}")
    variant_id, old = found
    changes.put_variant(transaction, variant_id, old, None)
    _write_journal(transaction, scribe, "delete", _differences(old, None, roots), document_id, variant_id)
    return found


def record_sighting(transaction: WriteTransaction, document_id: int, run_id: str, seen: int) -> bool:
    """Remember that a run met a document again; False if that was known. NotFoundError if there is no document."""
    row = _existing(transaction, document_id)
    return row.run_id != run_id and changes.put_sighting(transaction, document_id, run_id, seen)


def add_root(transaction: WriteTransaction, new: RootRow, scribe: Scribe) -> Root:
    """Make a root known, or return it; a known UUID elsewhere has moved. InvalidValueError if another root is there."""
    known = {root.uuid: root for root in reading.read_roots(transaction)}
    old = known.get(new.uuid)
    if any(root.uri == new.uri and root.uuid != new.uuid for root in known.values()):
        raise InvalidValueError("uri", f"another root is known at {new.uri}")
    if old is not None and old.cas_prefix != new.cas_prefix:
        raise InvalidValueError("cas_prefix", f"the root has {old.cas_prefix!r}, and its blobs lie there")
    root = Root(max((root.id for root in known.values()), default=0) + 1 if old is None else old.id, *_plain(new))
    if root != old:
        key = id_key(root.id)
        transaction.put(ROOTS, key, ROOT_CODEC.encode(key, new))
        version = transaction.get(META, ROOTS_VERSION_KEY)
        number = 0 if version is None else NUMBER_CODEC.decode(ROOTS_VERSION_KEY, version)
        transaction.put(META, ROOTS_VERSION_KEY, NUMBER_CODEC.encode(ROOTS_VERSION_KEY, number + 1))
        _write_journal(transaction, scribe, "root", {"uri": (None if old is None else old.uri, root.uri)})
    return root


def _plain(row: RootRow) -> tuple[str, str, str]:
    return row.uri, row.uuid, row.cas_prefix


def _existing(transaction: WriteTransaction, document_id: int) -> DocumentRow:
    row = reading.document_row(transaction, document_id)
    if row is None:
        raise NotFoundError(f"there is no document {document_id}")
    return row


def _next_id(transaction: WriteTransaction, kind: str) -> int:
    number = Tally.of(transaction).next(kind)
    if number > ID_MAX:
        raise CatalogError(f"all ids up to {ID_MAX} have been given")
    return number


def _content_fields(content: Content, roots: RootMap) -> dict[str, object]:
    root, path = roots.locate(content.storage_uri, content.digest)
    return {"size": content.size, "digest": content.digest, "root": root, "path": path}


def _keep_conflict(
    transaction: WriteTransaction,
    document_id: int,
    variant: str | None,
    content: Content,
    roots: RootMap,
    run_id: str | None,
    scribe: Scribe,
) -> None:
    location = roots.locate(content.storage_uri, content.digest)
    fresh = registering.conflict_with(None, variant, content, location, run_id, scribe.now)
    key = changes.key_of_conflict(document_id, fresh)
    value = transaction.get(CONFLICTS, key)
    old = None if value is None else CONFLICT_CODEC.decode(key, value)
    new = registering.conflict_with(old, variant, content, location, run_id, scribe.now)
    changes.put_conflict(transaction, document_id, old, new)


def _settle(
    transaction: WriteTransaction,
    document_id: int,
    old: Row,
    new: Row,
    variant_id: int | None,
    roots: RootMap,
    scribe: Scribe,
    *,
    action: str | None = None,
) -> None:
    """Finish a change of content: the journal gets it, and a conflict that has become the content is none any more.

    The same content at a new place keeps its old place as a link, so that no blob loses its last reference unseen.
    """
    enriched = old.digest is None and new.digest is not None and old.size == new.size
    variant = new.name if isinstance(new, VariantRow) else None
    probe = ConflictRow(variant, new.size, new.digest, new.root, new.path, None, 0, 0, 0)
    key = changes.key_of_conflict(document_id, probe)
    value = transaction.get(CONFLICTS, key)
    if value is not None:
        changes.put_conflict(transaction, document_id, CONFLICT_CODEC.decode(key, value), None)
    if enriched and (old.root, old.path) != (new.root, new.path) and old.path is not None:
        if roots.uri((old.root, old.path), old.digest) != roots.uri((new.root, new.path), new.digest):
            changes.put_link(transaction, LinkRow(document_id, old.root, old.path))
    what = action or ("enrich" if enriched else "replace")
    _write_journal(transaction, scribe, what, _differences(old, new, roots), document_id, variant_id)


def _differences(old: Row, new: Row | None, roots: RootMap) -> Changes:
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


def _write_journal(
    transaction: WriteTransaction,
    scribe: Scribe,
    action: str,
    differences: Changes,
    document_id: int | None = None,
    variant_id: int | None = None,
) -> None:
    row = JournalRow(scribe.now, action, document_id, variant_id, scribe.command, scribe.reason, differences)
    changes.put_journal_entry(transaction, row)
