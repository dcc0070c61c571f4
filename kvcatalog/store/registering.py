"""What a registration does, decided from what is stored and what came; nothing here reads or writes.

Digest, size and location describe one content and change only together.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import get_args

from msgspec import Struct, structs

from kvcatalog import values
from kvcatalog.clock import to_micros
from kvcatalog.models import OnConflict, Outcome, RegistrationRequest, VariantRegistrationRequest
from kvcatalog.schema import DocumentRow, VariantRow, document_key
from kvcatalog.store.roots import Location


class Content(Struct, frozen=True, gc=False):
    """One content as it came: size in bytes, raw digest, and where it lies."""

    size: int
    digest: bytes | None
    storage_uri: str


class DocumentRequest(Struct, frozen=True, gc=False):
    """A checked request to register a document, with its key."""

    key: bytes
    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    content: Content
    run_id: str | None
    created: int | None
    replaces: bool
    blob_epoch: int | None = None
    links: tuple[str, ...] = ()


class VariantRequest(Struct, frozen=True, gc=False):
    """A checked request to register a variant."""

    document_id: int
    name: str
    content_type: str | None
    content: Content
    created: int | None
    replaces: bool
    blob_epoch: int | None = None
    links: tuple[str, ...] = ()


def checked_content(size: int, sha256: str | None, storage_uri: str) -> Content:
    """Return the three that describe a content, checked; InvalidValueError names the field."""
    return Content(
        values.size("bytes", size),
        None if sha256 is None or sha256 == "" else values.raw_digest("sha256", sha256),
        values.required_text("storage_uri", storage_uri),
    )


def checked_document(request: RegistrationRequest) -> DocumentRequest:
    """Return a request in its stored form; InvalidValueError names the field that cannot be stored."""
    artifact_id = values.required_text("artifact_id", request.artifact_id)
    source_url = values.required_text("source_url", request.source_url)
    resolver = values.required_text("resolver", request.resolver)
    return DocumentRequest(
        document_key(artifact_id, source_url, resolver),
        artifact_id,
        source_url,
        resolver,
        values.optional_text("content_type", request.content_type),
        checked_content(request.bytes, request.sha256, request.storage_uri),
        values.optional_text("run_id", request.run_id),
        _checked_moment("created_at", request.created_at),
        _replaces(request.on_conflict),
        request.blob_epoch,
        _checked_links(request.links),
    )


def checked_variant(
    document_id: int,
    variant: str,
    content: Content,
    *,
    content_type: str | None,
    created_at: datetime | None,
    on_conflict: OnConflict,
    blob_epoch: int | None,
    links: Iterable[str],
) -> VariantRequest:
    """Return a request in its stored form; InvalidValueError names the field that cannot be stored."""
    return VariantRequest(
        values.record_id("document_id", document_id),
        values.required_text("variant", variant),
        values.optional_text("content_type", content_type),
        content,
        _checked_moment("created_at", created_at),
        _replaces(on_conflict),
        blob_epoch,
        _checked_links(links),
    )


def checked_variant_request(request: VariantRegistrationRequest) -> VariantRequest:
    """Return a request in its stored form; InvalidValueError names the field that cannot be stored."""
    return checked_variant(
        request.document_id,
        request.variant,
        checked_content(request.bytes, request.sha256, request.storage_uri),
        content_type=request.content_type,
        created_at=request.created_at,
        on_conflict=request.on_conflict,
        blob_epoch=request.blob_epoch,
        links=request.links,
    )


def outcome_of(old: DocumentRow | VariantRow, content: Content) -> Outcome:
    """Tell what a content does that comes under a known key.

    Contents differ if their digests do, or their sizes; where a digest is missing, equal sizes pass for equal.
    """
    both_hashed = old.digest is not None and content.digest is not None
    if old.size != content.size or (both_hashed and old.digest != content.digest):
        return "conflict"
    if old.digest is None and content.digest is not None:
        return "enriched"
    return "existing"


def new_document(request: DocumentRequest, location: Location, now: int) -> DocumentRow:
    """Return the row of a document that is registered for the first time."""
    content = request.content
    return DocumentRow(
        request.artifact_id,
        request.source_url,
        request.resolver,
        request.content_type,
        content.size,
        content.digest,
        *location,
        now if request.created is None else request.created,
        0,
        request.run_id,
    )


def new_variant(request: VariantRequest, location: Location, now: int) -> VariantRow:
    """Return the row of a variant that is registered for the first time."""
    content = request.content
    created = now if request.created is None else request.created
    return VariantRow(
        request.document_id, request.name, request.content_type, content.size, content.digest, *location, created
    )


def touched(row: DocumentRow, now: int) -> DocumentRow:
    """Return a document as changed now; its time of change never goes back, whatever the clock does."""
    return structs.replace(row, updated_after=max(now - row.created, row.updated_after))


def _checked_moment(field: str, moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(values.moment(field, moment))


def _checked_links(links: Iterable[str]) -> tuple[str, ...]:
    return tuple([values.required_text("links", uri) for uri in links]) if links else ()


def _replaces(on_conflict: OnConflict) -> bool:
    if on_conflict == "keep":
        return False
    values.choice("on_conflict", on_conflict, get_args(OnConflict))
    return True
