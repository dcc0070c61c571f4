"""Storing what another catalog holds as it is: ids are kept, never given twice, and nothing that stands is changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from kvcatalog import open_catalog
from kvcatalog.checks import BlobCheck
from kvcatalog.custody import Hold
from kvcatalog.errors import InvalidValueError
from kvcatalog.models import (
    CatalogPosition,
    Conflict,
    DocumentRecord,
    JournalEntry,
    Link,
    Root,
    Sighting,
    VariantRecord,
)
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.store.protocol import Restorable
from tests.invariants import assert_consistent

CREATED = datetime(2025, 1, 1, tzinfo=UTC)
UPDATED = datetime(2025, 1, 2, tzinfo=UTC)
DOCUMENT = DocumentRecord(7, "a", "u", "r", "text/html", 1, "a" * 64, "file:///x", CREATED, UPDATED, "run-1")
VARIANT = VariantRecord(3, 7, "html", "file:///v", 2, None, None, CREATED)
CONFLICT = Conflict(7, None, "b" * 64, 5, "file:///y", "run-2", CREATED, UPDATED, 4)
HOLD = Hold(3, ("resolver=r", "bytes>1000"), "why", CREATED)
CHECK = BlobCheck("file:///x", "corrupt", UPDATED, CREATED, "file:///q")
ENTRY = JournalEntry(9, CREATED, "delete", 1, None, "library", None, {"bytes": (1, None)})


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        yield opened
        assert_consistent(opened)


def test_everything_is_stored_as_it_is_and_once(catalog: LmdbCatalog) -> None:
    root = Root(4, "file:///store", "one", "sha256")
    below = structs.replace(DOCUMENT, id=8, artifact_id="b", storage_uri=f"file:///store/cas/sha256/aa/{'a' * 62}")
    sighting, link = Sighting("run-9", 7, UPDATED), Link(8, "file:///store/link")
    entries: list[Restorable] = [root, DOCUMENT, below, VARIANT, sighting, CONFLICT, link, ENTRY, HOLD, CHECK]
    assert list(catalog.restore(entries)) == ["stored"] * len(entries)
    assert list(catalog.restore(entries)) == ["existing"] * len(entries)
    assert catalog.roots() == [root]
    assert list(catalog.iter_records()) == [DOCUMENT, below]
    assert catalog.get_variants(7) == [VARIANT]
    assert list(catalog.get_sightings()) == [sighting]
    assert list(catalog.get_conflicts()) == [CONFLICT]
    assert [each.kind for each in catalog.references("file:///store/link")] == ["link"]
    assert list(catalog.journal()) == [ENTRY]
    assert catalog.journal_start() == 9
    assert catalog.holds() == [HOLD]
    assert catalog.last_check("file:///x") == CHECK
    # It lies where the root that came before it says, as if it had been registered there.
    with catalog._environment.read() as transaction:
        from kvcatalog.store.reading import document_row

        row = document_row(transaction, 8)
    assert row is not None
    assert (row.root, row.path) == (4, None)


def test_what_stands_is_not_changed(catalog: LmdbCatalog) -> None:
    assert list(catalog.restore([DOCUMENT, VARIANT, CONFLICT, ENTRY, HOLD, CHECK])) == ["stored"] * 6
    assert list(
        catalog.restore(
            [
                structs.replace(DOCUMENT, bytes=2),
                structs.replace(DOCUMENT, id=8),
                structs.replace(DOCUMENT, id=7, artifact_id="other"),
                structs.replace(VARIANT, bytes=9),
                structs.replace(VARIANT, id=2, variant="text"),
                structs.replace(VARIANT, id=9, document_id=99),
                structs.replace(CONFLICT, count=5),
                structs.replace(CONFLICT, document_id=99),
                structs.replace(ENTRY, action="update"),
                structs.replace(HOLD, reason="other"),
                structs.replace(HOLD, id=2),
                structs.replace(CHECK, result="ok"),
                Sighting("run-9", 99, UPDATED),
                Link(99, "file:///l"),
            ]
        )
    ) == [
        *("key is taken", "key is taken", "id is taken"),
        *("key is taken", "id is taken", "no such document"),
        *("key is taken", "no such document"),
        *("id is taken", "id is taken", "id is taken", "key is taken"),
        *("no such document", "no such document"),
    ]
    assert list(catalog.iter_records()) == [DOCUMENT]
    assert catalog.get_variants(7) == [VARIANT]
    assert list(catalog.get_conflicts()) == [CONFLICT]
    assert list(catalog.journal()) == [ENTRY]


def test_an_id_that_was_given_never_comes_again(catalog: LmdbCatalog) -> None:
    old = catalog.register(artifact_id="x", source_url="u", resolver="r", bytes=1, storage_uri="file:///z").record
    catalog.delete(old.id)
    assert list(catalog.restore([structs.replace(DOCUMENT, id=old.id)])) == ["id is taken"]
    assert list(catalog.restore([DOCUMENT])) == ["stored"]
    new = catalog.register(artifact_id="y", source_url="u", resolver="r", bytes=1, storage_uri="file:///z").record
    assert new.id == 8


def test_ids_of_a_batch_need_not_follow_each_other_but_ascend(catalog: LmdbCatalog) -> None:
    entries = [structs.replace(DOCUMENT, id=number, artifact_id=f"{number}") for number in (2, 5, 3, 9)]
    assert list(catalog.restore([*entries, entries[0]])) == [
        "stored",
        "stored",
        "id is taken",
        "stored",
        "key is taken",
    ]
    assert [record.id for record in catalog.iter_records()] == [2, 5, 9]


def test_a_value_that_cannot_be_stored_keeps_its_batch_out(catalog: LmdbCatalog) -> None:
    bad = structs.replace(DOCUMENT, id=9, artifact_id="b", sha256="short")
    results = catalog.restore([DOCUMENT, structs.replace(DOCUMENT, id=8, artifact_id="c"), bad], batch_size=2)
    assert [next(results), next(results)] == ["stored", "stored"]
    with pytest.raises(InvalidValueError, match="sha256"):
        next(results)
    assert catalog.stats().documents == 2


def test_a_position_is_raised_and_never_lowered(catalog: LmdbCatalog) -> None:
    catalog.raise_position(CatalogPosition(5, 10, 20))
    catalog.raise_position(CatalogPosition(1, 1, 30))
    with catalog.snapshot() as snapshot:
        assert snapshot.position == CatalogPosition(5, 10, 30)
    record = catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, storage_uri="file:///x").record
    catalog.update(record.id, run_id="r")
    assert record.id == 11
    assert [entry.sequence for entry in catalog.journal()] == [6]
    with pytest.raises(InvalidValueError):
        catalog.raise_position(CatalogPosition(0, 2**60, 0))
    for bad in (structs.replace(HOLD, filters=("nonsense",)), structs.replace(CHECK, result="unheard of")):
        with pytest.raises(InvalidValueError):
            list(catalog.restore([bad]))


def test_a_snapshot_is_one_moment(catalog: LmdbCatalog) -> None:
    list(catalog.restore([DOCUMENT, VARIANT]))
    with catalog.snapshot() as snapshot:
        catalog.delete(7)
        assert [row[0] for rows in snapshot.documents() for row in rows] == [7]
        assert [row[0] for row in snapshot.variants_of(7)] == [3]
        assert snapshot.document_count == 1
        assert snapshot.position == CatalogPosition(0, 7, 3)
