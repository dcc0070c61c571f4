"""Where rows lie in DynamoDB: in the order of LMDB, and where a lookup looks for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvcatalog import schema
from kvcatalog.dynamo import layout
from kvcatalog.kv.keys import prefix_end
from kvcatalog.kv.table import Table

ids = st.one_of(st.integers(1, 300), st.integers(1, 2**53)).map(schema.id_key)
names = st.text("ab\x01\xff\U0010ffff", min_size=1, max_size=4).map(schema.name_key)
digests = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32, b"\1" + bytes(31)])
hashes = st.binary(min_size=8, max_size=8) | st.sampled_from([bytes(8), b"\xff" * 8, b"\1" + bytes(7)])
artifacts = st.text("ab\x01", min_size=1, max_size=3).map(schema.artifact_key)
moments = st.integers(-(2**62), 2**62).map(schema.time_key)
places = st.tuples(st.just(bytes(4)), names).map(b"".join)


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


KEYS: dict[Table, st.SearchStrategy[bytes]] = {
    schema.DOCUMENTS: ids,
    schema.BY_KEY: joined(artifacts, st.binary(min_size=16, max_size=16)),
    schema.BY_SHA256: digests,
    schema.BY_URL: hashes,
    schema.BY_RUN: names,
    schema.BY_CONTENT_TYPE: names,
    schema.BY_STORAGE_URI: hashes,
    schema.BY_CREATED: moments,
    schema.VARIANTS: ids,
    schema.VARIANTS_BY_DOCUMENT: joined(ids, names),
    schema.VARIANTS_BY_SHA256: digests,
    schema.VARIANTS_BY_STORAGE_URI: hashes,
    schema.SIGHTINGS: joined(names, st.just(b"\0"), ids),
    schema.SIGHTINGS_BY_DOCUMENT: joined(ids, names),
    schema.CONFLICTS: joined(ids, names, st.just(b"\0"), digests),
    schema.CONFLICTS_BY_STORAGE_URI: hashes,
    schema.LINKS: joined(places, ids),
    schema.LINKS_BY_DOCUMENT: joined(ids, places),
    schema.DUPLICATES: digests,
    schema.COUNTERS: joined(names, st.just(b"\0"), names),
    schema.ROOTS: ids,
    schema.CONDEMNED: places,
    schema.CHECKS: places,
    schema.CHECKS_BY_TIME: joined(st.integers(0, 2**50).map(schema.time_key), places),
    schema.HOLDS: ids,
    schema.JOURNAL: ids,
    schema.JOURNAL_BY_DOCUMENT: ids,
    schema.JOURNAL_BY_STORAGE_URI: hashes,
    schema.META: names,
}
tables = st.sampled_from(list(KEYS))
Pair = tuple[bytes, bytes]


def pairs(data: st.DataObject, table: Table) -> Pair:
    return data.draw(KEYS[table]), data.draw(ids) if table.sets else b"v"


@given(tables, st.data())
def test_sort_keys_are_in_the_order_of_rows(table: Table, data: st.DataObject) -> None:
    one, other = pairs(data, table), pairs(data, table)
    places = [layout.item_key(table, *pair)[1] for pair in (one, other)]
    if table.sets or one[0] != other[0]:
        assert (places[0] < places[1]) == (one < other)
        assert (places[0] == places[1]) == (one == other)
    assert layout.pair_of(table, places[0], b"v") == one


@given(tables, st.data())
def test_a_bound_divides_items_as_it_divides_rows(table: Table, data: st.DataObject) -> None:
    pair = pairs(data, table)
    key = data.draw(KEYS[table])
    bound = data.draw(st.sampled_from([key, key + b"\0", prefix_end(key) or key]))
    place = layout.item_key(table, *pair)[1]
    assert (place >= layout.bound(table, bound)) == (pair[0] >= bound)


@given(tables, st.data())
def test_a_range_is_looked_for_in_every_shard_where_it_has_rows(table: Table, data: st.DataObject) -> None:
    pair, key = pairs(data, table), data.draw(KEYS[table])
    size = data.draw(st.integers(0, len(key)))
    start, stop = key[:size], data.draw(st.sampled_from([prefix_end(key[:size]), key + b"\0", None]))
    partition, _ = layout.item_key(table, *pair)
    if start <= pair[0] and (stop is None or pair[0] < stop):
        assert partition in {layout.partition(table, shard) for shard in layout.shards_between(table, start, stop)}
    assert partition in {layout.partition(table, shard) for shard in layout.shards_of_set(table, pair[0])} or (
        not table.sets
    )


@given(tables, st.data())
def test_shards_that_need_no_merging_follow_each_other(table: Table, data: st.DataObject) -> None:
    one, other = sorted((pairs(data, table), pairs(data, table)))
    if layout.is_ordered(table):
        assert layout.item_key(table, *one)[0] <= layout.item_key(table, *other)[0]


def test_every_table_has_a_place_of_its_own() -> None:
    assert set(layout.LAYOUTS) == set(KEYS) == set(schema.TABLES)
    letters = [each.letter for each in layout.LAYOUTS.values()]
    assert len(set(letters)) == len(letters)


def test_one_artifact_and_one_document_are_one_query() -> None:
    start = schema.artifact_key("doi:10.1/x")
    assert len(list(layout.shards_between(schema.BY_KEY, start, prefix_end(start)))) == 1
    for number in (1, 255, 256, 2**40):
        start = schema.id_key(number)
        assert len(list(layout.shards_between(schema.VARIANTS_BY_DOCUMENT, start, prefix_end(start)))) == 1
