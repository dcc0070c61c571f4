"""The fault harnesses find nothing where nothing is wrong, and see the mistakes that are planted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults import same_keys
from tools.faults.__main__ import HARNESSES
from tools.faults.planting import VARIABLE

CHECKOUT = Path(__file__).parents[1]


def killed(*arguments: str, mistake: str = "", harness: str = "finalize_kill") -> tuple[int, str]:
    """Run the harness in a short form, and return its exit status and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", f"tools.faults.{harness}", "--processes", "2", *arguments],
        cwd=CHECKOUT,
        env=os.environ | {VARIABLE: mistake},
        check=False,
        capture_output=True,
        text=True,
    )
    assert mistake or not done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("layout", ["cas", "policy_path"])
def test_nothing_is_lost_when_those_who_finalize_are_killed(layout: str) -> None:
    status, printed = killed("--layout", layout, "--seconds", "3")
    figures = dict(line.split() for line in printed.splitlines())
    assert (status, figures["violations"]) == (0, "0"), printed
    assert int(figures["kills"].replace(",", "")) == 2 * int(figures["cycles"])
    assert figures["acknowledged"] != "0"
    assert figures["records"] != "0"


@pytest.mark.parametrize(
    ("mistake", "layout", "finding"),
    [
        ("record-first", "cas", "nothing lies at"),
        ("source-first", "cas", "neither stored nor kept"),
        ("answer-first", "policy_path", "acknowledged, but not there"),
    ],
)
def test_a_planted_mistake_is_seen(mistake: str, layout: str, finding: str) -> None:
    status, printed = killed(
        "--layout", layout, "--seconds", "60", mistake=mistake
    )  # it ends with the first cycle that shows one
    assert status == 1, printed
    assert finding in printed


@pytest.mark.parametrize(("layout", "more"), [("cas", "--kill"), ("policy_path", "--threads=16")])
def test_no_record_lacks_its_blob_while_garbage_is_collected(layout: str, more: str) -> None:
    status, printed = killed("--layout", layout, "--seconds", "4", more, harness="gc_race")
    figures = dict(line.split() for line in printed.splitlines())
    assert (status, figures["violations"]) == (0, "0"), printed
    assert figures["finalized"] != "0"
    assert figures["taken"] != "0"


@pytest.mark.parametrize("mistake", ["not-condemned", "not-checked-again", "condemned-not-checked"])
def test_a_mistake_in_collecting_is_seen(mistake: str) -> None:
    status, printed = killed(
        "--seconds", "60", "--contents", "200", mistake=mistake, harness="gc_race"
    )  # it ends when one shows
    assert status == 1, printed
    assert "there is no such blob" in printed or "nothing lies at" in printed


def test_processes_make_each_of_the_same_keys_once() -> None:
    status, printed = killed("--keys", "300", harness="same_keys")
    figures = dict(line.split() for line in printed.splitlines())
    assert (status, figures["violations"], figures["keys"]) == (0, "0", "300"), printed


def test_answers_that_do_not_agree_are_seen() -> None:
    sound = [(0, 1, "registered", "t"), (0, 1, "existing", "t"), (1, 2, "existing", "t"), (1, 2, "registered", "t")]
    assert list(same_keys.findings(sound, 2, 2)) == []
    for place, wrong, finding in (
        (0, (0, 1, "existing", "t"), "key 0"),
        (1, (0, 1, "registered", "t"), "key 0"),
        (1, (0, 3, "existing", "t"), "key 0"),
        (3, (1, 1, "registered", "t"), "key 1"),
    ):
        found = list(same_keys.findings([*sound[:place], wrong, *sound[place + 1 :]], 2, 2))
        assert any(finding in text for text in found)
    assert list(same_keys.findings(sound[:2] + [(1, 1, *answer[2:]) for answer in sound[2:]], 2, 2)) == [
        "an id has come twice"
    ]


NOT_TRIED = 3


def proved(harness: str, mistake: str = "") -> tuple[int, str]:
    """Run a harness of the whole proof in its short form; skip what cannot be tried here, with its reason."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.faults", harness],
        cwd=CHECKOUT,
        env=os.environ | {VARIABLE: mistake},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode == NOT_TRIED:
        pytest.skip(done.stdout)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("harness", HARNESSES)
def test_nothing_is_lost_by_any_fault(harness: str) -> None:
    status, printed = proved(harness)
    assert status == 0, printed


@pytest.mark.parametrize(
    ("harness", "mistake", "finding"),
    [
        ("kills", "index-row-dropped", "audit: index: variants_by_sha256 lacks a row"),
        ("replay", "file-not-flushed", "cannot be read|other bytes|nothing lies at"),
        ("replay", "folder-not-flushed", "None is there"),
        ("replay", "commit-not-flushed", "is there, and not one of"),
        ("disks", "folder-not-flushed", "None is there|nothing lies at|cannot be read"),
        ("failing", "error-swallowed", "a flush failed, and nobody heard of it"),
        ("full-disk", "lock-file-not-backed", "-7"),
        ("missing-root", "root-not-checked", "Directory not empty: .*/root"),
        ("damage", "checksum-not-checked", "wrong"),
        ("damage", "file-not-checked", "cut, case .*: died"),
        ("circumstances", "fork-not-noticed", "VIOLATION in fork"),
        ("model", "conflicts-not-asked", "in collect_garbage|in reconcile"),
        ("model", "holds-not-asked", "in collect_garbage"),
        ("model", "trash-not-looked-at", "in empty_trash"),
        ("model", "generation-kept", "in is_refused"),
    ],
)
def test_each_harness_sees_the_mistakes_that_are_its_own(harness: str, mistake: str, finding: str) -> None:
    status, printed = proved(harness, mistake)
    assert status == 1, printed
    assert re.search(finding, printed), printed
