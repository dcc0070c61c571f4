"""Rows of upkeep: checks with their queue, announcements of gc, holds."""

import os
from functools import partial
from pathlib import Path

import pytest
from msgspec import Struct

from kvcatalog import LmdbCatalog, open_catalog, schema
from kvcatalog.errors import BlobCondemnedError, CatalogLockedError, StorageFailedError
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.models import RegistrationFields
from kvcatalog.schema import CheckRow, CondemnedRow, HoldRow
from kvcatalog.store import upkeep
from kvcatalog.store.backend import GC_LEASE
from tests.invariants import assert_consistent
from tests.parallel import start_process
from tests.support import forked


def put_check(row: CheckRow, transaction: WriteTransaction) -> None:
    upkeep.put_check(transaction, row)


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
        assert catalog._writer.submit(lambda transaction: upkeep.forget_check(transaction, 1, "a"))
        assert not catalog._writer.submit(lambda transaction: upkeep.forget_check(transaction, 1, "a"))
        assert_consistent(catalog)


def test_what_is_condemned_can_be_taken_back_once(tmp_path: Path) -> None:
    long_path = "p" * 600
    row = CondemnedRow(None, long_path, "plan", 5)
    with open_catalog(tmp_path / "catalog") as catalog:
        catalog._writer.submit(lambda transaction: upkeep.put_condemned(transaction, row))
        with catalog._environment.read() as transaction:
            ((key, value),) = transaction.items(schema.CONDEMNED)
            assert schema.CONDEMNED_CODEC.decode(key, value) == row
        assert not catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, 1, long_path))
        assert catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, None, long_path))
        assert_consistent(catalog)
        assert not catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, None, long_path))


class RowBefore(Struct, array_like=True):
    """A condemned blob as it was written before it could be kept as cleared."""

    root: int | None
    path: str
    plan: str
    at: int


def test_what_was_condemned_before_rows_were_kept_is_read() -> None:
    key = schema.location_key(1, "a")
    value = Codec(RowBefore, "condemned blob").encode(key, RowBefore(1, "a", "plan", 5))
    assert schema.CONDEMNED_CODEC.decode(key, value) == CondemnedRow(1, "a", "plan", 5)


def condemn(catalog: LmdbCatalog, path: str) -> None:
    row = CondemnedRow(None, f"file:///{path}", "plan", 0)
    catalog._writer.submit(lambda transaction: upkeep.put_condemned(transaction, row))


def clear(catalog: LmdbCatalog, path: str) -> None:
    assert catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, None, f"file:///{path}"))


def refers(catalog: LmdbCatalog, epoch: int | None, path: str, *links: str) -> bool:
    """Tell whether a registration for a place, and further ones, is let through, and take it back."""
    uris = [f"file:///{link}" for link in links]
    try:
        done = catalog.register(
            artifact_id="a",
            source_url="u",
            resolver="r",
            bytes=1,
            storage_uri=f"file:///{path}",
            blob_epoch=epoch,
            links=uris,
        )
    except BlobCondemnedError:
        return False
    catalog.delete(done.record.id)
    return True


def test_only_who_refers_to_what_was_cleared_since_is_refused(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog, catalog.lease(GC_LEASE):
        before = catalog.blob_epoch()
        condemn(catalog, "gone")
        assert (refers(catalog, None, "gone"), refers(catalog, before, "gone")) == (False, False)
        clear(catalog, "gone")
        between = catalog.blob_epoch()
        condemn(catalog, "later")
        clear(catalog, "later")
        assert [refers(catalog, epoch, "gone") for epoch in (None, before, between)] == [True, False, True]
        assert [refers(catalog, epoch, "later") for epoch in (None, before, between)] == [True, False, False]
        assert [refers(catalog, epoch, "x", "later") for epoch in (None, before, between)] == [True, False, False]
        assert refers(catalog, before, "elsewhere", "and there")
        condemn(catalog, "gone")
        assert not any(refers(catalog, epoch, "gone") for epoch in (None, before, catalog.blob_epoch()))
        assert_consistent(catalog)


def test_who_comes_from_before_what_is_forgotten_is_refused(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog, catalog.lease(GC_LEASE):
        before = catalog.blob_epoch()
        for path in ("a", "b"):
            condemn(catalog, path)
            clear(catalog, path)
        condemn(catalog, "standing")
        now = catalog.blob_epoch()
        assert refers(catalog, before, "elsewhere")
        assert catalog._writer.submit(upkeep.forget_cleared) == 2
        assert catalog._writer.submit(upkeep.forget_cleared) == 0
        assert [refers(catalog, epoch, "elsewhere") for epoch in (None, before, now - 1, now)] == [
            True,
            False,
            False,
            True,
        ]
        assert refers(catalog, now, "a")
        assert not refers(catalog, now, "standing")
        assert_consistent(catalog)


def test_what_is_condemned_in_the_same_transaction_is_seen(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog, catalog.lease(GC_LEASE):
        with catalog._writer._door:
            answers = [catalog.register_async(**facts("a"))]
            row = CondemnedRow(None, "file:///b", "plan", 0)
            catalog._writer.post(lambda transaction: upkeep.put_condemned(transaction, row))
            answers.append(catalog.register_async(**facts("b")))
        assert answers[0].result(20).outcome == "registered"
        assert isinstance(answers[1].exception(20), BlobCondemnedError)


def facts(path: str) -> RegistrationFields:
    return {
        "artifact_id": path,
        "source_url": "u",
        "resolver": "r",
        "bytes": 1,
        "storage_uri": f"file:///{path}",
    }


def test_a_posted_registration_clears_what_nobody_collects_any_more(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        condemn(catalog, "a")
        with catalog.lease(GC_LEASE):
            for _ in range(2):
                assert isinstance(catalog.register_async(**facts("a")).exception(20), BlobCondemnedError)
        assert isinstance(catalog.register_async(**facts("a")).exception(20), BlobCondemnedError)
        assert catalog.register_async(**facts("a")).result(20).outcome == "registered"
        assert_consistent(catalog)


def test_a_lease_that_cannot_be_had_is_an_error_of_ours_and_hides_none(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        condemn(catalog, "a")
        (tmp_path / "catalog" / "gc.lease").mkdir()
        with pytest.raises(StorageFailedError, match=r"gc\.lease"), catalog.lease(GC_LEASE):
            pass
        with pytest.raises(BlobCondemnedError):
            catalog.register(**facts("a"))
        assert isinstance(catalog.register_async(**facts("a")).exception(20), BlobCondemnedError)


def test_an_error_inside_a_lease_stays_what_it_is(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog, pytest.raises(OSError, match="mine"), catalog.lease("a"):
        raise OSError("mine")


def test_a_lease_ends_though_a_child_was_forked_meanwhile(tmp_path: Path) -> None:
    def hold() -> None:
        reading.close()
        writing.read()

    with open_catalog(tmp_path / "catalog") as catalog:
        ours, theirs = os.pipe()
        writing, reading = os.fdopen(ours, "rb"), os.fdopen(theirs, "wb")
        with catalog.lease("a"):
            collect = start_process(lambda _: hold())
        try:
            with catalog.lease("a"):
                pass
        finally:
            reading.close()
            writing.close()
            collect()


def test_a_child_that_leaves_a_lease_does_not_end_it(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        lease = catalog.lease("a")
        with lease:
            forked(lambda: lease.__exit__(None, None, None))
            with pytest.raises(CatalogLockedError), catalog.lease("a"):
                pass


def test_the_id_of_a_hold_is_never_given_again(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        row = HoldRow(("run=one",), "a court says so", 1)
        first = catalog._writer.submit(lambda transaction: upkeep.put_hold(transaction, row))
        assert catalog._writer.submit(lambda transaction: upkeep.release_hold(transaction, first))
        assert not catalog._writer.submit(lambda transaction: upkeep.release_hold(transaction, first))
        assert catalog._writer.submit(lambda transaction: upkeep.put_hold(transaction, row)) == first + 1
