"""A garbage collection killed before every single step, and run again: the end is that of an undisturbed one."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import storage
from kvcatalog.errors import NotFoundError
from kvcatalog.fs_layout import batches
from kvcatalog.removal import Plan, executing
from tests.gc_store import Place
from tests.invariants import assert_consistent
from tests.killing import dying_at, killed
from tests.support import forked
from tests.test_finalize_killed import Steps
from tools.faults.checking import dangling
from tools.faults.copies import taken_for_originals

Work = Callable[[Place], object]

SAVED = "plan.jsonl"


def apply_saved(place: Place) -> None:
    with Plan.load(str(place.folder / SAVED), place.catalog.identity) as plan:
        place.carry_out(plan)


def restore_all(place: Place) -> None:
    for label in place.store.folders(".kvcatalog/trash"):
        try:
            place.restore(label)
        except NotFoundError:  # it was killed with nothing but empty folders left
            place.store.prune(f".kvcatalog/trash/{label}")


WORKS: dict[str, Work] = {
    "collect": Place.collect,
    "apply": apply_saved,
    "restore": restore_all,
    "empty": Place.empty,
}
LAYOUTS: dict[str, dict[str, Any]] = {"cas": {"layout": "cas", "policy_links": True}, "policy-path": {}}


def prepare(folder: Path, work: str, layout: str) -> None:
    place = Place(folder, **LAYOUTS[layout])
    for number in range(3):
        place.orphan(b"orphan %d" % number, f"orphan-{number}")
        place.stored(b"record %d" % number, f"record-{number}")
    place.stray("twins/a.bin")
    os.link(place.root / "twins/a.bin", place.root / "twins/b.bin")
    with place.plan() as plan:
        plan.save(str(folder / SAVED))
    if work in {"restore", "empty"}:
        place.collect()
    place.close()


class Watched(Steps):
    """The steps of a collection, too."""

    def __init__(self, meet: Callable[[str, Callable[[], object]], object]) -> None:
        super().__init__(meet)
        self._watch(os, "rmdir", meet)
        self._watch(batches, "rename_exclusively", meet)


def run_undisturbed(folder: Path, work: Work, layout: str) -> list[str]:
    def watched() -> list[str]:
        names: list[str] = []
        place = Place(folder, **LAYOUTS[layout])
        Watched(lambda name, _: names.append(name))
        work(place)
        return names.copy()

    steps: list[str] = forked(watched)
    return steps


def run_until(folder: Path, work: Work, layout: str, step: int) -> None:
    """Do the work in a child that is killed before a step, or at its end."""

    def watched() -> None:
        place = Place(folder, **LAYOUTS[layout])
        Watched(dying_at(step))
        work(place)

    killed(watched)


def state(folder: Path, layout: str) -> dict[str, Any]:
    """Return what lies below the root, whatever plan took it, and what the catalog tells."""
    place = Place(folder, **LAYOUTS[layout])
    files = Counter(
        (re.sub(r"^\.kvcatalog/trash/[^/]+/", "trash/", str(path.relative_to(place.root))), path.read_bytes())
        for path in place.root.rglob("*")
        if path.is_file()
    )
    actions = Counter(
        (entry.action, str(entry.changes.get("storage_uri", ("", ""))[0]).rpartition("/.kvcatalog/")[0] or "place")
        for entry in place.catalog.journal()
        if entry.action in {"trash", "delete"}
    )
    assert dangling(place.catalog, place.store) == []
    assert place.catalog.condemned() == []
    assert_consistent(place.catalog)
    trash = place.store.folders(".kvcatalog/trash")
    records = [record.id for record in place.catalog.iter_records()]
    place.close()
    return {"files": files, "journal": actions, "records": records, "is empty": trash == []}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "BATCH_FILES", 2)
    monkeypatch.setattr("kvcatalog.removal.trash._CHUNK", 2)


@taken_for_originals()
def kill_everywhere(work: str, layout: str, tmp_path: Path) -> list[str]:
    template, folder = tmp_path / "template", tmp_path / "place"
    prepare(folder, work, layout)
    folder.rename(template)

    def again() -> None:
        storage._open.clear()
        shutil.rmtree(folder, ignore_errors=True)
        # Inodes and times stay what they are, for the plan was made of them.
        shutil.copytree(template, folder)
        (folder / "root/twins/b.bin").unlink(missing_ok=True)
        if (folder / "root/twins/a.bin").exists():
            os.link(folder / "root/twins/a.bin", folder / "root/twins/b.bin")

    again()
    steps = run_undisturbed(folder, WORKS[work], layout)
    expected = state(folder, layout)
    for step in range(len(steps) + 1):
        again()
        run_until(folder, WORKS[work], layout, step)
        place = Place(folder, **LAYOUTS[layout])
        WORKS[work](place)
        place.close()
        assert state(folder, layout) == expected, (step, steps)
    return steps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("work", WORKS)
def test_killed_at_any_step_and_run_again_it_ends_as_undisturbed(work: str, layout: str, tmp_path: Path) -> None:
    steps = Counter(kill_everywhere(work, layout, tmp_path))
    assert steps["unlink" if work == "empty" else "rename_exclusively"] >= 5
    assert steps["fsync"] >= 4
    assert steps["apply"] >= 1


def test_a_move_that_nobody_was_told_of_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing.Collection, "_finish_announced", lambda _: None)
    with pytest.raises(AssertionError):
        kill_everywhere("collect", "policy-path", tmp_path)
