"""The report on what is stored more than once: saved and savable bytes, by content and by resolver."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import InvalidValueError, open_catalog
from kvcatalog.dedup import ResolverShare, dedup_report
from kvcatalog.store.protocol import CatalogStore

BYTES = b"0123456789"
DIGEST = hashlib.sha256(BYTES).hexdigest()
Store = Callable[..., int]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[CatalogStore]:
    with open_catalog(tmp_path / "catalog.lmdb") as opened:
        yield opened


@pytest.fixture
def store(catalog: CatalogStore, tmp_path: Path) -> Store:
    """Register a record of ten bytes at a place, which is made unless it is there or is no file."""

    def call(artifact: str, place: Path | str, resolver: str = "r", sha256: str = DIGEST) -> int:
        if isinstance(place, Path) and not place.exists():
            place.write_bytes(BYTES)
        uri = place if isinstance(place, str) else place.as_uri()
        facts: dict[str, Any] = {"bytes": len(BYTES), "sha256": sha256, "storage_uri": uri}
        return catalog.register(artifact_id=artifact, source_url="u", resolver=resolver, **facts).record.id

    return call


def test_what_has_one_inode_is_saved_and_what_has_its_own_is_savable(
    catalog: CatalogStore, store: Store, tmp_path: Path
) -> None:
    store("first", tmp_path / "a", "crossref")
    os.link(tmp_path / "a", tmp_path / "b")
    store("linked", tmp_path / "b", "crossref")
    store("the same path", tmp_path / "a", "core")
    store("a copy", tmp_path / "c", "core")
    os.link(tmp_path / "c", tmp_path / "d")
    store("a link to the copy", tmp_path / "d", "unpaywall")
    report = dedup_report(catalog)
    (content,) = report.contents
    assert (content.sha256, content.document_count, content.copy_count) == (DIGEST, 5, 2)
    assert (content.saved_bytes, content.savable_bytes, content.unseen_count) == (30, 10, 0)
    assert report.resolvers == (
        ResolverShare("core", 2, 10, 10),
        ResolverShare("crossref", 1, 10, 0),
        ResolverShare("unpaywall", 1, 10, 0),
    )
    assert (report.saved_bytes, report.savable_bytes, report.content_count) == (30, 10, 1)


def test_what_is_not_there_or_of_another_size_counts_for_neither(
    catalog: CatalogStore, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "short").write_bytes(b"0")
    store("gone", "file:///nowhere/at/all")
    store("short", tmp_path / "short")
    store("a folder", tmp_path)
    store("there", tmp_path / "a")
    store("a copy", tmp_path / "b")
    (content,) = dedup_report(catalog).contents
    assert (content.unseen_count, content.copy_count, content.savable_bytes) == (3, 2, 10)


def test_every_key_of_a_bucket_is_a_copy(catalog: CatalogStore, store: Store) -> None:
    for artifact, key in enumerate(("x", "x", "y")):
        store(str(artifact), f"s3://bucket/{key}")
    (content,) = dedup_report(catalog).contents
    assert (content.copy_count, content.saved_bytes, content.savable_bytes) == (2, 10, 10)


def test_variants_count_where_they_are_asked_for(catalog: CatalogStore, store: Store, tmp_path: Path) -> None:
    document = store("first", tmp_path / "a", "core")
    (tmp_path / "v").write_bytes(BYTES)
    catalog.register_variant(
        document_id=document, variant="v", storage_uri=(tmp_path / "v").as_uri(), bytes=len(BYTES), sha256=DIGEST
    )
    assert dedup_report(catalog).contents == ()
    report = dedup_report(catalog, variants=True)
    assert [(content.variant_count, content.savable_bytes) for content in report.contents] == [(1, 10)]
    assert report.resolvers == (ResolverShare("core", 1, 0, 10),)


def test_the_list_is_bounded_and_the_sums_are_not(catalog: CatalogStore, store: Store) -> None:
    for number in range(1, 5):
        for copy in range(number + 1):
            store(f"{number} {copy}", f"s3://bucket/{number}/{copy}", sha256=f"{number:064x}")
    steps: list[tuple[int, int]] = []
    report = dedup_report(catalog, limit=2, progress=lambda done, total: steps.append((done, total)))
    assert [content.sha256 for content in report.contents] == [f"{4:064x}", f"{3:064x}"]
    assert (report.content_count, report.savable_bytes) == (4, 100)
    assert steps == [(0, 4)]
    assert [content.document_count for content in dedup_report(catalog, min_count=4, limit=None).contents] == [5, 4]
    with pytest.raises(InvalidValueError, match="min_count"):
        dedup_report(catalog, min_count=0)
