"""How a content comes to a record: where it lies, that it may be referred to, and what other contents become of it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from kvcatalog.errors import BlobCondemnedError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import Outcome
from kvcatalog.schema import (
    ConflictRow,
    LinkRow,
)
from kvcatalog.store import changes, reading, upkeep
from kvcatalog.store.registering import Content, DocumentRequest, VariantRequest
from kvcatalog.store.roots import Location
from kvcatalog.store.scribe import Row, Scribe, Target, differences_of, place_of, write_journal


def refuse_what_may_be_gone(
    transaction: WriteTransaction, request: DocumentRequest | VariantRequest, scribe: Scribe
) -> None:
    """Raise BlobCondemnedError if a blob may have been taken away since the caller made sure of it."""
    epoch = request.blob_epoch
    if epoch is None:
        return
    uris = (request.content.storage_uri, *request.links)
    for uri in uris if upkeep.may_condemn(transaction) else ():
        if any(upkeep.was_cleared(transaction, *place, after=epoch) for place in scribe.roots.candidates(uri)):
            raise BlobCondemnedError(f"{uri}: garbage collection was at what lay there since it was stored")
    # Only now: what was forgotten before the rows were looked for is known to be forgotten.
    places = (place for uri in uris for place in scribe.roots.candidates(uri))
    if upkeep.has_forgotten(transaction, places, after=epoch):
        raise BlobCondemnedError(f"{request.content.storage_uri}: blobs were taken away since it was stored")


def locate(transaction: WriteTransaction, uri: str, digest: bytes | None, scribe: Scribe) -> Location:
    """Return where a blob lies that is about to be referred to; BlobCondemnedError if it is being taken away."""
    if upkeep.may_condemn(transaction):
        refuse_condemned(transaction, uri, scribe)
    return scribe.roots.locate(uri, digest)


def refuse_condemned(transaction: WriteTransaction, uri: str, scribe: Scribe) -> None:
    """Raise BlobCondemnedError if what lies there is being taken away."""
    if any(upkeep.is_condemned(transaction, *place) for place in scribe.roots.candidates(uri)):
        raise BlobCondemnedError(f"{uri}: garbage collection is taking away what lies there")


def content_fields(transaction: WriteTransaction, content: Content, scribe: Scribe) -> dict[str, object]:
    """Return the fields of a row that describe a content; raises as `locate` does."""
    root, path = locate(transaction, content.storage_uri, content.digest, scribe)
    return {"size": content.size, "digest": content.digest, "root": root, "path": path}


def with_content(
    transaction: WriteTransaction,
    old: Row,
    request: DocumentRequest | VariantRequest,
    outcome: Outcome,
    scribe: Scribe,
) -> Row:
    """Return a row with the content of a request, and with its content type where other bytes came."""
    fields = content_fields(transaction, request.content, scribe)
    if outcome == "conflict" and request.content_type is not None:
        fields["content_type"] = request.content_type
    return structs.replace(old, **fields)


def becomes_content(outcome: Outcome, request: DocumentRequest | VariantRequest) -> bool:
    """Tell whether what came takes the place of what the record had."""
    return outcome == "enriched" or (outcome == "conflict" and request.replaces)


def link_locations(
    transaction: WriteTransaction, request: DocumentRequest | VariantRequest, scribe: Scribe
) -> Sequence[Location]:
    """Return where the further places of a request lie; raises as `locate` does."""
    return [locate(transaction, uri, None, scribe) for uri in request.links] if request.links else ()


def put_links(transaction: WriteTransaction, document_id: int, links: Sequence[Location]) -> None:
    """Remember that a document owns what lies there."""
    for root, path in links:
        changes.put_link(transaction, LinkRow(document_id, root, path or ""))


def keep_conflict(
    transaction: WriteTransaction,
    target: Target,
    request: DocumentRequest | VariantRequest,
    run_id: str | None,
    scribe: Scribe,
) -> None:
    """Remember other bytes that came under a known key: once for each content, with when and how often."""
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
    differences = differences_of(old, new, scribe.roots)
    if action == "enrich" and "storage_uri" in differences and old.path is not None:
        changes.put_link(transaction, LinkRow(target.document_id, old.root, old.path))
    write_journal(transaction, action, differences, scribe, target)
