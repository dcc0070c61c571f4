"""A retention killed before every single step, and run again: the end is that of an undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvcatalog import clock
from kvcatalog.removal import Collection, executing
from kvcatalog.removal.leftovers import Undertaking
from kvcatalog.retention import Retention, Rule, applying
from tests.gc_store import Place
from tests.test_retention import NOW, old
from tests.undisturbed import kill_everywhere, state

LAYOUTS: dict[str, dict[str, Any]] = {"cas": {"layout": "cas", "policy_links": True}, "policy-path": {}}
RULES = (Rule("r", days=30, min_copies=1),)


def prepare(folder: Path, layout: str) -> None:
    place = Place(folder, **LAYOUTS[layout])
    for number in range(5):
        old(place, b"content %d" % number, f"a{number}", 100 - number)
    place.stored(b"text", "a0", variant="text")
    place.stored(b"other", "a1")  # a conflict
    for number in range(4):  # without which nothing would be allowed to go
        place.stored(b"content %d" % number, f"young-{number}")
    place.stored(b"text", "young-text")
    place.close()


def run(folder: Path, layout: str, free: int | None) -> None:
    place = Place(folder, **LAYOUTS[layout])
    if any(entry.action == "finish" for entry in place.catalog.journal()):
        place.close()  # it was killed behind its end, and one more would be asked to free as much again
        return
    with Collection(place.catalog, place.config) as collection:
        retention = Retention(collection, RULES, now=NOW, free=free)
        with retention.plan() as plan:
            list(retention.records(plan))
        list(retention.blobs())
    place.close()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "BATCH_FILES", 2)
    monkeypatch.setattr(applying, "_BATCH", 2)


def check(tmp_path: Path, layout: str, free: int | None = None) -> int:
    folder = tmp_path / "place"
    folder.mkdir()
    prepare(folder, layout)
    seen = lambda: state(folder, lambda path: Place(path, **LAYOUTS[layout]))  # noqa: E731
    steps = kill_everywhere(folder, lambda path: run(path, layout, free), seen)
    assert steps["_end"] >= 6
    return steps["rename_exclusively"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_any_step_and_run_again_it_ends_as_undisturbed(layout: str, tmp_path: Path) -> None:
    assert check(tmp_path, layout) >= 3


def test_what_was_to_be_freed_is_not_freed_twice(tmp_path: Path) -> None:
    check(tmp_path, "policy-path", free=5)


def test_blobs_that_a_killed_run_forgot_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Undertaking.begun

    def forgetful(self: Undertaking, catalog: Any) -> Any:
        entry = real(self, catalog)
        return entry if entry is not None and clock.to_micros(entry.at) > started else None

    started = 0

    def rerun(folder: Path) -> None:
        nonlocal started
        started = clock.now_micros()
        run(folder, "policy-path", None)

    monkeypatch.setattr(Undertaking, "begun", forgetful)
    folder = tmp_path / "place"
    folder.mkdir()
    prepare(folder, "policy-path")
    with pytest.raises(AssertionError, match="before step"):
        kill_everywhere(folder, rerun, lambda: state(folder, Place))
