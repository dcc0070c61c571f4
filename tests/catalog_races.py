"""What holds in every catalog when several threads and processes change the same things at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

from kvcatalog.custody import Relocation
from kvcatalog.errors import BlobCondemnedError, CatalogError, InvalidValueError, NotFoundError
from kvcatalog.filters import parse_filter
from kvcatalog.models import Registration, RegistrationRequest
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.protocol import CatalogStore
from tests.catalog_stores import Place, digest, document, ids, requests
from tests.parallel import in_processes, in_threads

THREADS = 6
PROCESSES = 3


def tried(work: Callable[[], object]) -> type[CatalogError] | None:
    """Do something, and return the kind of the error that it ended in."""
    try:
        work()
    except CatalogError as error:
        return type(error)
    return None


class CatalogRaces:
    """The tests; the fixture `catalog` looks at every derived row in the end."""

    def test_processes_that_register_the_same_keys_make_each_once(self, place: Place) -> None:
        keys = 24
        place.open().close()

        def in_process(process: int) -> list[tuple[str, int, str]]:
            order = list(range(keys))
            random.Random(process).shuffle(order)
            with place.open() as catalog:
                if process % 2:
                    results = list(catalog.register_many(requests(*order), batch_size=10))
                else:

                    def in_thread(thread: int) -> list[Registration]:
                        return [catalog.register(**document(number)) for number in order[thread::THREADS]]

                    results = [result for part in in_threads(THREADS, in_thread) for result in part]
            return [(result.record.artifact_id, result.record.id, result.outcome) for result in results]

        answers = [answer for part in in_processes(PROCESSES, in_process) for answer in part]
        assert Counter(artifact_id for artifact_id, _, outcome in answers if outcome == "registered") == Counter(
            {f"doi:10.1/{number}": 1 for number in range(keys)}
        )
        assert {outcome for _, _, outcome in answers} == {"registered", "existing"}
        found = {(artifact_id, record_id) for artifact_id, record_id, _ in answers}
        assert len(found) == len({record_id for _, record_id in found}) == keys
        with place.open() as catalog:
            assert {(record.artifact_id, record.id) for record in catalog.iter_records()} == found
            assert catalog.stats().documents == keys
            place.assert_consistent(catalog)

    def test_one_key_with_many_contents_has_one_and_the_others_are_conflicts(self, catalog: CatalogStore) -> None:
        def work(number: int) -> str:
            other = document(bytes=number + 1, sha256=digest(number), storage_uri=f"file:///c/{number}")
            return catalog.register(**other).outcome

        assert sorted(in_threads(THREADS, work)) == ["conflict"] * (THREADS - 1) + ["registered"]
        (record,) = catalog.iter_records()  # its id may be that of any who tried
        conflicts = list(catalog.get_conflicts(record.id))
        assert {each.sha256 for each in conflicts} | {record.sha256} == {digest(number) for number in range(THREADS)}
        assert len(conflicts) == THREADS - 1

    def test_a_conflict_is_counted_as_often_as_it_came(self, catalog: CatalogStore) -> None:
        catalog.register(**document())
        in_threads(THREADS, lambda _: catalog.register(**document(bytes=9, sha256=digest(9))))
        assert [each.count for each in catalog.get_conflicts()] == [THREADS]

    def test_of_many_that_replace_each_had_its_turn(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document(bytes=100, sha256=digest(100))).record

        def work(number: int) -> object:
            content = document(bytes=number, sha256=digest(number), storage_uri=f"file:///c/{number}")
            return catalog.register(**content | {"on_conflict": "replace"})

        in_threads(THREADS, work)
        last = catalog.get_by_id(record.id)
        assert last is not None
        assert_chain([entry.changes["sha256"] for entry in catalog.journal()], digest(100), last.sha256)

    def test_updates_of_one_document_follow_each_other(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document(run_id="start")).record
        in_threads(THREADS, lambda number: catalog.update(record.id, run_id=f"run-{number}"))
        last = catalog.get_by_id(record.id)
        assert last is not None
        changes = [entry.changes["run_id"] for entry in catalog.journal()]
        assert len(changes) == THREADS
        assert_chain(changes, "start", last.run_id)
        assert {each.run_id for each in catalog.get_sightings()} == {before for before, _ in changes}

    def test_many_documents_with_one_content_are_all_counted(self, catalog: CatalogStore) -> None:
        results = in_threads(THREADS, lambda number: catalog.register(**document(number, sha256=digest(1), bytes=7)))
        (group,) = catalog.find_duplicates()
        assert (group.document_count, group.bytes) == (THREADS, 7)
        in_threads(THREADS - 2, lambda number: catalog.delete(results[number].record.id))
        assert [group.document_count for group in catalog.find_duplicates()] == [2]
        stats = catalog.stats()
        assert (stats.documents, stats.bytes, stats.duplicate_documents, stats.duplicate_bytes) == (2, 14, 1, 7)

    def test_a_document_is_deleted_once(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document()).record
        errors = in_threads(THREADS, lambda _: tried(lambda: catalog.delete(record.id)))
        assert Counter(errors) == {None: 1, NotFoundError: THREADS - 1}
        assert [entry.action for entry in catalog.journal()] == ["delete"]

    def test_nothing_hangs_on_a_document_that_went_meanwhile(self, catalog: CatalogStore) -> None:
        for turn in range(3):
            record = catalog.register(**document(turn)).record

            def work(number: int, record_id: int = record.id, turn: int = turn) -> object:
                match number:
                    case 0:
                        return tried(lambda: catalog.delete(record_id))
                    case 1:
                        return tried(lambda: catalog.record_sighting(record_id, "later"))
                    case 2:
                        return catalog.register(**document(turn, bytes=77, sha256=digest(77)))
                    case 3:
                        return catalog.register(**document(turn, links=(f"file:///l/{turn}",)))
                    case 4:
                        return tried(lambda: catalog.update(record_id, content_type="text/html"))
                    case _:
                        variant: Any = {"variant": f"v{number}", "storage_uri": "file:///v", "bytes": number}
                        return tried(lambda: catalog.register_variant(document_id=record_id, **variant))

            outcomes = in_threads(THREADS, work)
            assert outcomes[0] is None
            assert {each for each in outcomes[1:] if isinstance(each, type)} <= {NotFoundError}
            assert catalog.get_by_id(record.id) is None
            assert (catalog.get_variants(record.id), catalog.get_links(record.id)) == ([], [])
            assert list(catalog.get_sightings(document_id=record.id)) == []
            assert list(catalog.get_conflicts(record.id)) == []

    def test_nothing_refers_to_a_blob_that_was_taken(self, place: Place, catalog: CatalogStore) -> None:
        with place.open() as collector:
            for turn in range(5):
                uri = f"file:///blob/{turn}"
                epoch = catalog.blob_epoch()

                def work(number: int, uri: str = uri, turn: int = turn, epoch: int = epoch) -> bool | None:
                    if number:
                        wanted = document(100 * turn + number, storage_uri=uri, blob_epoch=epoch)
                        return tried(lambda: catalog.register(**wanted)) is None
                    with collector.lease(GC_LEASE):
                        collector.condemn([uri], plan="p")
                        is_taken = uri not in collector.referenced([uri])
                        collector.settle_condemned([uri])
                        collector.forget_condemned()
                    return is_taken

                is_taken, *registered = in_threads(3, work)
                assert not (is_taken and any(registered))
                assert any(registered) == bool(catalog.get_by_storage_uri(uri))
                with suppress(BlobCondemnedError):
                    catalog.register(**document(100 * turn + 50, storage_uri=uri, blob_epoch=epoch))
                    assert not is_taken

    def test_ids_are_never_given_twice(self, place: Place, catalog: CatalogStore) -> None:
        with place.open() as other:
            catalogs = (catalog, other)

            def work(number: int) -> list[int]:
                wanted = [RegistrationRequest(**document(100 * number + each)) for each in range(12)]
                return ids(result.record for result in catalogs[number % 2].register_many(wanted, batch_size=5))

            given = [each for part in in_threads(THREADS, work) for each in part]
            assert len(set(given)) == len(given) == 12 * THREADS
            holds = in_threads(
                THREADS, lambda number: catalogs[number % 2].add_hold(parse_filter(["run=r"]), reason="r")
            )
            assert len({hold.id for hold in holds}) == THREADS
            assert sorted(ids(catalog.holds())) == sorted(hold.id for hold in holds)

    def test_a_root_becomes_known_once(self, catalog: CatalogStore) -> None:
        roots = in_threads(THREADS, lambda _: catalog.add_root("file:///store", uuid="one"))
        assert len(set(roots)) == 1
        others = in_threads(THREADS, lambda number: tried(lambda: catalog.add_root("file:///other", uuid=f"{number}")))
        assert Counter(others) == {None: 1, InvalidValueError: THREADS - 1}
        different = in_threads(THREADS, lambda number: catalog.add_root(f"file:///{number}", uuid=f"of {number}"))
        assert len({root.id for root in different}) == THREADS
        assert len(catalog.roots()) == THREADS + 2

    def test_what_moves_and_what_changes_do_not_lose_each_other(self, catalog: CatalogStore) -> None:
        records = [result.record for result in catalog.register_many(requests(*range(6)))]
        epoch = catalog.blob_epoch()

        def work(number: int) -> object:
            if number:
                return [catalog.update(record.id, run_id=f"run-{number}") for record in records]
            wanted = [
                Relocation(
                    "document", each.id, each.storage_uri, f"s3://b/{each.id}", each.bytes, each.sha256 or "", epoch
                )
                for each in records
            ]
            return catalog.relocate(wanted)

        assert in_threads(3, work)[0] == ["moved"] * 6
        for record in catalog.iter_records():
            assert record.storage_uri == f"s3://b/{record.id}"
            assert record.run_id in {"run-1", "run-2"}

    def test_who_looks_while_others_change_sees_what_was_stored(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document()).record

        def work(number: int) -> None:
            for turn in range(8):
                if number == 0:
                    content: Any = {"bytes": 1 + turn % 2, "sha256": digest(turn % 2), "storage_uri": "file:///x"}
                    catalog.update(record.id, run_id=f"run-{turn % 3}", **content)
                elif number == 1:
                    catalog.delete(catalog.register(**document(turn + 100, sha256=digest(0))).record.id)
                else:
                    for each in catalog.get_by_sha256(digest(turn % 2)):
                        assert each.sha256 == digest(turn % 2)
                    for each in catalog.get_by_run(f"run-{turn % 3}"):
                        assert each.run_id == f"run-{turn % 3}"
                    assert record.id in ids(catalog.get_by_artifact(record.artifact_id))
                    assert record.id in ids(catalog.iter_records())

        in_threads(4, work)

    def test_variants_of_one_name_become_one(self, catalog: CatalogStore) -> None:
        record = catalog.register(**document()).record
        variant: Any = {"document_id": record.id, "variant": "html", "storage_uri": "file:///v", "bytes": 1}
        results = in_threads(THREADS, lambda _: catalog.register_variant(**variant))
        assert len({result.record for result in results}) == 1
        assert sorted(result.outcome for result in results) == ["existing"] * (THREADS - 1) + ["registered"]


def assert_chain(changes: list[Any], first: Any, last: Any) -> None:
    """See that each change began where another ended, from the first value to the last."""
    following = dict(changes)
    assert len(following) == len(changes)
    chain = [first]
    while chain[-1] in following:
        chain.append(following[chain[-1]])
    assert chain[-1] == last
    assert set(pairwise(chain)) == {(before, after) for before, after in changes}
