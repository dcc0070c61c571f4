from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvcatalog.kv.table import Index, Table, index_changes

FIRST = Table("first")
SECOND = Table("second", sets=True)
# A source is a pair of sets of keys, one for each index.
INDEXES: tuple[Index[tuple[list[bytes], list[bytes]]], ...] = (
    Index(FIRST, lambda source: source[0]),
    Index(SECOND, lambda source: iter(source[1])),
)
KEYS = st.lists(st.sampled_from([b"a", b"b", b"c"]), unique=True)
SOURCES = st.none() | st.tuples(KEYS, KEYS)


def rows(source: tuple[list[bytes], list[bytes]] | None) -> set[tuple[Table, bytes]]:
    return set() if source is None else {(FIRST, key) for key in source[0]} | {(SECOND, key) for key in source[1]}


@given(SOURCES, SOURCES)
def test_changes_turn_the_old_rows_into_the_new_ones(
    old: tuple[list[bytes], list[bytes]] | None, new: tuple[list[bytes], list[bytes]] | None
) -> None:
    removed, added = index_changes(INDEXES, old, new)
    assert len(set(removed)) == len(removed)
    assert len(set(added)) == len(added)
    assert set(removed) == rows(old) - rows(new)
    assert set(added) == rows(new) - rows(old)


def test_tables_are_told_apart_by_identity() -> None:
    assert {Table("same"): 1, Table("same"): 2}.keys() != {Table("same")}
    assert Table("same") != Table("same")
