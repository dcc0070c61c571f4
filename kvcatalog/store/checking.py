"""Which blobs are to be checked, what is expected of them, and what the last check found.

The queue is nobody's list: blobs that were never checked are found on a walk along the records, by looking each place
up among the checks; behind them come the checks themselves, the oldest first. A place has one check, under the first of
the locations that its URI may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import cast

from msgspec import structs

from kvcatalog.checks import BlobCheck, CheckResult, Claim, StoredBlob
from kvcatalog.clock import from_micros, to_micros
from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction
from kvcatalog.schema import (
    CHECK_CODEC,
    CHECKS,
    CHECKS_BY_TIME,
    DOCUMENT_CODEC,
    DOCUMENTS,
    VARIANT_CODEC,
    VARIANTS,
    CheckRow,
    CondemnedRow,
    DocumentRow,
    JournalRow,
    VariantRow,
    location_key,
    time_key,
)
from kvcatalog.store import changes, listing, reading, upkeep
from kvcatalog.store.roots import RootMap
from kvcatalog.store.scribe import Scribe

Position = tuple[str, bytes]
"""In which table a walk along the queue stands, and at which key."""

_NEVER = 0
_PLAN = "verify"
_READ_RESULTS = frozenset(("ok", "corrupt"))
_GLANCES = frozenset(("size only", "stored checksum only"))


def queue_step(
    transaction: ReadTransaction, roots: RootMap, after: Position | None, before: int, now: int
) -> tuple[list[str], Position | None]:
    """Return the places that the next rows of the queue give, and where to go on, None at the end.

    `before` is a time in microseconds: what was read then or later has had its turn, unless that is later than `now`,
    as where the clock was set back.
    """
    table, key = after or (DOCUMENTS.name, b"")
    if table == CHECKS_BY_TIME.name:
        return _oldest(transaction, roots, key, before, now)
    table_of = {DOCUMENTS.name: (DOCUMENTS, VARIANTS), VARIANTS.name: (VARIANTS, CHECKS_BY_TIME)}
    here, following = table_of[table]
    rows = list(islice(transaction.items(here, after=(key, b"") if key else None), reading.STEP_ROWS))
    uris = dict.fromkeys(_uri(table, *row, roots) for row in rows)
    position = (here.name, rows[-1][0]) if len(rows) == reading.STEP_ROWS else (following.name, b"")
    if transaction.is_empty(CHECKS):
        return list(uris), position
    keys = {location_key(*_place(uri, roots)): uri for uri in uris}
    known = transaction.first_values(CHECKS, sorted(keys))
    return [uri for key, uri in keys.items() if key not in known], position


def _uri(table: str, key: bytes, value: bytes, roots: RootMap) -> str:
    row: DocumentRow | VariantRow
    row = DOCUMENT_CODEC.decode(key, value) if table == DOCUMENTS.name else VARIANT_CODEC.decode(key, value)
    return roots.uri((row.root, row.path), row.digest)


def _oldest(
    transaction: ReadTransaction, roots: RootMap, after: bytes, before: int, now: int
) -> tuple[list[str], Position | None]:
    uris = []
    key = after
    behind = (after, b"") if after else None
    stop = time_key(before)
    pairs: Iterator[tuple[bytes, bytes]]
    if after < stop:
        pairs = chain(
            transaction.items(CHECKS_BY_TIME, stop=stop, after=behind),
            transaction.items(CHECKS_BY_TIME, time_key(max(before, now) + 1)),
        )
    else:
        pairs = transaction.items(CHECKS_BY_TIME, after=behind)
    for key, _ in islice(pairs, reading.STEP_ROWS):
        location = key[len(time_key(before)) :]
        value = transaction.get(CHECKS, location)
        row = None if value is None else CHECK_CODEC.decode(location, value)
        if row is None or time_key(row.at) + location != key:
            raise reading.disagreement(CHECKS_BY_TIME, location[-8:])
        uris.append(roots.uri((row.root, row.path), None))
    return uris, (CHECKS_BY_TIME.name, key) if len(uris) == reading.STEP_ROWS else None


def blob_at(
    transaction: ReadTransaction,
    uri: str,
    roots: RootMap,
    *,
    looked_before: int | None,
    read_before: int | None,
    now: int,
) -> StoredBlob | None:
    """Return what is expected at a place, None if it was looked at or read at that time or later, up to `now`.

    A time after `now` comes from a clock that was set back since, and tells nothing.
    """
    row = _row(transaction, uri, roots)
    if row is not None and (
        (looked_before is not None and looked_before <= row.looked_at <= max(now, looked_before))
        or (read_before is not None and read_before <= row.at <= max(now, read_before))
    ):
        return None
    return StoredBlob(uri, tuple(_claims(transaction, uri, roots)), None if row is None else _check(uri, row))


def last_check(transaction: ReadTransaction, uri: str, roots: RootMap) -> BlobCheck | None:
    """Return the last check of a place."""
    row = _row(transaction, uri, roots)
    return None if row is None else _check(uri, row)


def all_checks(transaction: ReadTransaction, roots: RootMap) -> Iterator[BlobCheck]:
    """Yield the last check of every place, by location."""
    for key, value in transaction.items(CHECKS):
        row = CHECK_CODEC.decode(key, value)
        yield _check(roots.uri((row.root, row.path), None), row)


def _claims(transaction: ReadTransaction, uri: str, roots: RootMap) -> Iterator[Claim]:
    for record in listing.documents_at(transaction, uri, roots):
        yield Claim(record.id, None, record.sha256, record.bytes)
    for variant in listing.variants_at(transaction, uri, roots):
        yield Claim(variant.document_id, variant.variant, variant.sha256, variant.bytes)


def remember(transaction: WriteTransaction, check: BlobCheck, scribe: Scribe) -> None:
    """Make a check the last one of its place; the journal tells of bytes that have left it for quarantine."""
    old = _row(transaction, check.storage_uri, scribe.roots)
    new = _merged(check, old, *_place(check.storage_uri, scribe.roots))
    forget(transaction, check.storage_uri, scribe)
    upkeep.put_check(transaction, new)
    moved_now = old is not None and old.result == "corrupt" and old.quarantined == new.quarantined
    if new.result == "missing" and new.quarantined is not None and moved_now:
        claim = next(_claims(transaction, check.storage_uri, scribe.roots), None)
        moved: dict[str, tuple[str | int | None, str | int | None]]
        moved = {"storage_uri": (check.storage_uri, new.quarantined)}
        document_id = None if claim is None else claim.document_id
        why = "the bytes are not those of the record"
        entry = JournalRow(scribe.now, "quarantine", document_id, None, scribe.command, why, moved)
        changes.put_journal_entry(transaction, entry)


def restore(transaction: WriteTransaction, check: BlobCheck, scribe: Scribe) -> BlobCheck | None:
    """Store a check as it is where the place has none, and return the one that it has."""
    known = last_check(transaction, check.storage_uri, scribe.roots)
    if known is None:
        upkeep.put_check(transaction, _merged(check, None, *_place(check.storage_uri, scribe.roots)))
    return known


def remember_all(transaction: WriteTransaction, found: Sequence[BlobCheck | str], scribe: Scribe) -> list[None]:
    """Remember checks, and forget those of the places that are given in their stead."""
    for each in found:
        if isinstance(each, str):
            forget(transaction, each, scribe)
        else:
            remember(transaction, each, scribe)
    return [None] * len(found)


def place_of_check(found: BlobCheck | str) -> str:
    """Return the storage URI of a check, or of the place whose check is to be forgotten."""
    return found if isinstance(found, str) else found.storage_uri


def forget(transaction: WriteTransaction, uri: str, scribe: Scribe) -> None:
    """Forget the check of a place, whichever way its location was written then."""
    for root, path in scribe.roots.candidates(uri):
        upkeep.forget_check(transaction, root, path)


def begin_quarantine(transaction: WriteTransaction, check: BlobCheck, scribe: Scribe) -> None:
    """Write down where corrupt bytes are about to go, and keep registrations from taking them for good meanwhile."""
    remember(transaction, check, scribe)
    for root, path in scribe.roots.candidates(check.storage_uri):
        upkeep.put_condemned(transaction, CondemnedRow(root, path, _PLAN, scribe.now))


def end_quarantine(transaction: WriteTransaction, check: BlobCheck, scribe: Scribe) -> None:
    """Write down what became of that."""
    for root, path in scribe.roots.candidates(check.storage_uri):
        upkeep.clear_condemned(transaction, root, path)
    remember(transaction, check, scribe)


def _merged(check: BlobCheck, old: CheckRow | None, root: int | None, path: str) -> CheckRow:
    """Return the row of a check; one that read nothing takes no turn, and does not stand for one that did."""
    looked_at = to_micros(check.checked_at)
    if check.read_at is not None:
        return CheckRow(root, path, to_micros(check.read_at), check.result, looked_at, check.quarantined)
    new = CheckRow(root, path, _NEVER if old is None else old.at, check.result, looked_at, check.quarantined)
    if old is not None and check.result in _GLANCES and old.result in _READ_RESULTS:
        return structs.replace(new, result=old.result, quarantined=old.quarantined)
    return new


def _row(transaction: ReadTransaction, uri: str, roots: RootMap) -> CheckRow | None:
    for root, path in roots.candidates(uri):
        key = location_key(root, path)
        value = transaction.get(CHECKS, key)
        if value is not None:
            return CHECK_CODEC.decode(key, value)
    return None


def _place(uri: str, roots: RootMap) -> tuple[int | None, str]:
    return next(roots.candidates(uri))


def _check(uri: str, row: CheckRow) -> BlobCheck:
    read_at = None if row.at == _NEVER else from_micros(row.at)
    return BlobCheck(uri, cast("CheckResult", row.result), from_micros(row.looked_at), read_at, row.quarantined)
