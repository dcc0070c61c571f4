"""Garbage collection and holds on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvcatalog import open_catalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from kvcatalog.errors import StorageFullError
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.removal import executing, trash
from kvcatalog.removal.executing import Batch
from tests.command_line import answer
from tests.gc_store import aged, tree

ORPHAN = "data/docs/doi_10_b/b.pdf"


@pytest.fixture(autouse=True)
def _store(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two documents, of which one has lost its record, and a stray file that is old."""
    for name in ("a", "b"):
        Path(f"{name}.pdf").write_bytes(name.encode() * 10)
        assert run(["add", f"{name}.pdf", "--artifact-id", f"doi:10/{name}"]) == ExitStatus.DONE
    with open_catalog("state/catalog.lmdb") as catalog:
        catalog.delete(2, reason="withdrawn")
    stray = Path("data/docs/bad\x1b[31mname.pdf")
    stray.write_bytes(b"stray")
    aged(stray, 30)
    capsys.readouterr()


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


def interrupt(monkeypatch: pytest.MonkeyPatch, method: str, *, call: int) -> None:
    """Let a step of a collection be cut off by Control-C once it is done."""
    owner = FileBlobStore if method == "move_many" else Batch
    step, calls = getattr(owner, method), [0]

    def interrupted(*arguments: object) -> object:
        done = step(*arguments)
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(owner, method, interrupted)


@pytest.mark.parametrize("method", ["condemn", "move_many", "move", "settle"])
@pytest.mark.parametrize("options", [(), ("--summary",), ("--plan", "a plan.jsonl")], ids=["rows", "summary", "plan"])
def test_what_an_interrupted_collection_did_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str, options: tuple[str, ...]
) -> None:
    for number in range(6):
        path = Path(f"data/docs/{number}.pdf")
        path.write_bytes(b"stray")
        aged(path, 30)
    monkeypatch.setattr(executing, "BATCH_FILES", 3)
    days = ["--orphans", "1"]
    if "--plan" in options:
        assert run(["gc", *days, *options]) == ExitStatus.DONE
        days = []
    interrupt(monkeypatch, method, call=2)
    capsys.readouterr()
    status, answered, message = answer(capsys, "--json", "gc", "--apply", *days, *options)
    assert status == ExitStatus.INTERRUPTED
    done = 3 if method == "condemn" else 6
    left = [path.name for path in Path("data/docs").iterdir() if path.is_file()]
    assert len(left) == 7 - done
    (plan,) = os.listdir("data/docs/.kvcatalog/trash")
    if options == ("--summary",):
        assert (answered["blobs"], answered["plan"], answered["applied"]) == (done, plan, True)
    else:
        assert [row["outcome"] for row in answered] == ["trashed"] * done
        assert f"{done} blobs, " in message
        assert f"gc restore {plan}" in message
    again = "kvcatalog gc --apply" + (" --plan 'a plan.jsonl'" if "--plan" in options else "")
    assert f"stopped behind {done} of 7 blobs; {again}" in message
    monkeypatch.undo()


def test_an_error_tells_what_was_done_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Batch) -> None:
        raise StorageFullError("no room")

    monkeypatch.setattr(Batch, "settle", fails)
    status, rows, message = answer(capsys, "--json", "gc", "--apply")
    assert (status, [row["outcome"] for row in rows]) == (ExitStatus.UNAVAILABLE, ["trashed"])
    assert "stopped behind 1 of 1 blobs" in message
    with open_catalog("state/catalog.lmdb") as catalog:
        assert [entry.action for entry in catalog.journal()][-1] == "trash"


def test_the_trash_is_listed_by_plans_and_blobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "gc", "trash", "--json") == (ExitStatus.DONE, [], "")
    assert run(["gc", "restore"]) == ExitStatus.USAGE
    assert "gc trash" in capsys.readouterr().err
    for days in ("1", "0"):
        assert run(["gc", "--apply", "--orphans", days]) == ExitStatus.DONE
    capsys.readouterr()
    status, rows, _ = answer(capsys, "gc", "trash", "--json")
    rows.sort(key=lambda row: row["bytes"])  # plans of one second are in no order
    assert (status, [(row["blobs"], row["bytes"], row["root"]) for row in rows]) == (
        ExitStatus.DONE,
        [(1, 5, uri("data/docs")), (1, 10, uri("data/docs"))],
    )
    assert all(row["taken_at"].startswith(row["plan"][:4]) for row in rows)
    (blob,) = answer(capsys, "gc", "trash", rows[1]["plan"], "--json")[1]
    assert (blob["location"], blob["bytes"]) == (uri(ORPHAN), 10)
    assert run(["gc", "trash", "20250101T000000Z-none"]) == ExitStatus.NOT_FOUND
    assert "gc trash` lists" in capsys.readouterr().err
    assert run(["gc", "restore", rows[1]["plan"]]) == ExitStatus.DONE
    capsys.readouterr()
    assert [row["plan"] for row in answer(capsys, "gc", "trash", "--json")[1]] == [rows[0]["plan"]]


def test_what_is_in_the_trash_no_more_is_told_as_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gc", "--apply", "--orphans", "0"]) == ExitStatus.DONE
    (plan,) = os.listdir("data/docs/.kvcatalog/trash")
    os.unlink(f"data/docs/.kvcatalog/trash/{plan}/doi_10_b/b.pdf")
    capsys.readouterr()
    status, rows, _ = answer(capsys, "gc", "restore", plan, "--json")
    assert status == ExitStatus.FINDINGS
    assert [(row["outcome"], row["bytes"]) for row in rows] == [("restored", 5), ("missing", 10)]
    assert rows[1]["location"] == uri(ORPHAN)


def test_what_came_back_and_was_taken_again_is_not_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gc", "--apply", "--orphans", "0"]) == ExitStatus.DONE
    (plan,) = os.listdir("data/docs/.kvcatalog/trash")
    assert run(["gc", "restore", ORPHAN]) == ExitStatus.DONE
    assert run(["gc", "--apply", "--orphans", "0"]) == ExitStatus.DONE
    capsys.readouterr()
    status, rows, _ = answer(capsys, "gc", "restore", plan, "--json")
    assert (status, [row["outcome"] for row in rows]) == (ExitStatus.DONE, ["restored"])


def test_what_was_removed_before_an_interruption_is_told_and_written_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gc", "--apply", "--orphans", "0"]) == ExitStatus.DONE
    monkeypatch.setattr(trash, "_CHUNK", 1)
    delete, calls = FileBlobStore.delete_many, [0]

    def interrupted(store: FileBlobStore, paths: list[str]) -> object:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return delete(store, paths)

    monkeypatch.setattr(FileBlobStore, "delete_many", interrupted)
    capsys.readouterr()
    status, (row,), message = answer(capsys, "gc", "empty-trash", "--apply", "--json")
    assert (status, row["blobs"]) == (ExitStatus.INTERRUPTED, 1)
    assert "run it again" in message
    with open_catalog("state/catalog.lmdb") as catalog:
        assert list(catalog.journal())[-1].action == "empty-trash"
    assert answer(capsys, "gc", "empty-trash", "--apply", "--json")[1][0]["blobs"] == 1


def test_a_hold_tells_what_it_protects_and_takes_paths(capsys: pytest.CaptureFixture[str]) -> None:
    kept = "data/docs/doi_10_a/a.pdf"

    def held(*filters: str) -> tuple[str, int, int, str]:
        status, (row,), message = answer(capsys, "hold", "add", *filters, "--reason", "x", "--json")
        assert status == ExitStatus.DONE
        return row["filters"], row["records"], row["blobs"], message

    assert held(f"uri={kept}") == (f"uri={uri(kept)}", 1, 1, "")
    assert held(f"uri=./data/../{ORPHAN}") == (f"uri={uri(ORPHAN)}", 0, 1, "")
    assert held("uri=data/docs/*") == (f"uri={uri('data/docs')}/*", 1, 1, "")
    assert held("artifact=doi:10/*") == ("artifact=doi:10/*", 1, 1, "")
    name, records, blobs, message = held("uri=data/docs/none.pdf")
    assert (name, records, blobs) == (f"uri={uri('data/docs/none.pdf')}", 0, 0)
    assert "Hold 5 protects nothing now" in message
    assert "hold release 5" in message
    assert held("uri=s3*")[:3] == ("uri=s3*", 0, 0)
    assert answer(capsys, "gc", "--orphans", "0", "--json")[1] == []


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
