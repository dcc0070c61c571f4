"""Storing what another catalog or an export holds as it is, with the same rows that registering it would have made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar, cast, get_args

from msgspec import structs

from kvcatalog import values
from kvcatalog.checks import BlobCheck, CheckResult
from kvcatalog.clock import to_micros
from kvcatalog.custody import Hold
from kvcatalog.filters import parse_filter
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.models import (
    Conflict,
    DocumentRecord,
    JournalEntry,
    Link,
    RegistrationRequest,
    Root,
    Sighting,
    VariantRecord,
)
from kvcatalog.schema import (
    BY_KEY,
    JOURNAL,
    JOURNAL_CODEC,
    LINKS,
    ConflictRow,
    DocumentRow,
    HoldRow,
    JournalRow,
    LinkRow,
    RootRow,
    VariantRow,
    id_key,
    link_key,
)
from kvcatalog.store import changes, checking, reading, registering, upkeep
from kvcatalog.store.contents import known_conflict, locate
from kvcatalog.store.protocol import Restorable, Restored
from kvcatalog.store.roots import RootMap
from kvcatalog.store.scribe import Scribe, Target
from kvcatalog.store.tally import DOCUMENT_ID, HOLD_ID, JOURNAL_SEQUENCE, PRUNED_SEQUENCE, VARIANT_ID, Tally
from kvcatalog.store.upkeep_operations import put_root

Entry = TypeVar("Entry")


def restore(transaction: WriteTransaction, entries: Sequence[Restorable], scribe: Scribe) -> list[Restored]:
    """Store entries in order and return what became of each; InvalidValueError where one cannot be stored at all."""
    results: list[Restored] = []
    for kind, group in groupby(entries, type):
        results += _RESTORE[kind](transaction, list(group), scribe)
        if kind is Root:
            scribe = structs.replace(scribe, roots=RootMap(reading.read_roots(transaction)))
    return results


def _root(transaction: WriteTransaction, root: Root, scribe: Scribe) -> Restored:  # noqa: ARG001 - as all

    row = RootRow(
        values.required_text("uri", root.uri),
        values.required_text("uuid", root.uuid),
        values.required_text("cas_prefix", root.cas_prefix),
    )
    for known in reading.read_roots(transaction):
        if known == root:
            return "existing"
        if known.uuid == root.uuid or known.uri == root.uri:
            return "key is taken"
        if known.id == root.id:
            return "id is taken"
    put_root(transaction, values.record_id("id", root.id), row)
    return "stored"


def _documents(transaction: WriteTransaction, records: list[DocumentRecord], scribe: Scribe) -> list[Restored]:
    requests = [_request(record) for record in records]
    known = transaction.first_values(BY_KEY, sorted([request.key for request in requests]))
    new: dict[bytes, DocumentRow] = {}
    ids: list[int] = []
    last = Tally.of(transaction).last(DOCUMENT_ID)
    results: list[Restored] = []
    for record, request in zip(records, requests, strict=True):
        if request.key in new:
            results.append("key is taken")
            continue
        location = locate(transaction, request.content.storage_uri, request.content.digest, scribe)
        row = registering.new_document(request, location, scribe.now)
        row = structs.replace(row, updated_after=_moment("updated_at", record.updated_at) - row.created)
        if request.key in known:
            is_same = known[request.key] == id_key(record.id) and _is_stored(transaction, record, scribe.roots)
            results.append("existing" if is_same else "key is taken")
        elif record.id <= last:
            results.append("id is taken")
        else:
            last = record.id
            ids.append(last)
            new[request.key] = row
            results.append("stored")
    if new:
        changes.put_new_documents(transaction, ids, new)
        Tally.of(transaction).raise_to(DOCUMENT_ID, last)
    return results


def _request(record: DocumentRecord) -> registering.DocumentRequest:
    values.record_id("id", record.id)
    values.moment("created_at", record.created_at)
    return registering.checked_document(RegistrationRequest.of(record))


def _is_stored(transaction: WriteTransaction, record: DocumentRecord, roots: RootMap) -> bool:
    row = reading.document_row(transaction, record.id)
    return row is not None and reading.document_record(record.id, row, roots) == record


def _variant(transaction: WriteTransaction, record: VariantRecord, scribe: Scribe) -> Restored:
    values.record_id("id", record.id)
    request = registering.checked_variant(
        record.document_id,
        record.variant,
        registering.checked_content(record.bytes, record.sha256, record.storage_uri),
        content_type=record.content_type,
        created_at=values.moment("created_at", record.created_at),
        on_conflict="keep",
        blob_epoch=None,
        links=(),
    )
    if reading.document_row(transaction, record.document_id) is None:
        return "no such document"
    known = reading.find_variant(transaction, record.document_id, record.variant)
    if known is not None:
        return "existing" if reading.variant_record(*known, scribe.roots) == record else "key is taken"
    tally = Tally.of(transaction)
    if record.id <= tally.last(VARIANT_ID):
        return "id is taken"
    location = locate(transaction, request.content.storage_uri, request.content.digest, scribe)
    row: VariantRow = registering.new_variant(request, location, scribe.now)
    changes.put_variant(transaction, record.id, None, row)
    tally.raise_to(VARIANT_ID, record.id)
    return "stored"


def _sighting(transaction: WriteTransaction, sighting: Sighting, scribe: Scribe) -> Restored:  # noqa: ARG001 - as all
    run_id = values.required_text("run_id", sighting.run_id)
    seen = _moment("seen_at", sighting.seen_at)
    document = reading.document_row(transaction, values.record_id("document_id", sighting.document_id))
    if document is None:
        return "no such document"
    is_new = document.run_id != run_id and changes.put_sighting(transaction, sighting.document_id, run_id, seen)
    return "stored" if is_new else "existing"


def _conflict(transaction: WriteTransaction, conflict: Conflict, scribe: Scribe) -> Restored:
    content = registering.checked_content(conflict.bytes, conflict.sha256, conflict.storage_uri)
    location = locate(transaction, content.storage_uri, content.digest, scribe)
    row = ConflictRow(
        values.optional_text("variant", conflict.variant),
        content.size,
        content.digest,
        *location,
        values.optional_text("run_id", conflict.run_id),
        _moment("first_seen_at", conflict.first_seen_at),
        _moment("last_seen_at", conflict.last_seen_at),
        values.positive("count", conflict.count),
    )
    document_id = values.record_id("document_id", conflict.document_id)
    if reading.document_row(transaction, document_id) is None:
        return "no such document"
    target = Target(document_id, variant=row.variant)
    known = known_conflict(transaction, target, row, scribe)
    if known is None:
        changes.put_conflict(transaction, document_id, None, row)
        return "stored"
    key = changes.key_of_conflict(document_id, known)
    return "existing" if reading.conflict(key, known, scribe.roots) == conflict else "key is taken"


def _link(transaction: WriteTransaction, link: Link, scribe: Scribe) -> Restored:
    document_id = values.record_id("document_id", link.document_id)
    place = locate(transaction, values.required_text("storage_uri", link.storage_uri), None, scribe)
    row = LinkRow(document_id, place[0], place[1] or "")
    if reading.document_row(transaction, document_id) is None:
        return "no such document"
    if transaction.get(LINKS, link_key(row.root, row.path, document_id)) is not None:
        return "existing"
    changes.put_link(transaction, row)
    return "stored"


def _entry(transaction: WriteTransaction, entry: JournalEntry, scribe: Scribe) -> Restored:  # noqa: ARG001 - as all
    sequence = values.record_id("sequence", entry.sequence)
    row = JournalRow(
        _moment("at", entry.at),
        values.required_text("action", entry.action),
        None if entry.document_id is None else values.record_id("document_id", entry.document_id),
        None if entry.variant_id is None else values.record_id("variant_id", entry.variant_id),
        values.required_text("command", entry.command),
        values.optional_text("reason", entry.reason),
        entry.changes,
    )
    tally = Tally.of(transaction)
    if sequence <= tally.last(JOURNAL_SEQUENCE):
        key = id_key(sequence)
        value = transaction.get(JOURNAL, key)
        return "existing" if value is not None and JOURNAL_CODEC.decode(key, value) == row else "id is taken"
    if not tally.last(JOURNAL_SEQUENCE):  # what came before it there was pruned
        tally.raise_to(PRUNED_SEQUENCE, sequence - 1)
    tally.raise_to(JOURNAL_SEQUENCE, sequence - 1)
    changes.put_journal_entry(transaction, row)
    return "stored"


def _hold(transaction: WriteTransaction, hold: Hold, scribe: Scribe) -> Restored:  # noqa: ARG001 - as all
    hold_id = values.record_id("id", hold.id)
    filters = tuple(map(str, parse_filter(hold.filters).conditions))
    row = HoldRow(filters, values.required_text("reason", hold.reason), _moment("created_at", hold.created_at))
    tally = Tally.of(transaction)
    if hold_id <= tally.last(HOLD_ID):
        return "existing" if upkeep.find_hold(transaction, hold_id) == hold else "id is taken"
    tally.raise_to(HOLD_ID, hold_id - 1)
    upkeep.put_hold(transaction, row)
    return "stored"


def _check(transaction: WriteTransaction, check: BlobCheck, scribe: Scribe) -> Restored:
    values.required_text("storage_uri", check.storage_uri)
    values.choice("result", check.result, get_args(CheckResult))
    values.optional_text("quarantined", check.quarantined)
    for field, moment in (("checked_at", check.checked_at), ("read_at", check.read_at)):
        if moment is not None:
            values.moment(field, moment)
    known = checking.restore(transaction, check, scribe)
    return "stored" if known is None else "existing" if known == check else "key is taken"


def _moment(field: str, moment: object) -> int:
    return to_micros(values.moment(field, moment))


def _one_by_one(
    one: Callable[[WriteTransaction, Entry, Scribe], Restored],
) -> Callable[[WriteTransaction, list[Entry], Scribe], list[Restored]]:
    return lambda transaction, entries, scribe: [one(transaction, entry, scribe) for entry in entries]


_RESTORE = cast(
    "dict[type, Callable[[WriteTransaction, Sequence[Restorable], Scribe], list[Restored]]]",
    {
        Root: _one_by_one(_root),
        DocumentRecord: _documents,
        VariantRecord: _one_by_one(_variant),
        Sighting: _one_by_one(_sighting),
        Conflict: _one_by_one(_conflict),
        Link: _one_by_one(_link),
        JournalEntry: _one_by_one(_entry),
        Hold: _one_by_one(_hold),
        BlobCheck: _one_by_one(_check),
    },
)
