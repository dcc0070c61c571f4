"""Whether what an audit found is so: where rows are of different moments, others may have been changing them.

Each finding is looked at again, several times where it seems to hold, and told only if it holds every time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice

from kvcatalog.checks import Finding
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.schema import BY_SHA256, DOCUMENTS, DUPLICATE_CODEC, DUPLICATES, VARIANTS_BY_SHA256, id_key
from kvcatalog.store.derived import DERIVED, PRIMARIES, is_wanted
from kvcatalog.store.findings import decoded
from kvcatalog.store.reading import read_roots
from kvcatalog.store.tally import read_counter

LOOKS = 3
_TOGETHER = 500
PAUSE_SECONDS = 0.5
"""Figures are brought up to date after a registration, which takes a moment."""


def confirmed(transaction: ReadTransaction, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield those findings that hold."""
    while batch := list(islice(findings, _TOGETHER)):
        for number in range(LOOKS):
            if number and batch:
                time.sleep(PAUSE_SECONDS)
            batch = [finding for finding in batch if _holds(transaction, finding)]
        yield from batch


def _holds(transaction: ReadTransaction, finding: Finding) -> bool:
    look = _LOOKS.get(finding.repair or finding.kind)
    return look is None or look(transaction, finding)


_Look = Callable[[ReadTransaction, Finding], bool]


def _is_misplaced(transaction: ReadTransaction, finding: Finding) -> bool:
    """Tell whether a row is there that follows from nothing, or is not there and should be."""
    if finding.table not in DERIVED:
        return True
    table, _ = DERIVED[finding.table]
    key, value = bytes.fromhex(finding.key), bytes.fromhex(finding.value)
    wanted = is_wanted(transaction, table, key, value)
    return wanted is None or wanted == any(transaction.missing(table, [(key, value)]))


def _is_miscounted(transaction: ReadTransaction, finding: Finding) -> bool:
    digest = bytes.fromhex(finding.key)
    row = decoded(DUPLICATE_CODEC, digest, transaction.get(DUPLICATES, digest))
    counts = transaction.count(BY_SHA256, digest), transaction.count(VARIANTS_BY_SHA256, digest)
    if row is None:
        return sum(counts) > 1 or transaction.get(DUPLICATES, digest) is not None
    # Where the counts are right it is the size that is not, which nobody changes in passing.
    return sum(counts) <= 1 or (row.documents, row.variants) != counts or "otherwise" in finding.message


def _has_stood_still(transaction: ReadTransaction, finding: Finding) -> bool:
    """Tell whether a counter is what it was when it was found to be wrong: what changes meanwhile is not known."""
    name, label, _, _, stored = json.loads(finding.value)
    if stored is None:
        return True
    row = read_counter(transaction, name, label)
    return bool([row.count, row.size] == stored)


def _is_below(transaction: ReadTransaction, finding: Finding) -> bool:
    name, least = json.loads(finding.value)
    return bool(read_counter(transaction, name).count < least)


def _is_broken(transaction: ReadTransaction, finding: Finding) -> bool:
    """Tell whether a row is still there, and cannot be read or belongs to nothing."""
    primary = next((each for each in PRIMARIES if each.table.name == finding.table), None)
    key = bytes.fromhex(finding.key)
    if primary is None or not key:
        return True
    value = transaction.get(primary.table, key)
    if value is None:
        return False
    row = decoded(primary.codec, key, value)
    if row is None or finding.kind == "row":
        return row is None
    owner = primary.owner(key, row)
    if owner is not None and transaction.get(DOCUMENTS, id_key(owner)) is None:
        return True
    return getattr(row, "root", None) not in {None, *(root.id for root in read_roots(transaction))}


_LOOKS: dict[str, _Look] = {
    "row": _is_misplaced,
    "duplicates": _is_miscounted,
    "counter": _has_stood_still,
    "number": _is_below,
    "reference": _is_broken,
}
