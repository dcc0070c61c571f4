from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcatalog.kv import keys

UNSIGNED = st.integers(0, 2**64 - 1)
SIGNED = st.integers(-(2**63), 2**63 - 1)
# A small alphabet makes texts that share their beginnings, also within the bytes of one character.
TEXT = st.text(st.sampled_from("\0ab\x7f\x80éƀ\ud7ff\ue000\uffff\U00010000"), max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)
CUT = st.integers(0, 12)


@given(UNSIGNED, UNSIGNED)
def test_unsigned_keeps_order(one: int, other: int) -> None:
    assert (keys.unsigned(one) < keys.unsigned(other)) == (one < other)
    assert keys.from_unsigned(keys.unsigned(one)) == one
    assert len(keys.unsigned(one)) == 8


@given(SIGNED, SIGNED)
def test_signed_keeps_order(one: int, other: int) -> None:
    assert (keys.signed(one) < keys.signed(other)) == (one < other)
    assert (keys.signed(one) == keys.signed(other)) == (one == other)
    assert len(keys.signed(one)) == 8


@pytest.mark.parametrize("value", [-1, 2**64])
def test_unsigned_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(OverflowError):
        keys.unsigned(value)


@pytest.mark.parametrize("value", [-(2**63) - 1, 2**63])
def test_signed_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(OverflowError):
        keys.signed(value)


@given(TEXT, TEXT, CUT)
def test_text_keeps_order_up_to_the_cut(one: str, other: str, cut: int) -> None:
    first, second = keys.text(one, cut), keys.text(other, cut)
    if one.encode()[:cut] != other.encode()[:cut]:
        assert (first < second) == (one < other)
    elif len(one.encode()) <= cut < len(other.encode()):
        assert first < second


@given(TEXT, TEXT, CUT)
def test_text_is_injective(one: str, other: str, cut: int) -> None:
    assert (keys.text(one, cut) == keys.text(other, cut)) == (one == other)


@given(TEXT, CUT)
def test_text_is_plain_below_the_cut_and_bounded_above(value: str, cut: int) -> None:
    encoded = keys.text(value, cut)
    if len(value.encode()) <= cut:
        assert encoded == value.encode()
    else:
        assert encoded[:cut] == value.encode()[:cut]
        assert len(encoded) == cut + 2 * keys.DIGEST_BYTES
        assert b"\0" in encoded[:cut] or b"\0" not in encoded


def test_a_text_that_imitates_a_cut_one_has_another_key() -> None:
    imitated = keys.text("x" * 30, 10)
    imitation = imitated.decode()
    assert keys.text(imitation, len(imitation)) == imitated
    assert keys.text(imitation, 10) != imitated


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_digest_tells_sequences_apart(one: list[bytes], other: list[bytes]) -> None:
    assert (keys.digest(*one) == keys.digest(*other)) == (one == other)


@given(
    st.binary(max_size=4) | st.binary(max_size=2).map(lambda start: start + b"\xff\xff"),
    st.binary(max_size=6),
    st.binary(max_size=3),
)
def test_prefix_end_parts_what_begins_so_from_what_is_above(prefix: bytes, key: bytes, rest: bytes) -> None:
    end = keys.prefix_end(prefix)
    assert end is None or prefix + rest < end
    if key >= prefix:
        assert key.startswith(prefix) == (end is None or key < end)


@pytest.mark.parametrize("prefix", [b"", b"\xff", b"\xff\xff"])
def test_nothing_is_above_all_keys_that_begin_with(prefix: bytes) -> None:
    assert keys.prefix_end(prefix) is None


@given(st.binary(max_size=20))
def test_short_hash_has_eight_bytes(value: bytes) -> None:
    assert len(keys.short_hash(value)) == 8
