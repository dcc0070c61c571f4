"""Relayout on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from tests.command_line import answer
from tests.gc_store import tree


@pytest.fixture(autouse=True)
def _store(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Path(f"{name}.pdf").write_bytes(name.encode() * 10)
        assert run(["add", f"{name}.pdf", "--artifact-id", f"doi:10/{name}"]) == ExitStatus.DONE
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments", [("--to", "cas"), ("--to", "cas", "--to-root", "second", "--summary"), ("--to", "policy_path")]
)
def test_without_apply_nothing_is_changed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert run(["relayout", *arguments]) == ExitStatus.DONE
    after = tree(tmp_path)
    del before["state/catalog.lmdb/lock.mdb"], after["state/catalog.lmdb/lock.mdb"]
    assert after == before
    assert not Path("second").exists()


def test_it_is_shown_and_applied(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("relayout", "--to", "cas", "--to-root", "second", "artifact=doi:10/a", "--json")
    _, planned, message = answer(capsys, *options)
    assert "1 move; 10 B" in message
    status, done, message = answer(capsys, *options, "--apply")
    assert status == ExitStatus.DONE
    assert [row["outcome"] for row in done] == ["moved"]
    assert done == [planned[0] | {"outcome": "moved"}]
    assert "1 old blob went to the trash" in message
    assert answer(capsys, *options, "--apply", "--jobs", "1")[1] == []
    _, (record,), _ = answer(capsys, "show", "doi:10/a", "--json")
    assert record["storage_uri"] == planned[0]["target"]
    assert run(["verify"]) == ExitStatus.DONE
    capsys.readouterr()
    _, summary, _ = answer(capsys, "relayout", "--to", "policy_path", "--summary", "--apply", "--json")
    assert summary == {"applied": True, "outcomes": {"moved": 1}, "bytes": 10, "trashed": 1}


def test_what_cannot_be_moved_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/docs/doi_10_a/a.pdf").write_bytes(b"other")
    status, rows, _ = answer(capsys, "relayout", "--to", "cas", "--apply", "--json")
    assert status == ExitStatus.FINDINGS
    assert {row["outcome"]: row.get("detail", "")[:11] for row in rows} == {"moved": "", "corrupt": "the SHA-256"}


def test_wrong_turns_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["relayout"]) == ExitStatus.USAGE
    assert "--to" in capsys.readouterr().err
    assert run(["relayout", "--to", "elsewhere"]) == ExitStatus.USAGE
    assert run(["relayout", "--to", "cas", "--to-root", "x://y"]) == ExitStatus.USAGE
    assert run(["relayout", "--to", "cas", "colour=red"]) == ExitStatus.USAGE
    os.rename("data/docs", "away")
    assert run(["relayout", "--to", "cas", "--to-root", "second", "--apply"]) == ExitStatus.UNAVAILABLE
