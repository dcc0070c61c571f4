"""What every catalog must do, whichever engine keeps it; who inherits it gives the fixture `place`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec import structs

from kvcatalog.checks import BlobCheck
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.custody import BlobMove, Deletion, Reference, Relocation
from kvcatalog.errors import (
    BlobCondemnedError,
    CatalogClosedError,
    CatalogLockedError,
    CatalogMissingError,
    InvalidValueError,
    JournalPrunedError,
    NotFoundError,
    StoragePermissionError,
)
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.models import (
    DocumentRecord,
    RegistrationFields,
    RegistrationRequest,
    SightingRequest,
    Totals,
    VariantRegistrationRequest,
)
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.protocol import CatalogStore
from kvcatalog.values import ID_MAX
from tests.copies import HOSTILE, fill, said

MOMENT = datetime(2025, 1, 1, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
LONG = "文" * 300
WAIT_SECONDS = 60


class Place(Protocol):
    """Where catalogs of one engine lie in a test."""

    def open(self, name: str = "catalog", **settings: Any) -> CatalogStore:
        """Open a catalog by its name; it is made where there is none, unless the settings say otherwise."""
        ...

    def lose(self, catalog: CatalogStore, table: str, document_id: int) -> None:
        """Take the row of an index away that leads to a document, as no call of a catalog does."""
        ...

    def assert_consistent(self, catalog: CatalogStore) -> None:
        """Compare every derived row with one that is made anew."""
        ...


def digest(number: int) -> str:
    return f"{number:064x}"


def document(number: int = 1, **changes: Any) -> RegistrationFields:
    """Return a document; numbers that are equal modulo ten have one content."""
    fields: RegistrationFields = {
        "artifact_id": f"doi:10.1/{number}",
        "source_url": f"https://example.org/{number}.pdf",
        "resolver": "unpaywall",
        "content_type": "application/pdf",
        "bytes": number % 10 + 1,
        "sha256": digest(number % 10),
        "storage_uri": f"file:///store/{number}",
        "run_id": "run-1",
    }
    return {**fields, **changes}  # type: ignore[typeddict-item]


def requests(*numbers: int, **changes: Any) -> list[RegistrationRequest]:
    return [RegistrationRequest(**document(number, **changes)) for number in numbers]


def ids(records: Any) -> list[int]:
    return [record.id for record in records]


@pytest.fixture
def catalog(place: Place) -> Iterator[CatalogStore]:
    with place.open() as opened:
        yield opened
        place.assert_consistent(opened)


class CatalogStoreContract:
    """The tests; what several do at once is in tests.catalog_races."""

    def test_a_catalog_is_made_once_and_stays_who_it_is(self, place: Place) -> None:
        with pytest.raises(CatalogMissingError):
            place.open(create=False)
        with pytest.raises(CatalogMissingError):
            place.open(read_only=True)
        with place.open() as first:
            identity = first.identity
            record = first.register(**document()).record
        with place.open(create=False) as again, place.open("other") as other:
            assert (again.identity, again.get_by_id(record.id)) == (identity, record)
            assert other.identity.uuid != identity.uuid
            assert other.get_by_id(record.id) is None

    def test_one_that_is_open_for_reading_writes_nothing(self, place: Place) -> None:
        with place.open() as catalog:
            record = catalog.register(**document()).record
        with place.open(read_only=True) as catalog:
            assert ids(catalog.iter_records()) == [1]
            writes: list[Callable[[], object]] = [
                lambda: catalog.register(**document(2)),
                lambda: catalog.register_async(**document(2)),
                lambda: list(catalog.register_many(requests(2))),
                lambda: catalog.update(1, run_id=None),
                lambda: catalog.delete(1),
                lambda: catalog.add_root("file:///x", uuid="x"),
                lambda: list(catalog.restore([structs.replace(record, id=2)])),
            ]
            for write in writes:
                with pytest.raises(StoragePermissionError):
                    write()
            assert ids(catalog.iter_records()) == [1]

    def test_a_closed_one_says_so(self, place: Place) -> None:
        catalog = place.open()
        catalog.close()
        catalog.close()
        for call in (catalog.stats, lambda: catalog.register(**document()), lambda: list(catalog.iter_records())):
            with pytest.raises(CatalogClosedError):
                call()

    def test_the_first_call_for_a_key_stores_and_later_ones_find(self, catalog: CatalogStore) -> None:
        given = document()
        first = catalog.register(**given)
        assert first.outcome == "registered"
        assert {name: getattr(first.record, name) for name in given} == given
        assert first.record.created_at == first.record.updated_at
        again = catalog.register_or_get(
            artifact_id=given["artifact_id"],
            source_url=given["source_url"],
            resolver=given["resolver"],
            content_type="text/html",
            bytes=given["bytes"],
            sha256=given["sha256"].upper() if given["sha256"] else None,
            storage_uri="file:///elsewhere",
            run_id="run-2",
        )
        assert again == first.record == catalog.get_by_id(first.record.id)
        assert catalog.register(**given).outcome == "existing"
        assert [each.run_id for each in catalog.get_sightings(document_id=again.id)] == ["run-2"]

    def test_a_digest_enriches_and_other_bytes_conflict(self, catalog: CatalogStore) -> None:
        catalog.register(**document(sha256=None))
        enriched = catalog.register(**document(storage_uri="file:///store/copy"))
        assert (enriched.outcome, enriched.record.sha256) == ("enriched", digest(1))
        assert enriched.record.storage_uri == "file:///store/copy"
        other = document(bytes=9, sha256=digest(9), storage_uri="file:///store/other", run_id="run-2")
        for _ in range(2):
            kept = catalog.register(**other)
            assert (kept.outcome, kept.record) == ("conflict", enriched.record)
        (conflict,) = catalog.get_conflicts(1)
        assert (conflict.bytes, conflict.sha256, conflict.count, conflict.run_id) == (9, digest(9), 2, "run-2")
        assert list(catalog.get_conflicts()) == [conflict]
        replaced = catalog.register(**other | {"on_conflict": "replace"}).record
        assert (replaced.sha256, replaced.bytes, replaced.storage_uri) == (digest(9), 9, "file:///store/other")
        assert replaced.updated_at > replaced.created_at
        assert list(catalog.get_conflicts()) == []
        assert [entry.action for entry in catalog.journal(document_id=1)] == ["enrich", "replace"]

    def test_values_of_every_kind_come_back_as_they_were(self, catalog: CatalogStore) -> None:
        strange = document(
            artifact_id=LONG,
            source_url=HOSTILE * 100,
            resolver=HOSTILE,
            content_type='Text/HTML; charset="UTF-8"',
            bytes=2**63 - 1,
            sha256=None,
            storage_uri=f"s3://bucket/{HOSTILE}",
            run_id=LONG,
            created_at=datetime(1, 1, 2, tzinfo=UTC),
        )
        twin: RegistrationFields = {
            **strange,
            "artifact_id": LONG + "b",
            "created_at": datetime(9999, 12, 30, tzinfo=UTC),
            "bytes": 0,
        }
        records = [catalog.register(**each).record for each in (strange, twin)]
        for given, record in zip((strange, twin), records, strict=True):
            assert {name: getattr(record, name) for name in given} == given
            assert catalog.get_by_artifact(record.artifact_id) == [record]
            assert catalog.get(artifact_id=record.artifact_id, source_url=HOSTILE * 100, resolver=HOSTILE) == record
        assert catalog.get_by_url(HOSTILE * 100) == catalog.get_by_storage_uri(f"s3://bucket/{HOSTILE}") == records
        assert list(catalog.get_by_run(LONG)) == list(catalog.get_by_content_type("text/html")) == records

    @pytest.mark.parametrize(
        ("field", "value"),
        [("artifact_id", ""), ("source_url", "a\0"), ("storage_uri", "\ud800"), ("bytes", -1), ("sha256", "ab")],
    )
    def test_what_cannot_be_stored_is_named_and_nothing_is_stored(
        self, catalog: CatalogStore, field: str, value: Any
    ) -> None:
        bad = document(2)
        bad[field] = value  # type: ignore[literal-required]
        with pytest.raises(InvalidValueError, match=field):
            catalog.register(**bad)
        with pytest.raises(InvalidValueError, match=field):
            list(catalog.register_many([*requests(1), RegistrationRequest(**bad)]))
        assert list(catalog.iter_records()) == []

    def test_many_are_answered_in_order(self, catalog: CatalogStore) -> None:
        numbers = [*range(1, 40), 1, 5, 40]
        results = list(catalog.register_many(requests(*numbers), batch_size=25))
        assert [result.record.artifact_id for result in results] == [f"doi:10.1/{number}" for number in numbers]
        assert [result.outcome for result in results] == ["registered"] * 39 + ["existing"] * 2 + ["registered"]
        assert len({result.record.id for result in results}) == 40
        assert results[0].record == results[39].record
        assert catalog.stats().documents == 40
        assert list(catalog.register_many([])) == []
        waiting = catalog.register_many(requests(50))
        assert catalog.stats().documents == 40
        assert next(waiting).outcome == "registered"

    def test_futures_and_asyncio_have_what_others_have(self, catalog: CatalogStore) -> None:
        futures = [catalog.register_async(**document(number)) for number in (1, 2, 3, 1)]
        results = [future.result(WAIT_SECONDS) for future in futures]
        assert sorted(result.outcome for result in results) == ["existing"] + ["registered"] * 3
        assert [catalog.get_by_id(result.record.id) for result in results] == [result.record for result in results]
        with pytest.raises(InvalidValueError):
            catalog.register_async(**document(4, bytes=-1))
        found = asyncio.run(catalog.aio.register_or_get(**document(5)))
        assert catalog.get_by_id(found.id) == found

    def test_lookups_by_everything_that_is_indexed(self, catalog: CatalogStore) -> None:
        one, two = (catalog.register(**document(number)).record for number in (1, 11))
        third = catalog.register(**document(1, resolver="crossref", content_type=None, run_id=None)).record
        assert set(catalog.get_by_artifact(one.artifact_id)) == {one, third}
        assert catalog.get_by_sha256(digest(1)) == [one, two, third]
        assert catalog.get_by_url(one.source_url) == [one, third]
        assert catalog.get_by_storage_uri(one.storage_uri) == [one, third]
        assert list(catalog.get_by_run("run-1")) == [one, two]
        assert list(catalog.get_by_content_type("Application/PDF; x=y")) == [one, two]
        assert catalog.get(artifact_id=one.artifact_id, source_url=one.source_url, resolver="crossref") == third
        assert catalog.digests("0" * 60, limit=5) == [digest(1)]
        assert catalog.get(artifact_id="a", source_url="b", resolver="c") is catalog.get_by_id(99) is None
        nothing: list[Any] = [catalog.get_by_artifact("a"), catalog.get_by_sha256(digest(5)), catalog.digests("f")]
        nothing += [catalog.get_by_url("u"), catalog.get_by_storage_uri("s"), list(catalog.get_by_run("none"))]
        assert nothing == [[]] * 6
        with pytest.raises(InvalidValueError):
            catalog.get_by_sha256("short")

    def test_having_is_answered_item_by_item(self, catalog: CatalogStore, tmp_path: Path) -> None:
        content = b"content"
        (tmp_path / "file").write_bytes(content)
        record = catalog.register(**document(bytes=7, sha256=hashlib.sha256(content).hexdigest())).record
        assert record.sha256 is not None
        items: list[str | Path] = [record.source_url, "nothing", record.artifact_id, record.sha256, tmp_path / "file"]
        answers = list(catalog.have(items))
        assert [answer.kind for answer in answers] == ["url", "artifact", "artifact", "digest", "file"]
        assert [answer.records for answer in answers] == [(record,), (), (record,), (record,), (record,)]
        many = [digest(number) for number in range(300)]
        assert [answer.item for answer in catalog.have(many, kind="digest")] == many
        assert next(catalog.have([record.artifact_id], kind="url")).records == ()

    @pytest.mark.parametrize(
        ("filters", "sort", "numbers"),
        [
            ((), None, [*range(1, 31)]),
            (("artifact=doi:10.1/1*",), None, [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]),
            (("resolver=r1",), "created", [28, 25, 22, 19, 16, 13, 10, 7, 4, 1]),
            (("run=run-0", "bytes>5"), "id", [6, 8, 16, 18, 26, 28]),
            (("type=text/x", "created<2025-01-01T00:00:10Z"), "artifact", [22, 23, 25, 26, 28, 29]),
            ((f"sha256={digest(3)}",), "id", [3, 13, 23]),
        ],
    )
    def test_a_search_is_the_same_in_pages_of_any_size_and_backwards(
        self, catalog: CatalogStore, filters: tuple[str, ...], sort: Any, numbers: list[int]
    ) -> None:
        list(
            catalog.register_many(
                RegistrationRequest(
                    **document(
                        number,
                        resolver=f"r{number % 3}",
                        run_id=f"run-{number % 2}",
                        content_type="text/x" if number % 3 != 0 and number > 20 else None,
                        created_at=MOMENT + timedelta(seconds=30 - number),
                    )
                )
                for number in range(1, 31)
            )
        )
        where = parse_filter(filters)
        keys: dict[str | None, Callable[[DocumentRecord], Any]] = {
            "artifact": lambda record: record.artifact_id.encode(),
            "created": lambda record: record.created_at,
            "id": lambda record: record.id,
        }
        named = {f"doi:10.1/{number}" for number in numbers}
        wanted = [record for record in catalog.iter_records() if record.artifact_id in named]
        assert len(wanted) == len(numbers)
        expected = ids(sorted(wanted, key=keys[sort or ("artifact" if "artifact=" in "".join(filters) else "id")]))
        whole = catalog.search(where, sort=sort, limit=100)
        assert (ids(whole.records), whole.next) == (expected, None)
        assert ids(catalog.iter_records(where)) == sorted(expected)
        for reverse in (False, True):
            found: list[int] = []
            after = None
            while True:
                page = catalog.search(where, sort=sort, reverse=reverse, limit=4, after=after)
                assert len(page.records) <= 4
                found += ids(page.records)
                after = page.next
                if after is None:
                    break
            assert found == (expected[::-1] if reverse else expected)

    def test_a_change_moves_every_index_and_is_written_down(self, catalog: CatalogStore) -> None:
        old = catalog.register(**document()).record
        content = {"bytes": 5, "sha256": digest(5), "storage_uri": "file:///store/new"}
        new = catalog.update(old.id, run_id="run-2", content_type=None, reason="because", **content)  # type: ignore[arg-type]
        assert (
            structs.replace(old, updated_at=new.updated_at, run_id="run-2", content_type=None, **content)
            == new
            == catalog.get_by_id(old.id)
        )
        assert new.updated_at >= old.updated_at
        assert catalog.get_by_sha256(digest(5)) == catalog.get_by_storage_uri("file:///store/new") == [new]
        assert catalog.get_by_sha256(digest(1)) == catalog.get_by_storage_uri(old.storage_uri) == []
        assert list(catalog.get_by_run("run-1")) == list(catalog.get_by_content_type("application/pdf")) == []
        (entry,) = catalog.journal(document_id=old.id)
        assert (entry.action, entry.reason, entry.command) == ("update", "because", "library")
        assert entry.changes["storage_uri"] == (old.storage_uri, new.storage_uri)
        assert catalog.update(old.id, run_id="run-2") == new
        assert [each.run_id for each in catalog.get_sightings(document_id=1)] == ["run-1"]
        with pytest.raises(InvalidValueError, match="give all three"):
            catalog.update(old.id, bytes=1)
        with pytest.raises(NotFoundError):
            catalog.update(99, run_id=None)

    def test_a_document_goes_with_all_that_hangs_on_it_and_its_id_never_comes_back(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document(links=("file:///store/link",))).record
        catalog.register_variant(document_id=record.id, variant="html", storage_uri="file:///v", bytes=1)
        catalog.register(**document(bytes=9, sha256=None, storage_uri="file:///other", run_id="run-2"))
        assert catalog.delete(record.id, reason="because") == record
        empty: list[Any] = [catalog.get_variants(1), list(catalog.get_conflicts()), list(catalog.get_sightings())]
        empty += [catalog.get_links(1), catalog.get_by_sha256(digest(1)), list(catalog.find_duplicates())]
        assert empty == [[]] * 6
        for uri in ("file:///store/1", "file:///store/link", "file:///v", "file:///other"):
            assert catalog.references(uri) == []
            assert [entry.action for entry in catalog.journal(storage_uri=uri)] == ["delete"]
        assert catalog.stats().documents == catalog.stats().variants == catalog.stats().conflicts == 0
        with pytest.raises(NotFoundError):
            catalog.delete(record.id)
        assert catalog.register(**document()).record.id > record.id

    def test_a_document_with_very_much_on_it_goes_as_a_whole(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document()).record
        list(catalog.record_sightings(SightingRequest(record.id, f"run-x{number}") for number in range(70)))
        for number in range(8):
            catalog.register(**document(bytes=9, sha256=digest(100 + number), storage_uri=f"file:///c/{number}"))
        list(
            catalog.register_variants(
                VariantRegistrationRequest(
                    document_id=record.id, variant=f"v{n}", storage_uri=f"file:///v/{n}", bytes=n
                )
                for n in range(30)
            )
        )
        assert (len(list(catalog.get_sightings(document_id=record.id))), len(catalog.get_variants(record.id))) == (
            70,
            30,
        )
        catalog.delete(record.id)
        stats = catalog.stats()
        assert (stats.documents, stats.variants, stats.conflicts, stats.sightings) == (0, 0, 0, 0)

    def test_only_what_is_still_what_it_was_is_deleted_with_many(self, catalog: CatalogStore) -> None:
        one, two, three = (result.record for result in catalog.register_many(requests(1, 2, 3)))
        catalog.update(two.id, run_id="changed")
        wanted = [Deletion(record.id, record.updated_at, f"for {record.id}") for record in (one, two, three)]
        done = list(catalog.delete_many([*wanted, Deletion(99, MOMENT)], batch_size=2))
        assert done == [one, None, three, None]
        assert ids(catalog.iter_records()) == [two.id]
        reasons = [entry.reason for entry in catalog.journal() if entry.action == "delete"]
        assert sorted(map(str, reasons)) == ["for 1", "for 3"]

    def test_variants_live_by_the_rules_of_documents(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document()).record
        given: Any = {"document_id": record.id, "variant": "html", "storage_uri": "file:///v", "bytes": 1}
        first = catalog.register_variant(**given, created_at=MOMENT, content_type="text/html")
        assert (first.outcome, first.record.created_at) == ("registered", MOMENT)
        enriched = catalog.register_variant(**given, sha256=digest(1))
        assert (enriched.outcome, enriched.record.sha256) == ("enriched", digest(1))
        assert catalog.register_variant(**given | {"bytes": 2}).outcome == "conflict"
        (conflict,) = catalog.get_conflicts(record.id)
        assert (conflict.variant, conflict.bytes) == ("html", 2)
        assert catalog.get_variants(record.id) == catalog.get_variants_by_sha256(digest(1)) == [enriched.record]
        assert catalog.get_variants_by_storage_uri("file:///v") == [enriched.record]
        replaced = catalog.register_variant(**given | {"bytes": 2}, on_conflict="replace").record
        assert (replaced.id, replaced.bytes) == (first.record.id, 2)
        assert catalog.delete_variant(record.id, "html", reason="because") == replaced
        with pytest.raises(NotFoundError):
            catalog.delete_variant(record.id, "html")
        with pytest.raises(NotFoundError):
            catalog.register_variant(**given | {"document_id": 99})
        assert catalog.register_variant(**given).record.id > replaced.id

    def test_many_variants_are_answered_in_order_and_none_is_without_its_document(self, catalog: CatalogStore) -> None:
        one, two = (result.record.id for result in catalog.register_many(requests(1, 2)))
        wanted = [
            VariantRegistrationRequest(document_id=document_id, variant=name, storage_uri=f"file:///{name}", bytes=1)
            for document_id, name in ((one, "html"), (two, "html"), (one, "text"), (one, "html"))
        ]
        results = list(catalog.register_variants(wanted, batch_size=3))
        assert [(result.record.document_id, result.record.variant) for result in results] == [
            (each.document_id, each.variant) for each in wanted
        ]
        assert [result.outcome for result in results] == ["registered"] * 3 + ["existing"]
        assert catalog.stats().variants == 3
        with pytest.raises(NotFoundError):
            list(catalog.register_variants([structs.replace(wanted[0], document_id=99)]))
        assert catalog.get_variants(99) == []

    def test_sightings_are_kept_once_for_each_run(self, catalog: CatalogStore) -> None:
        one, two = ids(result.record for result in catalog.register_many(requests(1, 2)))
        assert catalog.record_sighting(one, "run-2", seen_at=MOMENT)
        assert not catalog.record_sighting(one, "run-2")
        assert not catalog.record_sighting(one, "run-1")
        wanted = [SightingRequest(one, "run-2"), SightingRequest(two, "run-2", MOMENT), SightingRequest(two, LONG)]
        assert list(catalog.record_sightings(wanted)) == [False, True, True]
        assert {each.document_id for each in catalog.get_sightings(run_id="run-2")} == {one, two}
        assert [each.run_id for each in catalog.get_sightings(document_id=two)] in ([LONG, "run-2"], ["run-2", LONG])
        assert len(list(catalog.get_sightings())) == catalog.stats().sightings == 3
        with pytest.raises(NotFoundError):
            catalog.record_sighting(99, "run")
        with pytest.raises(NotFoundError):
            list(catalog.record_sightings([SightingRequest(99, "run")]))

    def test_figures_and_duplicates_follow_every_change(self, catalog: CatalogStore) -> None:
        records = [result.record for result in catalog.register_many(requests(1, 11, 21, 2, 12, 3))]
        catalog.register_variant(
            document_id=records[5].id, variant="html", storage_uri="file:///v", bytes=4, sha256=digest(3)
        )
        groups = [(each.sha256, each.document_count, each.bytes) for each in catalog.find_duplicates()]
        assert groups == [(digest(1), 3, 2), (digest(2), 2, 3)]
        with_variants = list(catalog.find_duplicates(variants=True))
        assert [(each.sha256, each.document_count, each.variant_count) for each in with_variants] == [
            (digest(1), 3, 0),
            (digest(2), 2, 0),
            (digest(3), 1, 1),
        ]
        stats = catalog.stats()
        assert (stats.documents, stats.bytes, stats.variants, stats.variant_bytes) == (6, 16, 1, 4)
        assert (stats.duplicate_groups, stats.duplicate_documents, stats.duplicate_bytes) == (2, 3, 7)
        assert stats.by_resolver == {"unpaywall": Totals(6, 16)}
        catalog.delete(records[0].id)
        catalog.update(records[3].id, bytes=8, sha256=None, storage_uri="file:///moved", content_type=None)
        stats = catalog.stats()
        assert (stats.documents, stats.documents_without_sha256) == (5, 1)
        assert (stats.duplicate_groups, stats.duplicate_documents, stats.duplicate_bytes) == (1, 1, 2)
        assert stats.by_content_type == {"application/pdf": Totals(4, 11), "": Totals(1, 8)}
        assert stats.last_document_id >= max(ids(records))

    def test_what_refers_to_a_place_is_found(self, catalog: CatalogStore) -> None:
        catalog.add_root("file:///store", uuid="one")
        cas = f"file:///store/cas/sha256/{digest(1)[:2]}/{digest(1)[2:]}"
        one = catalog.register(**document(storage_uri=cas, links=("file:///store/link",))).record
        catalog.register_variant(document_id=one.id, variant="v", storage_uri=cas, bytes=2, sha256=digest(1))
        catalog.register(**document(bytes=9, sha256=None, storage_uri="s3://b/%41 x"))
        assert set(catalog.references(cas)) == {
            Reference("document", one.id, digest(1)),
            Reference("variant", one.id, digest(1)),
        }
        assert [each.kind for each in catalog.references("file:///store/link")] == ["link"]
        assert [each.kind for each in catalog.references("s3://b/%41 x")] == ["conflict"]
        assert [each.storage_uri for each in catalog.get_links(one.id)] == ["file:///store/link"]
        asked = [cas, "file:///store/link", "s3://b/%41 x", "file:///store/none", f"{cas}x"]
        assert catalog.referenced(asked) == set(asked[:3])
        many = [f"file:///store/{number}" for number in range(1, 200)]
        assert catalog.referenced([*many, cas]) == {cas}
        assert "s3://b/%41 x" in set(catalog.irregular_uris())

    def test_rows_follow_their_blobs_where_they_are_what_they_were(self, catalog: CatalogStore) -> None:
        one, two = (catalog.register(**document(number, links=(f"file:///l/{number}",))).record for number in (1, 2))
        catalog.register_variant(document_id=one.id, variant="v", storage_uri="file:///v", bytes=4, sha256=digest(4))
        catalog.register(**document(bytes=9, sha256=digest(9), storage_uri="file:///c"))
        epoch = catalog.blob_epoch()

        def move(
            kind: Any, record: DocumentRecord, uri: str, target: str | None, number: int, **more: Any
        ) -> Relocation:
            size = number % 10 + 1 if kind != "variant" else 4
            size = 9 if kind == "conflict" else size
            return Relocation(kind, record.id, uri, target, size, digest(number), epoch, **more)

        wanted = [
            move("document", one, one.storage_uri, "file:///new/1", 1),
            move("document", two, "file:///not/there", "file:///new/2", 2),
            move("variant", one, "file:///v", "file:///new/v", 4, variant="v"),
            move("conflict", one, "file:///c", "file:///new/c", 9),
            move("link", one, "file:///l/1", "file:///new/l", 1),
            move("link", two, "file:///l/2", None, 2),
        ]
        done = catalog.relocate(wanted, reason="moved")
        assert done == ["moved", "changed", "moved", "moved", "moved", "moved"]
        moved = catalog.get_by_storage_uri("file:///new/1")
        assert ids(moved) == [one.id]
        assert moved[0].updated_at >= one.updated_at
        assert catalog.get_by_id(two.id) == two
        assert catalog.get_variants(one.id)[0].storage_uri == "file:///new/v"
        assert [each.storage_uri for each in catalog.get_conflicts()] == ["file:///new/c"]
        assert [each.storage_uri for each in catalog.get_links(one.id)] == ["file:///new/l"]
        assert catalog.get_links(two.id) == []
        assert [entry.action for entry in catalog.journal(storage_uri="file:///new/1")] == ["relocate"]
        catalog.condemn(["file:///doomed"], plan="p")
        assert catalog.relocate([move("document", two, two.storage_uri, "file:///doomed", 2)]) == ["condemned"]
        catalog.settle_condemned(["file:///doomed"])

    def test_many_rows_follow_their_blobs(self, catalog: CatalogStore) -> None:
        numbers = range(60)
        records = [result.record for result in catalog.register_many(requests(*numbers))]
        epoch = catalog.blob_epoch()
        wanted = [
            Relocation(
                "document",
                record.id,
                record.storage_uri,
                f"s3://new/{record.id}",
                record.bytes,
                record.sha256 or "",
                epoch,
            )
            for record in records
        ]
        assert catalog.relocate(wanted) == ["moved"] * 60
        assert {record.storage_uri for record in catalog.iter_records()} == {f"s3://new/{each.id}" for each in records}

    def test_nothing_refers_to_what_is_being_taken_away(self, catalog: CatalogStore) -> None:
        before = catalog.blob_epoch()
        places = ["file:///store/1", "file:///store/2"]
        with catalog.lease(GC_LEASE):
            catalog.condemn(places, plan="the plan")
            assert sorted((each.storage_uri, each.plan) for each in catalog.condemned()) == [
                (place, "the plan") for place in places
            ]
            for call in (
                lambda: catalog.register(**document(1)),
                lambda: catalog.register_async(**document(1)).result(WAIT_SECONDS),
                lambda: list(catalog.register_many(requests(2))),
                lambda: catalog.register(**document(5, links=("file:///store/2",))),
            ):
                with pytest.raises(BlobCondemnedError):
                    call()
            assert catalog.register(**document(3)).outcome == "registered"
            move = BlobMove("trash", places[0], "file:///store/.t/1", 2, "orphan")
            catalog.settle_condemned(places, [move])
        assert catalog.condemned() == []
        assert catalog.blob_epoch() > before
        (entry,) = catalog.journal(storage_uri=places[0])
        assert (entry.action, entry.reason, entry.changes["bytes"]) == ("trash", "orphan", (2, 2))
        # Who made sure of the blob before it went has to look again, who did so since has not.
        with pytest.raises(BlobCondemnedError):
            catalog.register(**document(1, blob_epoch=before))
        assert catalog.register(**document(1, blob_epoch=catalog.blob_epoch())).outcome == "registered"
        assert catalog.register(**document(4, blob_epoch=before)).outcome == "registered"

    def test_a_collection_that_is_no_more_stands_in_nobodys_way(self, catalog: CatalogStore) -> None:
        catalog.condemn(["file:///store/1"], plan="of a dead process")
        with pytest.raises(BlobCondemnedError):
            catalog.register(**document(1))
        assert catalog.condemned() == []
        assert catalog.register(**document(1, blob_epoch=catalog.blob_epoch())).outcome == "registered"

    def test_what_is_forgotten_is_not_taken_for_never_having_been(self, catalog: CatalogStore) -> None:
        before = catalog.blob_epoch()
        with catalog.lease(GC_LEASE):
            catalog.condemn(["file:///store/1"], plan="p")
            catalog.settle_condemned(["file:///store/1"])
            for _ in range(3):  # an engine may keep them for some collections more
                catalog.condemn(["file:///store/9"], plan="p")
                catalog.settle_condemned(["file:///store/9"])
                catalog.forget_condemned()
        with pytest.raises(BlobCondemnedError):
            catalog.register(**document(1, blob_epoch=before))
        assert catalog.register(**document(1, blob_epoch=catalog.blob_epoch())).outcome == "registered"

    def test_very_many_are_condemned_and_settled(self, catalog: CatalogStore) -> None:
        places = [f"file:///store/{number}" for number in range(120)]
        with catalog.lease(GC_LEASE):
            catalog.condemn(places, plan="p")
            assert len(catalog.condemned()) == 120
            catalog.settle_condemned(places, [BlobMove("trash", place, f"{place}.t", 1, None) for place in places])
        assert catalog.condemned() == []
        assert len(list(catalog.journal())) == 120

    def test_a_lease_has_one_holder(self, place: Place, catalog: CatalogStore) -> None:
        with place.open() as other:
            with catalog.lease("one"), catalog.lease("two"):
                for who in (catalog, other):
                    with pytest.raises(CatalogLockedError), who.lease("one"):
                        pass
            with other.lease("one"):
                pass

    def test_holds_are_kept_until_they_are_released(self, catalog: CatalogStore) -> None:
        where = parse_filter(["resolver=unpaywall", "bytes>1kB"])
        first, second = (catalog.add_hold(where, reason=reason) for reason in ("one", HOSTILE))
        assert catalog.holds() == [first, second]
        assert parse_filter(first.filters) == where
        assert catalog.release_hold(first.id, reason="over") == first
        with pytest.raises(NotFoundError):
            catalog.release_hold(first.id)
        with pytest.raises(InvalidValueError):
            catalog.add_hold(Filter(), reason="everything")
        assert catalog.add_hold(where, reason="three").id > second.id
        assert [entry.action for entry in catalog.journal()] == ["hold", "hold", "release", "hold"]

    def test_checks_make_the_queue(self, catalog: CatalogStore) -> None:
        records = [result.record for result in catalog.register_many(requests(1, 2, 3, 4))]
        places = [record.storage_uri for record in records]
        checks = [
            BlobCheck(places[0], "ok", MOMENT + timedelta(2), MOMENT + timedelta(2)),
            BlobCheck(places[1], "corrupt", MOMENT, MOMENT),
            BlobCheck(places[2], "size only", MOMENT, None),
        ]
        catalog.record_checks(checks)
        assert [catalog.last_check(place) for place in places] == [*checks, None]
        queue = list(catalog.blobs_to_check(read_before=MOMENT + timedelta(1)))
        assert queue[0] == places[3]
        assert set(queue) == {*places[1:]}
        assert list(catalog.blobs_to_check(read_before=LATER))[-2:] == [places[1], places[0]]
        (blob,) = catalog.blobs_at([places[1]])
        assert (blob.last_check, [claim.document_id for claim in blob.claims]) == (checks[1], [records[1].id])
        fresh = catalog.blobs_at(places, looked_before=MOMENT + timedelta(1), read_before=MOMENT + timedelta(1))
        assert [each.storage_uri for each in fresh] == places[1:]
        catalog.record_checks([structs.replace(checks[1], result="ok")], gone=[places[0]])
        assert [getattr(catalog.last_check(place), "result", None) for place in places[:2]] == [None, "ok"]

    def test_quarantine_is_announced_and_written_down(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document()).record
        check = BlobCheck(record.storage_uri, "corrupt", MOMENT, MOMENT, "file:///store/.q/1")
        epoch = catalog.blob_epoch()
        with catalog.lease(GC_LEASE):
            catalog.begin_quarantine(check)
            with pytest.raises(BlobCondemnedError):
                catalog.register(**document(2, storage_uri=record.storage_uri))
            catalog.end_quarantine(structs.replace(check, result="missing"))
        assert catalog.last_check(record.storage_uri) == structs.replace(check, result="missing")
        (entry,) = catalog.journal(document_id=record.id)
        assert (entry.action, entry.changes["storage_uri"][1]) == ("quarantine", "file:///store/.q/1")
        with pytest.raises(BlobCondemnedError):
            catalog.register(**document(2, storage_uri=record.storage_uri, blob_epoch=epoch))

    def test_a_record_is_verified_and_that_is_remembered(self, catalog: CatalogStore, tmp_path: Path) -> None:
        blob = tmp_path / "blob"
        blob.write_bytes(b"content")
        sha256 = hashlib.sha256(b"content").hexdigest()
        record = catalog.register(**document(bytes=7, sha256=sha256, storage_uri=blob.as_uri())).record
        assert catalog.verify(record.id)
        blob.write_bytes(b"CONTENT")
        assert catalog.verify(record.id).result == "corrupt"
        check = catalog.last_check(record.storage_uri)
        assert check is not None
        assert check.result == "corrupt"
        with pytest.raises(NotFoundError):
            catalog.verify(99)

    def test_the_journal_goes_on_and_is_pruned_from_its_beginning(self, catalog: CatalogStore) -> None:
        assert (catalog.journal_start(), catalog.journal_end(), list(catalog.journal())) == (1, 0, [])
        record = catalog.register(**document()).record
        for number in range(5):
            catalog.update(record.id, run_id=f"run-{number}")
        entries = list(catalog.journal(complete=True))
        assert len(entries) == 5
        assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
        assert list(catalog.journal(after=entries[1].sequence)) == entries[2:]
        assert catalog.journal_end() >= entries[-1].sequence
        old = from_micros(now_micros()) + timedelta(seconds=1)
        dry = catalog.prune_journal(old, dry_run=True)
        assert (dry.entries, list(catalog.journal())) == (5, entries)
        assert catalog.prune_journal(MOMENT).entries == 0
        done = catalog.prune_journal(old, reason="room")
        assert (done.entries, done.last_sequence) == (5, entries[-1].sequence)
        (left,) = catalog.journal()
        assert (left.action, left.reason) == ("prune", "room")
        assert catalog.journal_start() == entries[-1].sequence + 1
        with pytest.raises(JournalPrunedError):
            list(catalog.journal(after=entries[1].sequence, complete=True))
        assert list(catalog.journal(after=entries[-1].sequence, complete=True)) == [left]

    @pytest.mark.parametrize("table", ["by_url", "by_sha256", "by_key"])
    def test_an_audit_finds_a_lost_row_and_a_repair_makes_it_anew(
        self, place: Place, catalog: CatalogStore, table: str
    ) -> None:
        list(catalog.register_many(requests(*range(9))))
        told: list[tuple[int, int]] = []
        assert list(catalog.audit(lambda done, total: told.append((done, total)))) == []
        assert told
        place.lose(catalog, table, 7)
        findings = list(catalog.audit())
        assert {(each.kind, each.table, each.document_id) for each in findings} == {("index", table, 7)}
        assert all(each.repaired for each in catalog.repair(findings, reason="why not"))
        assert list(catalog.audit()) == []
        assert [entry.action for entry in catalog.journal(document_id=7)] == ["repair"] * len(findings)

    def test_another_generation_is_another_catalog(self, place: Place, catalog: CatalogStore) -> None:
        old = catalog.identity
        catalog.condemn(["file:///store/1"], plan="p")
        new = catalog.begin_generation(reason="restored")
        assert new == catalog.identity
        assert (new.uuid, new.created_at) == (old.uuid, old.created_at)
        assert new.generation > old.generation
        assert catalog.condemned() == []
        with place.open() as other:
            assert other.identity == new
        assert [entry.action for entry in catalog.journal()] == ["generation"]

    def test_a_root_is_known_by_its_uuid_and_records_follow_it(self, catalog: CatalogStore) -> None:
        root = catalog.add_root("file:///store/", uuid="one")
        assert (root.uri, root.cas_prefix, catalog.add_root("file:///store", uuid="one")) == (
            "file:///store",
            "sha256",
            root,
        )
        record = catalog.register(**document()).record
        outside = catalog.register(**document(2, storage_uri="s3://b/k")).record
        moved = catalog.add_root("file:///moved", uuid="one", adopted=True)
        assert (moved.id, catalog.roots()) == (root.id, [moved])
        assert catalog.get_by_id(record.id) == structs.replace(record, storage_uri="file:///moved/1")
        assert ids(catalog.get_by_storage_uri("file:///moved/1")) == [record.id]
        assert catalog.get_by_id(outside.id) == outside
        for uri, uuid, prefix in (("file:///moved", "two", "sha256"), ("file:///moved", "one", "other")):
            with pytest.raises(InvalidValueError):
                catalog.add_root(uri, uuid=uuid, cas_prefix=prefix)
        assert [entry.action for entry in catalog.journal()] == ["root", "root", "adopt"]

    def test_a_snapshot_holds_what_was_there(self, catalog: CatalogStore) -> None:
        fill(catalog, 20)
        with catalog.snapshot() as snapshot:
            documents = [row for rows in snapshot.documents() for row in rows]
            assert [row[0] for row in documents] == ids(catalog.iter_records())
            assert snapshot.document_count == len(documents)
            assert snapshot.document(1) == documents[0]
            assert snapshot.document(99) is snapshot.document(1, parse_filter(["resolver=none"])) is None
            variants = [row for rows in snapshot.variants() for row in rows]
            assert [row[0] for row in variants] == sorted(int(str(row[0])) for row in variants)
            assert snapshot.variants_of(1) == [row for row in variants if row[1] == 1]
            assert snapshot.position.document == catalog.stats().last_document_id
            assert snapshot.position.journal == catalog.journal_end()
            if snapshot.is_one_moment:
                catalog.delete(1)
                assert [row for rows in snapshot.documents() for row in rows] == documents
        with catalog.snapshot() as snapshot:
            variants = [row for rows in snapshot.variants() for row in rows]
        with catalog.snapshot() as snapshot:
            behind = [row[0] for rows in snapshot.documents(after=10) for row in rows]
            assert behind == [record.id for record in catalog.iter_records() if record.id > 10]
            next(snapshot.documents(parse_filter(["resolver=r1"])))
            assert [row for rows in snapshot.variants() for row in rows] == variants
            links = {link.document_id for each in ids(catalog.iter_records()) for link in catalog.get_links(each)}
            assert {row[0] for rows in snapshot.links() for row in rows} == links
        with catalog.snapshot() as snapshot:
            chosen = parse_filter(["resolver=r1"])
            of_chosen = {row[0] for rows in snapshot.documents(chosen) for row in rows}
            assert 0 < len(of_chosen) < len(documents)
            for rows, owner in (
                (snapshot.variants(chosen), 1),
                (snapshot.sightings(chosen), 0),
                (snapshot.conflicts(chosen), 0),
                (snapshot.links(chosen), 0),
                (snapshot.journal(chosen), 3),
            ):
                assert {row[owner] for each in rows for row in each} <= of_chosen
            assert [row[0] for row in snapshot.roots()] == ids(catalog.roots())
            assert snapshot.holds() == catalog.holds()
            assert [check for checks in snapshot.checks() for check in checks]

    def test_what_comes_from_another_catalog_stays_as_it_is(self, place: Place, catalog: CatalogStore) -> None:
        from kvcatalog.copying import compare_catalogs, copy_catalog

        with place.open("source") as source:
            fill(source, 20)
            assert copy_catalog(source, catalog, batch_size=25).is_same
            assert said(catalog) == said(source)
            list(source.register_many(requests(901)))
            list(catalog.register_many(requests(901)))
            assert {each.name for each in compare_catalogs(source, catalog).tables if each.missing} <= {"documents"}

    def test_a_position_is_raised_and_never_lowered(self, catalog: CatalogStore) -> None:
        from kvcatalog.models import CatalogPosition

        catalog.raise_position(CatalogPosition(5, 10, 20, 3))
        catalog.raise_position(CatalogPosition(1, 1, 1, 1))
        record = catalog.register(**document()).record
        assert record.id > 10
        variant = catalog.register_variant(document_id=record.id, variant="v", storage_uri="file:///v", bytes=1).record
        assert variant.id > 20
        assert catalog.add_hold(parse_filter(["resolver=r"]), reason="r").id > 3
        assert next(catalog.journal()).sequence > 5
        with pytest.raises(InvalidValueError):
            catalog.raise_position(CatalogPosition(0, ID_MAX + 1, 0))

    def test_moves_are_written_down(self, catalog: CatalogStore) -> None:
        moves = [
            BlobMove("restore", "file:///t/1", "file:///1", 5, None),
            BlobMove("empty-trash", "file:///t", None, 9, "x"),
        ]
        catalog.record_moves(moves)
        entries = list(catalog.journal())
        assert [(entry.action, entry.changes["storage_uri"]) for entry in entries] == [
            ("restore", ("file:///t/1", "file:///1")),
            ("empty-trash", ("file:///t", None)),
        ]
        assert list(catalog.journal(storage_uri="file:///1")) == entries[:1]
