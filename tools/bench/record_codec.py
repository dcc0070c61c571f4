"""Record values: msgspec structs behind a format byte and an xxh3 checksum, and what other codecs cost."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import msgspec
import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.bench.workload import Source

Digest = bytes  # a field named bytes hides the type from the annotations beside it

FORMAT = b"\x01"
HEADER_BYTES = 9
ROOT_ID = 1
CODEC_RECORDS = 20_000
CODEC_REPEATS = 5


class Record(msgspec.Struct, array_like=True, frozen=True):
    """What the library hands out; the same fields as an SQLite row."""

    id: int
    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    bytes: int
    sha256: Digest | None
    root: int
    path: str | None
    created: int
    updated: int
    run_id: str | None


class Keyed(msgspec.Struct, array_like=True, frozen=True):
    """The value where the key is the composite: the id in it, the artifact id in the key."""

    id: int
    source_url: str
    resolver: str
    content_type: str | None
    bytes: int
    sha256: Digest | None
    root: int
    path: str | None
    created: int
    updated: int
    run_id: str | None


class Numbered(msgspec.Struct, array_like=True, frozen=True):
    """The value where the key is the id."""

    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    bytes: int
    sha256: Digest | None
    root: int
    path: str | None
    created: int
    updated: int
    run_id: str | None


class CorruptError(Exception):
    """A value does not match its checksum or its key."""


ENCODER = msgspec.msgpack.Encoder()
KEYED = msgspec.msgpack.Decoder(Keyed)
NUMBERED = msgspec.msgpack.Decoder(Numbered)


def seal(payload: bytes) -> bytes:
    """Format byte, checksum of the payload, payload."""
    return FORMAT + xxhash.xxh3_64_digest(payload) + payload


def unseal(value: bytes | memoryview) -> memoryview:
    """The payload of a sealed value."""
    payload = memoryview(value)[HEADER_BYTES:]
    if value[:HEADER_BYTES] != FORMAT + xxhash.xxh3_64_digest(payload):
        raise CorruptError
    return payload


def sum_nothing(_key: bytes, _payload: bytes | memoryview) -> bytes:
    """No checksum."""
    return b""


def sum_payload(_key: bytes, payload: bytes | memoryview) -> bytes:
    """Over the payload alone."""
    return xxhash.xxh3_64_digest(payload)


def sum_both(key: bytes, payload: bytes | memoryview) -> bytes:
    """Over key and payload, joined."""
    return xxhash.xxh3_64_digest(key + payload)


def sum_seeded(key: bytes, payload: bytes | memoryview) -> bytes:
    """Over the payload, with the eight-byte id for a seed."""
    return xxhash.xxh3_64_digest(payload, seed=int.from_bytes(key, "big"))


def codec(records: Sequence[Source]) -> dict[str, dict[str, float]]:
    """Microseconds to encode and decode a record, and bytes of it, for each codec and reach of the checksum."""
    values = [Numbered(*r[:6], ROOT_ID, None, *r[6:]) for r in records[:CODEC_RECORDS]]
    keys = [number.to_bytes(8, "big") for number in range(len(values))]
    json = (msgspec.json.Encoder().encode, msgspec.json.Decoder(Numbered).decode)
    msgpack = (ENCODER.encode, NUMBERED.decode)
    candidates = {
        "msgpack, no checksum": (*msgpack, sum_nothing, 1),
        "msgpack, payload": (*msgpack, sum_payload, HEADER_BYTES),
        "msgpack, key+payload": (*msgpack, sum_both, HEADER_BYTES),
        "msgpack, seeded by id": (*msgpack, sum_seeded, HEADER_BYTES),
        "json, payload": (*json, sum_payload, HEADER_BYTES),
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    sizes = {}
    for _ in range(CODEC_REPEATS):
        for name, (encode, decode, checksum, header) in candidates.items():
            started = time.perf_counter()
            stored = []
            for key, value in zip(keys, values, strict=True):
                payload = encode(value)
                stored.append(FORMAT + checksum(key, payload) + payload)
            middle = time.perf_counter()
            for key, sealed in zip(keys, stored, strict=True):
                view = memoryview(sealed)[header:]
                if sealed[:header] != FORMAT + checksum(key, view):
                    raise CorruptError
                decode(view)
            ended = time.perf_counter()
            samples[name].append((middle - started, ended - middle))
            sizes[name] = statistics.mean(map(len, stored))
    return {
        name: {
            "encode": statistics.median(pair[0] for pair in pairs) / len(values) * 1e6,
            "decode": statistics.median(pair[1] for pair in pairs) / len(values) * 1e6,
            "bytes": sizes[name],
        }
        for name, pairs in samples.items()
    }
