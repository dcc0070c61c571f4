"""A transaction over DynamoDB reads and writes what one over LMDB does, and gives way to others."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcatalog import LmdbCatalog, open_catalog, schema
from kvcatalog.custody import BlobMove
from kvcatalog.dynamo import connection, leases, patience, sums
from kvcatalog.errors import (
    BlobCondemnedError,
    CatalogBusyError,
    CatalogLockedError,
    InvalidValueError,
    LeaseLostError,
    NotFoundError,
    UnsupportedError,
)
from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction
from kvcatalog.kv.table import Table
from kvcatalog.models import SightingRequest
from kvcatalog.sql_export import export_sql
from kvcatalog.store import dynamo_backend, dynamo_catalog, operations
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.catalog import Catalog
from kvcatalog.store.dynamo_catalog import DynamoCatalog
from tests.catalog_stores import digest, document
from tests.dynamo_tables import Tables, tables
from tests.support import forked
from tools.servers.dynamodb_proxy import Body, Cut, Exchange, Proxy, Refuse, between

__all__ = ["tables"]

Work = Callable[[WriteTransaction], object]


@pytest.fixture
def catalog(tables: Tables) -> Iterator[DynamoCatalog]:
    opened = tables.open()
    assert isinstance(opened, DynamoCatalog)
    with opened:
        yield opened


@pytest.fixture
def other(tables: Tables, catalog: DynamoCatalog) -> Iterator[DynamoCatalog]:
    """The same catalog as another host has it."""
    opened = tables.open()
    assert isinstance(opened, DynamoCatalog)
    with opened:
        yield opened


@pytest.fixture
def proxy(tables: Tables, catalog: DynamoCatalog) -> Iterator[Proxy]:
    """What is between the service and `behind`."""
    endpoint = catalog._dynamo.connection.place.endpoint_url
    assert endpoint is not None
    with between(endpoint) as opened:
        yield opened


@pytest.fixture
def behind(tables: Tables, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoCatalog]:
    monkeypatch.setattr(connection, "ATTEMPTS", 1)  # botocore's pauses are long
    url = tables.url().rpartition("endpoint_url=")[0] + "endpoint_url=" + proxy.endpoint_url
    opened = open_catalog(url)
    assert isinstance(opened, DynamoCatalog)
    with opened:
        yield opened
        proxy.rule = lambda _operation, _request: None


def is_transaction(operation: str) -> bool:
    return operation == "TransactWriteItems"


def test_it_answers_as_lmdb_does(catalog: DynamoCatalog, tmp_path: Path) -> None:
    """Random changes and questions, several in a transaction, so that it has to see what it has written itself."""
    chance = random.Random(5)
    with open_catalog(tmp_path / "catalog") as local:
        for _ in range(12):
            works = [_work(chance) for _ in range(chance.randrange(1, 6))]

            def operation(transaction: WriteTransaction, works: list[Work] = works) -> list[object]:
                return [work(transaction) for work in works]

            assert catalog._dynamo.submit(operation) == _submitted(local, operation)
            questions = [_question(chance) for _ in range(10)]
            with catalog._read() as far, local._read() as near:
                for question in questions:
                    assert question(far) == question(near)


def _submitted(local: LmdbCatalog, operation: Callable[[WriteTransaction], list[object]]) -> list[object]:
    return local._writer.submit(operation)


TABLES: dict[Table, Callable[[random.Random], bytes]] = {
    schema.VARIANTS_BY_DOCUMENT: lambda chance: schema.id_key(chance.randrange(4)) + chance.choice([b"a", b"ab", b"b"]),
    schema.BY_RUN: lambda chance: chance.choice([b"a", b"a\x01", b"ab", b"b"]),
    schema.BY_SHA256: lambda chance: bytes([chance.choice([0, 1, 31, 32, 255])]) * 32,
    schema.CONDEMNED: lambda chance: bytes(4) + chance.choice([b"a", b"ab", b"b"]),
    schema.CHECKS_BY_TIME: lambda chance: schema.time_key(chance.randrange(3)) + chance.choice([b"a", b"b"]),
}


def _drawn(chance: random.Random) -> tuple[Table, bytes, bytes]:
    table = chance.choice(list(TABLES))
    value = schema.id_key(chance.randrange(12)) if table is not schema.CHECKS_BY_TIME else b""
    return table, TABLES[table](chance), value


def _work(chance: random.Random) -> Work:
    table, key, value = _drawn(chance)
    kind = chance.randrange(4)
    if kind == 0:
        return _question(chance)
    if kind == 1:

        def delete(transaction: WriteTransaction) -> object:
            found = transaction.delete(table, key, value if table.sets else b"")
            return None if table.sets or table is schema.CHECKS_BY_TIME else found

        return delete
    return lambda transaction: transaction.put(table, key, value)


def _question(chance: random.Random) -> Callable[[ReadTransaction], object]:
    table, key, value = _drawn(chance)
    start, stop = sorted((TABLES[table](chance), TABLES[table](chance) + chance.choice([b"", b"\0"])))
    reverse = chance.random() < 0.5
    bounds = chance.choice([(b"", None), (start, stop), (start, None)])
    is_inside = key >= bounds[0] and (bounds[1] is None or key < bounds[1])
    after = (key, value) if is_inside else None
    questions: list[Callable[[ReadTransaction], object]] = [
        lambda transaction: transaction.get(table, key),
        lambda transaction: list(transaction.items(table, *bounds, reverse=reverse)),
        lambda transaction: list(transaction.items(table, *bounds, reverse=reverse, after=after)),
        lambda transaction: transaction.first_values(table, sorted({key, start})),
        lambda transaction: sorted(transaction.missing(table, [(key, value), (start, value)])),
    ]
    if table.sets:
        questions += [
            lambda transaction: list(transaction.values(table, key, start=value, reverse=reverse)),
            lambda transaction: transaction.count(table, key),
        ]
    return chance.choice(questions)


def once(*works: Callable[[], object]) -> Callable[[], None]:
    """Return what does some work on its first call, as others would in the middle of a transaction."""
    left = list(works)

    def meanwhile() -> None:
        if left:
            left.pop(0)()

    return meanwhile


def test_what_was_changed_since_it_was_read_is_read_again(catalog: DynamoCatalog, other: DynamoCatalog) -> None:
    record = catalog.register(**document()).record
    meanwhile = once(lambda: other.update(record.id, run_id="theirs"))
    seen: list[str | None] = []

    def operation(transaction: WriteTransaction) -> None:
        key = schema.id_key(record.id)
        row = schema.DOCUMENT_CODEC.decode(key, transaction.get(schema.DOCUMENTS, key) or b"")
        seen.append(row.run_id)
        meanwhile()
        transaction.put(schema.DOCUMENTS, key, schema.DOCUMENT_CODEC.encode(key, row))

    catalog._dynamo.submit(operation)
    assert seen == ["run-1", "theirs"]


def test_nothing_comes_to_hang_on_a_document_while_it_goes(
    catalog: DynamoCatalog, other: DynamoCatalog, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (catalog.register(**document(number)).record for number in (1, 2))
    delete, sight = operations.delete_document, operations.record_sighting
    meanwhile = once(lambda: other.record_sighting(first.id, "late"))

    def slowly(transaction: Any, document_id: int, scribe: Any) -> Any:
        row = delete(transaction, document_id, scribe)
        meanwhile()
        return row

    monkeypatch.setattr(operations, "delete_document", slowly)
    catalog.delete(first.id)
    monkeypatch.setattr(operations, "delete_document", delete)
    gone = once(lambda: other.delete(second.id))

    def seen(transaction: Any, document_id: int, run_id: str, moment: int) -> bool:
        found = sight(transaction, document_id, run_id, moment)
        gone()
        return found

    monkeypatch.setattr(operations, "record_sighting", seen)
    with pytest.raises(NotFoundError):
        catalog.record_sighting(second.id, "late")
    tables.assert_consistent(catalog)


def test_a_document_with_much_hanging_on_it_goes_piece_by_piece(catalog: DynamoCatalog, tables: Tables) -> None:
    record = catalog.register(**document(links=tuple(f"file:///l/{number}" for number in range(12)))).record
    assert all(catalog.record_sightings(SightingRequest(record.id, f"run {number}") for number in range(70)))
    for number in range(6):
        catalog.register_variant(document_id=record.id, variant=f"v{number}", storage_uri="file:///v", bytes=1)
        catalog.register(**document(bytes=100 + number, sha256=None, storage_uri=f"file:///c/{number}"))
    assert catalog.delete(record.id) == record
    told = {uri for entry in catalog.journal() if (uri := entry.changes.get("storage_uri", (None,))[0])}
    assert {"file:///l/11", "file:///c/5", "file:///v", record.storage_uri} <= told
    tables.assert_consistent(catalog)
    assert list(catalog.audit()) == []


@pytest.mark.parametrize("forgets", [False, True])
def test_a_blob_that_went_meanwhile_is_not_referred_to(
    catalog: DynamoCatalog, other: DynamoCatalog, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    """Also where nothing of it is left: the row came, ended and was forgotten while the registration was on its way."""
    uri = document()["storage_uri"]
    epoch = catalog.blob_epoch()
    store = operations._store_new

    def collect() -> None:
        other.condemn([uri], plan="p")
        other.settle_condemned([uri], [BlobMove("trash", uri, "file:///trash", 1, "orphan")])
        if forgets:
            assert other.forget_condemned() == 1

    meanwhile = once(collect)

    def slowly(*arguments: Any) -> Any:
        found = store(*arguments)
        meanwhile()
        return found

    monkeypatch.setattr(operations, "_store_new", slowly)
    with pytest.raises(BlobCondemnedError):
        catalog.register(**document(blob_epoch=epoch))
    assert catalog.register(**document(blob_epoch=catalog.blob_epoch())).outcome == "registered"


@pytest.mark.parametrize("forgets", ["nothing", "with a mark", "without one"])
@pytest.mark.parametrize("age", ["of before", "recent"])
def test_a_blob_that_went_before_the_registration_began_is_not_referred_to_with_an_epoch_from_before(
    catalog: DynamoCatalog,
    other: DynamoCatalog,
    tables: Tables,
    monkeypatch: pytest.MonkeyPatch,
    age: str,
    forgets: str,
) -> None:
    """The epoch that is at hand is older than the collection, which is over and partly forgotten by now."""
    monkeypatch.setattr(dynamo_catalog, "RECENT_SECONDS", 1000.0)
    uri, elsewhere = document(1)["storage_uri"], document(2)["storage_uri"]
    epoch = catalog.blob_epoch(recent=True)
    collect(other, [uri], forgets != "nothing")
    if forgets == "without one":  # as a guard of a collection that left none
        for item in tables.items():
            if item["pk"]["S"].startswith("g."):
                key = {name: item[name] for name in ("pk", "sk")}
                tables.client().update_item(TableName=tables.table(), Key=key, UpdateExpression="REMOVE n")
    if age == "recent":
        epoch = catalog.blob_epoch(recent=True)
        assert epoch < catalog.blob_epoch()
    with pytest.raises(BlobCondemnedError):
        catalog.register(**document(1, blob_epoch=epoch))
    assert catalog.register(**document(2, blob_epoch=epoch)).record.storage_uri == elsewhere
    assert catalog.register(**document(1, blob_epoch=catalog.blob_epoch())).outcome == "registered"


def test_a_mark_outlives_later_collections_of_the_same_place(catalog: DynamoCatalog, other: DynamoCatalog) -> None:
    uri = document(1)["storage_uri"]
    collect(other, [uri], forgets=True)
    epoch = catalog.blob_epoch()
    collect(other, [uri], forgets=True)
    between = catalog.blob_epoch()
    other.condemn([uri], plan="p")
    with pytest.raises(BlobCondemnedError):
        catalog.register(**document(1, blob_epoch=between))
    other.settle_condemned([uri])
    for passed in (epoch, between):
        with pytest.raises(BlobCondemnedError):
            catalog.register(**document(1, blob_epoch=passed))
    assert catalog.register(**document(1, blob_epoch=catalog.blob_epoch())).outcome == "registered"


def collect(catalog: DynamoCatalog, uris: list[str], forgets: bool) -> None:
    catalog.condemn(uris, plan="p")
    catalog.settle_condemned(uris, [BlobMove("trash", uri, "file:///trash", 1, "orphan") for uri in uris])
    if forgets:
        assert catalog.forget_condemned() == len(uris)


def test_a_registration_is_ten_items_and_meets_no_other(proxy: Proxy, behind: DynamoCatalog) -> None:
    behind.add_root("file:///store", uuid="one")
    sent: list[list[Body]] = []

    def hear(exchange: Exchange) -> None:
        if is_transaction(exchange.operation):
            sent.append([next(iter(each.values())) for each in exchange.request["TransactItems"]])

    proxy.heard = hear
    for number in (1, 2):
        behind.register(**document(number))
    registrations = [each for each in sent if any("Item" in item for item in each)]
    assert [len(each) for each in registrations] == [10, 10]
    places = [
        {str(item.get("Key") or [item["Item"][name] for name in ("pk", "sk")]) for item in each}
        for each in registrations
    ]
    assert places[0].isdisjoint(places[1])


def test_a_registration_makes_few_requests_and_reads_nothing_that_all_read(
    proxy: Proxy, behind: DynamoCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (dynamo_catalog, sums):
        monkeypatch.setattr(module, "RECENT_SECONDS", 1000.0)
    behind.add_root("file:///store", uuid="one")
    behind.register(**document(0, blob_epoch=behind.blob_epoch(recent=True)))
    heard: list[Exchange] = []
    proxy.heard = heard.append
    for number in (1, 2):
        behind.register(**document(number, blob_epoch=behind.blob_epoch(recent=True)))
    assert len(behind.get_by_sha256(digest(1))) == 1
    registering = [each for each in heard if each.operation != "UpdateItem"][:-1]
    lookups = [each for each in registering if each.operation == "GetItem"]
    assert "n.0" not in {each.request["Key"]["pk"]["S"] for each in lookups}
    # Its key, its guards, itself, figures, and who else has its digest: a document, or a variant.
    assert len(registering) <= 2 * 6 + 2
    assert len(lookups) <= 2 + 1


@pytest.mark.parametrize("is_done", [True, False])
def test_an_answer_that_is_lost_changes_nothing(
    proxy: Proxy, behind: DynamoCatalog, tables: Tables, is_done: bool
) -> None:
    cuts = iter([True] * 7)
    proxy.rule = lambda operation, _: Cut(is_done) if is_transaction(operation) and next(cuts, False) else None
    registration = behind.register(**document())
    assert (registration.outcome, registration.record.id) == ("registered", 1)
    tables.assert_consistent(behind)


@pytest.mark.parametrize(
    "refusal",
    [
        Refuse("TransactionCanceledException", reasons=("None", "TransactionConflict")),
        Refuse("TransactionCanceledException", reasons=("ThrottlingError", "None")),
        Refuse("ProvisionedThroughputExceededException"),
        Refuse("InternalServerError", 500),
    ],
    ids=lambda refusal: refusal.reasons[0] if refusal.reasons else refusal.code,
)
def test_what_is_refused_for_a_while_is_asked_again_and_then_told(
    proxy: Proxy, behind: DynamoCatalog, monkeypatch: pytest.MonkeyPatch, refusal: Refuse
) -> None:
    monkeypatch.setattr(patience, "_PAUSE_SECONDS_MAX", 0.0)
    refused = iter([True] * 3)
    proxy.rule = lambda operation, _: refusal if is_transaction(operation) and next(refused, False) else None
    assert behind.register(**document(1)).outcome == "registered"
    if refusal.status == 400:
        monkeypatch.setattr(dynamo_backend, "ATTEMPTS", 3)
        proxy.rule = lambda operation, _: refusal if is_transaction(operation) else None
        with pytest.raises(CatalogBusyError):
            behind.register(**document(2))
        proxy.rule = lambda _operation, _request: None
        assert [record.id for record in behind.iter_records()] == [1]
        assert behind.register(**document(2)).record.id == 2  # the id was not used


def test_a_lease_is_taken_over_from_the_dead_only(
    catalog: DynamoCatalog, other: DynamoCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    with catalog.lease(GC_LEASE):
        with pytest.raises(CatalogLockedError), other.lease(GC_LEASE):
            pass
        catalog.condemn(["file:///a"], plan="p")
        catalog.settle_condemned(["file:///a"])
    with other.lease(GC_LEASE):
        pass
    monkeypatch.setattr(leases, "BEAT_SECONDS", 1000.0)  # as of a process that is stopped
    monkeypatch.setattr(leases, "TAKEN_OVER_SECONDS", 0.2)
    with pytest.raises(LeaseLostError), catalog.lease(GC_LEASE):
        catalog.condemn(["file:///b"], plan="p")
        with other.lease(GC_LEASE):
            with pytest.raises(LeaseLostError):
                catalog.settle_condemned(["file:///b"])
            assert [each.plan for each in other.condemned()] == ["p"]
            other.settle_condemned(["file:///b"])
    with catalog.lease(GC_LEASE):
        assert catalog.condemned() == []


def test_a_lease_that_cannot_be_renewed_is_lost_in_time(
    catalog: DynamoCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 1000.0)
    monkeypatch.setattr(leases, "LOST_SECONDS", -1.0)
    with pytest.raises(LeaseLostError), catalog.lease(GC_LEASE):
        with pytest.raises(LeaseLostError):
            catalog.condemn(["file:///a"], plan="p")
        with pytest.raises(LeaseLostError):
            catalog.referenced(["file:///a"])  # whoever looks a last time before a blob goes is stopped
        assert catalog.condemned() == []


def test_figures_that_a_death_left_behind_are_repaired(catalog: DynamoCatalog, tables: Tables) -> None:
    process = catalog._dynamo._process()
    for number in (1, 11):  # of one content
        catalog.register(**document(number))
    with process._changed:
        process._is_settling = True  # nobody settles: as if the process died right after its commit
    catalog.register(**document(21))
    catalog.register(**document(2))
    process._sums.clear()
    process._digests.clear()
    process._is_settling = False
    found = list(catalog.audit())
    assert {finding.repair for finding in found} == {"counter", "duplicates"}
    for kind in (True, False):
        chosen = [finding for finding in found if (finding.repair == "counter") == kind]
        assert all(finding.repaired for finding in catalog.repair(chosen))
    tables.assert_consistent(catalog)
    assert list(catalog.audit()) == []


@pytest.mark.parametrize("moment", ["before it is sent", "when it is made", "while digests are counted"])
def test_an_interruption_of_who_brings_figures_up_to_date_loses_none(
    catalog: DynamoCatalog, tables: Tables, moment: str
) -> None:
    patch = pytest.MonkeyPatch()
    process = catalog._dynamo._process()
    process._is_settling = True  # nobody does before all is there
    for number in (1, 11, 2):
        catalog.register(**document(number))
    process._is_settling = False

    def interrupted(owner: Any, name: str, *, late: bool) -> None:
        real = getattr(owner, name)

        def once(*arguments: Any, **named: Any) -> None:
            patch.undo()
            if late:
                real(*arguments, **named)
            raise KeyboardInterrupt

        patch.setattr(owner, name, once)

    if moment == "while digests are counted":
        interrupted(process, "_count", late=False)
    else:
        interrupted(process.sums._sender, "send", late=moment == "when it is made")
    with pytest.raises(KeyboardInterrupt):
        process.settle()
    stats = catalog.stats()
    assert (stats.documents, stats.duplicate_documents) == (3, 1)
    tables.assert_consistent(catalog)
    assert list(catalog.audit()) == []


def test_a_row_that_no_item_holds_is_refused(catalog: Catalog) -> None:
    with pytest.raises(InvalidValueError, match="record"):
        catalog.register(**document(source_url="https://e.org/" + "u" * 400_000))
    assert list(catalog.iter_records()) == []
    with pytest.raises(InvalidValueError, match="record"):
        catalog.register(**document(source_url="https://e.org/" + "u" * 196_000))


def test_what_was_stored_can_be_changed_and_deleted_however_long_it_is(catalog: DynamoCatalog, tables: Tables) -> None:
    long = {name: f"{name}://" + name[0] * 190_000 for name in ("one", "two", "artifact")}
    record = catalog.register(**document(artifact_id=long["artifact"])).record
    catalog.register_variant(document_id=record.id, variant="v", storage_uri=long["one"], bytes=1)
    catalog.register_variant(
        document_id=record.id, variant="v", storage_uri=long["two"], bytes=2, on_conflict="replace"
    )
    catalog.delete(record.id)
    assert {entry.action for entry in catalog.journal()} == {"replace", "delete"}
    tables.assert_consistent(catalog)


def test_a_forked_child_goes_on_with_its_own(catalog: DynamoCatalog, tables: Tables) -> None:
    first = catalog.register(**document(1)).record

    def in_child() -> list[int]:
        found = [record.id for record in catalog.iter_records()]
        found.append(catalog.register(**document(2)).record.id)
        catalog.close()
        return found

    found = forked(in_child)
    assert found[0] == first.id
    assert catalog.register(**document(3)).record.id not in found
    tables.assert_consistent(catalog)
    assert catalog.stats().documents == 3


def test_an_export_of_what_others_change_has_no_row_without_its_document(
    catalog: DynamoCatalog, other: DynamoCatalog
) -> None:
    catalog.register(**document(1))
    later = other.register(**document(2)).record
    other.delete(later.id)
    with catalog.snapshot() as snapshot:
        assert not snapshot.is_one_moment
        chunks = snapshot.documents()
        rows = list(next(chunks))
        late = other.register(**document(3)).record
        other.register_variant(document_id=late.id, variant="v", storage_uri="file:///v", bytes=1)
        other.record_sighting(late.id, "late")
        rows += [row for chunk in chunks for row in chunk]
        shown = {row[0] for row in rows}
        assert {row[1] for chunk in snapshot.variants() for row in chunk} <= shown
        assert {row[0] for chunk in snapshot.sightings() for row in chunk} <= shown
    assert export_sql(catalog, io.BytesIO(), format="jsonl").position is None
    with pytest.raises(UnsupportedError, match="since"):
        export_sql(catalog, io.BytesIO(), format="postgres", since="x-1-2-3-4")


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 9))
def test_what_has_one_key_is_made_in_its_order(keys: list[int], together: int) -> None:
    lanes = dynamo_backend._lanes(keys, lambda key: key, together=together)
    assert sorted(number for lane in lanes for piece in lane for number in piece) == list(range(len(keys)))
    assert all(0 < len(piece) <= together for lane in lanes for piece in lane)
    lane_of = {number: place for place, lane in enumerate(lanes) for piece in lane for number in piece}
    for key in set(keys):
        numbers = [number for number, each in enumerate(keys) if each == key]
        assert len({lane_of[number] for number in numbers}) == 1
        made = [number for piece in lanes[lane_of[numbers[0]]] for number in piece if keys[number] == key]
        assert made == numbers


def test_two_hosts_never_give_one_id(catalog: DynamoCatalog, other: DynamoCatalog) -> None:
    found = [each.register(**document(number)).record.id for number in range(8) for each in (catalog, other)][::2]
    more = [other.register(**document(100 + number)).record.id for number in range(8)]
    assert len({*found, *more}) == 16
    catalog.close()
    assert other.register(**document(200)).record.id > 0
