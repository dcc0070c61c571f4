"""Rows of upkeep: checks with their queue, announcements of gc, holds."""

from functools import partial
from pathlib import Path

from kvcatalog import open_catalog, schema
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.schema import CheckRow, CondemnedRow, HoldRow
from kvcatalog.store import changes
from tests.invariants import assert_consistent


def put_check(row: CheckRow, transaction: WriteTransaction) -> None:
    changes.put_check(transaction, row)


def test_a_check_takes_the_place_of_the_one_before_in_the_queue(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        for row in (CheckRow(1, "a", 30, "ok"), CheckRow(1, "b", -20, "missing"), CheckRow(1, "a", 10, "corrupt")):
            catalog._writer.submit(partial(put_check, row))
            assert_consistent(catalog)
        with catalog._environment.read() as transaction:
            queue = [key[8:] for key, _ in transaction.items(schema.CHECKS_BY_TIME)]
            assert queue == [schema.location_key(1, "b"), schema.location_key(1, "a")]
            key = schema.location_key(1, "a")
            assert schema.CHECK_CODEC.decode(key, transaction.get(schema.CHECKS, key) or b"").result == "corrupt"
        assert catalog._writer.submit(lambda transaction: changes.forget_check(transaction, 1, "a"))
        assert not catalog._writer.submit(lambda transaction: changes.forget_check(transaction, 1, "a"))
        assert_consistent(catalog)


def test_what_is_condemned_can_be_taken_back_once(tmp_path: Path) -> None:
    long_path = "p" * 600
    row = CondemnedRow(None, long_path, "plan", 5)
    with open_catalog(tmp_path / "catalog") as catalog:
        catalog._writer.submit(lambda transaction: changes.put_condemned(transaction, row))
        with catalog._environment.read() as transaction:
            ((key, value),) = transaction.items(schema.CONDEMNED)
            assert schema.CONDEMNED_CODEC.decode(key, value) == row
        assert not catalog._writer.submit(lambda transaction: changes.clear_condemned(transaction, 1, long_path))
        assert catalog._writer.submit(lambda transaction: changes.clear_condemned(transaction, None, long_path))
        assert not catalog._writer.submit(lambda transaction: changes.clear_condemned(transaction, None, long_path))


def test_the_id_of_a_hold_is_never_given_again(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        row = HoldRow(("run=one",), "a court says so", 1)
        first = catalog._writer.submit(lambda transaction: changes.put_hold(transaction, row))
        assert catalog._writer.submit(lambda transaction: changes.release_hold(transaction, first))
        assert not catalog._writer.submit(lambda transaction: changes.release_hold(transaction, first))
        assert catalog._writer.submit(lambda transaction: changes.put_hold(transaction, row)) == first + 1
