"""What transactions read and write, held against plain sorted lists."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kvcatalog.errors import CatalogClosedError, CatalogError
from kvcatalog.kv import keys
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.transaction import WriteTransaction
from tests.support import ROWS, SETS, all_rows, close_all, findings, last_transaction, made, put_rows

# One environment serves all examples of a test: each example undoes what it wrote by failing its transaction.
EXAMPLES = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

KEYS = st.binary(min_size=1, max_size=2) | st.sampled_from([b"a", b"ab", b"b", b"\xff", b"k" * 510, b"k" * 511])
IDS = st.integers(0, 12).map(keys.unsigned)
PLAIN = st.dictionaries(KEYS, st.binary(max_size=3), max_size=12)
PAIRS = st.sets(st.tuples(st.sampled_from([b"a", b"ab", b"b", b"c", b"k" * 511]), IDS), max_size=30)
STARTS = st.just(b"") | KEYS
STOPS = st.none() | KEYS


class Undo(Exception):  # noqa: N818  it is no error
    pass


@contextmanager
def scratch(environment: Environment) -> Iterator[WriteTransaction]:
    try:
        with environment.write() as transaction:
            yield transaction
            raise Undo  # noqa: TRY301  from outside, so that the transaction ends by it
    except Undo:
        pass


def expected(
    rows: list[tuple[bytes, bytes]],
    start: bytes,
    stop: bytes | None,
    after: tuple[bytes, bytes] | None,
    *,
    reverse: bool,
    sets: bool,
) -> list[tuple[bytes, bytes]]:
    chosen = sorted(row for row in rows if row[0] >= start and (stop is None or row[0] < stop))
    if reverse:
        chosen.reverse()
    if after is None:
        return chosen

    def behind(row: tuple[bytes, bytes]) -> bool:
        mine, other = (row, after) if sets else (row[:1], after[:1])
        return mine < other if reverse else mine > other

    return [row for row in chosen if behind(row)]


@EXAMPLES
@given(rows=PLAIN, start=STARTS, stop=STOPS, reverse=st.booleans(), key=st.none() | KEYS)
def test_items_of_a_plain_table(
    environment: Environment,
    rows: dict[bytes, bytes],
    start: bytes,
    stop: bytes | None,
    reverse: bool,
    key: bytes | None,
) -> None:
    after = None if key is None else (key, b"gone")
    assume(after is None or (start <= after[0] and (stop is None or after[0] < stop)))
    with scratch(environment) as transaction:
        for name, value in rows.items():
            transaction.put(ROWS, name, value)
        found = list(transaction.items(ROWS, start, stop, reverse=reverse, after=after))
        assert found == expected(list(rows.items()), start, stop, after, reverse=reverse, sets=False)
        assert transaction.last_key(ROWS) == max(rows, default=None)
        assert transaction.entries(ROWS) == len(rows)
        for name in (*rows, start or b"x"):
            assert transaction.get(ROWS, name) == rows.get(name)


@EXAMPLES
@given(
    rows=PAIRS,
    start=STARTS,
    stop=STOPS,
    reverse=st.booleans(),
    after=st.none() | st.tuples(st.sampled_from([b"a", b"ab", b"b", b"bb", b"c", b"k" * 511]), IDS),
)
def test_items_of_a_table_of_sets(
    environment: Environment,
    rows: set[tuple[bytes, bytes]],
    start: bytes,
    stop: bytes | None,
    reverse: bool,
    after: tuple[bytes, bytes] | None,
) -> None:
    assume(after is None or (start <= after[0] and (stop is None or after[0] < stop)))
    with scratch(environment) as transaction:
        for key, value in rows:
            transaction.put(SETS, key, value)
        found = list(transaction.items(SETS, start, stop, reverse=reverse, after=after))
        assert found == expected(list(rows), start, stop, after, reverse=reverse, sets=True)
        assert transaction.entries(SETS) == len(rows)


@EXAMPLES
@given(rows=PAIRS, key=st.sampled_from([b"a", b"b", b"c", b"d", b"k" * 511]), start=st.none() | IDS, gone=IDS)
def test_values_of_a_set(
    environment: Environment, rows: set[tuple[bytes, bytes]], key: bytes, start: bytes | None, gone: bytes
) -> None:
    with scratch(environment) as transaction:
        for name, value in rows:
            transaction.put(SETS, name, value)
        assert transaction.delete(SETS, key, gone) == ((key, gone) in rows)
        values = sorted(value for name, value in rows if name == key and value != gone)
        first = start or b""
        assert list(transaction.values(SETS, key, start=first)) == values[bisect_left(values, first) :]
        below = values if start is None else values[: bisect_left(values, start)]
        assert list(transaction.values(SETS, key, start=first, reverse=True)) == below[::-1]
        assert transaction.count(SETS, key) == len(values)
        assert transaction.get(SETS, key) == min(values, default=None)


@EXAMPLES
@given(pairs=st.lists(st.tuples(KEYS, st.binary(max_size=3)), max_size=12))
def test_appending_out_of_order_stores_all_the_same(environment: Environment, pairs: list[tuple[bytes, bytes]]) -> None:
    with scratch(environment) as transaction:
        for key, value in pairs:
            transaction.put(ROWS, key, value, append=True)
        assert list(transaction.items(ROWS)) == sorted(dict(pairs).items())


@EXAMPLES
@given(pairs=st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), IDS), max_size=30))
def test_appending_to_sets_out_of_order_stores_all_the_same(
    environment: Environment, pairs: list[tuple[bytes, bytes]]
) -> None:
    with scratch(environment) as transaction:
        for key, value in pairs:
            transaction.put(SETS, key, value, append=True)
        assert list(transaction.items(SETS)) == sorted(set(pairs))


def test_appended_sets_that_fill_many_pages_are_sound(environment: Environment, folder: Path) -> None:
    ids = [keys.unsigned(number) for number in (*range(5000), *range(0, 9000, 3), *range(4000, 6000))]
    with environment.write() as transaction:
        for key in (b"b", b"a", b"c"):
            for value in ids:
                transaction.put(SETS, key, value, append=True)
    distinct = sorted(set(ids))
    assert all_rows(environment, SETS) == [(key, value) for key in (b"a", b"b", b"c") for value in distinct]
    environment.close()
    assert findings(folder) == []


@pytest.mark.usefixtures("engine_kind")
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 500, 1999, 2000, 2001, 2030, 2100, 4096, 9000, 20000])),
        min_size=2,
        max_size=14,
    )
)
def test_replacing_long_values_leaves_the_verifier_content(sizes: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as name:
        environment = made(Path(name) / "environment")
        model: dict[bytes, bytes] = {}
        with environment.write() as transaction:
            for number, (slot, size) in enumerate(sizes):
                key, value = b"key%d" % slot, bytes([number]) * size
                if key in model:
                    transaction.replace(ROWS, key, model[key], value)
                else:
                    transaction.put(ROWS, key, value)
                model[key] = value
        assert dict(all_rows(environment)) == model
        close_all(environment)
        assert findings(Path(name) / "environment") == []


def test_a_failed_transaction_leaves_nothing(environment: Environment) -> None:
    put_rows(environment, [(b"a", b"1")])
    with pytest.raises(ZeroDivisionError), environment.write() as transaction:
        transaction.put(ROWS, b"a", b"2")
        transaction.put(ROWS, b"b", b"2")
        transaction.delete(ROWS, b"a")
        raise ZeroDivisionError
    assert all_rows(environment) == [(b"a", b"1")]


def test_a_transaction_without_writes_costs_no_commit(environment: Environment) -> None:
    before = last_transaction(environment)
    with environment.write() as transaction:
        assert transaction.get(ROWS, b"a") is None
    assert last_transaction(environment) == before
    put_rows(environment, [(b"a", b"1")])
    assert last_transaction(environment) == before + 1


def test_a_snapshot_does_not_see_what_is_written_later(environment: Environment) -> None:
    put_rows(environment, [(b"a", b"1")])
    with environment.read() as snapshot:
        rows = snapshot.items(ROWS)
        put_rows(environment, [(b"a", b"2"), (b"b", b"2")])
        assert list(rows) == [(b"a", b"1")]
        assert snapshot.get(ROWS, b"b") is None
    assert all_rows(environment) == [(b"a", b"2"), (b"b", b"2")]


def test_an_overlong_key_is_an_error_of_ours_and_stores_nothing(environment: Environment) -> None:
    with pytest.raises(CatalogError), environment.write() as transaction:
        transaction.put(ROWS, b"a", b"1")
        transaction.put(ROWS, b"k" * 9000, b"1")  # engine 1.0 takes more than 511 bytes
    assert all_rows(environment) == []


def test_an_overlong_key_is_not_found(environment: Environment) -> None:
    put_rows(environment, [(b"k" * 511, b"1")])
    with environment.read() as transaction:
        assert transaction.get(ROWS, b"k" * 512) is None
        assert list(transaction.items(ROWS, b"k" * 512)) == []


def test_what_leaves_a_transaction_stays_as_it_was(environment: Environment) -> None:
    put_rows(environment, [(b"a", b"1" * 50)])
    with environment.read() as transaction:
        value = transaction.get(ROWS, b"a")
        row = next(transaction.items(ROWS))
    for number in range(20):
        put_rows(environment, [(b"a", b"%d" % number * 30)])
    assert (value, row) == (b"1" * 50, (b"a", b"1" * 50))


def test_long_scans_renew_the_locks(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    put_rows(environment, [(b"%06d" % number, b"") for number in range(9000)])
    renewals: list[int] = []
    with environment.read() as transaction:
        monkeypatch.setattr(environment, "renew_locks", lambda: renewals.append(1))
        for walk in (
            transaction.items(ROWS),
            transaction.items(ROWS, stop=b"9"),
            transaction.items(ROWS, reverse=True),
        ):
            renewals.clear()
            assert sum(1 for _ in walk) == 9000
            assert len(renewals) >= 2


def test_a_closed_environment_refuses_transactions(environment: Environment) -> None:
    environment.close()
    for transaction in (environment.read(), environment.write()):
        with pytest.raises(CatalogClosedError), transaction:
            raise AssertionError("entered")
