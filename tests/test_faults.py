"""The fault harnesses find nothing where nothing is wrong, and see the mistakes that are planted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("mistake", ["not-condemned", "not-checked-again"])
def test_a_mistake_in_collecting_is_seen(mistake: str) -> None:
    status, printed = killed(
        "--seconds", "60", "--contents", "200", mistake=mistake, harness="gc_race"
    )  # it ends when one shows
    assert status == 1, printed
    assert "there is no such blob" in printed or "nothing lies at" in printed
