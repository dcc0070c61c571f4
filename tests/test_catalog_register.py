"""Registering: idempotence, enrichment, conflicts, sightings, and what is refused."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcatalog import open_catalog, schema
from kvcatalog.errors import CatalogClosedError, InvalidValueError, NotFoundError, StoragePermissionError
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.models import RegistrationRequest
from kvcatalog.store import upkeep_operations
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.store.scribe import Scribe
from kvcatalog.values import media_type
from tests.invariants import assert_consistent

DOCUMENT: dict[str, Any] = {
    "artifact_id": "doi:10.1234/abc",
    "source_url": "https://example.org/abc.pdf",
    "resolver": "unpaywall",
    "content_type": "application/pdf",
    "bytes": 4096,
    "sha256": "ab" * 32,
    "storage_uri": "file:///data/abc.pdf",
    "run_id": "run-1",
}


@pytest.fixture
def catalog(tmp_path: Path, engine_kind: int) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "state" / "catalog.lmdb") as opened:
        yield opened
        assert_consistent(opened)


def test_the_first_call_stores_and_later_ones_return_it_unchanged(catalog: LmdbCatalog) -> None:
    first = catalog.register_or_get(**DOCUMENT)
    again = catalog.register_or_get(**DOCUMENT | {"content_type": "text/html", "run_id": "run-2"})
    assert first == again
    assert (first.id, catalog.stats().documents) == (1, 1)
    assert [(sighting.run_id, sighting.document_id) for sighting in catalog.get_sightings()] == [("run-2", 1)]


def test_sixteen_threads_register_one_key_and_all_get_one_record(catalog: LmdbCatalog) -> None:
    barrier = threading.Barrier(16)
    results = []

    def register() -> None:
        barrier.wait()
        results.append(catalog.register(**DOCUMENT))

    threads = [threading.Thread(target=register) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.outcome for result in results) == ["existing"] * 15 + ["registered"]
    assert len({result.record for result in results}) == 1


def test_other_bytes_are_kept_as_a_conflict_until_they_are_made_the_content(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    other = DOCUMENT | {"bytes": 5, "sha256": "cd" * 32, "storage_uri": "file:///data/other.pdf", "run_id": "run-2"}
    for _ in range(3):
        result = catalog.register(**other)
        assert (result.outcome, result.record.sha256) == ("conflict", DOCUMENT["sha256"])
    (conflict,) = catalog.get_conflicts(1)
    assert (conflict.sha256, conflict.bytes, conflict.count) == ("cd" * 32, 5, 3)
    result = catalog.register(**other, on_conflict="replace")
    assert (result.outcome, result.record.sha256, result.record.bytes) == ("conflict", "cd" * 32, 5)
    assert result.record.updated_at > result.record.created_at
    assert list(catalog.get_conflicts()) == []
    assert [entry.action for entry in catalog.journal(document_id=1)] == ["replace"]


def test_a_conflict_that_is_told_again_with_its_time_is_not_counted_twice(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    moments = [datetime(2025, 1, day, tzinfo=UTC) for day in (1, 3)]
    for _ in range(2):
        for moment in moments:
            catalog.register(**DOCUMENT | {"bytes": 5, "sha256": None}, created_at=moment)
    (conflict,) = catalog.get_conflicts()
    assert (conflict.count, conflict.first_seen_at, conflict.last_seen_at) == (2, *moments)


def test_a_conflict_that_ends_leaves_the_others_at_its_place(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    others = [DOCUMENT | {"bytes": 5, "sha256": digit * 64, "storage_uri": "s3://bucket/one"} for digit in "cd"]
    for other in others:
        catalog.register(**other)
    catalog.register(**others[0], on_conflict="replace")
    assert [conflict.sha256 for conflict in catalog.get_conflicts()] == ["d" * 64]


def test_a_digest_enriches_and_the_place_it_was_computed_at_comes_with_it(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT | {"sha256": None})
    result = catalog.register(**DOCUMENT | {"storage_uri": "file:///data/second.pdf"})
    assert result.outcome == "enriched"
    assert (result.record.sha256, result.record.storage_uri) == (DOCUMENT["sha256"], "file:///data/second.pdf")
    (entry,) = catalog.journal()
    assert entry.changes["storage_uri"] == ("file:///data/abc.pdf", "file:///data/second.pdf")


def test_the_time_of_change_never_goes_back(tmp_path: Path) -> None:
    times = iter([1_000_000, 500_000, 400_000])
    with open_catalog(tmp_path / "catalog") as catalog:
        catalog._clock = lambda: next(times)
        created = catalog.register(**DOCUMENT).record
        changed = catalog.update(1, content_type="text/html")
        assert created.created_at == changed.updated_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_ids_are_never_reused(catalog: LmdbCatalog) -> None:
    assert catalog.register(**DOCUMENT).record.id == 1
    catalog.delete(1)
    assert catalog.register(**DOCUMENT).record.id == 2


def test_size_digest_and_place_change_only_together(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    with pytest.raises(InvalidValueError, match=r"sha256: .* give all three"):
        catalog.update(1, bytes=5)
    changed = catalog.update(1, bytes=5, sha256=None, storage_uri="s3://b/k", reason="moved by hand")
    assert (changed.bytes, changed.sha256, changed.storage_uri) == (5, None, "s3://b/k")
    (entry,) = catalog.journal()
    assert (entry.action, entry.reason, entry.command) == ("update", "moved by hand", "library")


def test_changing_what_is_not_there_says_so(catalog: LmdbCatalog) -> None:
    for change in (
        lambda: catalog.update(7, content_type=None),
        lambda: catalog.delete(7),
        lambda: catalog.record_sighting(7, "run"),
        lambda: catalog.register_variant(document_id=7, variant="html", storage_uri="file:///x", bytes=1),
        lambda: catalog.delete_variant(7, "html"),
    ):
        with pytest.raises(NotFoundError, match="7"):
            change()


def test_deleting_takes_everything_that_hangs_on_a_document(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    catalog.register(**DOCUMENT | {"bytes": 9, "sha256": None, "run_id": "run-2"})
    catalog.register_variant(document_id=1, variant="html", storage_uri="file:///x.html", bytes=1)
    catalog.delete(1)
    assert (list(catalog.get_conflicts()), list(catalog.get_sightings()), catalog.get_variants(1)) == ([], [], [])
    stats = catalog.stats()
    assert (stats.documents, stats.variants, stats.conflicts, stats.sightings) == (0, 0, 0, 0)


def test_a_bad_request_stores_nothing_of_its_batch_and_keeps_the_ones_before(catalog: LmdbCatalog) -> None:
    good = [RegistrationRequest(**DOCUMENT | {"artifact_id": f"a{number}"}) for number in range(4)]
    requests = [*good[:3], RegistrationRequest(**DOCUMENT | {"bytes": -1}), good[3]]
    results = catalog.register_many(requests, batch_size=2)
    assert [next(results).record.artifact_id, next(results).record.artifact_id] == ["a0", "a1"]
    with pytest.raises(InvalidValueError, match="bytes"):
        next(results)
    assert catalog.stats().documents == 2


@pytest.mark.parametrize("field", ["artifact_id", "source_url", "resolver", "storage_uri"])
@pytest.mark.parametrize("value", ["", "a\0b", "a\ud800", None, 5, b"x"])
def test_a_required_text_that_cannot_be_stored_is_named(catalog: LmdbCatalog, field: str, value: object) -> None:
    with pytest.raises(InvalidValueError) as caught:
        catalog.register(**DOCUMENT | {field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content_type", "a\0b"),
        ("run_id", "\udfff"),
        ("bytes", -1),
        ("bytes", 2**63),
        ("bytes", True),
        ("bytes", 1.0),
        ("bytes", "1"),
        ("sha256", "ab"),
        ("sha256", "g" * 64),
        ("sha256", "٣" * 64),
        ("sha256", "ab" * 33),
        ("created_at", datetime(2025, 1, 1)),  # noqa: DTZ001
        ("created_at", "2025-01-01"),
        ("created_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
        ("on_conflict", "explode"),
        ("on_conflict", []),
        ("run_id", 0),
        ("content_type", False),
        ("sha256", 0),
    ],
)
def test_any_other_value_that_cannot_be_stored_is_named(catalog: LmdbCatalog, field: str, value: object) -> None:
    with pytest.raises(InvalidValueError) as caught:
        catalog.register(**DOCUMENT | {field: value})
    assert caught.value.field == field
    assert catalog.stats().documents == 0


def test_what_is_hard_to_store_reads_back_equal(catalog: LmdbCatalog) -> None:
    every_character = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))
    hard: list[dict[str, Any]] = [
        {"source_url": "https://example.org/" + "x" * 20_000},
        {"artifact_id": "文" * 3000},
        {"artifact_id": every_character},
        {"bytes": 2**63 - 1},
        {"sha256": "AB" * 32, "content_type": "", "run_id": ""},
        {"created_at": datetime.max.replace(tzinfo=UTC)},
        {"created_at": datetime.min.replace(tzinfo=UTC)},
        {"storage_uri": "file:///" + "y" * 5000, "run_id": "r" * 5000, "resolver": "z" * 5000},
    ]
    for number, change in enumerate(hard):
        given_values = DOCUMENT | {"resolver": f"r{number}"} | change
        record = catalog.register(**given_values).record
        expected = {key: value or None for key, value in given_values.items()} | {"sha256": "ab" * 32}
        assert {key: getattr(record, key) for key in expected} == expected
        assert catalog.get_by_id(record.id) == record
        assert record in catalog.get_by_artifact(record.artifact_id)
        assert record in catalog.get_by_url(record.source_url)
        assert record in catalog.get_by_storage_uri(record.storage_uri)
        if record.run_id is not None:
            assert record in list(catalog.get_by_run(record.run_id))
        if record.content_type is not None:
            assert record in list(catalog.get_by_content_type(record.content_type))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), unique=True))
def test_artifacts_list_in_the_order_of_their_bytes(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    with open_catalog(tmp_path_factory.mktemp("order") / "catalog") as catalog:
        requests = (RegistrationRequest(**DOCUMENT | {"artifact_id": name}) for name in names)
        assert len(list(catalog.register_many(requests))) == len(names)
        listed = [record.artifact_id for record in catalog.search(sort="artifact", limit=1000).records]
        assert listed == sorted(names, key=str.encode)
        backwards = catalog.search(sort="artifact", reverse=True, limit=1000).records
        assert [record.artifact_id for record in backwards] == listed[::-1]


def test_a_closed_catalog_refuses_and_closing_twice_is_nothing(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path / "catalog")
    catalog.close()
    catalog.close()
    with pytest.raises(CatalogClosedError):
        catalog.register(**DOCUMENT)
    with pytest.raises(CatalogClosedError):
        catalog.get_by_id(1)


def test_media_types_are_compared_without_parameters_and_case() -> None:
    assert media_type('Text/HTML; charset="UTF-8"') == "text/html"
    assert media_type(" ;x") is None


def test_digests_that_begin_alike_are_not_equal(catalog: LmdbCatalog) -> None:
    for number in (1, 2):
        catalog.register(**DOCUMENT | {"artifact_id": f"a{number}", "sha256": f"{number:064x}"})
    assert (catalog.stats().duplicate_documents, list(catalog.find_duplicates())) == (0, [])
    assert catalog.digests("0") == [f"{number:064x}" for number in (1, 2)]
    assert [record.artifact_id for record in catalog.get_by_sha256(f"{2:064x}")] == ["a2"]


def test_an_artifact_id_at_the_cut_is_told_from_those_that_go_on(catalog: LmdbCatalog) -> None:
    shorter = "x" * 400
    for number in range(600):  # one digest in 256 begins with NUL
        catalog.register(**DOCUMENT | {"artifact_id": f"{shorter}{number}"})
    record = catalog.register(**DOCUMENT | {"artifact_id": shorter}).record
    assert catalog.get_by_artifact(shorter) == [record]


def test_a_root_that_comes_later_changes_nothing_about_what_is_known(catalog: LmdbCatalog) -> None:
    place = {"storage_uri": "file:///store/policy/a.pdf"}
    first = catalog.register(**DOCUMENT | place | {"sha256": None}).record
    other = DOCUMENT | place | {"bytes": 5, "sha256": None}
    catalog.register(**other)
    catalog.add_root("file:///store", uuid="one")
    assert catalog.update(1, bytes=first.bytes, sha256=None, storage_uri=first.storage_uri) == first
    catalog.register(**other)
    assert [conflict.count for conflict in catalog.get_conflicts()] == [2]
    catalog.update(1, bytes=5, sha256=None, storage_uri=first.storage_uri)
    assert list(catalog.get_conflicts()) == []
    with catalog._environment.read() as transaction:
        assert transaction.entries(schema.LINKS) == 0


def test_every_place_of_a_conflict_stays_known(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    other = DOCUMENT | {"bytes": 5, "sha256": "cd" * 32}
    for place in ("one", "two"):
        catalog.register(**other | {"storage_uri": f"s3://bucket/{place}"})
    catalog.register(**other | {"storage_uri": "s3://bucket/three"}, on_conflict="replace")
    with catalog._environment.read() as transaction:
        linked = {schema.LINK_CODEC.decode(key, value).path for key, value in transaction.items(schema.LINKS)}
    assert linked == {"s3://bucket/one", "s3://bucket/two"}


def test_a_record_that_changes_its_run_stays_on_the_list_of_both(catalog: LmdbCatalog) -> None:
    catalog.register(**DOCUMENT)
    catalog.register(**DOCUMENT | {"run_id": "run-2"})
    catalog.update(1, run_id="run-2")
    assert [sighting.run_id for sighting in catalog.get_sightings()] == ["run-1"]
    assert [record.id for record in catalog.get_by_run("run-2")] == [1]


def test_a_subclass_of_text_or_number_is_stored_as_what_it_is(catalog: LmdbCatalog) -> None:
    class Resolver(StrEnum):
        CORE = "core"

    record = catalog.register(**DOCUMENT | {"resolver": Resolver.CORE, "bytes": Signals.SIGTERM}).record
    assert (type(record.resolver), record.resolver, type(record.bytes)) == (str, "core", int)
    assert catalog.get_by_id(record.id) == record


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda catalog: catalog.get_by_id(0), "record_id"),
        (lambda catalog: catalog.get_by_sha256("ab"), "sha256"),
        (lambda catalog: catalog.get_by_content_type(";"), "content_type"),
        (lambda catalog: catalog.get_sightings(run_id="\ud800"), "run_id"),
        (lambda catalog: catalog.get_sightings(document_id=-1), "document_id"),
        (lambda catalog: catalog.get_conflicts(-1), "document_id"),
        (lambda catalog: catalog.journal(after=-1), "after"),
        (lambda catalog: catalog.journal(document_id=2**60), "document_id"),
        (lambda catalog: catalog.digests("xyz"), "prefix"),
        (lambda catalog: catalog.digests("ab", limit=-1), "limit"),
        (lambda catalog: catalog.search(limit="3"), "limit"),
        (lambda catalog: catalog.search(sort="bogus"), "sort"),
        (lambda catalog: catalog.search(after=3), "after"),
        (lambda catalog: next(catalog.have([3])), "item"),
        (lambda catalog: next(catalog.have(["a"], kind="bogus")), "kind"),
        (lambda catalog: next(catalog.have(["zz"], kind="digest")), "item"),
        (lambda catalog: next(catalog.register_many([], batch_size=0)), "batch_size"),
    ],
)
def test_what_cannot_be_asked_for_is_named(catalog: LmdbCatalog, call: Callable[[Any], Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        call(catalog)
    assert caught.value.field == field


@pytest.mark.parametrize("path", ["", "a\0b", "a\ud800" + "\ud801", None, b"x", 5])
def test_what_names_no_folder_is_refused(path: Any) -> None:
    with pytest.raises(InvalidValueError, match="path"):
        open_catalog(path)


def test_a_catalog_opened_for_reading_does_not_write_even_beside_one_that_does(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as writer, open_catalog(tmp_path / "catalog", read_only=True) as reader:
        with pytest.raises(StoragePermissionError):
            reader.register(**DOCUMENT)
        writer.register(**DOCUMENT)
        reader.close()
        with pytest.raises(CatalogClosedError):
            reader.get_by_id(1)
        assert writer.get_by_id(1) is not None


def test_roots_that_were_not_committed_are_never_used(catalog: LmdbCatalog) -> None:
    def add_and_fail(transaction: WriteTransaction) -> None:
        row = schema.RootRow("file:///a", "uuid-a", "sha256")
        upkeep_operations.add_root(transaction, row, Scribe(catalog._roots.at(transaction), 0, "test"))
        assert list(catalog._roots.at(transaction).roots) == [1]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        catalog._writer.submit(add_and_fail)
    catalog.add_root("file:///b", uuid="uuid-b")
    record = catalog.register(**DOCUMENT | {"storage_uri": "file:///a/f"}).record
    assert catalog.get_by_id(record.id) == record
    assert record.storage_uri == "file:///a/f"


def test_a_slash_at_its_end_makes_no_other_root(catalog: LmdbCatalog) -> None:
    assert catalog.add_root("file:///a/", uuid="one") == catalog.add_root("file:///a", uuid="one")
    with pytest.raises(InvalidValueError, match="another root"):
        catalog.add_root("file:///a/", uuid="two")
