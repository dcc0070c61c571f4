"""What an audit found to be derived wrongly, derived anew: judged again inside the transaction, and written down."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kvcatalog.checks import Finding
from kvcatalog.errors import CatalogError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.schema import (
    CHECKS,
    COUNTER_CODEC,
    COUNTERS,
    DUPLICATE_CODEC,
    DUPLICATES,
    VARIANTS,
    id_key,
)
from kvcatalog.store import changes, reading, upkeep
from kvcatalog.store.derived import DERIVED, is_wanted, source_of
from kvcatalog.store.scribe import Changes, Scribe, Target, write_journal
from kvcatalog.store.tally import DOCUMENT_ID, Tally, read_counter


def repair(transaction: WriteTransaction, findings: Sequence[Finding], scribe: Scribe) -> list[bool]:
    """Repair what can be, and tell for each finding whether it is right now: others may have been here before."""
    return [_repair(transaction, finding, scribe) for finding in findings]


def _repair(transaction: WriteTransaction, finding: Finding, scribe: Scribe) -> bool:
    done: Changes | None
    match finding.repair:
        case "row":
            done = _row(transaction, finding)
        case "duplicates":
            done = _duplicates(transaction, bytes.fromhex(finding.key))
        case "counter":
            done = _counter(transaction, finding)
        case "number":
            done = _number(transaction, finding)
        case "check":
            done = _check(transaction, bytes.fromhex(finding.key))
        case _:
            done = None
    if done:
        write_journal(transaction, "repair", done, scribe, _target(transaction, finding))
    return done is not None


def _target(transaction: WriteTransaction, finding: Finding) -> Target | None:
    if finding.document_id is not None:
        # An index may have led to an id that was never given, and the journal must not be the first to name it.
        was_given = finding.document_id <= Tally.of(transaction).last(DOCUMENT_ID)
        return Target(finding.document_id) if was_given else None
    if finding.variant_id is not None and transaction.get(VARIANTS, id_key(finding.variant_id)) is not None:
        try:
            row = reading.variant_row(transaction, finding.variant_id)
        except CatalogError:
            row = None
        if row is not None:
            return Target(row.document_id, finding.variant_id)
    return None


def _row(transaction: WriteTransaction, finding: Finding) -> Changes | None:
    """Return what was changed, nothing where the row is right, None where nobody knows or another row is in the way."""
    table, primary = DERIVED[finding.table or ""]
    key, value = bytes.fromhex(finding.key), bytes.fromhex(finding.value)
    wanted = is_wanted(transaction, table, key, value)
    is_there = not any(transaction.missing(table, [(key, value)]))
    if wanted is None:
        return None
    if wanted == is_there:
        return {}
    text = f"{finding.key} {finding.value}"
    before: str | None = text if is_there else None
    if wanted and not table.sets:
        other = transaction.get(table, key)
        if other is not None:
            if is_wanted(transaction, table, key, other):
                return None
            before = f"{finding.key} {other.hex()}"
    source, source_key = source_of(primary, key, value)
    if source_key and transaction.get(source, source_key) is not None:
        transaction.touch(source, source_key)  # whoever changes it meanwhile is not undone
    changes.set_derived_row(transaction, table, key, value, wanted=wanted)
    return {table.name: (before, text if wanted else None)}


def _duplicates(transaction: WriteTransaction, digest: bytes) -> Changes:
    before = _duplicates_text(transaction, digest)
    changes.recount_duplicates(transaction, digest)
    after = _duplicates_text(transaction, digest)
    return {} if before == after else {DUPLICATES.name: (before, after)}


def _duplicates_text(transaction: WriteTransaction, digest: bytes) -> str | None:
    value = transaction.get(DUPLICATES, digest)
    if value is None:
        return None
    try:
        row = DUPLICATE_CODEC.decode(digest, value)
    except CatalogError:
        return f"{digest.hex()}: not readable"
    return f"{digest.hex()}: {row.documents} documents, {row.variants} variants, {row.size} bytes"


def _counter(transaction: WriteTransaction, finding: Finding) -> Changes:
    """Add what a counter lacked at the time of the audit; what was counted since is in it already.

    One that could not be read has kept all from counting since, so there what was found is still so.
    """
    name, label, count, size, stored = json.loads(finding.value)
    key = bytes.fromhex(finding.key)
    tally = Tally.of(transaction)
    if stored is None:
        if not _is_unreadable(transaction, key):
            return {}
        tally.forget_unreadable(name, label)
        tally.add(name, label, count=count, size=size)
        return {f"counter {name} {label}".rstrip(): (None, count)}
    before = tally.last(name, label)
    tally.add(name, label, count=count - stored[0], size=size - stored[1])
    return {f"counter {name} {label}".rstrip(): (before, tally.last(name, label))}


def _number(transaction: WriteTransaction, finding: Finding) -> Changes:
    name, least = json.loads(finding.value)
    tally = Tally.of(transaction)
    if _is_unreadable(transaction, bytes.fromhex(finding.key)):
        tally.forget_unreadable(name)
        before = None
    else:
        before = read_counter(transaction, name).count
    if before is not None and tally.last(name) >= least:
        return {}
    tally.raise_to(name, least)
    return {name: (before, least)}


def _is_unreadable(transaction: WriteTransaction, key: bytes) -> bool:
    value = transaction.get(COUNTERS, key)
    if value is None:
        return False
    try:
        COUNTER_CODEC.decode(key, value)
    except CatalogError:
        return True
    return False


def _check(transaction: WriteTransaction, key: bytes) -> Changes:
    """Forget a check that cannot be read: then the blob counts as never checked, and is the next."""
    return {CHECKS.name: (key.hex(), None)} if upkeep.forget_unreadable_check(transaction, key) else {}
