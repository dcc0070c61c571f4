from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcatalog.errors import CorruptRecordError, UnsupportedFormatError
from kvcatalog.kv.codec import Codec


class Row(msgspec.Struct, frozen=True, array_like=True):
    name: str
    count: int | None = None
    raw: bytes = b""


CODEC = Codec(Row, "row")
KEYS = st.binary(max_size=8)
ROWS = st.builds(Row, st.text(max_size=8), st.none() | st.integers(-(2**63), 2**63 - 1), st.binary(max_size=8))


@given(KEYS, ROWS)
def test_what_was_encoded_comes_back(key: bytes, row: Row) -> None:
    assert CODEC.decode(key, CODEC.encode(key, row)) == row


@given(KEYS, ROWS)
def test_any_flipped_bit_is_found(key: bytes, row: Row) -> None:
    value = CODEC.encode(key, row)
    for position in range(len(value)):
        for bit in range(8):
            damaged = bytearray(value)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptRecordError):
                CODEC.decode(key, bytes(damaged))


@given(KEYS, ROWS, st.binary(min_size=1, max_size=3))
def test_a_value_of_another_length_is_found(key: bytes, row: Row, more: bytes) -> None:
    value = CODEC.encode(key, row)
    for length in range(len(value)):
        with pytest.raises(CorruptRecordError):
            CODEC.decode(key, value[:length])
    with pytest.raises(CorruptRecordError):
        CODEC.decode(key, value + more)


@given(KEYS, KEYS, ROWS)
def test_a_value_under_another_key_is_found(key: bytes, other: bytes, row: Row) -> None:
    if key != other:
        with pytest.raises(CorruptRecordError):
            CODEC.decode(other, CODEC.encode(key, row))


@given(KEYS, ROWS)
def test_a_row_of_another_kind_is_found(key: bytes, row: Row) -> None:
    with pytest.raises(CorruptRecordError):
        CODEC.decode(key, Codec(Row, "other row").encode(key, row))


@pytest.mark.parametrize("layout", [0, 2, 255])
def test_a_sound_value_in_another_layout_is_not_understood(layout: int) -> None:
    value = Codec(Row, "row", layout=layout).encode(b"key", Row("a"))
    with pytest.raises(UnsupportedFormatError, match="row under key 6b6579"):
        CODEC.decode(b"key", value)


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode({"name": "a"}),
        b"",
        b"\xc1",
        b"\x91\xa2\xff\xff",
        b"\x91" * 100_000,
        b"\x92\xa1a" + b"\x91" * 100_000 + b"\xc0",
    ],
    ids=["wrong types", "a map", "nothing", "no msgpack", "no UTF-8", "too deep", "too deep inside"],
)
def test_a_sound_checksum_over_something_else_is_a_damaged_record(payload: bytes) -> None:
    value = Codec(msgspec.Raw, "row").encode(b"key", msgspec.Raw(payload))
    with pytest.raises(CorruptRecordError, match="row under key 6b6579"):
        CODEC.decode(b"key", value)


def test_a_value_too_deep_for_an_untyped_part_is_a_damaged_record() -> None:
    value = Codec(msgspec.Raw, "row").encode(b"key", msgspec.Raw(b"\x91" * 100_000 + b"\xc0"))
    with pytest.raises(CorruptRecordError):
        Codec(list, "row").decode(b"key", value)
