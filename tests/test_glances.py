"""What lies in a bucket is told by its listing where very many are asked for, and is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog.audit import audit_blobs
from kvcatalog.removal import glances
from kvcatalog.removal.glances import Glances
from kvcatalog.retention import Rule
from tests.buckets import REGION, FarPlace
from tests.s3_double import Double
from tests.test_reconcile import planned
from tests.test_retention import decided, old

NAMES = ("a", "a b", "a+b", "a-b", "ä", "z")


@pytest.fixture
def place(any_bucket: dict[str, Any], tmp_path: Path) -> Iterator[FarPlace]:
    opened = FarPlace(tmp_path / "place", s3_prefix="docs/v 1/", **any_bucket)
    yield opened
    opened.close()


@pytest.mark.parametrize("one_by_one", [0, 3, 1000])
def test_an_audit_of_a_bucket_finds_what_is_missing_or_of_another_size(
    place: FarPlace, monkeypatch: pytest.MonkeyPatch, one_by_one: int
) -> None:
    monkeypatch.setattr(glances, "ASKED_ONE_BY_ONE", one_by_one)
    records = {name: place.stored(name.encode(), name) for name in NAMES}
    place.stored(b"text", "z", variant="text")
    variant = place.catalog.get_variants(records["z"].id)[0]
    cut = str(place.store.path_of(records["ä"].storage_uri))
    place.stray(cut, b"")
    place.store.delete(str(place.store.path_of(records["a+b"].storage_uri)))
    place.store.delete(str(place.store.path_of(variant.storage_uri)))
    unknown = place.stray("unknown.pdf")
    found = {(each.kind, each.storage_uri, each.variant_id) for each in audit_blobs(place.catalog, place.config)}
    assert found == {
        ("blob missing", records["a+b"].storage_uri, None),
        ("blob missing", variant.storage_uri, variant.id),
        ("blob size", records["ä"].storage_uri, None),
        ("blob unknown", unknown, None),
    }


def test_what_comes_after_the_listing_is_found_and_in_any_order(
    place: FarPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glances, "ASKED_ONE_BY_ONE", 0)
    place.stray("a", b"1")
    place.stray("m", b"12")
    with Glances() as looks:
        first = looks.at(place.store, "a")
        place.stray("z", b"123")
        found = [first, *(looks.at(place.store, path) for path in ("m", "z", "a", "none"))]
    assert [(each.path, each.size) for each in found if each is not None] == [("a", 1), ("m", 2), ("z", 3), ("a", 1)]
    assert found[-1] is None


@pytest.mark.parametrize(
    "look",
    [
        lambda place: audit_blobs(place.catalog, place.config),
        lambda place: decided(place, Rule("r", days=30)),
        planned,
    ],
    ids=["audit", "retention", "reconcile"],
)
def test_a_bucket_is_not_asked_for_each_blob(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[FarPlace], Any]
) -> None:
    monkeypatch.setattr(glances, "ASKED_ONE_BY_ONE", 3)
    place = FarPlace(tmp_path / "place", s3_bucket="bucket", s3_endpoint_url=double.endpoint_url, s3_region=REGION)
    for number in range(20):
        old(place, b"content %d" % number, f"a{number}", 100)
    double.requests.clear()
    list(look(place))
    blobs = [request for request in double.requests if request.method == "HEAD" and request.key.endswith(".pdf")]
    assert len(blobs) == 3
    place.close()
