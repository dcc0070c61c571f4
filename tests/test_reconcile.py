"""Records and blobs that have lost each other come together; what cannot be is told."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from kvcatalog import blobs
from kvcatalog.errors import StorageFailedError
from kvcatalog.filters import parse_filter
from kvcatalog.reconcile import Adoption, FetchError, Reconciling, Step
from kvcatalog.removal import Collection, open_roots, sorting
from kvcatalog.verify import verify_blobs
from tests.gc_store import Place, tree
from tests.invariants import assert_consistent
from tests.undisturbed import kill_everywhere, state
from tools.faults.checking import dangling


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path / "place")
    yield opened
    assert_consistent(opened.catalog)
    opened.close()


def by_folder(_uri: str, path: str) -> Adoption | None:
    return None if path.startswith("private/") else Adoption(path.split("/", maxsplit=1)[0])


WEB = {"https://example.org/lost.pdf": b"lost", "https://example.org/changed.pdf": b"newer"}


@contextmanager
def fetch(url: str) -> Iterator[BinaryIO]:
    if url not in WEB:
        raise FetchError("http-404")
    yield io.BytesIO(WEB[url])


def planned(place: Place, **wishes: Any) -> list[Step]:
    with open_roots(place.catalog, place.config) as roots:
        return list(Reconciling(place.catalog, roots, **wishes).plan())


def applied(place: Place, **wishes: Any) -> list[Step]:
    with Collection(place.catalog, place.config) as collection:
        return list(Reconciling(place.catalog, collection.roots, **wishes).apply(collection))


def path_of(place: Place, record: Any) -> Path:
    return place.root / str(place.store.path_of(record.storage_uri))


def moved_away(place: Place, record: Any, target: str) -> None:
    new = place.root / target
    new.parent.mkdir(parents=True, exist_ok=True)
    path_of(place, record).rename(new)


def brief(steps: list[Step]) -> set[tuple[str, str, str]]:
    return {(step.action, step.outcome, step.storage_uri.rpartition("/root/")[2]) for step in steps}


def test_what_was_moved_by_hand_is_found_by_its_digest(place: Place) -> None:
    record = place.stored(b"moved", "a")
    place.stored(b"text ", "a", variant="text")
    variant = place.catalog.get_variants(record.id)[0]
    place.stray("other/same size", b"wrong")
    moved_away(place, record, "new/place.pdf")
    moved_away(place, variant, "new/text.txt")
    before = tree(place.root)
    steps = applied(place)
    assert brief(steps) == {
        ("rebind", "done", "new/place.pdf"),
        ("rebind", "done", "new/text.txt"),
        ("unknown", "planned", "other/same%20size"),
    }
    assert tree(place.root) == before
    now = place.catalog.get_by_id(record.id)
    assert now is not None
    assert now.storage_uri == place.store.uri_of("new/place.pdf")
    assert place.catalog.get_variants(record.id)[0].storage_uri == place.store.uri_of("new/text.txt")
    (entry, *_) = place.catalog.journal(document_id=record.id)
    assert (entry.action, entry.reason) == ("relocate", "reconcile: its content was found here")
    assert {str(each.result) for each in verify_blobs(place.catalog)} == {"ok"}
    assert brief(applied(place)) == {("unknown", "planned", "other/same%20size")}


def test_what_is_corrupt_is_found_elsewhere_too(place: Place) -> None:
    record = place.stored(b"right bytes", "a")
    path_of(place, record).write_bytes(b"wrong bytes")
    copy = place.stray("copy/a.pdf", b"right bytes")
    assert brief(planned(place)) == {("unknown", "planned", "copy/a.pdf")}  # nobody has read it
    list(verify_blobs(place.catalog))
    assert {step.action for step in planned(place)} == {"rebind"}
    applied(place)
    assert place.catalog.get_by_artifact("a")[0].storage_uri == copy


def test_unknown_files_are_adopted_by_a_rule(place: Place) -> None:
    place.stored(b"known", "known")
    uri = place.stray("work-1/paper.pdf", b"unknown")
    place.stray("private/x.pdf", b"left alone")
    place.stray(".hidden/x.pdf", b"none of ours")
    assert brief(planned(place, adopt=by_folder)) == {
        ("adopt", "planned", "work-1/paper.pdf"),
        ("unknown", "planned", "private/x.pdf"),
    }
    steps = applied(place, adopt=by_folder)
    (record,) = place.catalog.get_by_artifact("work-1")
    assert (record.storage_uri, record.source_url, record.resolver) == (uri, uri, "local")
    assert (record.bytes, record.sha256) == (7, hashlib.sha256(b"unknown").hexdigest())
    assert [step.document_id for step in steps if step.action == "adopt"] == [record.id]
    assert brief(applied(place, adopt=by_folder)) == {("unknown", "planned", "private/x.pdf")}


def test_what_cannot_be_read_is_not_adopted_and_never_taken_for_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_away(place, place.stored(b"moved", "moved"), "elsewhere.pdf")
    place.stray("work-1/unreadable.pdf", b"unknown")

    def failing(_stream: BinaryIO) -> tuple[str, int]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(blobs, "sha256_stream", failing)
    with pytest.raises(StorageFailedError, match=r"elsewhere\.pdf: Input/output error"):
        planned(place, adopt=by_folder)
    (place.root / "elsewhere.pdf").unlink()
    (step,) = (step for step in applied(place, adopt=by_folder) if step.action == "adopt")
    assert (step.outcome, "Input/output error" in (step.detail or "")) == ("failed", True)


def test_a_moved_file_is_not_adopted(place: Place) -> None:
    record = place.stored(b"moved", "a")
    moved_away(place, record, "b/moved.pdf")
    assert [step.action for step in applied(place, adopt=by_folder)] == ["rebind"]
    assert place.catalog.stats().documents == 1


def test_what_is_lost_is_fetched_if_its_source_still_has_it(place: Place) -> None:
    records = {
        name: place.stored(content, name)
        for name, content in (("lost", b"lost"), ("changed", b"older"), ("away", b"x"), ("fine", b"fine"))
    }
    local = place.stored(b"local", "local", source_url="file:///x.pdf")
    for record in (*(records[name] for name in ("lost", "changed", "away")), local):
        path_of(place, record).unlink()
    assert {step.action for step in planned(place)} == {"lost"}
    steps = {step.document_id: step for step in applied(place, fetch=fetch)}
    assert (steps[records["lost"].id].action, steps[records["lost"].id].outcome) == ("refetch", "done")
    assert "other bytes by now" in str(steps[records["changed"].id].detail)
    assert steps[records["away"].id].detail == "http-404"
    assert steps[local.id].action == "lost"
    assert path_of(place, records["lost"]).read_bytes() == b"lost"
    assert not path_of(place, records["changed"]).exists()
    assert place.catalog.get_by_id(records["lost"].id) == records["lost"]


def test_corrupt_bytes_go_to_quarantine_when_the_right_ones_come(place: Place) -> None:
    record = place.stored(b"lost", "lost")
    path_of(place, record).write_bytes(b"LOST")
    list(verify_blobs(place.catalog))
    assert [step.outcome for step in applied(place, fetch=fetch)] == ["done"]
    assert path_of(place, record).read_bytes() == b"lost"
    assert [path.read_bytes() for path in (place.root / ".kvcatalog/quarantine").rglob("*.pdf")] == [b"LOST"]
    assert planned(place, fetch=fetch) == []
    assert {str(each.result) for each in verify_blobs(place.catalog)} == {"ok"}


def test_filters_choose_records_and_a_plan_changes_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_RUN_ROWS", 2)
    for number in range(5):
        moved_away(place, place.stored(b"content %d" % number, f"a{number}"), f"new/{number}")
    before = tree(tmp_path)
    assert len(planned(place)) == 5
    only = planned(place, where=parse_filter(["artifact=a3"]), adopt=by_folder)
    assert sorted(step.action for step in only) == ["adopt"] * 4 + ["rebind"]
    after = tree(tmp_path)
    del before["place/catalog/lock.mdb"], after["place/catalog/lock.mdb"]
    assert after == before


def test_killed_at_any_step_and_run_again_it_ends_as_undisturbed(tmp_path: Path) -> None:
    folder = tmp_path / "place"
    first = Place(folder)
    moved_away(first, first.stored(b"moved", "a"), "new/a.pdf")
    path_of(first, first.stored(b"lost", "lost")).unlink()
    first.stray("work/b.pdf", b"unknown")
    first.close()

    def work(path: Path) -> None:
        again = Place(path)
        applied(again, adopt=by_folder, fetch=fetch)
        assert dangling(again.catalog, again.store) == []
        again.close()

    def seen() -> dict[str, Any]:
        found = state(folder, Place)
        # Fetching is told when it is done, and not again where that was cut off.
        found["journal"] = {entry for entry in found["journal"] if entry[0] != "refetch"}
        return found

    steps = kill_everywhere(folder, work, seen)
    assert steps["_end"] >= 3
    assert steps["link"] >= 1
