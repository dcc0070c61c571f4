"""What a service does now and then, done to the real client by a proxy: refusals, lost answers, answers in parts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvcatalog import open_catalog
from kvcatalog.copying import copy_catalog
from kvcatalog.custody import BlobMove
from kvcatalog.dynamo import leases
from kvcatalog.errors import CatalogError, CatalogUnavailableError, OutcomeUnknownError
from kvcatalog.filters import parse_filter
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.protocol import CatalogStore
from tests.catalog_stores import CatalogStoreContract, catalog, digest, document, ids, requests
from tests.copies import fill, said
from tests.dynamo_tables import Tables, tables
from tests.support import forked
from tools.servers.dynamodb_proxy import Action, Body, Change, Cut, Proxy, Refuse, Say, between

__all__ = ["catalog", "tables"]

WRITES = {"TransactWriteItems", "UpdateItem", "PutItem", "DeleteItem"}


class Behind(Tables):
    """Tables that are asked for through a proxy."""

    def __init__(self, endpoint_url: str, proxy: Proxy) -> None:
        super().__init__(endpoint_url)
        self.proxy = proxy

    def open(self, name: str = "catalog", **settings: Any) -> CatalogStore:
        super().open(name).close()
        return open_catalog(self.url(name, self.proxy.endpoint_url), **settings)


@pytest.fixture
def place(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.002)))
    with between(tables.endpoint_url) as proxy:
        yield Behind(tables.endpoint_url, proxy)
        proxy.rule = lambda _operation, _request: None


def nth(number: int, action: Action, among: Callable[[str, Body], bool]) -> Callable[[str, Body], Action]:
    """Return a rule that does something to the nth of some calls only."""
    counted = itertools.count()
    lock = threading.Lock()

    def rule(operation: str, request: Body) -> Action:
        if not among(operation, request):
            return None
        with lock:
            return action if next(counted) == number else None

    return rule


def work(catalog: CatalogStore) -> None:
    """Change a bit of everything; every step is safe to be made again."""
    known = catalog.register(**document(1)).record
    catalog.register(**document(1, bytes=9, sha256=digest(9), run_id="run-2"))
    catalog.register(**document(11))
    catalog.update(known.id, run_id="run-3")
    catalog.register_variant(document_id=known.id, variant="html", storage_uri="file:///v", bytes=1)
    catalog.record_sighting(known.id, "run-4")
    with catalog.lease(GC_LEASE):
        catalog.condemn(["file:///t"], plan="p")
        catalog.settle_condemned(["file:///t"], [BlobMove("trash", "file:///t", "file:///u", 1, None)])
    if not catalog.holds():
        catalog.add_hold(parse_filter(["run=r"]), reason="r")
    for record in list(catalog.register_many(requests(21, 22))):
        catalog.delete(record.record.id)


def outcome(catalog: CatalogStore) -> dict[str, Any]:
    """Return what `work` is to have left, whatever ids and times that got."""
    return {
        "documents": sorted((each.artifact_id, each.run_id, each.sha256) for each in catalog.iter_records()),
        "conflicts": [(each.sha256, each.count) for each in catalog.get_conflicts()],
        "variants": catalog.stats().variants,
        "sightings": sorted(each.run_id for each in catalog.get_sightings()),
        "duplicates": [(each.sha256, each.document_count) for each in catalog.find_duplicates()],
        "condemned": catalog.condemned(),
        "holds": [each.filters for each in catalog.holds()],
        "journal": [entry.action for entry in catalog.journal()],
    }


@pytest.fixture
def expected(tables: Tables) -> dict[str, Any]:
    with tables.open("undisturbed") as catalog:
        work(catalog)
        return outcome(catalog)


ANSWERS: dict[str, Action] = {
    "throughput": Refuse("ProvisionedThroughputExceededException"),
    "throttled": Refuse("ThrottlingException"),
    "internal": Refuse("InternalServerError", status=500),
    "lost": Cut(is_done=False),
    "unanswered": Cut(is_done=True),
    "login page": Say(b"<html>Sign in</html>"),
}
CANCELLATIONS: dict[str, Action] = {
    "conflict": Refuse("TransactionCanceledException", reasons=("TransactionConflict", "None")),
    "throttled inside": Refuse("TransactionCanceledException", reasons=("ThrottlingError",)),
    "both": Refuse("TransactionCanceledException", reasons=("ThrottlingError", "TransactionConflict")),
}


@pytest.mark.parametrize(
    ("action", "met"),
    [
        *(pytest.param(action, None, id=f"any {name}") for name, action in ANSWERS.items()),
        *(pytest.param(action, WRITES, id=f"write {name}") for name, action in ANSWERS.items()),
        *(pytest.param(action, {"TransactWriteItems"}, id=name) for name, action in CANCELLATIONS.items()),
    ],
)
def test_work_comes_to_its_end_whatever_every_third_call_meets(
    place: Behind, expected: dict[str, Any], action: Action, met: set[str] | None
) -> None:
    counted = itertools.count()

    def rule(operation: str, _request: Body) -> Action:
        if met is not None and operation not in met:
            return None
        return None if next(counted) % 3 else action

    with place.open() as catalog:
        place.proxy.rule = rule
        work(catalog)
        place.proxy.rule = lambda _operation, _request: None
        assert outcome(catalog) == expected
        place.assert_consistent(catalog)


def test_a_lost_answer_to_any_write_changes_nothing_and_adds_nothing(place: Behind, expected: dict[str, Any]) -> None:
    calls = 0

    def count(operation: str, _request: Body) -> Action:
        nonlocal calls
        calls += operation in WRITES
        return None

    with place.open("counted") as catalog:
        place.proxy.rule = count
        work(catalog)
    assert calls > 15
    for number in range(0, calls, 3):
        place.proxy.rule = lambda _operation, _request: None
        with place.open(f"lost-{number}") as catalog:
            place.proxy.rule = nth(number, Cut(is_done=True), lambda operation, _: operation in WRITES)
            work(catalog)
            place.proxy.rule = lambda _operation, _request: None
            assert outcome(catalog) == expected, number
            place.assert_consistent(catalog, f"lost-{number}")


def test_a_service_that_takes_nothing_is_an_error_that_says_so_and_nothing_is_stored(place: Behind) -> None:
    with place.open() as catalog:
        catalog.register(**document(1))
        place.proxy.rule = lambda operation, _: Refuse("ThrottlingException") if operation in WRITES else None
        with pytest.raises(CatalogUnavailableError) as caught:
            catalog.register(**document(2))
        assert caught.value.advice
        place.proxy.rule = lambda _operation, _request: None
        assert [record.artifact_id for record in catalog.iter_records()] == ["doi:10.1/1"]
        assert catalog.register(**document(2)).outcome == "registered"


def test_what_nobody_knows_is_said_and_registering_again_settles_it(place: Behind) -> None:
    with place.open() as catalog:
        place.proxy.rule = lambda operation, _: Cut(is_done=True) if operation == "TransactWriteItems" else None
        try:
            outcome = catalog.register(**document(1)).outcome
        except OutcomeUnknownError:
            outcome = None
        place.proxy.rule = lambda _operation, _request: None
        assert outcome in {None, "registered"}
        assert catalog.register(**document(1)).outcome == "existing"
        assert ids(catalog.iter_records()) == ids(catalog.get_by_sha256(digest(1)))
        recount(catalog)
        place.assert_consistent(catalog)


def recount(catalog: CatalogStore) -> None:
    """Put figures right, of which nobody can know whether they were added to: nothing else is wrong."""
    findings = list(catalog.audit())
    assert {finding.kind for finding in findings} <= {"figure"}
    assert all(finding.repaired for finding in catalog.repair(findings))


def in_parts(operation: str, request: Body) -> Action:
    """Answer as if a megabyte was full after each two items."""
    if operation in {"Query", "Scan"}:
        return Change(request | {"Limit": min(2, request.get("Limit", 2))})
    if operation == "BatchGetItem":

        def some_later(reply: Body) -> Body:
            ((table, wanted),) = request["RequestItems"].items()
            keys = wanted["Keys"]
            if len(keys) < 2:
                return reply
            later = keys[1:]
            kept = [
                item
                for item in reply["Responses"].get(table, ())
                if {name: item[name] for name in ("pk", "sk")} not in later
            ]
            return {"Responses": {table: kept}, "UnprocessedKeys": {table: wanted | {"Keys": later}}}

        return Change(reply=some_later if len(next(iter(request["RequestItems"].values()))["Keys"]) < 6 else None)
    return None


class TestInParts:
    """Some of the contract, with answers that come in parts."""

    @pytest.fixture
    def place(self, tables: Tables) -> Iterator[Behind]:
        with between(tables.endpoint_url) as proxy:
            proxy.rule = in_parts
            yield Behind(tables.endpoint_url, proxy)

    test_lookups = CatalogStoreContract.test_lookups_by_everything_that_is_indexed
    test_having = CatalogStoreContract.test_having_is_answered_item_by_item
    test_references = CatalogStoreContract.test_what_refers_to_a_place_is_found
    test_figures = CatalogStoreContract.test_figures_and_duplicates_follow_every_change
    test_checks = CatalogStoreContract.test_checks_make_the_queue
    test_deleting = CatalogStoreContract.test_a_document_goes_with_all_that_hangs_on_it_and_its_id_never_comes_back
    test_a_snapshot = CatalogStoreContract.test_a_snapshot_holds_what_was_there


def test_a_copy_that_is_cut_off_anywhere_is_gone_on_with(
    place: Behind, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TAKEN_OVER_SECONDS", 0.2)  # what was cut off has left its own behind
    with open_catalog(tmp_path / "source") as source, place.open() as target:
        fill(source, 16)
        cuts = 0
        for limit in itertools.count(3, 7):
            counted = itertools.count()

            def rule(operation: str, _request: Body, counted: Any = counted, limit: int = limit) -> Action:
                is_over = operation in WRITES and next(counted) >= limit
                return Cut(is_done=limit % 2 == 0) if is_over else None

            place.proxy.rule = rule
            try:
                report = copy_catalog(source, target, batch_size=10)
            except CatalogError:
                cuts += 1
                continue
            finally:
                place.proxy.rule = lambda _operation, _request: None
            break
        assert cuts > 1
        assert report.is_same
        expected, found = said(source), said(target)
        figures = {"figures", "duplicates"}  # of which nobody knows whether they were added to
        assert {name: found[name] for name in found.keys() - figures} == {
            name: expected[name] for name in expected.keys() - figures
        }
        with open_catalog(tmp_path / "back") as back:
            assert copy_catalog(target, back).is_same
            assert said(back) == expected
        recount(target)
        assert {name: said(target)[name] for name in figures} == {name: expected[name] for name in figures}
        place.assert_consistent(target)


def test_what_a_killed_process_did_not_count_is_found_and_repaired(tables: Tables) -> None:
    tables.open().close()

    def register() -> None:
        opened = tables.open()
        process = opened._dynamo._process()  # type: ignore[attr-defined]
        process.settle = lambda **_: None
        opened.register(**document(1))
        opened.register(**document(11))

    forked(register)
    with tables.open() as catalog:
        assert catalog.stats().documents == 0
        findings = list(catalog.audit())
        assert {finding.kind for finding in findings} == {"figure"}
        assert all(finding.repaired for finding in catalog.repair(findings))
        assert list(catalog.audit()) == []
        assert (catalog.stats().documents, catalog.stats().duplicate_documents) == (2, 1)
        tables.assert_consistent(catalog)
