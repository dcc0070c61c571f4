"""How a filter and an order become a walk along one index, a bounded step at a time.

A walk goes along one tree in its own order; whatever the tree does not answer, the filter's predicate does. Each step
has a transaction of its own and a budget of rows, so that no search holds a snapshot for long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from kvcatalog import values
from kvcatalog.errors import InvalidValueError
from kvcatalog.filters import Condition, Filter
from kvcatalog.kv.keys import KEY_BYTES_MAX, prefix_end
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.kv.table import Table
from kvcatalog.models import DocumentRecord, SortOrder
from kvcatalog.schema import (
    ARTIFACT_BYTES_MAX,
    BY_CREATED,
    BY_KEY,
    DOCUMENT_INDEXES,
    DOCUMENTS,
    artifact_key,
    id_key,
    id_of,
    time_key,
)
from kvcatalog.store import reading
from kvcatalog.store.roots import RootMap

Position = tuple[bytes, bytes]
"""The pair of an index at which a walk stands."""


class Walk(Struct, frozen=True):
    """A part of one tree: keys from `start` up to, not including, `stop`; `id_in` tells where a pair has the id."""

    table: Table
    start: bytes = b""
    stop: bytes | None = None
    id_in: Literal["key", "value"] = "value"


def plan(where: Filter, sort: SortOrder | None) -> Walk:
    """Return the walk in the order asked for that answers most of a filter.

    Without a wish for an order it is by artifact where the filter asks for an artifact or a prefix of one, else by id.
    """
    if sort is None:
        sort = "artifact" if any(_bounds_artifact(condition) for condition in where.conditions) else "id"
    values.choice("sort", sort, get_args(SortOrder))
    if sort == "artifact":
        return _artifact_walk(where)
    if sort == "created":
        start, stop = _range(where, "created", time_key)
        return Walk(BY_CREATED, start, stop)
    for index in DOCUMENT_INDEXES:
        for condition in where.conditions:
            if index.key_of is not None and condition.field == index.field and _is_exact(condition):
                key = index.key_of(str(condition.value))
                return Walk(index.table, key, key + b"\0")
    start, stop = _range(where, "id", id_key)
    return Walk(DOCUMENTS, start, stop, "key")


def step(
    transaction: ReadTransaction,
    walk: Walk,
    where: Filter,
    roots: RootMap,
    *,
    after: Position | None,
    reverse: bool,
    limit: int,
) -> tuple[list[tuple[Position, DocumentRecord]], Position | None]:
    """Return the records that the next rows of a walk give, `limit` at most, each with where it stands.

    The second value is where to go on, None at the end.
    """
    records: list[tuple[Position, DocumentRecord]] = []
    last = after
    pairs = transaction.items(walk.table, walk.start, walk.stop, reverse=reverse, after=after)
    for looked_at, pair in enumerate(pairs, 1):
        document_id = id_of(pair[0] if walk.id_in == "key" else pair[1])
        row = reading.indexed(walk.table, pair[1], reading.document_row(transaction, document_id))
        if walk.id_in == "value":
            reading.check_index(walk.table, *pair, row)
        if last is not None and (pair <= last if not reverse else pair >= last):
            raise reading.disagreement(walk.table, pair[1])  # an id that stands there twice
        last = pair
        record = reading.document_record(document_id, row, roots)
        if where.predicate(record):
            records.append((pair, record))
        if len(records) == limit or looked_at == reading.STEP_ROWS:
            return records, pair
    return records, None


def token(walk: Walk, position: Position | None, *, reverse: bool) -> str | None:
    """Return a position in a walk as text for the next call."""
    if position is None:
        return None
    key, value = position
    # Where a key has one value, the key says it all, and the value may be a whole record.
    return msgspec.msgpack.encode((walk.table.name, reverse, key, value if walk.table.sets else b"")).hex()


def position(after: str | None, walk: Walk, *, reverse: bool) -> Position | None:
    """Return the position that a text stands for; InvalidValueError if it is none in this walk."""
    if after is None:
        return None
    try:
        raw = bytes.fromhex(values.required_text("after", after))
        table, of_reverse, key, value = msgspec.msgpack.decode(raw, type=tuple[str, bool, bytes, bytes])
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidValueError("after", "is not what an earlier page gave as its next") from error
    inside = walk.start <= key and (walk.stop is None or key < walk.stop)
    if (
        (table, of_reverse, inside) != (walk.table.name, reverse, True)
        or bool(value) != walk.table.sets
        or len(key) > KEY_BYTES_MAX
    ):
        raise InvalidValueError("after", "continues another search, or one in another order")
    return key, value


def _is_exact(condition: Condition) -> bool:
    return condition.operator == "=" and not condition.prefix and condition.value is not None


def _bounds_artifact(condition: Condition) -> bool:
    return condition.field == "artifact" and condition.operator == "="


def _artifact_walk(where: Filter) -> Walk:
    for condition in where.conditions:
        if _bounds_artifact(condition):
            text = str(condition.value)
            # A long prefix is cut, so the walk takes in more than it asks for; the predicate sorts that out.
            start = text.encode()[:ARTIFACT_BYTES_MAX] if condition.prefix else artifact_key(text)
            return Walk(BY_KEY, start, prefix_end(start))
    return Walk(BY_KEY)


def _range(where: Filter, field: str, key_of: Callable[[int], bytes]) -> tuple[bytes, bytes | None]:
    """Return the keys between which a filter's comparisons of one field lie."""
    start, stop = b"", None
    for condition in where.conditions:
        if condition.field != field or not isinstance(condition.value, int):
            continue
        if condition.operator in {"=", ">=", ">"}:
            start = max(start, key_of(condition.value))
        if condition.operator in {"=", "<=", "<"}:
            above = key_of(condition.value) + b"\0"
            stop = above if stop is None else min(stop, above)
    return start, stop
