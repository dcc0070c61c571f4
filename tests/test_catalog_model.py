"""The catalog against a plain dict: whatever is done in whatever order, both answer alike."""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvcatalog import open_catalog
from kvcatalog.errors import NotFoundError
from kvcatalog.filters import parse_filter
from kvcatalog.models import (
    DocumentRecord,
    RegistrationRequest,
    SightingRequest,
    VariantRegistration,
    VariantRegistrationRequest,
)
from kvcatalog.store.catalog import Catalog
from tests.invariants import assert_consistent

DIGESTS = [None, *(digit * 64 for digit in "abc")]
ROOT = "file:///store"
# Content-addressed, below a root, outside all roots, and the first two as they would be of another digest.
URIS = [
    f"{ROOT}/cas/sha256/aa/{'a' * 62}",
    f"{ROOT}/cas/sha256/bb/{'b' * 62}",
    f"{ROOT}/policy/one.pdf",
    "s3://bucket/two.pdf",
]
LONG = "文" * 200

artifacts = st.sampled_from(["a", "a\x01", LONG, LONG + "b"])
urls = st.sampled_from(["https://e.org/" + "u" * 600, "\U0010ffff"])
resolvers = st.just("unpaywall")
runs = st.sampled_from([None, "run-1", "run-2", "r" * 300])
content_types = st.sampled_from([None, "application/pdf", 'Text/HTML; charset="UTF-8"'])
contents = st.fixed_dictionaries(
    {
        "bytes": st.sampled_from([0, 1, 2**63 - 1]),
        "sha256": st.sampled_from(DIGESTS),
        "storage_uri": st.sampled_from(URIS),
    }
)
moments = st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
keys = st.fixed_dictionaries({"artifact_id": artifacts, "source_url": urls, "resolver": resolvers})


class CatalogMachine(RuleBasedStateMachine):
    """Rules call the catalog and change a model of documents, variants, conflicts and sightings alike."""

    ids_are_consecutive = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.catalog: Catalog = self.opened()
        self.documents: dict[int, DocumentRecord] = {}
        self.variants: dict[tuple[int, str], dict[str, Any]] = {}
        self.conflicts: set[tuple[Any, ...]] = set()
        self.sightings: set[tuple[str | None, int]] = set()
        self.last_id = 0

    def opened(self) -> Catalog:
        """Open the catalog of this example."""
        return open_catalog(self.folder / "catalog")

    @initialize(known=st.booleans())
    def maybe_know_the_root(self, known: bool) -> None:
        if known:
            self.add_root()

    @rule()
    def add_root(self) -> None:
        assert self.catalog.add_root(ROOT, uuid="one").uri == ROOT

    @rule(key=keys, content=contents, run=runs, content_type=content_types, created=moments, replaces=st.booleans())
    def register(
        self,
        key: dict[str, Any],
        content: dict[str, Any],
        run: str | None,
        content_type: str | None,
        created: datetime | None,
        replaces: bool,
    ) -> None:
        result = self.catalog.register(
            **key,
            **content,
            run_id=run,
            content_type=content_type,
            created_at=created,
            on_conflict="replace" if replaces else "keep",
        )
        self.registered(key, content, run, content_type, created, replaces, result.record, result.outcome)

    @rule(key=keys, content=contents, run=runs, content_type=content_types)
    def register_or_get(
        self, key: dict[str, Any], content: dict[str, Any], run: str | None, content_type: str | None
    ) -> None:
        record = self.catalog.register_or_get(**key, **content, run_id=run, content_type=content_type)
        self.registered(key, content, run, content_type, None, False, record, None)

    @rule(requests=st.lists(st.tuples(keys, contents, runs), max_size=6), batch_size=st.integers(1, 7))
    def register_many(self, requests: list[tuple[dict[str, Any], dict[str, Any], str | None]], batch_size: int) -> None:
        stream = (RegistrationRequest(**key, **content, run_id=run) for key, content, run in requests)
        results = self.catalog.register_many(stream, batch_size=batch_size)
        for (key, content, run), result in zip(requests, results, strict=True):
            self.registered(key, content, run, None, None, False, result.record, result.outcome)

    def registered(
        self,
        key: dict[str, Any],
        content: dict[str, Any],
        run: str | None,
        content_type: str | None,
        created: datetime | None,
        replaces: bool,
        record: DocumentRecord,
        outcome: str | None,
    ) -> None:
        old = next((known for known in self.documents.values() if fields(known, *key) == key), None)
        if old is None:
            assert record.id == self.last_id + 1 if self.ids_are_consecutive else record.id > self.last_id
            self.last_id = record.id
            expected = {**key, **content, "run_id": run, "content_type": content_type}
            assert fields(record, *expected) == expected
            assert record.created_at == record.updated_at == (created or record.created_at)
            assert outcome in {None, "registered"}
        else:
            expected_outcome = outcome_of(old, content)
            assert outcome in {None, expected_outcome}
            changed: dict[str, Any] = {}
            if expected_outcome == "enriched" or (expected_outcome == "conflict" and replaces):
                changed = dict(content)
                if expected_outcome == "conflict" and content_type is not None:
                    changed["content_type"] = content_type
                self.conflicts.discard(conflict_key(old.id, None, content))
            elif expected_outcome == "conflict":
                self.conflicts.add(conflict_key(old.id, None, content))
            assert_changed(old, record, changed)
            if run is not None and run != record.run_id:
                self.sightings.add((run, record.id))
        self.documents[record.id] = record

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), run=runs, content_type=content_types, content=st.none() | contents)
    def update(
        self, data: st.DataObject, run: str | None, content_type: str | None, content: dict[str, Any] | None
    ) -> None:
        old = self.documents[data.draw(st.sampled_from(sorted(self.documents)))]
        changes = {"run_id": run, "content_type": content_type, **(content or {})}
        record = self.catalog.update(old.id, **changes, reason="asked for")
        assert_changed(old, record, {} if fields(old, *changes) == changes else changes)
        if fields(old, *changes) != changes:
            self.conflicts.discard(conflict_key(old.id, None, fields(record, "bytes", "sha256", "storage_uri")))
        if record.run_id != old.run_id:
            self.sightings.discard((record.run_id, record.id))
            if old.run_id is not None:
                self.sightings.add((old.run_id, record.id))
        self.documents[record.id] = record

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        document_id = data.draw(st.sampled_from(sorted(self.documents)))
        assert self.catalog.delete(document_id) == self.documents.pop(document_id)
        self.variants = {key: value for key, value in self.variants.items() if key[0] != document_id}
        self.conflicts = {key for key in self.conflicts if key[0] != document_id}
        self.sightings = {pair for pair in self.sightings if pair[1] != document_id}

    @rule(document_id=st.integers(1, 12), name=st.sampled_from(["html", "text", "文" * 300]), content=contents)
    def register_variant(self, document_id: int, name: str, content: dict[str, Any]) -> None:
        if document_id not in self.documents:
            with pytest.raises(NotFoundError):
                self.catalog.register_variant(document_id=document_id, variant=name, **content)
            return
        result = self.catalog.register_variant(document_id=document_id, variant=name, **content)
        self.take_variant(document_id, name, content, result)

    @rule(
        requests=st.lists(
            st.tuples(st.integers(1, 6), st.sampled_from(["html", "text"]), contents), min_size=1, max_size=6
        )
    )
    def register_variants(self, requests: list[tuple[int, str, dict[str, Any]]]) -> None:
        def stream() -> Iterator[VariantRegistration]:
            return self.catalog.register_variants(
                [
                    VariantRegistrationRequest(document_id=document_id, variant=name, **content)
                    for document_id, name, content in requests
                ]
            )

        if any(document_id not in self.documents for document_id, _, _ in requests):
            with pytest.raises(NotFoundError):
                list(stream())
            return
        for request, result in zip(requests, stream(), strict=True):
            self.take_variant(*request, result)

    def take_variant(self, document_id: int, name: str, content: dict[str, Any], result: VariantRegistration) -> None:
        old = self.variants.get((document_id, name))
        if old is None:
            self.variants[document_id, name] = content
            assert result.outcome == "registered"
        else:
            assert result.outcome == outcome_of(old, content)
            if result.outcome == "enriched":
                self.variants[document_id, name] = content
                self.conflicts.discard(conflict_key(document_id, name, content))
            elif result.outcome == "conflict":
                self.conflicts.add(conflict_key(document_id, name, content))
        assert fields(result.record, *content) == self.variants[document_id, name]

    @precondition(lambda self: self.variants)
    @rule(data=st.data())
    def delete_variant(self, data: st.DataObject) -> None:
        document_id, name = data.draw(st.sampled_from(sorted(self.variants)))
        record = self.catalog.delete_variant(document_id, name)
        assert fields(record, "bytes", "sha256", "storage_uri") == self.variants.pop((document_id, name))
        self.conflicts = {key for key in self.conflicts if key[:2] != (document_id, name)}

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), run=runs.filter(bool))
    def record_sighting(self, data: st.DataObject, run: str) -> None:
        document_id = data.draw(st.sampled_from(sorted(self.documents)))
        fresh = self.documents[document_id].run_id != run and (run, document_id) not in self.sightings
        assert self.catalog.record_sighting(document_id, run) is fresh
        if fresh:
            self.sightings.add((run, document_id))

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), met=st.lists(runs.filter(bool), min_size=1, max_size=4))
    def record_sightings(self, data: st.DataObject, met: list[str]) -> None:
        requests = [SightingRequest(data.draw(st.sampled_from(sorted(self.documents))), run) for run in met]
        for request, is_fresh in zip(requests, self.catalog.record_sightings(requests), strict=True):
            pair = (request.run_id, request.document_id)
            assert is_fresh is (
                self.documents[request.document_id].run_id != request.run_id and pair not in self.sightings
            )
            if is_fresh:
                self.sightings.add(pair)

    @rule()
    def reopen(self) -> None:
        self.catalog.close()
        self.catalog = self.opened()

    @invariant()
    def answers_alike(self) -> None:
        records = [self.documents[key] for key in sorted(self.documents)]
        assert list(self.catalog.iter_records()) == records
        for record in records:
            assert self.catalog.get_by_id(record.id) == record
            assert self.catalog.get(**fields(record, "artifact_id", "source_url", "resolver")) == record
            assert set(self.catalog.get_by_artifact(record.artifact_id)) == having(records, "artifact_id", record)
            assert set(self.catalog.get_by_url(record.source_url)) == having(records, "source_url", record)
            assert set(self.catalog.get_by_storage_uri(record.storage_uri)) == having(records, "storage_uri", record)
            if record.run_id is not None:
                assert set(self.catalog.get_by_run(record.run_id)) == having(records, "run_id", record)
            if record.sha256 is not None:
                assert set(self.catalog.get_by_sha256(record.sha256)) == having(records, "sha256", record)

    @invariant()
    def lists_alike(self) -> None:
        by_artifact = self.catalog.search(sort="artifact").records
        assert [record.artifact_id.encode()[:400] for record in by_artifact] == sorted(
            record.artifact_id.encode()[:400] for record in self.documents.values()
        )
        oldest_first = [record.created_at for record in self.catalog.search(sort="created").records]
        assert oldest_first == sorted(record.created_at for record in self.documents.values())
        prefix = self.catalog.search(parse_filter(["artifact=a*"])).records
        assert {record.id for record in prefix} == {
            key for key, record in self.documents.items() if record.artifact_id.startswith("a")
        }
        assert {(sighting.run_id, sighting.document_id) for sighting in self.catalog.get_sightings()} == self.sightings
        found = {
            conflict_key(each.document_id, each.variant, fields(each, "bytes", "sha256", "storage_uri"))
            for each in self.catalog.get_conflicts()
        }
        assert found == self.conflicts
        variants = {
            (key, variant.variant): fields(variant, "bytes", "sha256", "storage_uri")
            for key in self.documents
            for variant in self.catalog.get_variants(key)
        }
        assert variants == self.variants

    @invariant()
    def figures_follow(self) -> None:
        stats = self.catalog.stats()
        records = self.documents.values()
        assert (stats.documents, stats.bytes) == (len(records), sum(record.bytes for record in records))
        assert stats.documents_without_sha256 == sum(record.sha256 is None for record in records)
        assert (stats.variants, stats.conflicts) == (len(self.variants), len(self.conflicts))
        by_content_type: dict[str, tuple[int, int]] = {}
        for record in records:
            label = (record.content_type or "").partition(";")[0].lower()
            count, size = by_content_type.get(label, (0, 0))
            by_content_type[label] = count + 1, size + record.bytes
        assert {key: (each.documents, each.bytes) for key, each in stats.by_content_type.items()} == by_content_type

    @invariant()
    def derived_rows_follow(self) -> None:
        assert_consistent(self.catalog)

    def teardown(self) -> None:
        self.catalog.close()
        shutil.rmtree(self.folder)


def fields(record: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def having(records: list[DocumentRecord], field: str, like: DocumentRecord) -> set[DocumentRecord]:
    return {record for record in records if getattr(record, field) == getattr(like, field)}


def outcome_of(old: Any, content: dict[str, Any]) -> str:
    before = old if isinstance(old, dict) else fields(old, *content)
    hashed = before["sha256"] and content["sha256"]
    if before["bytes"] != content["bytes"] or (hashed and before["sha256"] != content["sha256"]):
        return "conflict"
    return "enriched" if content["sha256"] and not before["sha256"] else "existing"


def conflict_key(document_id: int, variant: str | None, content: dict[str, Any]) -> tuple[Any, ...]:
    """Identify a conflict by its digest, or without one by size and place."""
    what = content["sha256"] or (content["bytes"], content["storage_uri"])
    return document_id, variant, what


def assert_changed(old: DocumentRecord, new: DocumentRecord, changes: dict[str, Any]) -> None:
    for name in DocumentRecord.__struct_fields__:
        if name != "updated_at":
            assert getattr(new, name) == changes.get(name, getattr(old, name)), name
    if changes:
        assert new.updated_at >= old.updated_at
    else:
        assert new.updated_at == old.updated_at


CatalogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCatalog = CatalogMachine.TestCase
