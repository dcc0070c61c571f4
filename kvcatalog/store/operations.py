"""What each writing call does inside the write transaction; every one may be run again from the start."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct, structs

from kvcatalog.custody import Deletion
from kvcatalog.errors import CatalogError, NotFoundError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import DocumentRecord, Outcome, Registration
from kvcatalog.schema import (
    BY_KEY,
    CONDEMNED,
    DOCUMENTS,
    DocumentRow,
    VariantRow,
    id_key,
    location_key,
)
from kvcatalog.store import changes, contents, reading, registering, upkeep
from kvcatalog.store.hanging import Hanging
from kvcatalog.store.registering import Content, DocumentRequest, VariantRequest
from kvcatalog.store.roots import Location
from kvcatalog.store.scribe import Changes, Scribe, Target, differences_of, place_of, write_journal
from kvcatalog.store.tally import DOCUMENT_ID, VARIANT_ID, Tally
from kvcatalog.values import ID_MAX


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
            contents.refuse_what_may_be_gone(transaction, request, scribe)
            if value is None:
                content = request.content
                if may_condemn:
                    contents.refuse_condemned(transaction, content.storage_uri, scribe)
                location = scribe.roots.locate(content.storage_uri, content.digest)
                links = contents.link_locations(transaction, request, scribe)
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
            contents.put_links(transaction, document_id, document.links)
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
    links = contents.link_locations(transaction, request, scribe)
    outcome = registering.outcome_of(old, request.content)
    row = old
    if contents.becomes_content(outcome, request):
        row = registering.touched(contents.with_content(transaction, old, request, outcome, scribe), scribe.now)
        changes.put_document(transaction, document_id, old, row)
        action = "enrich" if outcome == "enriched" else "replace"
        contents.settle(transaction, Target(document_id), old, row, scribe, action=action)
    elif outcome == "conflict":
        contents.keep_conflict(transaction, Target(document_id), request, request.run_id, scribe)
    if links:
        contents.put_links(transaction, document_id, links)
    if request.run_id is not None and request.run_id != row.run_id:
        seen = scribe.now if request.created is None else request.created
        changes.put_sighting(transaction, document_id, request.run_id, seen)
    return Registration(reading.document_record(document_id, row, scribe.roots), outcome)


def register_variant(
    transaction: WriteTransaction, request: VariantRequest, scribe: Scribe
) -> tuple[int, VariantRow, Outcome]:
    """Store a variant of a document, or add to what is stored under its name; NotFoundError if there is no document."""
    contents.refuse_what_may_be_gone(transaction, request, scribe)
    links = contents.link_locations(transaction, request, scribe)
    _existing(transaction, request.document_id)
    found = reading.find_variant(transaction, request.document_id, request.name)
    if found is None:
        location = contents.locate(transaction, request.content.storage_uri, request.content.digest, scribe)
        variant_id = _next_id(transaction, VARIANT_ID)
        row = registering.new_variant(request, location, scribe.now)
        changes.put_variant(transaction, variant_id, None, row)
        contents.put_links(transaction, request.document_id, links)
        return variant_id, row, "registered"
    variant_id, old = found
    target = Target(request.document_id, variant_id, request.name)
    outcome = registering.outcome_of(old, request.content)
    row = old
    if contents.becomes_content(outcome, request):
        row = contents.with_content(transaction, old, request, outcome, scribe)
        changes.put_variant(transaction, variant_id, old, row)
        contents.settle(transaction, target, old, row, scribe, action="enrich" if outcome == "enriched" else "replace")
    elif outcome == "conflict":
        contents.keep_conflict(transaction, target, request, None, scribe)
    contents.put_links(transaction, request.document_id, links)
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
    new = structs.replace(
        old, **fields, **({} if content is None else contents.content_fields(transaction, content, scribe))
    )
    if not differences_of(old, new, scribe.roots):
        return old
    new = registering.touched(new, scribe.now)
    changes.put_document(transaction, document_id, old, new)
    if new.run_id != old.run_id:  # what either run saw stays on its list, once
        if new.run_id is not None:
            changes.delete_sighting(transaction, document_id, new.run_id)
        if old.run_id is not None:
            changes.put_sighting(transaction, document_id, old.run_id, old.created)
    contents.settle(transaction, Target(document_id), old, new, scribe, action="update")
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
    write_journal(transaction, "delete", differences_of(old, None, scribe.roots), scribe, Target(document_id))
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
        differences = artifact | differences_of(variant, None, scribe.roots)
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
    write_journal(transaction, "delete", differences_of(old, None, scribe.roots), scribe, target)
    return found


def record_sighting(transaction: WriteTransaction, document_id: int, run_id: str, seen: int) -> bool:
    """Remember that a run met a document again; False if that was known. NotFoundError if there is no document."""
    row = _existing(transaction, document_id)
    return row.run_id != run_id and changes.put_sighting(transaction, document_id, run_id, seen)


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
