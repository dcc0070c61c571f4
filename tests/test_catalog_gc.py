"""What garbage collection finds, takes, leaves, and gives back."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcatalog import gc as gc_module
from kvcatalog import layout, parse_filter, storage, telemetry
from kvcatalog.blobs import Marker
from kvcatalog.errors import (
    CatalogLockedError,
    NotFoundError,
    PlanError,
    RootOwnershipError,
    RootUnreachableError,
)
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.gc import find_orphans, retention_filter
from kvcatalog.models import DocumentRecord
from kvcatalog.removal import Collection, Plan, PlanItem, executing
from kvcatalog.removal.sharing import FreedBytes
from kvcatalog.store.backend import GC_LEASE
from tests.gc_store import Place, aged, blob_bytes, kept, trashed, tree
from tests.invariants import assert_consistent

SETTINGS: dict[str, dict[str, Any]] = {
    "cas": {"layout": "cas"},
    "cas-links": {"layout": "cas", "policy_links": True},
    "policy-path": {},
}


@pytest.fixture(params=SETTINGS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, **SETTINGS[request.param])
    yield made
    made.close()


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def record(number: int, created: datetime) -> DocumentRecord:
    return DocumentRecord(number, "a", "u", "r", None, 1, None, "file:///x", created, created, None)


def test_orphans_are_files_that_are_not_referred_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pdf", "b/c d.pdf", "b/e.pdf", "f.pdf", ".DS_Store", "@eaDir/x", "b/.hidden"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "docs" / "link").symlink_to("a.pdf")
    referenced = ["docs/a.pdf", str(tmp_path / "docs/f.pdf"), (tmp_path / "docs/b/c d.pdf").as_uri()]
    assert find_orphans("docs", set(referenced)) == ["docs/b/e.pdf"]
    assert find_orphans(str(tmp_path / "docs"), iter(referenced)) == [str(tmp_path / "docs/b/e.pdf")]
    with pytest.raises(RootUnreachableError):
        find_orphans("none", ())


def test_retention_keeps_what_is_young_and_everything_without_days() -> None:
    now = datetime(2025, 3, 1, tzinfo=UTC)
    records = [record(days, now - timedelta(days=days)) for days in (1, 29, 30, 31, 400)]
    assert [each.id for each in retention_filter(iter(records), 30, now=now)] == [31, 400]
    assert retention_filter(records, 0, now=now) == []
    assert [each.id for each in retention_filter(records, 1000, now=now)] == []


def test_what_anything_refers_to_stays(place: Place) -> None:
    orphan = place.orphan(b"orphan", "orphan")
    plain = place.stored(b"plain", "plain")
    place.stored(b"a variant", "plain", variant="text")
    place.stored(b"a conflict", "plain")
    twin = place.stored(b"plain", "twin")
    held = place.orphan(b"held", "held")
    place.catalog.add_hold(parse_filter([f"uri={held}", "resolver=other"]), reason="evidence")
    place.catalog.add_hold(parse_filter(["artifact=orphan"]), reason="names no place")
    assert [each.sha256 for each in place.catalog.get_conflicts(plain.id)] == [
        hashlib.sha256(b"a conflict").hexdigest()
    ]
    named = {orphan} if not place.config.policy_links else {orphan, place.store.uri_of("orphan/orphan.pdf")}
    if place.config.policy_links:
        named.add(place.store.uri_of("held/held.pdf"))
    assert place.planned() == named
    assert trashed(place.collect()) == named
    for each in (plain, twin):
        with place.store.open(place.store.path_of(each.storage_uri) or "") as stream:
            assert stream.read() == b"plain"
    place.catalog.delete(plain.id)
    place.catalog.delete(twin.id)
    place.catalog.release_hold(1)
    everything = {place.store.uri_of(blob.path) for blob in place.store.walk()}
    assert place.planned() == everything
    assert_consistent(place.catalog)


@pytest.mark.parametrize("days", [0.5, 7])
def test_what_is_young_stays(place: Place, days: float) -> None:
    young = place.orphan(b"young", "young")
    stray = place.stray("old/stray.pdf", age_days=10)
    assert place.planned(days) == {stray}
    assert young in place.planned(days, later_days=days + 0.1)


def test_an_orphan_is_as_old_as_the_loss_of_its_record(policy: Place) -> None:
    record = policy.stored(b"x", "work")
    aged(Path(policy.root / "work/work.pdf"), 100)
    assert policy.planned(7, later_days=0) == set()
    policy.catalog.delete(record.id)
    assert policy.planned(7) == set()
    assert policy.planned(7, later_days=7.1) == {record.storage_uri}


def test_the_former_owner_stands_in_the_plan(policy: Place) -> None:
    deleted = policy.stored(b"x", "deleted")
    policy.catalog.delete(deleted.id)
    moved = policy.stored(b"y", "moved")
    policy.catalog.update(moved.id, bytes=1, sha256=None, storage_uri="file:///elsewhere")
    stray = policy.stray("stray.pdf")
    with policy.plan() as plan:
        owners = {item.location: item.former_owner for item in plan.items()}
    assert set(owners) == {deleted.storage_uri, moved.storage_uri, stray}
    for record, action in ((deleted, "delete"), (moved, "update")):
        owner = owners[record.storage_uri]
        assert owner is not None
        assert (owner.document_id, owner.action) == (record.id, action)
        assert (owner.artifact_id, owner.source_url, owner.resolver) == (record.artifact_id, record.source_url, "r")
    assert owners[stray] is None


def test_whatever_hung_on_a_record_is_as_old_as_its_loss(place: Place) -> None:
    record = place.stored(b"document", "work")
    place.stored(b"variant", "work", variant="text")
    place.stored(b"conflict", "work")
    places = {place.store.uri_of(blob.path) for blob in place.store.walk()}
    for blob in place.store.walk():
        aged(place.root / blob.path, 100)
    place.catalog.delete(record.id)
    assert place.planned(7) == set()
    with place.plan(7, later_days=7.1) as plan:
        owners = {item.location: item.former_owner for item in plan.items()}
    assert owners.keys() == places
    assert {owner and owner.artifact_id for owner in owners.values()} == {"work"}
    assert {owner and owner.variant for owner in owners.values()} == {None, "text"}


def test_a_file_system_inside_the_root_stays(policy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    location = policy.stray("mount/a.pdf")
    monkeypatch.setattr("kvcatalog.fs_layout.batches.rename_exclusively", refuse)
    assert kept(policy.collect()) == {location: "on another file system"}
    assert policy.catalog.condemned() == []


def test_what_is_not_ours_stays(policy: Place) -> None:
    foreign = [".DS_Store", "work/.DS_Store", "work/@eaDir/a.pdf", "Thumbs.db", "lost+found/x", "catalog/data.mdb"]
    for path in foreign:
        policy.stray(path)
    policy.stray("inner/a.pdf")
    FileBlobStore(policy.root / "inner").write_marker(Marker("root", "another catalog", 1))
    policy.orphan(b"x", "work")
    before = tree(policy.root)
    assert policy.planned() == {policy.store.uri_of("work/work.pdf")}
    assert trashed(policy.collect()) == {policy.store.uri_of("work/work.pdf")}
    assert {path for path in before if path not in tree(policy.root)} == {"work/work.pdf"}


def test_a_file_that_is_being_written_stays(policy: Place) -> None:
    location = policy.stray("work/part.pdf")
    with open(policy.root / "work/part.pdf", "ab"):
        assert policy.planned() == set()
    with policy.plan() as plan:
        with open(policy.root / "work/part.pdf", "ab"):
            assert kept(policy.carry_out(plan)) == {location: "written to"}
        assert trashed(policy.carry_out(plan)) == {location}


def test_a_record_that_knows_a_blob_by_another_name_keeps_it(policy: Place) -> None:
    location = policy.stray("work/a.pdf")
    other = policy.stray("work/b.pdf")
    (policy.folder / "alias").symlink_to(policy.root)
    with policy.plan() as plan:
        facts: dict[str, Any] = {"artifact_id": "a", "source_url": "u", "resolver": "r", "bytes": 5}
        policy.catalog.register(**facts, storage_uri=(policy.folder / "alias/work/a.pdf").as_uri())
        assert policy.planned() == {other}
        assert kept(policy.carry_out(plan)) == {location: "known by another name"}


@pytest.mark.parametrize("spelling", ["{root}/b c.pdf", "{root}/./b%20c.pdf", "{host}/b%20c.pdf", "{root}//b%20c.pdf"])
def test_a_record_that_spells_a_uri_otherwise_keeps_its_blob(policy: Place, spelling: str) -> None:
    policy.stray("b c.pdf")
    host = policy.store.uri.replace("file://", "file://localhost")
    uri = spelling.format(root=policy.store.uri, host=host)
    policy.catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=5, storage_uri=uri)
    assert policy.planned() == set()
    policy.catalog.delete(1)
    assert policy.planned() == {policy.store.uri_of("b c.pdf")}


def test_figures_of_the_plan_are_those_of_the_deed(place: Place) -> None:
    for number in range(40):
        content = b"content %d" % (number // 2) * (number + 1 if number % 5 else 1)
        (place.orphan if number % 2 else place.stored)(content, f"work-{number}")
    os.link(place.root / place.stray("links/a.bin", b"a" * 1000).rpartition("root/")[2], place.root / "links/b.bin")
    os.link(place.root / place.stray("links/c.bin", b"c" * 300).rpartition("root/")[2], place.folder / "kept.bin")
    before = blob_bytes(place)
    with place.plan() as plan:
        totals = plan.totals
        results = place.carry_out(plan)
    gone = [result.item for result in results if result.trash is not None]
    assert kept(results) == {}
    assert (totals.blobs, totals.bytes) == (len(gone), sum(item.bytes for item in gone))
    assert blob_bytes(place) == before
    expected = place.empty(apply=False)
    assert blob_bytes(place) == before
    assert place.empty() == expected
    assert (expected.blobs, expected.bytes, expected.bytes_freed) == (totals.blobs, totals.bytes, totals.bytes_freed)
    assert 0 < expected.bytes_freed < expected.bytes
    assert before - blob_bytes(place) == totals.bytes_freed
    assert place.empty(apply=False).blobs == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 9)), max_size=40), st.integers(1, 5))
def test_a_file_frees_its_bytes_with_its_last_name(names: list[tuple[int, int, int]], run: int) -> None:
    facts = {file: (links, size) for file, links, size in names}
    count: dict[int, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvcatalog.removal.sharing._RUN_FILES", run)
        with FreedBytes() as freed:
            for file, _, _ in names:
                links, size = facts[file]
                if count.get(file, 0) < links:
                    count[file] = count.get(file, 0) + 1
                    freed.add(size, links, file)
            assert freed.total() == sum(size for file, (links, size) in facts.items() if count.get(file) == links)


def test_what_comes_back_is_what_it_was(place: Place) -> None:
    for number in range(6):
        place.orphan(b"content %d" % number, f"work-{number}")
    before = tree(place.root)
    results = place.collect()
    assert not trashed(results).isdisjoint(place.store.uri_of(path) for path in before if ".kvcatalog" not in path)
    assert {path for path in tree(place.root) if not path.startswith(".kvcatalog")} == set()
    (label,) = place.store.folders(layout.TRASH_PATH)
    assert {each.outcome for each in place.restore(label)} == {"restored"}
    assert tree(place.root) == before
    assert place.store.folders(layout.TRASH_PATH) == []
    # It counts as used just now, and is found again later.
    assert place.planned(7, later_days=6.9) == set()
    assert len(place.planned(7, later_days=7.1)) == len(results)
    with pytest.raises(NotFoundError):
        place.restore(label)
    assert_consistent(place.catalog)


def test_one_blob_comes_back_by_any_of_its_names(policy: Place) -> None:
    path = policy.root / "work/a.pdf"
    for round_, wanted in enumerate((str(path), path.as_uri(), "trash")):
        location = policy.stray("work/a.pdf", b"round %d" % round_)
        other = policy.stray("work/b.pdf")
        results = policy.collect()
        assert trashed(results) == {location, other}
        uri = next(result.trash for result in results if result.item.location == location) or ""
        (done,) = policy.restore(uri if wanted == "trash" else wanted)
        assert (done.location, done.trash, done.outcome) == (location, uri, "restored")
        assert path.read_bytes() == b"round %d" % round_
        assert not (policy.root / "work/b.pdf").exists()
        path.unlink()


def test_of_several_the_latest_comes_back_and_nothing_is_replaced(
    policy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        monkeypatch.setattr("kvcatalog.removal.plans.new_label", lambda number=number: f"2025010{number + 1}T000000Z-x")
        policy.stray("a.pdf", b"round %d" % number)
        policy.collect()
    assert [each.outcome for each in policy.restore(str(policy.root / "a.pdf"))] == ["restored"]
    assert (policy.root / "a.pdf").read_bytes() == b"round 1"
    assert [each.outcome for each in policy.restore(str(policy.root / "a.pdf"))] == ["taken"]
    assert (policy.root / "a.pdf").read_bytes() == b"round 1"
    assert policy.empty(older_than_days=10_000).blobs == 0
    assert policy.empty(older_than_days=1).blobs == 1


def test_of_several_that_were_taken_in_one_second_the_latest_comes_back(policy: Place) -> None:
    for number in range(6):
        policy.stray("a.pdf", b"round %d" % number)
        policy.collect()
    assert [each.outcome for each in policy.restore(str(policy.root / "a.pdf"))] == ["restored"]
    assert (policy.root / "a.pdf").read_bytes() == b"round 5"


def test_the_trash_keeps_what_a_record_needs(policy: Place) -> None:
    for name in ("a", "b", "c"):
        policy.stray(f"{name}.pdf", name.encode())
    results = {result.item.location: result.trash for result in policy.collect()}
    facts: dict[str, Any] = {"source_url": "u", "resolver": "r", "bytes": 1}
    policy.catalog.register(artifact_id="a", storage_uri=policy.store.uri_of("a.pdf"), **facts)
    policy.catalog.register(artifact_id="b", storage_uri=results[policy.store.uri_of("b.pdf")] or "", **facts)
    expected = policy.empty(apply=False)
    assert (expected.blobs, expected.kept) == (1, 2)
    assert policy.empty() == expected
    policy.restore(policy.store.uri_of("a.pdf"))
    assert (policy.root / "a.pdf").read_bytes() == b"a"


def test_a_saved_plan_is_looked_at_again(policy: Place) -> None:
    paths = ["changed", "gone", "registered", "held", "replaced", "same", "touched"]
    places = {path: policy.stray(f"{path}.pdf") for path in paths}
    saved = policy.folder / "plan.jsonl"
    with policy.plan() as plan:
        plan.save(str(saved))
        with pytest.raises(FileExistsError):
            plan.save(str(saved))
    (policy.root / "changed.pdf").write_bytes(b"other bytes")
    (policy.root / "gone.pdf").unlink()
    facts: dict[str, Any] = {"artifact_id": "a", "source_url": "u", "resolver": "r", "bytes": 5}
    policy.catalog.register(**facts, storage_uri=places["registered"])
    policy.catalog.add_hold(parse_filter([f"uri={places['held']}"]), reason="x")
    (policy.root / "replaced.pdf").unlink()
    (policy.root / "replaced.pdf").symlink_to("same.pdf")
    os.utime(policy.root / "touched.pdf")
    with Plan.load(str(saved), policy.catalog.identity) as plan:
        results = policy.carry_out(plan)
        assert trashed(results) == {places["same"]}
        reasons = {"changed": "changed", "gone": "gone", "registered": "referenced", "held": "held"}
        reasons |= {"replaced": "not ours", "touched": "changed"}
        assert kept(results) == {places[path]: reason for path, reason in reasons.items()}
        assert trashed(policy.carry_out(plan)) == set()


@pytest.mark.parametrize(
    "location",
    [
        "{root}/.kvcatalog/root.json",
        "{root}/../outside.bin",
        "{root}/a/../../outside.bin",
        "file:///etc/hostname",
        "{root}",
        "{root}/",
        "s3://bucket/key",
        "",
        "{root}/work",
        "{root}/link/outside.bin",
    ],
)
def test_a_plan_takes_nothing_that_is_no_blob(policy: Place, location: str) -> None:
    (policy.folder / "outside.bin").write_bytes(b"outside")
    policy.stored(b"x", "work")
    (policy.root / "link").symlink_to(policy.folder)
    before = tree(policy.folder)
    moment = datetime.fromtimestamp((policy.folder / "outside.bin").stat().st_mtime, UTC)
    item = PlanItem(location.format(root=policy.store.uri), 7, moment, moment, "orphan")
    with Plan.make([item, item], policy.catalog.identity, now=0) as plan:
        assert {result.kept for result in policy.carry_out(plan)} <= {"not ours", "gone"}
    after = tree(policy.folder)
    assert {path: facts for path, facts in after.items() if "catalog/" not in path} == {
        path: facts for path, facts in before.items() if "catalog/" not in path
    }


def test_a_plan_that_is_cut_or_anothers_is_refused(policy: Place, tmp_path: Path) -> None:
    policy.stray("a.pdf")
    policy.stray("b.pdf")
    saved = tmp_path / "plan.jsonl"
    with policy.plan() as plan:
        plan.save(str(saved))
    lines = saved.read_bytes().splitlines(keepends=True)
    other = lines[0].replace(policy.catalog.identity.uuid.encode(), b"another")
    evil = lines[0].replace(plan.header.plan.encode(), b"../../x")
    broken = [
        b"".join(lines[:-1]),
        b"".join(lines[1:]),
        b"".join([lines[0], *lines[2:]]),
        b"".join([*lines, lines[1]]),
        b"".join([other, *lines[1:]]),
        b"".join([evil, *lines[1:]]),
        b"",
        b"no plan",
        saved.read_bytes()[:-5],
    ]
    for data in broken:
        saved.write_bytes(data)
        with pytest.raises(PlanError):
            Plan.load(str(saved), policy.catalog.identity)
    with pytest.raises(PlanError):
        Plan.load(str(tmp_path / "none"), policy.catalog.identity)


def replaced_folder(place: Place) -> None:
    place.root.rename(place.folder / "away")
    place.root.mkdir()


def marked(**change: Any) -> Callable[[Place], None]:
    def change_marker(place: Place) -> None:
        facts: dict[str, Any] = {
            "uuid": place.catalog.roots()[0].uuid,
            "catalog": place.catalog.identity.uuid,
            "generation": 1,
        }
        place.store.write_marker(Marker(**(facts | change)), replace=True)

    return change_marker


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda place: place.root.rename(place.folder / "away"), RootUnreachableError),
        (replaced_folder, RootUnreachableError),
        (lambda place: (place.root / layout.MARKER_PATH).unlink(), RootUnreachableError),
        (lambda place: (place.root / layout.MARKER_PATH).write_text("{"), RootUnreachableError),
        (marked(catalog="another"), RootOwnershipError),
        (marked(generation=2), RootOwnershipError),
        (marked(uuid="another"), RootOwnershipError),
    ],
    ids=["no mount", "empty folder", "no marker", "broken marker", "catalog", "generation", "root"],
)
def test_a_root_that_is_not_there_or_not_ours_loses_nothing(
    policy: Place, change: Callable[[Place], None], error: type[Exception]
) -> None:
    policy.stray("a.pdf")
    policy.collect()
    policy.stray("b.pdf")
    with policy.plan() as plan:
        change(policy)
        policy.stray("c.pdf") if policy.root.exists() else None
        before = tree(policy.folder)
        for work in (policy.planned, policy.collect, lambda: policy.carry_out(plan)):
            with pytest.raises(error):
                work()
        for apply in (False, True):
            with pytest.raises(error):
                policy.empty(apply=apply)
        with pytest.raises(error):
            policy.restore(plan.header.plan)
    assert {path for path in tree(policy.folder) if "catalog" not in path} == {
        path for path in before if "catalog" not in path
    }


def test_a_root_that_goes_away_on_the_way_ends_the_work(policy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "BATCH_FILES", 2)
    for number in range(6):
        policy.stray(f"{number}.pdf")
    with Collection(policy.catalog, policy.config) as collection, policy.plan() as plan:
        results = collection.execute(plan.header.plan, plan.items())
        assert next(results).trash is not None
        policy.root.rename(policy.folder / "away")
        shutil.copytree(policy.folder / "away", policy.root)
        before = tree(policy.root)
        with pytest.raises(RootUnreachableError):
            list(results)
    assert tree(policy.root) == before
    assert policy.catalog.condemned() == []


def test_only_one_collects(policy: Place) -> None:
    policy.stray("a.pdf")
    with policy.catalog.lease(GC_LEASE), pytest.raises(CatalogLockedError):
        policy.collect()
    assert len(policy.planned()) == 1


def test_one_root_can_be_chosen(tmp_path: Path) -> None:
    place = Place(tmp_path)
    second = place.config.model_copy(update={"root_dir": str(tmp_path / "second")})
    storage.open_storage(second, place.catalog)
    (tmp_path / "second" / "a.pdf").write_bytes(b"x")
    mine = place.stray("a.pdf")
    other = (tmp_path / "second" / "a.pdf").as_uri()
    assert place.planned() == {mine, other}
    with place.plan() as plan, Collection(place.catalog, place.config, only=place.store.uri) as collection:
        results = list(collection.execute(plan.header.plan, plan.items()))
    assert (trashed(results), kept(results)) == ({mine}, {other: "not ours"})
    with pytest.raises(NotFoundError):
        Collection(place.catalog, place.config, only="file:///nowhere").__enter__()
    place.close()


def test_memory_does_not_grow_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc_module, "CHUNK", 100)
    monkeypatch.setattr(executing, "BATCH_FILES", 100)
    monkeypatch.setattr(executing, "_FORGET_EVERY", 200)
    monkeypatch.setattr("kvcatalog.removal.trash._CHUNK", 100)
    monkeypatch.setattr("kvcatalog.removal.sharing._RUN_FILES", 100)

    def peak(files: int) -> int:
        place = Place(tmp_path / str(files))
        for number in range(files):
            place.stray(f"{number % 10}/{number}.pdf")
            if number % 2:
                os.link(place.root / f"{number % 10}/{number}.pdf", place.root / f"{number % 10}/{number}-b.pdf")
        tracemalloc.start()
        with place.plan() as plan, Collection(place.catalog, place.config) as collection:
            moved = sum(result.trash is not None for result in collection.execute(plan.header.plan, plan.items()))
        place.empty()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert moved == files + files // 2
        place.close()
        return most

    peak(200)
    assert peak(1600) < 1.3 * peak(400)


def test_what_was_removed_is_counted(policy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    lasted: list[float] = []
    monkeypatch.setattr(telemetry, "gc_removed", counted.append)
    monkeypatch.setattr(telemetry, "gc_finished", lasted.append)
    for number in range(3):
        policy.stray(f"{number}.pdf")
    policy.collect()
    assert sum(counted) == 3
    policy.empty()
    assert sum(counted) == 3
    assert [seconds > 0 for seconds in lasted] == [True]


def test_the_journal_tells_what_happened_to_a_blob(policy: Place) -> None:
    location = policy.orphan(b"x", "work")
    (result,) = policy.collect()
    policy.restore(location)
    entries = list(policy.catalog.journal(storage_uri=location))
    assert [entry.action for entry in entries] == ["delete", "trash", "restore"]
    assert entries[1].changes["storage_uri"] == (location, result.trash)
    assert entries[2].changes["storage_uri"] == (result.trash, location)
    policy.collect()
    policy.empty()
    assert [entry.action for entry in policy.catalog.journal()][-2:] == ["trash", "empty-trash"]
