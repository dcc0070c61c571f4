"""Records and objects of a bucket that have lost each other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog.errors import RootUnreachableError
from kvcatalog.removal import glances
from kvcatalog.s3_layout import S3BlobStore
from kvcatalog.verify import verify_blobs
from tests.buckets import FarPlace
from tests.invariants import assert_consistent
from tests.support import HANG_SECONDS
from tests.test_reconcile import applied, by_folder, fetch, planned


@pytest.fixture
def place(any_bucket: dict[str, Any], tmp_path: Path) -> Iterator[FarPlace]:
    opened = FarPlace(tmp_path / "place", s3_prefix="docs/v 1/", **any_bucket)
    yield opened
    assert_consistent(opened.catalog)
    opened.close()


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glances, "ASKED_ONE_BY_ONE", 0)


def steps(found: Any) -> set[tuple[str, str, str]]:
    return {(step.action, step.outcome, step.storage_uri.partition("/docs/v 1/")[2]) for step in found}


def path_of(place: FarPlace, record: Any) -> str:
    return str(place.store.path_of(record.storage_uri))


def verified(place: FarPlace) -> set[str]:
    return {str(each.result) for each in verify_blobs(place.catalog, cfg_storage=place.config)}


def test_what_lies_under_another_key_is_found_by_its_digest(place: FarPlace) -> None:
    record = place.stored(b"moved", "a")
    place.stored(b"text ", "a", variant="text")
    variant = place.catalog.get_variants(record.id)[0]
    place.stored(b"fine ", "fine")
    place.stray("other/same size", b"wrong")
    place.store.move(path_of(place, record), "new/place.pdf")
    place.store.move(path_of(place, variant), "new/text.txt")
    expected = {
        ("rebind", "planned", "new/place.pdf"),
        ("rebind", "planned", "new/text.txt"),
        ("unknown", "planned", "other/same size"),
    }
    assert steps(planned(place)) == expected
    assert steps(applied(place)) == {
        (action, "done" if action == "rebind" else outcome, path) for action, outcome, path in expected
    }
    now = place.catalog.get_by_id(record.id)
    assert now is not None
    assert now.storage_uri == place.store.uri_of("new/place.pdf")
    assert verified(place) == {"ok"}
    assert steps(applied(place)) == {("unknown", "planned", "other/same size")}


def test_what_others_stored_there_is_adopted_and_what_is_ours_is_not(place: FarPlace) -> None:
    place.stored(b"known", "known")
    place.orphan(b"in the trash", "trashed")
    until = time.monotonic() + HANG_SECONDS
    while place.store.stat("trashed/trashed.pdf") is not None:  # Swift rounds times up to the second, as if to come
        assert time.monotonic() < until
        place.collect()
    uri = place.stray("work-1/päper 1.pdf", b"unknown")
    assert steps(planned(place, adopt=by_folder)) == {("adopt", "planned", "work-1/päper 1.pdf")}
    applied(place, adopt=by_folder)
    (record,) = place.catalog.get_by_artifact("work-1")
    assert (record.storage_uri, record.bytes) == (uri, 7)
    assert record.sha256 == hashlib.sha256(b"unknown").hexdigest()
    assert planned(place, adopt=by_folder) == []
    assert verified(place) == {"ok"}


def test_what_is_missing_or_corrupt_is_fetched(place: FarPlace) -> None:
    records = {name: place.stored(content, name) for name, content in (("lost", b"lost"), ("changed", b"older"))}
    place.store.delete(path_of(place, records["changed"]))
    place.stray(path_of(place, records["lost"]), b"LOST")  # as somebody overwrites an object
    assert steps(planned(place)) == {("lost", "planned", "changed/changed.pdf")}  # nobody has read the other one
    assert verified(place) == {"corrupt", "missing"}
    assert {step.action for step in planned(place)} == {"lost"}
    done = {step.document_id: step for step in applied(place, fetch=fetch)}
    assert (done[records["lost"].id].action, done[records["lost"].id].outcome) == ("refetch", "done")
    assert "other bytes by now" in str(done[records["changed"].id].detail)
    assert place.content(path_of(place, records["lost"])) == b"lost"
    (kept,) = place.objects(".kvcatalog/quarantine")
    assert place.content(kept) == b"LOST"
    assert place.store.stat(path_of(place, records["changed"])) is None
    assert [step.document_id for step in planned(place)] == [records["changed"].id]


def test_a_bucket_that_is_away_is_no_loss(place: FarPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.stored(b"content", "a")
    there = place.config
    place.config = there.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    for call in (planned, applied):
        with pytest.raises(RootUnreachableError):
            call(place)
    place.config = there

    def gone(_self: object, _key: str) -> None:
        raise RootUnreachableError("the bucket is away")

    place.store.delete("a/a.pdf")
    monkeypatch.setattr(S3BlobStore, "stat", gone)
    with pytest.raises(RootUnreachableError):
        planned(place)


def test_an_object_that_a_listing_does_not_show_yet_is_not_missing(
    place: FarPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        place.stored(b"content %d" % number, f"a{number}")
    lost = place.catalog.get_by_artifact("a3")[0]
    place.store.delete(path_of(place, lost))
    real = S3BlobStore.walk

    def lagging(self: S3BlobStore, folder: str = "") -> Iterator[Any]:
        return (blob for blob in real(self, folder) if blob.path != "a1/a1.pdf")

    monkeypatch.setattr(S3BlobStore, "walk", lagging)
    assert [step.document_id for step in planned(place)] == [lost.id]
