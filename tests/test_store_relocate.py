"""What refers to a blob follows it to another place, or stays where anything speaks against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import InvalidValueError, LmdbCatalog, open_catalog
from kvcatalog.custody import Deletion, Relocation
from kvcatalog.models import DocumentRecord
from tests.invariants import assert_consistent

ROOT = "file:///data/docs"
SHA, OTHER = "ab" * 32, "cd" * 32
CAS = f"{ROOT}/cas/sha256/ab/{SHA[2:]}"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        opened.add_root(ROOT, uuid="r")
        yield opened
        assert_consistent(opened)


def stored(catalog: LmdbCatalog, name: str = "a", **facts: Any) -> DocumentRecord:
    content: dict[str, Any] = {"bytes": 3, "sha256": SHA, "storage_uri": f"{ROOT}/{name}.pdf"}
    return catalog.register(artifact_id=name, source_url="u", resolver="r", **(content | facts)).record


def relocation(record: DocumentRecord, **facts: Any) -> Relocation:
    given: dict[str, Any] = {
        "kind": "document",
        "document_id": record.id,
        "storage_uri": record.storage_uri,
        "target": CAS,
    }
    return Relocation(**(given | {"bytes": 3, "sha256": SHA, "blob_epoch": 0} | facts))


def test_a_document_follows_and_gets_the_digest_that_it_lacked(catalog: LmdbCatalog) -> None:
    record = stored(catalog, sha256=None)
    assert catalog.relocate([relocation(record)], reason="why") == ["moved"]
    now = catalog.get_by_id(record.id)
    assert now is not None
    assert (now.storage_uri, now.sha256, now.updated_at > record.updated_at) == (CAS, SHA, True)
    assert catalog.get_by_storage_uri(record.storage_uri) == []
    (entry,) = catalog.journal(document_id=record.id)
    assert (entry.action, entry.reason, entry.changes["storage_uri"]) == (
        "relocate",
        "why",
        (record.storage_uri, CAS),
    )
    assert catalog.relocate([relocation(record)]) == ["changed"]


def test_what_is_not_what_it_was_stays(catalog: LmdbCatalog) -> None:
    record = stored(catalog)
    for wrong in ({"bytes": 4}, {"sha256": OTHER}, {"storage_uri": f"{ROOT}/x"}, {"document_id": 99}):
        assert catalog.relocate([relocation(record, **wrong)]) == ["changed"]
    for kind in ("variant", "conflict", "link"):
        assert catalog.relocate([relocation(record, kind=kind, variant="text")]) == ["changed"]
    assert catalog.get_by_id(record.id) == record
    with pytest.raises(InvalidValueError):
        catalog.relocate([relocation(record, sha256="ab")])


def test_a_target_that_may_be_gone_is_refused(catalog: LmdbCatalog) -> None:
    record = stored(catalog)
    epoch = catalog.blob_epoch()
    catalog.condemn([CAS], plan="p")
    assert catalog.relocate([relocation(record, blob_epoch=epoch)]) == ["condemned"]
    catalog.settle_condemned([CAS])
    assert catalog.relocate([relocation(record, blob_epoch=epoch)]) == ["condemned"]
    other = relocation(record, blob_epoch=epoch, target=f"{ROOT}/b.pdf")
    assert catalog.relocate([other, relocation(record, blob_epoch=catalog.blob_epoch())]) == ["moved", "changed"]
    catalog.forget_condemned()
    moved = relocation(record, blob_epoch=epoch, storage_uri=f"{ROOT}/b.pdf")
    assert catalog.relocate([moved]) == ["condemned"]


def test_conflicts_and_links_follow_and_keep_what_they_share(catalog: LmdbCatalog) -> None:
    record = stored(catalog, sha256=OTHER, links=(f"{ROOT}/link.pdf", f"{ROOT}/other.pdf"))
    catalog.register_variant(document_id=record.id, variant="text", bytes=9, storage_uri=f"{ROOT}/t", sha256=OTHER)
    shared = f"{ROOT}/shared.pdf"
    stored(catalog, storage_uri=shared)
    catalog.register_variant(document_id=record.id, variant="text", bytes=3, storage_uri=shared, sha256=SHA)
    assert {each.variant for each in catalog.get_conflicts(record.id)} == {None, "text"}
    moved = relocation(record, kind="conflict", storage_uri=shared)
    assert catalog.relocate([moved]) == ["moved"]
    assert_consistent(catalog)
    assert {(each.variant, each.storage_uri) for each in catalog.get_conflicts()} == {(None, CAS), ("text", shared)}
    assert [each.kind for each in catalog.references(shared)] == ["conflict"]
    link = relocation(record, kind="link", storage_uri=f"{ROOT}/link.pdf", target=f"{ROOT}/new.pdf")
    gone = relocation(record, kind="link", storage_uri=f"{ROOT}/other.pdf", target=None)
    assert catalog.relocate([link, gone]) == ["moved", "moved"]
    assert [each.storage_uri for each in catalog.get_links(record.id)] == [f"{ROOT}/new.pdf"]


def test_only_documents_that_are_what_they_were_are_deleted(catalog: LmdbCatalog) -> None:
    records = [stored(catalog, name) for name in "abc"]
    catalog.update(records[1].id, content_type="text/plain")
    deletions = [Deletion(record.id, record.updated_at, f"why {record.id}") for record in records]
    answers = list(catalog.delete_many([*deletions, deletions[0]], batch_size=2))
    assert answers == [records[0], None, records[2], None]
    assert [record.artifact_id for record in catalog.iter_records()] == ["b"]
    assert [entry.reason for entry in catalog.journal() if entry.action == "delete"] == ["why 1", "why 3"]
