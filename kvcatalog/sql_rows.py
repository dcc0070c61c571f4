"""Rows of SQL tables and snapshots as records; InvalidValueError names the column that cannot be what it should be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from kvcatalog import values
from kvcatalog.errors import InvalidValueError
from kvcatalog.models import Conflict, DocumentRecord, JournalEntry, Link, Root, Sighting, VariantRecord

Row = tuple[Any, ...]

_decode_changes = msgspec.json.Decoder(dict[str, tuple[str | int | None, str | int | None]]).decode


def document(row: Row) -> DocumentRecord:
    """Return a row of `documents`."""
    number, artifact_id, source_url, resolver, content_type, size, sha256, uri, created, updated, run_id = row
    created_at = moment("created_at", created)
    return DocumentRecord(
        values.record_id("id", number),
        values.required_text("artifact_id", artifact_id),
        values.required_text("source_url", source_url),
        values.required_text("resolver", resolver),
        values.optional_text("content_type", content_type),
        values.size("bytes", size),
        values.digest("sha256", sha256),
        values.required_text("storage_uri", uri),
        created_at,
        created_at if updated == created else moment("updated_at", updated),
        values.optional_text("run_id", run_id),
    )


def variant(row: Row) -> VariantRecord:
    """Return a row of `variants`."""
    number, document_id, name, uri, size, content_type, sha256, created = row
    return VariantRecord(
        values.record_id("id", number),
        values.record_id("document_id", document_id),
        values.required_text("variant", name),
        values.required_text("storage_uri", uri),
        values.size("bytes", size),
        values.optional_text("content_type", content_type),
        values.digest("sha256", sha256),
        moment("created_at", created),
    )


def sighting(row: Row) -> Sighting:
    """Return a row of `sightings`."""
    document_id, run_id, seen = row
    return Sighting(
        values.required_text("run_id", run_id), values.record_id("document_id", document_id), moment("seen_at", seen)
    )


def conflict(row: Row) -> Conflict:
    """Return a row of `conflicts`."""
    document_id, name, sha256, size, uri, run_id, first, last, count = row
    return Conflict(
        values.record_id("document_id", document_id),
        values.optional_text("variant", name),
        values.digest("sha256", sha256),
        values.size("bytes", size),
        values.required_text("storage_uri", uri),
        values.optional_text("run_id", run_id),
        moment("first_seen_at", first),
        moment("last_seen_at", last),
        values.positive("count", count),
    )


def link(row: Row) -> Link:
    """Return a row of `links`."""
    return Link(values.record_id("document_id", row[0]), values.required_text("storage_uri", row[1]))


def root(row: Row) -> Root:
    """Return a row of `roots`."""
    number, *texts = row
    uri, uuid, prefix = map(values.required_text, ("uri", "uuid", "cas_prefix"), texts)
    return Root(values.record_id("id", number), uri, uuid, prefix)


def entry(row: Row) -> JournalEntry:
    """Return a row of `journal`."""
    sequence, at, action, document_id, variant_id, command, reason, changes = row
    try:
        found = _decode_changes(changes)
    except (msgspec.MsgspecError, TypeError) as error:
        raise InvalidValueError("changes", f"is not what an export writes: {error}") from error
    return JournalEntry(
        values.record_id("sequence", sequence),
        moment("at", at),
        values.required_text("action", action),
        None if document_id is None else values.record_id("document_id", document_id),
        None if variant_id is None else values.record_id("variant_id", variant_id),
        values.required_text("command", command),
        values.optional_text("reason", reason),
        found,
    )


def moment(field: str, value: object) -> datetime:
    """Return a time: ISO 8601, a space or T before the hours; UTC where no zone stands."""
    if not isinstance(value, str):
        raise InvalidValueError(field, "must be text with a time")
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise InvalidValueError(field, f"{value!r} is not a time") from error
    return values.moment(field, found if found.tzinfo else found.replace(tzinfo=UTC))
