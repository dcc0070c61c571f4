"""The journal is pruned from its beginning on, and knows from where on it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kvcatalog import JournalPrunedError, open_catalog
from kvcatalog.clock import to_micros
from kvcatalog.errors import InvalidValueError
from kvcatalog.store import lifetime
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent

START = datetime(2025, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LmdbCatalog]:
    """A catalog with two documents and twenty entries, one a day, the first document's at even numbers of days."""
    monkeypatch.setattr(lifetime, "_PRUNED_AT_ONCE", 3)
    with open_catalog(tmp_path / "catalog", command="test") as opened:
        for artifact in "ab":
            opened.register(artifact_id=artifact, source_url="u", resolver="r", bytes=1, storage_uri="file:///x")
        for day in range(20):
            at(opened, START + day * DAY)
            opened.update(1 + day % 2, content_type=f"text/{day}")
        at(opened, START + 100 * DAY)
        yield opened
        assert_consistent(opened)
        assert list(opened.audit()) == []


def at(catalog: LmdbCatalog, moment: datetime) -> None:
    catalog._clock = lambda: to_micros(moment)


def sequences(catalog: LmdbCatalog, *, document_id: int | None = None) -> list[int]:
    return [entry.sequence for entry in catalog.journal(document_id=document_id)]


def test_old_entries_go_and_each_step_is_written_down(catalog: LmdbCatalog) -> None:
    assert catalog.journal_start() == 1
    assert catalog.journal_end() == 20
    done = catalog.prune_journal(START + 10 * DAY, reason="too old")
    assert (done.entries, done.last_sequence, done.last_at) == (10, 10, START + 9 * DAY)
    assert catalog.journal_start() == 11
    assert sequences(catalog) == list(range(11, 25))
    assert sequences(catalog, document_id=1) == [11, 13, 15, 17, 19]
    written = list(catalog.journal(after=20))
    assert [entry.changes["last"][0] for entry in written] == [3, 6, 9, 10]
    assert {(entry.action, entry.command, entry.reason) for entry in written} == {("prune", "test", "too old")}
    assert catalog.prune_journal(START + 10 * DAY).entries == 0


def test_a_dry_run_counts_what_would_go(catalog: LmdbCatalog) -> None:
    before = sequences(catalog)
    planned = catalog.prune_journal(START + 10 * DAY, dry_run=True)
    assert sequences(catalog) == before
    assert catalog.prune_journal(START + 10 * DAY) == planned


def test_who_wants_all_that_came_behind_a_number_is_told_if_it_is_gone(catalog: LmdbCatalog) -> None:
    assert len(list(catalog.journal(complete=True))) == 20
    catalog.prune_journal(START + 10 * DAY)
    for after in (0, 9):
        with pytest.raises(JournalPrunedError) as raised:
            list(catalog.journal(after=after, complete=True))
        assert (raised.value.after, raised.value.pruned_to) == (after, 10)
    assert [entry.sequence for entry in catalog.journal(after=10, complete=True)] == list(range(11, 25))


def test_numbers_are_never_given_again_though_all_entries_go(catalog: LmdbCatalog) -> None:
    # The time lies before what pruning itself writes down, as after a clock that went back.
    done = catalog.prune_journal(START + 1000 * DAY)
    assert done.entries == 20
    last = sequences(catalog)[-1]
    catalog.prune_journal(START + 1000 * DAY)
    catalog.update(1, content_type="x/y")
    assert sequences(catalog)[-1] > last
    with open_catalog(catalog.path) as again:
        assert again.journal_start() > 20


def test_only_the_beginning_goes_so_that_there_are_no_gaps(catalog: LmdbCatalog) -> None:
    at(catalog, START - 5 * DAY)
    catalog.update(1, content_type="a/b")
    done = catalog.prune_journal(START + DAY)
    assert done.entries == 1
    assert sequences(catalog)[:20] == list(range(2, 22))


def test_a_time_without_a_zone_is_refused(catalog: LmdbCatalog) -> None:
    with pytest.raises(InvalidValueError):
        catalog.prune_journal(datetime(2025, 1, 1))  # noqa: DTZ001 - that is the point
