"""What each writing call does inside the write transaction; every one may be run again from the start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from msgspec import Struct, structs

from kvcatalog.custody import Deletion
from kvcatalog.errors import BlobCondemnedError, CatalogError, InvalidValueError, NotFoundError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import DocumentRecord, Outcome, Registration, Root
from kvcatalog.schema import (
    BY_KEY,
    CONDEMNED,
    DOCUMENTS,
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
    location_key,
)
from kvcatalog.store import changes, reading, registering, upkeep
from kvcatalog.store.hanging import Hanging
from kvcatalog.store.registering import Content, DocumentRequest, VariantRequest
from kvcatalog.store.roots import Location, RootMap
from kvcatalog.store.tally import DOCUMENT_ID, VARIANT_ID, Tally
from kvcatalog.values import ID_MAX

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


def register_documents(
    transaction: WriteTransaction, requests: Sequence[DocumentRequest], scribe: Scribe
) -> list[Registration | CatalogError]:
    """Store documents, or add to what is stored under their keys; the results are in the order of the requests.

    A request that cannot be met has its error as result and leaves the others alone.
    """
    results: dict[int, Registration | CatalogError] = {}
    known = transaction.first_values(BY_KEY, sorted([request.key for request in requests]))
    transaction.expect(DOCUMENTS, known.values())
    new: dict[bytes, _NewDocument] = {}
    may_condemn = upkeep.may_condemn(transaction)
    if may_condemn:
        uris = (uri for request in requests for uri in (request.content.storage_uri, *request.links))
        transaction.expect(CONDEMNED, [location_key(*place) for uri in uris for place in scribe.roots.candidates(uri)])
    for position, request in enumerate(requests):
        if request.key in new:  # the same document twice in one batch
            known |= _store_new(transaction, new, results, scribe)
        value = known.get(request.key)
        writes = transaction.writes
        try:
            _refuse_what_may_be_gone(transaction, request, scribe)
            if value is None:
                content = request.content
                if may_condemn:
                    _refuse_condemned(transaction, content.storage_uri, scribe)
                location = scribe.roots.locate(content.storage_uri, content.digest)
                links = _link_locations(transaction, request, scribe)
                row = registering.new_document(request, location, scribe.now)
                new[request.key] = _NewDocument(position, row, content.storage_uri, links)
            else:
                results[position] = _register_again(transaction, value, request, scribe)
        except CatalogError as error:
            if transaction.writes != writes:
                raise
            results[position] = error
    _store_new(transaction, new, results, scribe)
    return [results[position] for position in range(len(requests))]


def register_all(
    transaction: WriteTransaction, requests: Sequence[DocumentRequest], scribe: Scribe
) -> list[Registration]:
    """Do as `register_documents` does, and raise the first error."""
    results = []
    for result in register_documents(transaction, requests, scribe):
        if isinstance(result, CatalogError):
            raise result
        results.append(result)
    return results


class _NewDocument(Struct, gc=False):
    """A document that is about to be stored, where in its batch it came, and the places of its blob."""

    position: int
    row: DocumentRow
    storage_uri: str
    links: Sequence[Location]


def _store_new(
    transaction: WriteTransaction,
    new: dict[bytes, _NewDocument],
    results: dict[int, Registration | CatalogError],
    scribe: Scribe,
) -> dict[bytes, bytes]:
    """Store what is new, put down the results, and return the ids by key; then nothing is new any more."""
    if not new:
        return {}
    first_id = _next_id(transaction, DOCUMENT_ID, len(new))
    numbers = range(first_id, first_id + len(new))
    changes.put_new_documents(transaction, numbers, {key: document.row for key, document in new.items()})
    ids: dict[bytes, bytes] = {}
    for document_id, (key, document) in zip(numbers, new.items(), strict=True):
        ids[key] = id_key(document_id)
        if document.links:
            _put_links(transaction, document_id, document.links)
        record = reading.document_record(document_id, document.row, scribe.roots, document.storage_uri)
        results[document.position] = Registration(record, "registered")
    new.clear()
    return ids


def _register_again(
    transaction: WriteTransaction, value: bytes, request: DocumentRequest, scribe: Scribe
) -> Registration:
    """Add to what is stored under a key."""
    document_id, old = reading.document_with_key(
        transaction, value, request.artifact_id, request.source_url, request.resolver
    )
    links = _link_locations(transaction, request, scribe)
    outcome = registering.outcome_of(old, request.content)
    row = old
    if _becomes_content(outcome, request):
        row = registering.touched(_with_content(transaction, old, request, outcome, scribe), scribe.now)
        changes.put_document(transaction, document_id, old, row)
        action = "enrich" if outcome == "enriched" else "replace"
        settle(transaction, Target(document_id), old, row, scribe, action=action)
    elif outcome == "conflict":
        _keep_conflict(transaction, Target(document_id), request, request.run_id, scribe)
    if links:
        _put_links(transaction, document_id, links)
    if request.run_id is not None and request.run_id != row.run_id:
        seen = scribe.now if request.created is None else request.created
        changes.put_sighting(transaction, document_id, request.run_id, seen)
    return Registration(reading.document_record(document_id, row, scribe.roots), outcome)


def register_variant(
    transaction: WriteTransaction, request: VariantRequest, scribe: Scribe
) -> tuple[int, VariantRow, Outcome]:
    """Store a variant of a document, or add to what is stored under its name; NotFoundError if there is no document."""
    _refuse_what_may_be_gone(transaction, request, scribe)
    links = _link_locations(transaction, request, scribe)
    _existing(transaction, request.document_id)
    found = reading.find_variant(transaction, request.document_id, request.name)
    if found is None:
        location = locate(transaction, request.content.storage_uri, request.content.digest, scribe)
        variant_id = _next_id(transaction, VARIANT_ID)
        row = registering.new_variant(request, location, scribe.now)
        changes.put_variant(transaction, variant_id, None, row)
        _put_links(transaction, request.document_id, links)
        return variant_id, row, "registered"
    variant_id, old = found
    target = Target(request.document_id, variant_id, request.name)
    outcome = registering.outcome_of(old, request.content)
    row = old
    if _becomes_content(outcome, request):
        row = _with_content(transaction, old, request, outcome, scribe)
        changes.put_variant(transaction, variant_id, old, row)
        settle(transaction, target, old, row, scribe, action="enrich" if outcome == "enriched" else "replace")
    elif outcome == "conflict":
        _keep_conflict(transaction, target, request, None, scribe)
    _put_links(transaction, request.document_id, links)
    return variant_id, row, outcome


def register_variants(
    transaction: WriteTransaction, requests: Sequence[VariantRequest], scribe: Scribe
) -> list[tuple[int, VariantRow, Outcome]]:
    """Do as `register_variant` does for many; the results are in the order of the requests."""
    return [register_variant(transaction, request, scribe) for request in requests]


def update_document(
    transaction: WriteTransaction,
    document_id: int,
    fields: dict[str, str | None],
    content: Content | None,
    scribe: Scribe,
) -> DocumentRow:
    """Change some fields of a document on purpose; NotFoundError if there is none."""
    old = _existing(transaction, document_id)
    new = structs.replace(old, **fields, **({} if content is None else _content_fields(transaction, content, scribe)))
    if not _differences(old, new, scribe.roots):
        return old
    new = registering.touched(new, scribe.now)
    changes.put_document(transaction, document_id, old, new)
    if new.run_id != old.run_id:  # what either run saw stays on its list, once
        if new.run_id is not None:
            changes.delete_sighting(transaction, document_id, new.run_id)
        if old.run_id is not None:
            changes.put_sighting(transaction, document_id, old.run_id, old.created)
    settle(transaction, Target(document_id), old, new, scribe, action="update")
    return new


def delete_documents(
    transaction: WriteTransaction, deletions: Sequence[Deletion], scribe: Scribe
) -> list[DocumentRecord | None]:
    """Take away those documents that are still what they were; None for the others."""
    deleted: list[DocumentRecord | None] = []
    for each in deletions:
        row = reading.document_row(transaction, each.document_id)
        record = None if row is None else reading.document_record(each.document_id, row, scribe.roots)
        if record is None or record.updated_at != each.updated_at:
            deleted.append(None)
            continue
        delete_document(transaction, each.document_id, structs.replace(scribe, reason=each.reason))
        deleted.append(record)
    return deleted


def delete_document(transaction: WriteTransaction, document_id: int, scribe: Scribe) -> DocumentRow:
    """Take a document and all that hangs on it out of the catalog; NotFoundError if there is none."""
    old = _existing(transaction, document_id)
    hanging = Hanging.on(transaction, document_id)
    _tell_of(transaction, document_id, old, hanging, scribe)
    changes.delete_hanging(transaction, document_id, hanging)
    changes.put_document(transaction, document_id, old, None)
    write_journal(transaction, "delete", _differences(old, None, scribe.roots), scribe, Target(document_id))
    return old


def strip_document(
    document_id: int, updated_at: datetime | None, rows_max: int, transaction: WriteTransaction, scribe: Scribe
) -> bool:
    """Take some of what hangs on a document away where all of it and the document change more than so many rows.

    Tell whether that was necessary, and has to be asked for again. Nothing is done to one that has changed since a
    time.
    """
    row = reading.document_row(transaction, document_id)
    if row is None or (updated_at is not None and reading.updated_at(row) != updated_at):
        return False
    hanging = Hanging.on(transaction, document_id)
    if hanging.fits(rows_max):
        return False
    some = hanging.some(rows_max)
    _tell_of(transaction, document_id, row, some, scribe)
    changes.delete_hanging(transaction, document_id, some)
    return True


def _tell_of(
    transaction: WriteTransaction, document_id: int, owner: DocumentRow, hanging: Hanging, scribe: Scribe
) -> None:
    """Write down which further blobs lose what referred to them when a document goes."""
    artifact: Changes = {"artifact_id": (owner.artifact_id, None)}
    for variant_id, variant in hanging.variants:
        differences = artifact | _differences(variant, None, scribe.roots)
        write_journal(transaction, "delete", differences, scribe, Target(document_id, variant_id, variant.name))
    places = [place_of(row, scribe) for _, row in hanging.conflicts]
    places += [scribe.roots.uri((row.root, row.path), None) for row in hanging.links]
    for place in places:
        write_journal(transaction, "delete", artifact | {"storage_uri": (place, None)}, scribe, Target(document_id))


def delete_variant(
    transaction: WriteTransaction, document_id: int, name: str, scribe: Scribe
) -> tuple[int, VariantRow]:
    """Take a variant and its conflicts out of the catalog; NotFoundError if there is none."""
    found = reading.find_variant(transaction, document_id, name)
    if found is None:
        raise NotFoundError(f"document {document_id} has no variant {name!r}")
    variant_id, old = found
    changes.delete_variant(transaction, variant_id, old)
    target = Target(document_id, variant_id, name)
    write_journal(transaction, "delete", _differences(old, None, scribe.roots), scribe, target)
    return found


def record_sighting(transaction: WriteTransaction, document_id: int, run_id: str, seen: int) -> bool:
    """Remember that a run met a document again; False if that was known. NotFoundError if there is no document."""
    row = _existing(transaction, document_id)
    return row.run_id != run_id and changes.put_sighting(transaction, document_id, run_id, seen)


def add_root(transaction: WriteTransaction, new: RootRow, scribe: Scribe, *, adopted: bool = False) -> Root:
    """Make a root known, or return it; a known UUID elsewhere has moved. InvalidValueError if another root is there."""
    transaction.get(META, ROOTS_VERSION_KEY)  # before the roots: whoever changes them changes it
    known = {root.uuid: root for root in reading.read_roots(transaction)}
    old = known.get(new.uuid)
    if any(root.uri == new.uri and root.uuid != new.uuid for root in known.values()):
        raise InvalidValueError("uri", f"another root is known at {new.uri}")
    if old is not None and old.cas_prefix != new.cas_prefix:
        raise InvalidValueError("cas_prefix", f"the root has {old.cas_prefix!r}, and its blobs lie there")
    root = Root(max((root.id for root in known.values()), default=0) + 1 if old is None else old.id, *_plain(new))
    if root != old:
        put_root(transaction, root.id, new)
        write_journal(transaction, "root", {"uri": (None if old is None else old.uri, root.uri)}, scribe)
    if adopted:
        write_journal(transaction, "adopt", {"storage_uri": (None if old is None else old.uri, root.uri)}, scribe)
    return root


def put_root(transaction: WriteTransaction, root_id: int, row: RootRow) -> None:
    """Store a root, and see that everybody reads the roots again."""
    key = id_key(root_id)
    transaction.delete(ROOTS, key)  # a long value is never written over
    transaction.put(ROOTS, key, ROOT_CODEC.encode(key, row))
    version = int.from_bytes(os.urandom(7), "big")
    transaction.put(META, ROOTS_VERSION_KEY, NUMBER_CODEC.encode(ROOTS_VERSION_KEY, version))


def _plain(row: RootRow) -> tuple[str, str, str]:
    return row.uri, row.uuid, row.cas_prefix


def _existing(transaction: WriteTransaction, document_id: int) -> DocumentRow:
    row = reading.document_row(transaction, document_id)
    if row is None:
        raise NotFoundError(f"there is no document {document_id}")
    return row


def _next_id(transaction: WriteTransaction, kind: str, count: int = 1) -> int:
    """Return the first of some ids in a row."""
    number = Tally.of(transaction).next(kind, count)
    if number + count - 1 > ID_MAX:
        raise CatalogError(f"all ids up to {ID_MAX} have been given")
    return number


def _refuse_what_may_be_gone(
    transaction: WriteTransaction, request: DocumentRequest | VariantRequest, scribe: Scribe
) -> None:
    """Raise BlobCondemnedError if a blob may have been taken away since the caller made sure of it."""
    epoch = request.blob_epoch
    if epoch is None:
        return
    for uri in (request.content.storage_uri, *request.links) if upkeep.may_condemn(transaction) else ():
        if any(upkeep.was_cleared(transaction, *place, after=epoch) for place in scribe.roots.candidates(uri)):
            raise BlobCondemnedError(f"{uri}: garbage collection was at what lay there since it was stored")
    # Only now: what was forgotten before the rows were looked for is known to be forgotten.
    uris = (request.content.storage_uri, *request.links)
    places = (place for uri in uris for place in scribe.roots.candidates(uri))
    if upkeep.has_forgotten(transaction, places, after=epoch):
        raise BlobCondemnedError(f"{request.content.storage_uri}: blobs were taken away since it was stored")


def locate(transaction: WriteTransaction, uri: str, digest: bytes | None, scribe: Scribe) -> Location:
    """Return where a blob lies that is about to be referred to; BlobCondemnedError if it is being taken away."""
    if upkeep.may_condemn(transaction):
        _refuse_condemned(transaction, uri, scribe)
    return scribe.roots.locate(uri, digest)


def _refuse_condemned(transaction: WriteTransaction, uri: str, scribe: Scribe) -> None:
    if any(upkeep.is_condemned(transaction, *place) for place in scribe.roots.candidates(uri)):
        raise BlobCondemnedError(f"{uri}: garbage collection is taking away what lies there")


def _link_locations(
    transaction: WriteTransaction, request: DocumentRequest | VariantRequest, scribe: Scribe
) -> Sequence[Location]:
    return [locate(transaction, uri, None, scribe) for uri in request.links] if request.links else ()


def _put_links(transaction: WriteTransaction, document_id: int, links: Sequence[Location]) -> None:
    for root, path in links:
        changes.put_link(transaction, LinkRow(document_id, root, path or ""))


def _content_fields(transaction: WriteTransaction, content: Content, scribe: Scribe) -> dict[str, object]:
    root, path = locate(transaction, content.storage_uri, content.digest, scribe)
    return {"size": content.size, "digest": content.digest, "root": root, "path": path}


def _becomes_content(outcome: Outcome, request: DocumentRequest | VariantRequest) -> bool:
    return outcome == "enriched" or (outcome == "conflict" and request.replaces)


def _with_content(
    transaction: WriteTransaction,
    old: Row,
    request: DocumentRequest | VariantRequest,
    outcome: Outcome,
    scribe: Scribe,
) -> Row:
    """Return a row with the content of a request, and with its content type where other bytes came."""
    fields = _content_fields(transaction, request.content, scribe)
    if outcome == "conflict" and request.content_type is not None:
        fields["content_type"] = request.content_type
    return structs.replace(old, **fields)


def _keep_conflict(
    transaction: WriteTransaction,
    target: Target,
    request: DocumentRequest | VariantRequest,
    run_id: str | None,
    scribe: Scribe,
) -> None:
    content = request.content
    seen = scribe.now if request.created is None else request.created
    location = locate(transaction, content.storage_uri, content.digest, scribe)
    new = ConflictRow(target.variant, content.size, content.digest, *location, run_id, seen, seen, 1)
    old = known_conflict(transaction, target, new, scribe)
    if old is not None:
        if request.created is not None and old.first_seen <= seen <= old.last_seen:
            return  # the same event told again, as when an import is repeated
        if new.path is not None and place_of(old, scribe) != place_of(new, scribe):
            changes.put_link(transaction, LinkRow(target.document_id, new.root, new.path))
        first, last = min(seen, old.first_seen), max(seen, old.last_seen)
        new = structs.replace(old, first_seen=first, last_seen=last, count=old.count + 1)
    changes.put_conflict(transaction, target.document_id, old, new)


def known_conflict(
    transaction: WriteTransaction, target: Target, wanted: ConflictRow, scribe: Scribe
) -> ConflictRow | None:
    """Return the conflict of a content; without a digest its place identifies it, however that was written then."""
    places = [(wanted.root, wanted.path)]
    if wanted.digest is None:
        places += scribe.roots.candidates(place_of(wanted, scribe))
    for root, path in places:
        row = structs.replace(wanted, root=root, path=path)
        found = reading.conflict_row(transaction, changes.key_of_conflict(target.document_id, row))
        if found is not None:
            return found
    return None


def place_of(row: DocumentRow | VariantRow | ConflictRow, scribe: Scribe) -> str:
    """Return the storage URI of a row."""
    return scribe.roots.uri((row.root, row.path), row.digest)


def settle(transaction: WriteTransaction, target: Target, old: Row, new: Row, scribe: Scribe, *, action: str) -> None:
    """Finish a change: the journal gets it, and a conflict that has become the content is none any more.

    A digest that came for another place keeps the old place as a link, so that no blob loses its last reference unseen.
    """
    content = ConflictRow(target.variant, new.size, new.digest, new.root, new.path, None, 0, 0, 0)
    conflict = known_conflict(transaction, target, content, scribe)
    if conflict is not None:
        changes.put_conflict(transaction, target.document_id, conflict, None)
        if conflict.path is not None and place_of(conflict, scribe) != place_of(new, scribe):
            changes.put_link(transaction, LinkRow(target.document_id, conflict.root, conflict.path))
    differences = _differences(old, new, scribe.roots)
    if action == "enrich" and "storage_uri" in differences and old.path is not None:
        changes.put_link(transaction, LinkRow(target.document_id, old.root, old.path))
    write_journal(transaction, action, differences, scribe, target)


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


def write_journal(
    transaction: WriteTransaction, action: str, differences: Changes, scribe: Scribe, target: Target | None = None
) -> None:
    """Write down what was done to what."""
    document_id, variant_id = (None, None) if target is None else (target.document_id, target.variant_id)
    row = JournalRow(scribe.now, action, document_id, variant_id, scribe.command, scribe.reason, differences)
    changes.put_journal_entry(transaction, row)
