"""Registrations that nobody waits for: futures and asyncio."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import CatalogClosedError, InvalidValueError, LmdbCatalog, NotFoundError, Registration, open_catalog
from kvcatalog.errors import BlobCondemnedError
from kvcatalog.kv import attending, writer
from kvcatalog.models import RegistrationFields
from kvcatalog.schema import CondemnedRow
from kvcatalog.store import upkeep
from tests.support import HANG_SECONDS, forked, run


def fields(number: int) -> RegistrationFields:
    return {
        "artifact_id": f"a{number}",
        "source_url": f"https://x.org/{number}",
        "resolver": "r",
        "bytes": number,
        "storage_uri": f"file:///data/{number}",
    }


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        yield opened


def ended(future: Future[Registration]) -> Registration:
    return future.result(HANG_SECONDS)


def test_futures_have_their_own_results_and_what_is_done_is_stored(catalog: LmdbCatalog) -> None:
    futures = [catalog.register_async(**fields(number % 300)) for number in range(600)]
    outcomes = [ended(future) for future in futures]
    assert [outcome.record.artifact_id for outcome in outcomes] == [f"a{number % 300}" for number in range(600)]
    assert [outcome.outcome for outcome in outcomes] == ["registered"] * 300 + ["existing"] * 300
    assert catalog.stats().documents == 300


def test_values_are_refused_at_once(catalog: LmdbCatalog) -> None:
    with pytest.raises(InvalidValueError):
        catalog.register_async(artifact_id="", source_url="u", resolver="r", bytes=1, storage_uri="file:///x")


def test_a_call_that_fails_takes_nothing_with_it(catalog: LmdbCatalog) -> None:
    with catalog._writer._door:
        before = catalog.register_async(**fields(1))
        failing = catalog._writer.post(lambda _: catalog_error())
        behind = catalog.register_async(**fields(2))
    with pytest.raises(NotFoundError):
        failing.result(HANG_SECONDS)
    assert ended(before).outcome == ended(behind).outcome == "registered"


def catalog_error() -> None:
    raise NotFoundError("not here")


def test_what_is_cancelled_before_its_turn_is_not_stored(catalog: LmdbCatalog) -> None:
    with catalog._writer._door:
        wanted, unwanted = (catalog.register_async(**fields(number)) for number in (1, 2))
        assert unwanted.cancel()
    ended(wanted)
    with pytest.raises(CancelledError):
        unwanted.result()
    assert not wanted.cancel()
    assert [record.artifact_id for record in catalog.iter_records()] == ["a1"]


def test_closing_stores_what_was_accepted_and_refuses_what_comes_later(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path / "catalog")
    futures = [catalog.register_async(**fields(number)) for number in range(2000)]
    catalog.close()
    assert all(future.done() for future in futures)
    with pytest.raises(CatalogClosedError):
        catalog.register_async(**fields(1))
    with open_catalog(tmp_path / "catalog") as again:
        assert again.stats().documents == 2000


def test_a_process_does_not_end_before_what_was_accepted_is_stored(tmp_path: Path) -> None:
    script = """
from kvcatalog import open_catalog
catalog = open_catalog(sys.argv[1])
for number in range(3000):
    catalog.register_async(artifact_id=f"a{number}", source_url="u", resolver="r", bytes=1, storage_uri="file:///x")
"""
    run(script, tmp_path / "catalog")
    with open_catalog(tmp_path / "catalog") as catalog:
        assert catalog.stats().documents == 3000


def test_no_thread_stays_behind(catalog: LmdbCatalog) -> None:
    ended(catalog.register_async(**fields(1)))
    called = threading.Event()
    catalog.register_async(**fields(1)).add_done_callback(lambda _: called.set())
    assert called.wait(HANG_SECONDS)
    ours = {"kvcatalog writer", "kvcatalog callbacks"}
    for thread in threading.enumerate():
        if thread.name in ours:
            thread.join(HANG_SECONDS)
    assert not ours & {thread.name for thread in threading.enumerate()}
    assert ended(catalog.register_async(**fields(2))).outcome == "registered"


def test_no_wake_up_is_lost_while_threads_come_and_go(catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "LINGER_SECONDS", 0.0002)

    def work(base: int) -> None:
        for number in range(150):
            if number % 3:
                ended(catalog.register_async(**fields(base + number)))
            else:
                catalog.register(**fields(base + number))

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    assert catalog.stats().documents == 900


def test_a_producer_that_is_too_quick_helps(catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "POSTED_CALLS_MAX", 20)
    most = 0
    futures = []
    for number in range(500):
        futures.append(catalog.register_async(**fields(number)))
        most = max(most, len(catalog._writer._waiting))
    assert most <= 20
    assert [ended(future).outcome for future in futures] == ["registered"] * 500


def test_where_no_thread_can_be_started_the_caller_does_it(
    catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert catalog.register_async(**fields(1)).done()


def test_what_is_posted_while_the_interpreter_ends_is_stored(tmp_path: Path) -> None:
    script = """
import atexit
from kvcatalog import open_catalog
catalog = open_catalog(sys.argv[1])
def late():
    for number in range(1500):
        future = catalog.register_async(
            artifact_id=f"a{number}", source_url="u", resolver="r", bytes=1, storage_uri="file:///x"
        )
        assert future.done()
atexit.register(late)
"""
    run(script, tmp_path / "catalog")
    with open_catalog(tmp_path / "catalog") as catalog:
        assert catalog.stats().documents == 1500


def test_what_hangs_on_a_future_may_use_the_catalog(catalog: LmdbCatalog) -> None:
    later: list[object] = []
    ready = threading.Event()

    def use(future: Future[Registration]) -> None:
        record = future.result().record
        later.append(catalog.record_sighting(record.id, "run 2"))
        later.append(catalog.register(**fields(2)).outcome)
        catalog.register_async(**fields(3)).add_done_callback(close)

    def close(future: Future[Registration]) -> None:
        later.append(future.result().outcome)
        catalog.close()
        ready.set()

    with catalog._writer._door:
        catalog.register_async(**fields(1)).add_done_callback(use)
    assert ready.wait(HANG_SECONDS)
    assert later == [True, "registered", "registered"]


def test_what_hangs_on_a_future_may_wait_for_another_one(catalog: LmdbCatalog) -> None:
    outcomes: list[str] = []
    ready = threading.Event()

    def chained(future: Future[Registration]) -> None:
        outcomes.append(future.result().outcome)
        outcomes.append(ended(behind).outcome)  # of the same batch
        outcomes.append(ended(catalog.register_async(**fields(3))).outcome)
        ready.set()

    with catalog._writer._door:
        first = catalog.register_async(**fields(1))
        first.add_done_callback(chained)
        behind = catalog.register_async(**fields(2))
    assert ready.wait(HANG_SECONDS)
    assert outcomes == ["registered"] * 3


def test_what_hangs_on_a_future_may_wait_for_a_thread_that_waits_for_another_one(catalog: LmdbCatalog) -> None:
    lock, ready = threading.Lock(), threading.Event()

    def locks(_: Future[Registration]) -> None:
        with lock:
            ready.set()

    with catalog._writer._door:
        first = catalog.register_async(**fields(1))
        first.add_done_callback(locks)
    with lock:
        ended(first)
        assert ended(catalog.register_async(**fields(2))).outcome == "registered"
        assert not ready.is_set()
    assert ready.wait(HANG_SECONDS)


def test_what_takes_its_time_on_a_future_stops_no_writer(catalog: LmdbCatalog) -> None:
    entered, leave = threading.Event(), threading.Event()

    def linger(_: object) -> None:
        entered.set()
        leave.wait(HANG_SECONDS)

    with catalog._writer._door:
        first = catalog.register_async(**fields(1))
        first.add_done_callback(linger)
    assert entered.wait(HANG_SECONDS)
    assert catalog.register(**fields(2)).outcome == "registered"
    behind = catalog.register_async(**fields(3))
    assert catalog.register(**fields(3)).outcome == "existing"
    catalog.close()
    assert behind.done()
    leave.set()


def test_a_caller_that_leads_is_not_made_to_run_what_hangs_on_the_futures_of_others(catalog: LmdbCatalog) -> None:
    lock = threading.Lock()
    names: list[str] = []

    def note(_: object) -> None:
        with lock:
            names.append(threading.current_thread().name)

    with catalog._writer._door:
        futures = [catalog.register_async(**fields(number)) for number in range(100)]
        for future in futures:
            future.add_done_callback(note)
    with lock:
        catalog.register(**fields(1000))
    for future in futures:
        ended(future)
    catalog.close()
    assert set(names) <= {"kvcatalog callbacks", "MainThread"}


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ZeroDivisionError])
def test_what_a_callback_raises_is_logged_and_harms_nobody(
    catalog: LmdbCatalog, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    called = threading.Event()

    def fail(_: object) -> None:
        raise kind

    with catalog._writer._door:
        first = catalog.register_async(**fields(1))
        first.add_done_callback(fail)
        first.add_done_callback(lambda _: called.set())
        same_batch = catalog.register_async(**fields(2))
    assert called.wait(HANG_SECONDS)
    assert ended(same_batch).outcome == ended(catalog.register_async(**fields(3))).outcome == "registered"
    assert kind.__name__ in caplog.text


def test_who_comes_late_is_called_at_once_and_in_order(catalog: LmdbCatalog) -> None:
    called: list[int] = []
    with catalog._writer._door:
        future = catalog.register_async(**fields(1))
        for number in range(3):
            future.add_done_callback(lambda _, number=number: called.append(number))  # type: ignore[misc]
    catalog.close()
    future.add_done_callback(lambda _: called.append(3))
    assert called == [0, 1, 2, 3]


def test_parent_and_child_go_on_after_a_fork(catalog: LmdbCatalog) -> None:
    waiting = [catalog.register_async(**fields(number)) for number in range(200)]
    assert forked(lambda: ended(catalog.register_async(**fields(1000))).outcome) == "registered"
    assert [ended(future).outcome for future in waiting] == ["registered"] * 200
    assert ended(catalog.register_async(**fields(1000))).outcome == "existing"


def test_coroutines_share_transactions(catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    monkeypatch.setattr(catalog._writer, "_after_commit", batches.append)

    async def work() -> list[Registration]:
        with catalog._writer._door:
            tasks = [asyncio.create_task(catalog.aio.register(**fields(number))) for number in range(500)]
            await asyncio.sleep(0)  # each of them comes as far as its future
            assert len(catalog._writer._waiting) == 500
        return list(await asyncio.gather(*tasks))

    assert [outcome.outcome for outcome in asyncio.run(work())] == ["registered"] * 500
    assert batches == [500]


def test_what_a_coroutine_asks(catalog: LmdbCatalog) -> None:
    async def work() -> None:
        aio = catalog.aio
        wanted = fields(1)
        wanted["sha256"] = "a" * 64
        record = await aio.register_or_get(**wanted)
        assert await aio.get_by_id(record.id) == record
        key = {"artifact_id": "a1", "source_url": "https://x.org/1", "resolver": "r"}
        assert await aio.get(**key) == record
        assert await aio.get_by_artifact("a1") == await aio.get_by_sha256("a" * 64) == [record]
        assert await aio.get_by_url("https://x.org/1") == [record]
        assert [found.records for found in await aio.have(["a1", "a2"])] == [(record,), ()]
        assert (await aio.search(limit=5)).records == (record,)
        stored = await aio.register_variant(document_id=1, variant="text", storage_uri="file:///t", bytes=3)
        assert await aio.get_variants(1) == [stored.record]
        assert await aio.record_sighting(1, "run 2")
        assert (await aio.stats()).variants == 1
        assert await aio.delete(1) == record
        with pytest.raises(NotFoundError):
            await aio.delete(1)

    asyncio.run(work())


def test_where_too_many_wait_the_loop_does_not_help(catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "POSTED_CALLS_MAX", 20)
    leaders: list[threading.Thread] = []
    monkeypatch.setattr(catalog._writer, "_after_commit", lambda _: leaders.append(threading.current_thread()))

    async def work() -> list[Registration]:
        return list(await asyncio.gather(*(catalog.aio.register(**fields(number)) for number in range(300))))

    assert [outcome.outcome for outcome in asyncio.run(work())] == ["registered"] * 300
    assert threading.main_thread() not in leaders


def test_a_coroutine_says_all_of_a_variant(catalog: LmdbCatalog) -> None:
    moment = datetime(2020, 1, 2, tzinfo=UTC)

    async def work() -> None:
        await catalog.aio.register(**fields(1))
        variant: Any = {"document_id": 1, "variant": "text", "storage_uri": "file:///t", "bytes": 3}
        done = await catalog.aio.register_variant(**variant, created_at=moment, blob_epoch=0, links=["file:///l"])
        assert done.record.created_at == moment
        row = CondemnedRow(None, "file:///l", "plan", 0)
        catalog._writer.submit(lambda transaction: upkeep.put_condemned(transaction, row))
        with catalog.lease("gc"), pytest.raises(BlobCondemnedError):
            await catalog.aio.register_variant(**variant, links=["file:///l"])
        catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, None, "file:///l"))
        with pytest.raises(BlobCondemnedError):
            await catalog.aio.register_variant(**variant, blob_epoch=0, links=["file:///l"])

    asyncio.run(work())
