"""Roots on the command line."""

import os
from pathlib import Path

import pytest

from kvcatalog.cli.exit_status import ExitStatus
from tests.command_line import answer


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(workplace: Path) -> None:
    (workplace / "a.pdf").write_bytes(b"one")


def states(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    status, rows, _ = answer(capsys, *options, "roots", "list", "--json")
    return status, [row["state"] for row in rows]


def test_roots_are_listed_with_their_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "add", "a.pdf", "--artifact-id", "a", "--json")[0] == ExitStatus.DONE
    assert states(capsys) == (ExitStatus.DONE, ["ok"])
    os.rename("data/docs", "data/away")
    assert states(capsys) == (ExitStatus.FINDINGS, ["unreachable"])
    os.mkdir("data/docs")
    assert states(capsys) == (ExitStatus.FINDINGS, ["unreachable"])
    status, _, message = answer(capsys, "add", "a.pdf", "--artifact-id", "b")
    assert status == ExitStatus.UNAVAILABLE
    assert "refused on purpose" in message
    assert os.listdir("data/docs") == []


def test_a_root_is_taken_over_on_purpose_only(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "add", "a.pdf", "--artifact-id", "a", "--json")
    other = ("--catalog", "other")
    status, _, message = answer(capsys, *other, "add", "a.pdf", "--artifact-id", "a")
    assert status == ExitStatus.UNAVAILABLE
    assert "another catalog" in message
    assert "kvcatalog roots adopt" in message
    status, _, message = answer(capsys, *other, "roots", "adopt")
    assert status == ExitStatus.UNAVAILABLE
    assert "--force takes it" in message
    assert answer(capsys, "--catalog", "mistyped", "roots", "adopt")[0] == ExitStatus.UNAVAILABLE
    assert not os.path.exists("mistyped")
    status, rows, _ = answer(capsys, *other, "roots", "adopt", "--force", "--json")
    assert (status, [row["state"] for row in rows]) == (ExitStatus.DONE, ["ok"])
    assert answer(capsys, *other, "add", "a.pdf", "--artifact-id", "a", "--json")[0] == ExitStatus.DONE
    assert states(capsys) == (ExitStatus.FINDINGS, ["of another catalog"])


def test_a_lost_marker_is_made_again_by_adoption(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "add", "a.pdf", "--artifact-id", "a", "--json")
    before = answer(capsys, "roots", "list", "--json")
    os.unlink("data/docs/.kvcatalog/root.json")
    assert states(capsys) == (ExitStatus.FINDINGS, ["unreachable"])
    assert answer(capsys, "roots", "adopt", "--json")[0] == ExitStatus.DONE
    assert answer(capsys, "roots", "list", "--json") == before
