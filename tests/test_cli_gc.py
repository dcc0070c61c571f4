"""Garbage collection and holds on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import open_catalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from tests.gc_store import aged, tree

ORPHAN = "data/docs/doi_10_b/b.pdf"


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two documents, of which one has lost its record, and a stray file that is old."""
    for name in os.environ:
        if name.upper().startswith("KVCATALOG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.pdf").write_bytes(name.encode() * 10)
        assert run(["add", f"{name}.pdf", "--artifact-id", f"doi:10/{name}"]) == ExitStatus.DONE
    with open_catalog("state/catalog.lmdb") as catalog:
        catalog.delete(2, reason="withdrawn")
    stray = Path("data/docs/bad\x1b[31mname.pdf")
    stray.write_bytes(b"stray")
    aged(stray, 30)
    capsys.readouterr()


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    status = run(arguments)
    written = capsys.readouterr()
    return status, json.loads(written.out or "null"), written.err


def uri(path: str) -> str:
    return Path(path).absolute().as_uri()


@pytest.mark.parametrize(
    "arguments",
    [
        ("gc",),
        ("gc", "--orphans", "0"),
        ("gc", "--dry-run", "--orphans", "0", "--summary"),
        ("gc", "--orphans", "0", "--format", "csv"),
        ("gc", "empty-trash"),
        ("gc", "empty-trash", "--dry-run", "--older-than", "0"),
        ("hold", "list"),
    ],
)
def test_what_destroys_changes_nothing_without_apply(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/docs/old.pdf").write_bytes(b"in the trash")
    aged(Path("data/docs/old.pdf"), 30)
    assert run(["gc", "--apply"]) == ExitStatus.DONE
    before = tree(tmp_path)
    assert any("/trash/" in path for path in before)
    assert any(path.endswith("data.mdb") for path in before)
    assert run(arguments) == ExitStatus.DONE
    after = tree(tmp_path)
    for path in ("state/catalog.lmdb/lock.mdb",):  # readers sign in there
        del before[path], after[path]
    assert after == before


def test_a_plan_is_made_reviewed_and_carried_out(capsys: pytest.CaptureFixture[str]) -> None:
    status, rows, message = answer(capsys, "gc", "--json")
    assert (status, [row["age_days"] > 29 for row in rows]) == (ExitStatus.DONE, [True])
    status, rows, message = answer(capsys, "gc", "--orphans", "0", "--plan", "plan.jsonl", "--json")
    assert {row["location"] for row in rows} == {uri(ORPHAN), uri("data/docs/bad\x1b[31mname.pdf")}
    assert {row["former_owner"] for row in rows} == {"doi:10/b", None}
    assert "2 blobs, 15 B, would go to the trash; emptying it frees 15 B" in message
    assert run(["gc", "--plan", "plan.jsonl"]) == ExitStatus.USAGE
    assert run(["gc", "--plan", "data/docs/plan.jsonl"]) == ExitStatus.USAGE
    assert run(["gc", "--apply", "--plan", "none.jsonl"]) == ExitStatus.USAGE
    assert run(["gc", "--apply", "--orphans", "1", "--plan", "plan.jsonl"]) == ExitStatus.USAGE
    capsys.readouterr()
    status, rows, message = answer(capsys, "gc", "--apply", "--plan", "plan.jsonl", "--json")
    assert {row["outcome"] for row in rows} == {"trashed"}
    assert "2 blobs, 15 B, went to the trash; emptying it frees 15 B" in message
    assert not Path(ORPHAN).exists()
    status, rows, message = answer(capsys, "gc", "--apply", "--plan", "plan.jsonl", "--json")
    assert {row["outcome"] for row in rows} == {"kept: gone"}
    status, (row,), _ = answer(capsys, "why", ORPHAN, "--json")
    assert [entry["action"] for entry in row["journal"]] == ["delete", "trash"]
    assert [each["state"] for each in row["trash"]] == ["present"]
    status, rows, _ = answer(capsys, "gc", "restore", ORPHAN, "--json")
    assert (status, [row["outcome"] for row in rows]) == (ExitStatus.DONE, ["restored"])
    assert Path(ORPHAN).read_bytes() == b"b" * 10
    status, (row,), _ = answer(capsys, "why", ORPHAN, "--json")
    assert row["trash"] == []
    status, (row,), _ = answer(capsys, "gc", "empty-trash", "--json")
    assert (row["blobs"], row["bytes"], row["bytes_freed"]) == (1, 5, 5)
    assert answer(capsys, "gc", "empty-trash", "--apply", "--json")[1] == [row]
    assert run(["gc", "restore", "data/docs/bad\x1b[31mname.pdf"]) == ExitStatus.NOT_FOUND


def test_a_summary_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    _, planned, message = answer(capsys, "--json", "gc", "--orphans", "0", "--summary")
    _, done, _ = answer(capsys, "--json", "gc", "--orphans", "0", "--summary", "--apply")
    facts = {"blobs": 2, "bytes": 15, "bytes_freed": 15, "kept": 0}
    assert planned == {"plan": planned["plan"], "applied": False, **facts}
    assert done == {"plan": done["plan"], "applied": True, **facts}
    assert message == ""


def test_what_is_held_stays(capsys: pytest.CaptureFixture[str]) -> None:
    status, (row,), _ = answer(capsys, "hold", "add", f"uri={uri(ORPHAN)}", "--reason", "evidence", "--json")
    assert (status, row["id"], row["reason"]) == (ExitStatus.DONE, 1, "evidence")
    _, rows, _ = answer(capsys, "gc", "--orphans", "0", "--json")
    assert [row["bytes"] for row in rows] == [5]
    _, (row,), _ = answer(capsys, "why", ORPHAN, "--json")
    assert [each["reason"] for each in row["held_by"]] == ["evidence"]
    assert answer(capsys, "hold", "list", "--json")[1][0]["id"] == 1
    assert answer(capsys, "hold", "release", "1", "--json")[0] == ExitStatus.DONE
    assert len(answer(capsys, "gc", "--orphans", "0", "--json")[1]) == 2
    assert run(["hold", "release", "1"]) == ExitStatus.NOT_FOUND
    assert run(["hold", "add", "--reason", "x"]) == ExitStatus.USAGE
    assert run(["hold", "add", "colour=red", "--reason", "x"]) == ExitStatus.USAGE


def test_a_hostile_name_is_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gc", "--orphans", "0"]) == ExitStatus.DONE
    written = capsys.readouterr()
    assert "\x1b" not in written.out + written.err
    assert "%1B%5B31mname.pdf" in written.out


def test_wrong_turns_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gc", "--apply", "restore", "x"]) == ExitStatus.USAGE
    assert run(["--root", "elsewhere", "gc", "--apply"]) == ExitStatus.NOT_FOUND
    assert run(["--catalog", "none", "gc", "--apply"]) == ExitStatus.UNAVAILABLE
    assert not Path("none").exists()
    os.rename("data/docs", "data/away")
    os.mkdir("data/docs")
    capsys.readouterr()
    for arguments in (["gc"], ["gc", "--apply"], ["gc", "empty-trash", "--apply"], ["gc", "restore", "x"]):
        assert run(arguments) == ExitStatus.UNAVAILABLE
        assert "its marker is not there" in capsys.readouterr().err
    assert os.listdir("data/docs") == []


def test_one_root_is_collected_when_another_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--root", "second", "add", "a.pdf", "--artifact-id", "c"]) == ExitStatus.DONE
    os.rename("second", "away")
    capsys.readouterr()
    assert run(["gc"]) == ExitStatus.UNAVAILABLE
    capsys.readouterr()
    status, rows, _ = answer(capsys, "--root", "data/docs", "gc", "--apply", "--orphans", "0", "--json")
    assert (status, len(rows)) == (ExitStatus.DONE, 2)
