"""Blobs under another layout, below another root, in a bucket: records follow, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import clock, finalize_candidate_download, storage
from kvcatalog.config import StorageConfig
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.relayout import Moved, Plan, Relayout, moving, target_config
from kvcatalog.removal import Collection, executing
from kvcatalog.removal.leftovers import Undertaking
from kvcatalog.verify import verify_blobs
from tests.gc_store import Place, tree
from tests.invariants import assert_consistent
from tests.undisturbed import kill_everywhere, state
from tools.faults.checking import dangling

NEW_DOCUMENTS = 8
"""So many does each thread register while blobs are moved."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path / "place")
    yield opened
    assert_consistent(opened.catalog)
    opened.close()


def fill(place: Place, count: int = 3) -> None:
    """Store documents, of which two are equal, with a variant, a conflict and a link."""
    for number in range(count):
        place.stored(b"content %d" % number, f"a{number}")
    place.stored(b"content 0", "twin")
    place.stored(b"text of 1", "a1", variant="text")
    place.stored(b"a conflict", "a2")
    record = place.catalog.get_by_artifact("a1")[0]
    link = place.stray("elsewhere/copy.pdf", b"content 1")
    place.catalog.register(
        artifact_id="a1",
        source_url=record.source_url,
        resolver="r",
        bytes=record.bytes,
        sha256=record.sha256,
        storage_uri=record.storage_uri,
        links=(link,),
    )


def relayout(
    place: Place, to: Any, config: StorageConfig | None = None, where: Filter | None = None, jobs: int = 1
) -> list[Moved]:
    wanted = target_config(config or place.config, to)
    target = storage.open_storage(wanted, place.catalog)
    with Collection(place.catalog, wanted) as collection:
        run = Relayout(collection, target, wanted, jobs=jobs)
        moved = list(run.move(where))
        # Who stores the same content again meanwhile renews an old blob, or comes to refer to it.
        assert {result.kept for result in run.blobs()} <= {None, "gone", "referenced", "changed"}
    return moved


def contents(place: Place) -> Counter[tuple[Any, ...]]:
    """Return what is recorded, wherever it lies."""
    found: Counter[tuple[Any, ...]] = Counter()
    for record in place.catalog.iter_records():
        found[record.artifact_id, record.bytes, record.sha256, record.created_at] += 1
        for variant in place.catalog.get_variants(record.id):
            found[record.artifact_id, variant.variant, variant.sha256] += 1
        for conflict in place.catalog.get_conflicts(record.id):
            found[record.artifact_id, "conflict", conflict.sha256] += 1
    return found


def places(place: Place) -> set[str]:
    catalog = place.catalog
    found = set()
    for record in catalog.iter_records():
        found.add(record.storage_uri)
        found |= {each.storage_uri for each in catalog.get_variants(record.id)}
        found |= {each.storage_uri for each in catalog.get_conflicts(record.id)}
        found |= {each.storage_uri for each in catalog.get_links(record.id)}
    return found


def results(place: Place, config: StorageConfig | None = None) -> Counter[str]:
    """Return what reading everything finds."""
    config = config or place.config
    found = Counter(str(each.result) for each in verify_blobs(place.catalog, cfg_storage=config))
    for conflict in place.catalog.get_conflicts():
        path = place.store.path_of(conflict.storage_uri)
        if path is not None:
            with place.store.open(path) as stream:
                assert hashlib.sha256(stream.read()).hexdigest() == conflict.sha256
    return found


def live(root: Path) -> set[str]:
    return {path for path in tree(root) if not path.startswith(".kvcatalog/")}


def test_from_policy_paths_to_content_addresses_and_back(place: Place) -> None:
    fill(place)
    before, former = contents(place), live(place.root)
    moved = relayout(place, "cas")
    assert Counter((each.claimed.kind, each.outcome) for each in moved) == {
        ("document", "moved"): 4,
        ("variant", "moved"): 1,
        ("conflict", "moved"): 1,
        ("link", "dropped"): 1,
    }
    assert contents(place) == before
    assert len(live(place.root)) == 5
    assert all("/cas/sha256/" in uri for uri in places(place))
    assert results(place) == {"ok": 4}
    assert relayout(place, "cas") == []
    relayout(place, "policy_path")
    assert contents(place) == before
    assert live(place.root) == former - {"elsewhere/copy.pdf"}
    assert results(place) == {"ok": 5}
    assert dangling(place.catalog, place.store) == []
    twins = [os.stat(place.root / f"{name}/{name}.pdf").st_ino for name in ("a0", "twin")]
    assert twins[0] == twins[1]
    assert relayout(place, "policy_path") == []


def test_the_journal_tells_of_it_and_so_does_the_record(place: Place) -> None:
    record = place.stored(b"a", "a")
    relayout(place, "cas")
    now = place.catalog.get_by_id(record.id)
    assert now is not None
    assert now.updated_at > record.updated_at
    (entry,) = place.catalog.journal(document_id=record.id)
    assert (entry.action, entry.changes["storage_uri"]) == ("relocate", (record.storage_uri, now.storage_uri))
    (trash,) = (entry for entry in place.catalog.journal() if entry.action == "trash")
    assert trash.changes["storage_uri"][0] == record.storage_uri


def test_to_another_folder_and_only_what_is_wanted(place: Place, tmp_path: Path) -> None:
    fill(place)
    config = StorageConfig(root_dir=str(tmp_path / "second"))
    relayout(place, "cas", config, parse_filter(["artifact=a*"]))
    assert len(live(tmp_path / "second")) == 5
    assert len(live(place.root)) == 1
    relayout(place, "policy_path", config)
    assert live(place.root) == set()
    assert results(place) == {"ok": 5}
    relayout(place, "policy_path")
    assert live(tmp_path / "second") == set()
    assert results(place) == {"ok": 5}


def test_readable_names_come_with_the_configuration(place: Place) -> None:
    fill(place)
    config = place.config.model_copy(update={"layout": "cas", "policy_links": True})
    relayout(place, "cas", config)
    links = {link.storage_uri for record in place.catalog.iter_records() for link in place.catalog.get_links(record.id)}
    named = {str(place.store.path_of(uri)) for uri in links}
    assert named == {"a0/a0.pdf", "a2/a2.pdf", "twin/twin.pdf", "elsewhere/copy.pdf"}
    relayout(place, "cas")  # without them they go
    assert all(path.startswith("cas/") for path in live(place.root))


def test_what_is_not_right_stays_where_it_is(place: Place, tmp_path: Path) -> None:
    records = {name: place.stored(name.encode() * 9, name) for name in ("corrupt", "short", "missing", "right")}
    paths = {name: place.root / str(place.store.path_of(record.storage_uri)) for name, record in records.items()}
    paths["corrupt"].write_bytes(b"x" * records["corrupt"].bytes)
    paths["short"].write_bytes(b"x")
    paths["missing"].unlink()
    outside = tmp_path / "outside.pdf"
    outside.write_bytes(b"outside")
    place.catalog.register(artifact_id="outside", source_url="u", resolver="r", bytes=7, storage_uri=outside.as_uri())
    no_digest = place.stray("b/no digest.pdf", b"without")
    place.catalog.register(artifact_id="b", source_url="https://x/n.pdf", resolver="r", bytes=7, storage_uri=no_digest)
    moved = {each.claimed.document_id: each for each in relayout(place, "cas")}
    names = {record.id: record.artifact_id for record in place.catalog.iter_records()}
    assert {names[number]: each.outcome for number, each in moved.items()} == {
        "corrupt": "corrupt",
        "short": "corrupt",
        "missing": "missing",
        "outside": "outside",
        "right": "moved",
        "b": "moved",
    }
    assert paths["corrupt"].exists()
    assert outside.exists()
    assert place.catalog.get_by_artifact("b")[0].sha256 == hashlib.sha256(b"without").hexdigest()
    assert place.catalog.get_by_id(records["corrupt"].id) == records["corrupt"]


def test_a_link_stays_where_it_is_all_that_is_left(place: Place) -> None:
    fill(place)
    config = place.config.model_copy(update={"layout": "cas", "policy_links": True})
    relayout(place, "cas", config)
    for record in place.catalog.iter_records():
        (place.root / str(place.store.path_of(record.storage_uri))).unlink(missing_ok=True)
    relayout(place, "cas")  # which would let links go
    digests = {hashlib.sha256((place.root / path).read_bytes()).hexdigest() for path in live(place.root)}
    assert {record.sha256 for record in place.catalog.iter_records()} <= digests


def test_two_contents_never_share_a_name(place: Place) -> None:
    config = target_config(place.config, "cas")
    settings = place.config
    place.config = config
    for number in range(3):
        place.stored(b"content %d" % number, "a", source_url=f"https://x.org/{number}/same.pdf")
    place.config = settings
    relayout(place, "policy_path")
    assert len(live(place.root)) == 3
    assert results(place) == {"ok": 3}
    assert relayout(place, "policy_path") == []


def test_what_changes_meanwhile_is_left_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    record = place.stored(b"a", "a")
    other = place.stray("other/x.pdf", b"new content")
    real = Relayout._stored

    def overtaken(self: Relayout, *arguments: Any) -> Any:
        stored = real(self, *arguments)
        place.catalog.update(record.id, bytes=11, sha256=None, storage_uri=other)
        return stored

    monkeypatch.setattr(Relayout, "_stored", overtaken)
    (moved,) = relayout(place, "cas")
    assert moved.outcome == "changed"
    now = place.catalog.get_by_id(record.id)
    assert now is not None
    assert now.storage_uri == other


def test_a_plan_reads_nothing_and_names_the_same_places(place: Place, tmp_path: Path) -> None:
    fill(place)
    before = tree(tmp_path)
    wanted = target_config(place.config, "cas")
    plan = Plan(place.catalog, wanted, uri_of=place.store.uri_of, path_of=place.store.path_of)
    planned = {
        (claimed.storage_uri, plan.expected_target(record, claimed))
        for record, claims in plan.documents(Filter(), up_to=99)
        for claimed in claims
    }
    after = tree(tmp_path)
    del before["place/catalog/lock.mdb"], after["place/catalog/lock.mdb"]
    assert after == before
    assert planned == {(each.claimed.storage_uri, each.target) for each in relayout(place, "cas")}


@pytest.mark.parametrize("to", ["cas", "policy_path"])
def test_killed_at_any_step_and_run_again_it_ends_as_undisturbed(
    to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executing, "BATCH_FILES", 3)
    monkeypatch.setattr(moving, "BATCH_DOCUMENTS", 2)
    steps = check_killed(tmp_path / "place", to)
    assert steps["rename_exclusively"] >= 5
    assert steps["_end"] >= 8


def check_killed(folder: Path, to: Any) -> Counter[str]:
    settings: dict[str, Any] = {} if to == "cas" else {"layout": "cas", "policy_links": True}
    first = Place(folder, **settings)
    fill(first)
    first.close()

    def work(path: Path) -> None:
        again = Place(path, **settings)
        relayout(again, to)
        again.close()

    return kill_everywhere(folder, work, lambda: state(folder, lambda path: Place(path, **settings)))


def test_old_blobs_that_a_killed_run_forgot_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "BATCH_DOCUMENTS", 2)
    real, begun = Relayout.__init__, Undertaking.begun
    started = 0

    def started_now(self: Relayout, *arguments: Any, **settings: Any) -> None:
        nonlocal started
        started = clock.now_micros()
        real(self, *arguments, **settings)

    def forgetful(self: Undertaking, catalog: Any) -> Any:
        entry = begun(self, catalog)
        return entry if entry is not None and clock.to_micros(entry.at) >= started else None

    monkeypatch.setattr(Relayout, "__init__", started_now)
    monkeypatch.setattr(Undertaking, "begun", forgetful)
    with pytest.raises(AssertionError, match="step"):
        check_killed(tmp_path / "place", "cas")


def registering(place: Place, stop: threading.Event, errors: list[BaseException], number: int, pause: float) -> None:
    count = 0
    try:
        while not stop.wait(pause):
            content = b"content %d" % (count % 40) if count % 2 else b"new %d %d" % (number, count)
            source = place.folder / f"part-{number}"
            source.write_bytes(content)
            finalize_candidate_download(
                source,
                artifact_id=f"thread-{number}-{count}",
                source_url="https://x.org/new.pdf",
                resolver="r",
                catalog=place.catalog,
                cfg_storage=place.config,
            )
            count = (count + 1) % NEW_DOCUMENTS  # what was registered comes again
    except BaseException as error:  # noqa: BLE001 - the test raises it
        errors.append(error)


def while_others_register(place: Place, work: Any, pause: float = 0.01) -> None:
    stop, errors = threading.Event(), list[BaseException]()
    threads = [threading.Thread(target=registering, args=(place, stop, errors, number, pause)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


def test_others_register_meanwhile(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "BATCH_DOCUMENTS", 7)
    for number in range(40):
        place.stored(b"content %d" % number, f"a{number}")

    def work() -> None:
        for to in ("cas", "policy_path", "cas"):
            assert {each.outcome for each in relayout(place, to, jobs=2)} <= {"moved", "dropped"}

    while_others_register(place, work)
    assert results(place).keys() == {"ok"}
    assert dangling(place.catalog, place.store) == []
    assert place.catalog.stats().documents > 42
    relayout(place, "cas")
    assert all("/cas/" in uri for uri in places(place))
