"""Retention on the command line."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from kvcatalog import clock, open_catalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from tests.command_line import answer
from tests.gc_store import tree

RULES = """
catalog: {retention_days: 50}
retention:
  min_copies: 1
  rules:
    - {name: large, filters: ["bytes>1kB"], days: 10, min_copies: 0}
"""


@pytest.fixture(autouse=True)
def _store(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three documents, a day old and more."""
    Path("rules.yaml").write_text(RULES)
    now = clock.from_micros(clock.now_micros())
    for number, (name, size) in enumerate((("a", 10), ("b", 20), ("c\x1b[31m", 3000)), 1):
        Path("x.pdf").write_bytes(name[:1].encode() * size)
        assert run(["add", "x.pdf", "--artifact-id", name]) == ExitStatus.DONE
        with open_catalog("state/catalog.lmdb") as catalog:
            record = catalog.delete(2 * number - 1)
            facts = {field: getattr(record, field) for field in ("source_url", "resolver", "bytes", "sha256")}
            created = now - timedelta(days=100 - number)
            catalog.register(artifact_id=name, **facts, storage_uri=record.storage_uri, created_at=created)
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        ("retention",),
        ("retention", "--days", "30"),
        ("-c", "rules.yaml", "retention", "--review", "--free", "1kB", "--dry-run"),
        ("retention", "--days", "30", "--summary", "--format", "csv"),
    ],
)
def test_without_apply_nothing_is_changed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert run(arguments) == ExitStatus.DONE
    after = tree(tmp_path)
    del before["state/catalog.lmdb/lock.mdb"], after["state/catalog.lmdb/lock.mdb"]
    assert after == before


def test_it_is_shown_reviewed_and_applied(capsys: pytest.CaptureFixture[str]) -> None:
    status, rows, message = answer(capsys, "-c", "rules.yaml", "retention", "--review", "--json")
    assert (status, [(row["id"], row["outcome"], row["rule"]) for row in rows]) == (
        ExitStatus.DONE,
        [(2, "keep", "retention_days"), (4, "keep", "retention_days"), (6, "delete", "large")],
    )
    assert rows[0]["reason"] == "its content would have fewer than 1 physical copies"
    assert "1 of 3 records would go, and 1 blob, 3 kB; emptying the trash frees 3 kB" in message
    assert "--apply" in message
    _, rows, _ = answer(capsys, "-c", "rules.yaml", "retention", "--json")
    assert [row["id"] for row in rows] == [6]
    status, rows, message = answer(capsys, "-c", "rules.yaml", "retention", "--apply", "--json")
    assert (status, [row["outcome"] for row in rows]) == (ExitStatus.DONE, ["deleted"])
    assert "1 of 3 records went, and 1 blob" in message
    label = message.split("gc restore ")[1].split()[0]
    assert answer(capsys, "gc", "restore", label, "--json")[1][0]["outcome"] == "restored"
    _, rows, _ = answer(capsys, "journal", "--json")
    assert {(row["action"], row["command"]) for row in rows if row["command"] == "retention"} == {
        ("begin", "retention"),
        ("delete", "retention"),
        ("trash", "retention"),
        ("finish", "retention"),
    }


def test_a_summary_tells_the_same_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    _, planned, _ = answer(capsys, "retention", "--days", "30", "--free", "25", "--summary", "--json")
    _, done, _ = answer(capsys, "retention", "--days", "30", "--free", "25", "--summary", "--apply", "--json")
    facts = {"records": 3, "going": 2, "blobs": 2, "bytes": 30, "bytes_freed": 30}
    assert planned == {"applied": False, **facts}
    assert done == {"applied": True, **facts}
    _, left, message = answer(capsys, "retention", "--days", "30", "--free", "1M", "--json")
    assert [row["id"] for row in left] == [6]
    assert "less than 1 MB" in message


def test_wrong_turns_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["retention", "--days", "-1"]) == ExitStatus.USAGE
    assert run(["retention", "--free", "much"]) == ExitStatus.USAGE
    assert run(["retention", "colour=red"]) == ExitStatus.USAGE
    Path("wrong.yaml").write_text("retention: {rules: [{name: x, filters: ['bytes>']}]}")
    assert run(["-c", "wrong.yaml", "retention"]) == ExitStatus.USAGE
    assert "retention.rules.0.filters" in capsys.readouterr().err
    assert run(["retention"]) == ExitStatus.DONE
    assert "keeps for ever" in capsys.readouterr().err
    assert run(["retention", "--days", "1"]) == ExitStatus.DONE
    assert "\x1b" not in capsys.readouterr().out
    os.rename("data/docs", "data/away")
    assert run(["retention", "--days", "1", "--apply"]) == ExitStatus.UNAVAILABLE
    with open_catalog("state/catalog.lmdb") as catalog:
        assert catalog.stats().documents == 3
