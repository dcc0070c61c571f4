"""How each table of the schema lies in the one table of DynamoDB: which partition a row is in, and its place there.

A row is an item. Its partition key is the table's letter and a shard, its sort key the row's key; of a set each value
is an item, with key, NUL and value as its sort key. No text has NUL and all other keys of a set have one length, so the
order of sort keys is the order of keys and values. `v` is the value, `s` a stamp that is new with each change.

A table has eight shards, so that no partition takes all writes. Keys that are as good as random are spread by their
leading bits, which keeps their order; others by what a lookup knows, so that it asks one shard, or all where a run is
too long for one.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from kvcatalog import schema
from kvcatalog.kv.table import Table

SHARDS = 8
_SHIFT = 5
GUARDS = 1 << 16

Spread = Literal["one", "leading", "id", "value", "artifact", "owner", "last", "key", "turn"]
"""What decides on the shard: nothing; the leading bits of the key; the id that is the key, or the value; the artifact
that a key begins with; the document that a key begins with, or ends with; the key; the location behind a time."""

ItemKey = tuple[str, bytes]
"""A partition key and a sort key."""


class Layout(Struct, frozen=True):
    """How one table lies there.

    `key_bytes` is the length of a set's keys, None where they are text. `leads_to` is the table of rows that are likely
    to be asked for behind those of this one, `lead` gives their keys. The puts of a `fresh` table are refused where
    something is. A `bare` one follows from others: its items have no stamp. Rows of a `guarded` one are looked for
    before they are there, so a change of one changes a guard.
    """

    letter: str
    spread: Spread
    key_bytes: int | None = None
    leads_to: Table | None = None
    lead: Callable[[bytes, bytes], bytes] = lambda _key, value: value
    fresh: bool = False
    bare: bool = False
    guarded: bool = False


_ID, _DIGEST = 8, 32

LAYOUTS: dict[Table, Layout] = {
    schema.DOCUMENTS: Layout("d", "id", fresh=True),
    schema.BY_KEY: Layout("k", "artifact", leads_to=schema.DOCUMENTS),
    schema.BY_SHA256: Layout("h", "leading", _DIGEST, schema.DOCUMENTS, bare=True),
    schema.BY_URL: Layout("u", "leading", _ID, schema.DOCUMENTS, bare=True),
    schema.BY_RUN: Layout("r", "value", None, schema.DOCUMENTS, bare=True),
    schema.BY_CONTENT_TYPE: Layout("t", "value", None, schema.DOCUMENTS, bare=True),
    schema.BY_STORAGE_URI: Layout("p", "leading", _ID, schema.DOCUMENTS, bare=True),
    schema.BY_CREATED: Layout("c", "value", _ID, schema.DOCUMENTS, bare=True),
    schema.VARIANTS: Layout("v", "id", fresh=True),
    schema.VARIANTS_BY_DOCUMENT: Layout("vd", "owner", leads_to=schema.VARIANTS),
    schema.VARIANTS_BY_SHA256: Layout("vh", "leading", _DIGEST, schema.VARIANTS, bare=True),
    schema.VARIANTS_BY_STORAGE_URI: Layout("vp", "leading", _ID, schema.VARIANTS, bare=True),
    schema.SIGHTINGS: Layout("s", "last"),
    schema.SIGHTINGS_BY_DOCUMENT: Layout(
        "sd", "owner", None, schema.SIGHTINGS, lambda key, _value: key[_ID:] + b"\0" + key[:_ID], bare=True
    ),
    schema.CONFLICTS: Layout("x", "owner"),
    schema.CONFLICTS_BY_STORAGE_URI: Layout("xp", "leading", _ID, bare=True),
    schema.LINKS: Layout("l", "one"),
    schema.LINKS_BY_DOCUMENT: Layout(
        "ld", "owner", None, schema.LINKS, lambda key, _value: key[_ID:] + key[:_ID], bare=True
    ),
    schema.DUPLICATES: Layout("2", "leading"),
    schema.COUNTERS: Layout("n", "one"),
    schema.ROOTS: Layout("o", "one"),
    schema.CONDEMNED: Layout("y", "key", guarded=True),
    schema.CHECKS: Layout("f", "key"),
    schema.CHECKS_BY_TIME: Layout("ft", "turn", None, schema.CHECKS, lambda key, _value: key[_ID:], bare=True),
    schema.HOLDS: Layout("e", "one", fresh=True),
    schema.JOURNAL: Layout("j", "id", fresh=True),
    schema.JOURNAL_BY_DOCUMENT: Layout("jd", "owner", _ID, schema.JOURNAL, bare=True),
    schema.JOURNAL_BY_STORAGE_URI: Layout("jp", "leading", _ID, schema.JOURNAL, bare=True),
    schema.META: Layout("m", "one"),
}


_SHARD_OF: dict[Spread, Callable[[bytes, bytes], int]] = {
    "one": lambda _key, _value: 0,
    "leading": lambda key, _value: key[0] >> _SHIFT,
    "id": lambda key, _value: key[-1] % SHARDS,
    "last": lambda key, _value: key[-1] % SHARDS,
    "value": lambda _key, value: value[-1] % SHARDS,
    "artifact": lambda key, _value: crc32(key.partition(b"\0")[0]) % SHARDS,
    "owner": lambda key, _value: key[_ID - 1] % SHARDS,
    "key": lambda key, _value: crc32(key) % SHARDS,
    "turn": lambda key, _value: crc32(key[_ID:]) % SHARDS,
}


def shard_of(spread: Spread, key: bytes, value: bytes) -> int:
    """Return the shard of a row."""
    return _SHARD_OF[spread](key, value)


def partition(table: Table, shard: int) -> str:
    """Return the partition key of a shard."""
    return f"{LAYOUTS[table].letter}.{shard}"


def item_key(table: Table, key: bytes, value: bytes = b"") -> ItemKey:
    """Return where a row lies; `value` is that of a set."""
    layout = LAYOUTS[table]
    shard = shard_of(layout.spread, key, value)
    return f"{layout.letter}.{shard}", key + b"\0" + value if table.sets else key


def guard_key(key: bytes) -> ItemKey:
    """Return the guard of a row; others may share it."""
    return f"g.{crc32(key) % GUARDS:04x}", b"\0"


def pair_of(table: Table, sort_key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return the key and the value of an item."""
    return (sort_key[: -_ID - 1], sort_key[-_ID:]) if table.sets else (sort_key, value)


def is_ordered(table: Table) -> bool:
    """Tell whether one shard ends before the next begins."""
    return LAYOUTS[table].spread in {"leading", "one"}


def shards_between(table: Table, start: bytes, stop: bytes | None) -> Iterable[int]:
    """Return the shards in which keys from `start` up to `stop` may lie."""
    spread = LAYOUTS[table].spread
    if spread == "one":
        return (0,)
    if spread == "leading":
        first = start[0] >> _SHIFT if start else 0
        last = stop[0] >> _SHIFT if stop else SHARDS - 1
        return range(first, last + 1)
    if spread == "owner" and len(start) >= _ID and stop is not None and stop <= _end(start[:_ID]):
        return (start[_ID - 1] % SHARDS,)
    artifact, separator, _ = start.partition(b"\0")
    if spread == "artifact" and separator and stop is not None and stop <= artifact + b"\1":
        return (crc32(artifact) % SHARDS,)
    return range(SHARDS)


def shards_of_set(table: Table, key: bytes) -> Iterable[int]:
    """Return the shards in which values of a set may lie."""
    spread = LAYOUTS[table].spread
    return range(SHARDS) if spread == "value" else (shard_of(spread, key, b""),)


def bound(table: Table, key: bytes) -> bytes:
    """Return the sort key that divides items as a key divides the keys of a table.

    What ends with NUL is the least key above another one. In a set NUL ends each key, so there it is 1 that is above.
    """
    length = LAYOUTS[table].key_bytes
    if table.sets and key.endswith(b"\0") and (length is None or len(key) == length + 1):
        return key[:-1] + b"\1"
    return key


def _end(prefix: bytes) -> bytes:
    number = int.from_bytes(prefix, "big") + 1
    return number.to_bytes(_ID, "big") if number < 1 << 64 else b"\xff" * (_ID + 1)
