"""Copying a catalog: everything comes along as it is, whatever kills the copy, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcatalog import adopt_root, finalize_candidate_download, open_catalog
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.config import StorageConfig
from kvcatalog.copying import compare_catalogs, comparing, copy_catalog, plan_copy
from kvcatalog.copying.comparing import unmatched
from kvcatalog.errors import CatalogLockedError, CopyTargetError, InvalidValueError, RootOwnershipError
from kvcatalog.filters import parse_filter
from kvcatalog.models import CatalogPosition
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.copies import ROOT, fill, raised, requests, said
from tests.invariants import assert_consistent
from tests.parallel import start_process

DOCUMENTS = 90


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog that nobody has open."""
    folder = tmp_path_factory.mktemp("filled") / "catalog"
    with open_catalog(folder) as catalog:
        fill(catalog, DOCUMENTS)
    return folder


@pytest.fixture
def source(filled: Path, tmp_path: Path) -> Iterator[LmdbCatalog]:
    shutil.copytree(filled, tmp_path / "source")
    with open_catalog(tmp_path / "source") as catalog:
        yield catalog
        assert_consistent(catalog)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "target") as catalog:
        yield catalog
        assert_consistent(catalog)


def test_everything_comes_along_as_it_is(source: LmdbCatalog, target: LmdbCatalog, tmp_path: Path) -> None:
    before = said(source)
    report = copy_catalog(source, target, batch_size=7)
    assert report.is_same
    assert said(target) == said(source) == before
    counts = {table.name: table.rows for table in report.tables}
    assert counts == {table.name: table.copied for table in report.tables}
    assert min(counts.values()) > 0
    assert report.roots == tuple(source.roots())
    assert list(target.audit()) == []
    assert target.identity != source.identity
    with open_catalog(tmp_path / "back") as back:
        assert copy_catalog(target, back).is_same
        assert said(back) == before


def test_what_is_given_next_is_what_the_source_would_give(source: LmdbCatalog, target: LmdbCatalog) -> None:
    copy_catalog(source, target)
    new = list(requests(DOCUMENTS + 1))[-1:]
    (ours,), (theirs,) = (list(catalog.register_many(new)) for catalog in (source, target))
    assert ours.record == theirs.record
    assert (
        source.add_hold(parse_filter(["artifact=b"]), reason="x").id
        == target.add_hold(parse_filter(["artifact=b"]), reason="x").id
        == 4
    )
    assert source.journal_end() == target.journal_end()


def test_a_pruned_journal_stays_pruned(source: LmdbCatalog, target: LmdbCatalog) -> None:
    source.prune_journal(from_micros(now_micros()))
    source.update(1, run_id="another")
    start = source.journal_start()
    assert start > 1
    copy_catalog(source, target)
    assert (target.journal_start(), list(target.journal())) == (start, list(source.journal()))


def test_a_copy_that_is_killed_anywhere_is_gone_on_with(source: LmdbCatalog, tmp_path: Path) -> None:
    folder = tmp_path / "killed"

    def copied_until(death: int, batch_size: int) -> int:
        """Copy in a process that dies at its nth step; return how many steps it made."""

        def work(_: int) -> int:
            steps = 0
            with open_catalog(folder) as catalog:
                real = catalog._refer_all

                def step(*arguments: Any, **settings: Any) -> Any:
                    nonlocal steps
                    steps += 1
                    if steps == death:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **settings)

                catalog._refer_all = step  # type: ignore[method-assign]
                copy_catalog(source, catalog, batch_size=batch_size)
            return steps

        return start_process(work)()

    deaths = 0
    while True:
        try:
            # Each run gets one step further than the one before.
            copied_until(2, batch_size=5)
        except AssertionError:
            deaths += 1
        else:
            break
    assert deaths > DOCUMENTS / 5
    with open_catalog(folder) as catalog:
        assert said(catalog) == said(source)
        assert all(table.copied == 0 for table in copy_catalog(source, catalog).tables)
        assert_consistent(catalog)


def test_what_has_come_since_comes_along(source: LmdbCatalog, target: LmdbCatalog) -> None:
    copy_catalog(source, target)
    list(source.register_many(list(requests(DOCUMENTS + 30))[DOCUMENTS:]))
    source.register_variant(document_id=1, variant="new", storage_uri=f"{ROOT}/new", bytes=1)
    source.record_sighting(1, "new")
    report = copy_catalog(source, target)
    assert report.is_same
    assert {table.name: table.copied for table in report.tables if table.copied} == {
        "documents": 30,
        "variants": 1,
        "sightings": 1,
        "links": 6,
    }
    assert said(target) == said(source)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda catalog: catalog.update(4, content_type="text/html"), "documents 4; journal "),
        (lambda catalog: catalog.delete(4), "documents 4; "),
        (lambda catalog: catalog.delete_variant(1, "html"), "variants 1"),
    ],
)
def test_what_was_changed_since_is_refused_and_nothing_is_stored(
    source: LmdbCatalog, target: LmdbCatalog, change: Any, named: str
) -> None:
    copy_catalog(source, target)
    before = said(target)
    change(source)
    list(source.register_many(list(requests(DOCUMENTS + 1))[DOCUMENTS:]))
    for copied in (copy_catalog, plan_copy):
        with pytest.raises(CopyTargetError, match=named.partition(";")[0]):
            copied(source, target)
    assert said(target) == before
    report = compare_catalogs(source, target)
    assert not report.is_same


def test_a_target_with_anything_else_is_refused(source: LmdbCatalog, target: LmdbCatalog) -> None:
    (request,) = list(requests(1))
    target.register(
        artifact_id="another", source_url=request.source_url, resolver="r", bytes=1, storage_uri="file:///x"
    )
    before = said(target)
    with pytest.raises(CopyTargetError, match="documents 1"):
        copy_catalog(source, target)
    assert said(target) == before


def test_a_target_that_has_given_ids_takes_no_others(source: LmdbCatalog, target: LmdbCatalog) -> None:
    target.raise_position(CatalogPosition(0, 5, 0))
    with pytest.raises(CopyTargetError, match="documents 1 cannot be stored in the target: id is taken"):
        copy_catalog(source, target)


def test_a_catalog_is_not_copied_into_itself_or_its_like(source: LmdbCatalog, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="target"):
        copy_catalog(source, source)
    with pytest.raises(InvalidValueError, match="target"):
        compare_catalogs(source, source)
    with pytest.raises(InvalidValueError, match="batch_size"), open_catalog(tmp_path / "b") as target:
        copy_catalog(source, target, batch_size=0)


def test_two_copies_do_not_work_on_one_target(source: LmdbCatalog, target: LmdbCatalog) -> None:
    with target.lease("copy"), pytest.raises(CatalogLockedError):
        copy_catalog(source, target)


def test_a_plan_says_what_is_to_come_and_changes_nothing(source: LmdbCatalog, target: LmdbCatalog) -> None:
    report = plan_copy(source, None)
    missing = {table.name: table.missing for table in report.tables}
    assert (report.applied, report.target, report.is_same) == (False, None, False)
    assert missing == {table.name: table.missing for table in plan_copy(source, target).tables}
    done = copy_catalog(source, target)
    assert missing == {table.name: table.copied for table in done.tables}
    assert plan_copy(source, target).is_same


def test_progress_reaches_the_end_of_each_table(source: LmdbCatalog, target: LmdbCatalog) -> None:
    told: dict[str, tuple[int, int]] = {}

    def follow(what: str, done: int, total: int) -> None:
        assert told.get(what, (0, 0))[0] <= done <= total
        told[what] = done, total

    report = copy_catalog(source, target, progress=follow)
    for table in report.tables:
        for what in ("copy", "compare"):
            assert told[f"{what} {table.name}"] == (table.rows, table.rows)


def test_a_root_has_one_owner(tmp_path: Path) -> None:
    config = StorageConfig(root_dir=str(tmp_path / "root"))
    file = tmp_path / "a.pdf"

    def store(catalog: LmdbCatalog, text: str) -> Any:
        file.write_text(text)
        return finalize_candidate_download(
            file, artifact_id=text, source_url="u", resolver="r", catalog=catalog, cfg_storage=config
        )

    with open_catalog(tmp_path / "one") as one, open_catalog(tmp_path / "two") as two:
        assert store(one, "first").ok
        copy_catalog(one, two)
        with pytest.raises(RootOwnershipError):
            store(two, "second")
        with pytest.raises(RootOwnershipError):
            adopt_root(config, two)
        assert store(one, "second").ok
        copy_catalog(one, two)
        adopt_root(config, two, force=True)
        assert store(two, "third").record.id == 3
        with pytest.raises(RootOwnershipError):
            store(one, "fourth")
        assert two.verify(1)


@given(
    rows=st.lists(st.integers(0, 60), unique=True),
    gone=st.sets(st.integers(0, 60)),
    new=st.sets(st.integers(0, 60)),
    waiting=st.sampled_from([3, 20_000]),
)
def test_rows_of_one_side_only_are_found_in_streams_of_one_order(
    rows: list[int], gone: set[int], new: set[int], waiting: int
) -> None:
    ours = [row for row in rows if row not in new]
    theirs = [row for row in rows if row not in gone]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "WAITING_MAX", waiting)
        pairs = list(unmatched(ours, theirs))
    left = [row for row, other in pairs if other is None]
    right = [row for other, row in pairs if other is None]
    if waiting > len(rows):
        assert left == [row for row in ours if row not in theirs]
        assert right == [row for row in theirs if row not in ours]
    # With less room some are given that have their like after all, on both sides; none is left out.
    assert set(left) >= set(ours) - set(theirs)
    assert set(right) >= set(theirs) - set(ours)
    assert set(left) - set(ours) == set(right) - set(theirs) == set()


def test_a_lost_row_is_found_wherever_it_was(source: LmdbCatalog, target: LmdbCatalog) -> None:
    copy_catalog(source, target)
    position = CatalogPosition(200, 200, 200, 200)
    target.raise_position(raised(position, 1))
    target.delete(7)
    report = compare_catalogs(source, target)
    found = {table.name: (table.missing, table.extra) for table in report.tables if table.missing or table.extra}
    assert found["documents"] == (1, 0)
    assert found["journal"][0] == 0
    assert report.tables[1].examples == ("7",)
