"""What refers to a place: asked for many at once, for one, and held against every row there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcatalog import open_catalog, parse_filter
from kvcatalog.custody import BlobMove
from kvcatalog.errors import InvalidValueError, NotFoundError
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tools.faults.checking import references

ROOTS = ("file:///data", "file:///data/inner", "s3://bucket/docs")
DIGESTS = tuple(f"{number:02x}" * 32 for number in range(3))
PLACES = (
    *(f"{root}/cas/sha256/{digest[:2]}/{digest[2:]}" for root in ROOTS for digest in DIGESTS),
    *(f"{root}/work/{name}.pdf" for root in ROOTS for name in ("a", "b c", "ü")),
    "https://elsewhere/x.pdf",
    f"file:///data/cas/sha256/{DIGESTS[1][:2]}/{DIGESTS[1][2:].upper()}x",
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["root", "document", "document", "variant", "conflict", "link", "delete", "update"]),
        st.integers(0, 5),
        st.sampled_from(PLACES),
        st.sampled_from([*DIGESTS, None]),
    ),
    max_size=25,
)


def opened(folder: Path) -> LmdbCatalog:
    catalog = open_catalog(folder / "catalog")
    assert isinstance(catalog, LmdbCatalog)
    return catalog


def do(catalog: LmdbCatalog, event: str, number: int, place: str, digest: str | None) -> None:
    key: dict[str, Any] = {"artifact_id": f"work {number}", "source_url": "u", "resolver": "r"}
    content: dict[str, Any] = {"bytes": number, "sha256": digest, "storage_uri": place}
    record = catalog.get(**key)
    match event:
        case "root":
            uri = ROOTS[number % len(ROOTS)]
            catalog.add_root(uri, uuid=uri)
        case "document" | "conflict":
            catalog.register(**key, **content)
        case "link":
            catalog.register(**key, **content, links=(PLACES[number],))
        case "variant" if record:
            catalog.register_variant(document_id=record.id, variant=str(number % 2), **content)
        case "delete" if record:
            catalog.delete(record.id)
        case "update" if record:
            catalog.update(record.id, **content)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_many_places_are_answered_as_every_row_says(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, str, str | None]]
) -> None:
    with opened(tmp_path_factory.mktemp("references")) as catalog:
        for event in events:
            do(catalog, *event)
        used = {uri for _, uri, _, _ in references(catalog)}
        assert catalog.referenced(PLACES) == used.intersection(PLACES)
        assert {uri for uri in PLACES if catalog.references(uri)} == used.intersection(PLACES)
        starts = tuple(f"{root.uri}/" for root in catalog.roots())
        outside = {uri for uri in used if not uri.startswith(starts)}
        assert outside <= set(catalog.irregular_uris()) <= used
        assert_consistent(catalog)


def test_places_are_text(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog, pytest.raises(InvalidValueError):
        catalog.referenced(["file:///\udc80"])


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with opened(tmp_path) as made:
        yield made


def test_holds_are_kept_listed_and_released(catalog: LmdbCatalog) -> None:
    first = catalog.add_hold(parse_filter(["resolver=r", "bytes>1kB"]), reason="evidence")
    second = catalog.add_hold(parse_filter(["uri=file:///x*"]), reason="report")
    assert (first.id, first.filters, first.reason) == (1, ("resolver=r", "bytes>1000"), "evidence")
    assert catalog.holds() == [first, second]
    assert catalog.release_hold(1, reason="over") == first
    assert catalog.holds() == [second]
    with pytest.raises(NotFoundError):
        catalog.release_hold(1)
    with pytest.raises(InvalidValueError):
        catalog.add_hold(parse_filter([]), reason="everything")
    with pytest.raises(InvalidValueError):
        catalog.add_hold(parse_filter(["resolver=r"]), reason="")
    assert catalog.add_hold(parse_filter(["id=1"]), reason="again").id == 3
    assert [(entry.action, entry.reason) for entry in catalog.journal()] == [
        ("hold", "evidence"),
        ("hold", "report"),
        ("release", "over"),
        ("hold", "again"),
    ]


def test_announcements_stand_until_they_are_settled(catalog: LmdbCatalog) -> None:
    catalog.add_root("file:///data", uuid="u")
    epoch = catalog.blob_epoch()
    catalog.condemn(["file:///data/a", "file:///outside"], plan="plan")
    assert {(each.storage_uri, each.plan) for each in catalog.condemned()} == {
        ("file:///data/a", "plan"),
        ("file:///outside", "plan"),
    }
    move = BlobMove("trash", "file:///data/a", "file:///data/trash/a", 3, "orphan")
    catalog.settle_condemned(["file:///data/a"], [move])
    assert [each.storage_uri for each in catalog.condemned()] == ["file:///outside"]
    assert catalog.blob_epoch() == epoch + 1
    assert [entry.changes["storage_uri"] for entry in catalog.journal(storage_uri="file:///data/a")] == [
        ("file:///data/a", "file:///data/trash/a")
    ]
    assert list(catalog.journal(storage_uri="file:///data/b")) == []
    catalog.settle_condemned(["file:///outside"])
    assert catalog.forget_condemned() == 2
    assert_consistent(catalog)
