"""Retention over buckets: what goes, what it frees, what comes back, and what a bucket that is away costs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog.errors import RootUnreachableError
from kvcatalog.filters import parse_filter
from kvcatalog.removal import Collection
from kvcatalog.retention import Retention, Rule, Totals
from tests.buckets import FarPlace
from tests.invariants import assert_consistent
from tests.test_retention import NOW, decided, going, old, retire
from tools.faults.checking import dangling

RULE = Rule("r", days=30)
TRASH = ".kvcatalog/trash"


@pytest.fixture(params=["policy_path", "cas"])
def place(any_bucket: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FarPlace]:
    opened = FarPlace(tmp_path / "place", layout=request.param, **any_bucket)
    yield opened
    assert dangling(opened.catalog, opened.store) == []
    assert_consistent(opened.catalog)
    opened.close()


def test_records_go_first_then_their_objects_which_may_come_back(place: FarPlace) -> None:
    for number in range(4):
        old(place, b"content %d" % number, f"a{number}", 100)
    place.stored(b"content 1", "young")  # which keeps the content where there is one object for each
    place.catalog.add_hold(parse_filter(["artifact=a3"]), reason="evidence")
    found, totals = decided(place, RULE)
    assert {name for name, each in found.items() if each.goes} == {"a0", "a1", "a2"}
    shared = place.config.layout == "cas"
    sizes = 9 * (3 - shared)
    assert totals == Totals(5, 3, 3 - shared, sizes, sizes)  # an object has no further names, so all is freed
    before = place.objects()
    assert sorted(retire(place, RULE)) == ["a0", "a1", "a2"]
    gone = before - place.objects()
    assert len(gone) == totals.blobs
    (label,) = place.store.folders(TRASH)
    assert place.objects(TRASH) == {f"{TRASH}/{label}/{path}" for path in gone}
    restored = place.restore(label)
    assert {each.outcome for each in restored} == {"restored"}
    assert place.objects() == before
    for path in gone:
        stat = place.store.stat(path)
        assert stat is not None
        assert stat.sha256 == hashlib.sha256(place.content(path)).hexdigest()  # it is kept beside what is moved
    with place.plan(later_days=1) as plan:  # a server may round the time of an object up
        assert {item.location for item in plan.items()} == {place.store.uri_of(path) for path in gone}
        assert all(result.trash is not None for result in place.carry_out(plan))
    assert place.empty().bytes_freed == totals.bytes_freed
    assert place.objects(TRASH) == set()


def test_each_object_is_a_copy_of_its_own(place: FarPlace) -> None:
    for number in range(3):
        old(place, b"same", f"a{number}", 100 - number)
    physical = len(place.objects())
    assert physical == (1 if place.config.layout == "cas" else 3)
    for copies_min in (0, 1, 2):
        kept = 0 if copies_min == 0 else min(copies_min, physical)
        assert len(going(place, Rule("r", days=30, min_copies=copies_min))) == 3 - kept
    assert going(place, RULE, free=1) == ({"a0", "a1", "a2"} if physical == 1 else {"a0"})


def test_a_bucket_that_is_away_costs_no_record(place: FarPlace) -> None:
    old(place, b"content", "a", 100)
    there = place.config
    place.config = there.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(RootUnreachableError):
        retire(place, RULE)
    place.config = there
    assert place.catalog.stats().documents == 1
    assert retire(place, RULE) == ["a"]


def test_a_bucket_that_goes_away_on_the_way_is_finished_later(place: FarPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        old(place, b"content %d" % number, f"a{number}", 100)

    def gone(_self: object, _moves: object) -> None:
        raise RootUnreachableError("the bucket is away")

    with Collection(place.catalog, place.config) as collection:
        run = Retention(collection, (RULE,), now=NOW)
        with run.plan() as plan:
            assert sum(each.outcome == "deleted" for each in run.records(plan)) == 3
        with monkeypatch.context() as patched:
            patched.setattr(type(place.store), "move_many", gone)
            with pytest.raises(RootUnreachableError):
                list(run.blobs())
    assert len(place.objects()) == 3
    assert retire(place, RULE) == []  # no record is left, and their objects go all the same
    assert place.objects() == set()
    assert len(place.objects(TRASH)) == 3
    assert place.catalog.condemned() == []
