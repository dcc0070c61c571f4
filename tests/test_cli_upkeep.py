"""The commands audit, backup, restore, compact and journal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import open_catalog, schema
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests import command_line


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(workplace: Path) -> None:
    (workplace / "a.pdf").write_bytes(b"one")


@pytest.fixture
def path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A catalog at its usual place, with a document in the usual root."""
    assert run(["add", "a.pdf", "--artifact-id", "a\x1b[31m"]) == ExitStatus.DONE
    capsys.readouterr()
    return "state/catalog.lmdb"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    return command_line.answer(capsys, *arguments, "--json")


def break_index(path: str) -> None:
    with open_catalog(Path(path)) as catalog, catalog._environment.write() as transaction:
        transaction.delete(schema.BY_URL, *next(transaction.items(schema.BY_URL)))


def test_an_audit_finds_and_repairs_and_the_journal_tells(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "audit") == (ExitStatus.DONE, [], "All is in order.\n")
    break_index(path)
    status, (finding,), message = answer(capsys, "audit")
    assert (status, message) == (ExitStatus.FINDINGS, "1 finding\n")
    assert (finding["kind"], finding["table"], finding["document_id"]) == ("index", "by_url", 1)
    status, (finding,), message = answer(capsys, "audit", "--repair", "--reason", "why not")
    assert (status, finding["repaired"], message) == (ExitStatus.FINDINGS, True, "1 finding, 1 of them repaired\n")
    assert answer(capsys, "audit", "--repair")[0] == ExitStatus.DONE
    status, entries, _ = answer(capsys, "journal", "--document", "1")
    assert [(each["action"], each["command"], each["reason"]) for each in entries] == [("repair", "audit", "why not")]


def test_an_audit_looks_at_blobs_where_it_is_told_to(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "audit", "--blobs")[0] == ExitStatus.DONE
    blob = next(Path("data/docs").rglob("*.pdf"))
    blob.rename(blob.with_name("else.pdf"))
    assert answer(capsys, "audit")[0] == ExitStatus.DONE
    status, findings, _ = answer(capsys, "audit", "--blobs")
    assert (status, [each["kind"] for each in findings]) == (ExitStatus.FINDINGS, ["blob missing", "blob unknown"])
    assert run(["audit", "--blobs"]) == ExitStatus.FINDINGS
    assert "\x1b" not in capsys.readouterr().out


def test_a_damaged_file_is_a_finding(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(f"{path}/data.mdb", 20_000)
    status, findings, _ = answer(capsys, "audit", "--repair")
    assert (status, [each["kind"] for each in findings]) == (ExitStatus.FINDINGS, ["file"])
    assert answer(capsys, "backup", "b")[0] == ExitStatus.UNAVAILABLE
    assert answer(capsys, "compact")[0] == ExitStatus.UNAVAILABLE
    assert not os.path.exists("b")
    assert answer(capsys, "--catalog", "none", "audit")[0] == ExitStatus.UNAVAILABLE


def test_a_backup_is_restored_on_purpose_and_adopts_its_root_then(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report, _ = answer(capsys, "backup", "backups/one")
    assert (status, report["documents"], report["findings"]) == (ExitStatus.DONE, 1, 0)
    assert answer(capsys, "backup", "backups/one")[0] == ExitStatus.USAGE
    assert answer(capsys, "--catalog", "backups/one", "show", "1")[0] == ExitStatus.DONE
    status, report, message = answer(capsys, "restore", "backups/one", "--to", "new")
    assert (status, report["applied"], os.path.exists("new")) == (ExitStatus.DONE, False, False)
    assert "--apply" in message
    assert answer(capsys, "restore", "backups/one", "--apply")[0] == ExitStatus.USAGE
    status, report, message = answer(capsys, "restore", "backups/one", "--to", "new", "--apply")
    assert (status, report["applied"], len(report["roots"])) == (ExitStatus.DONE, True, 1)
    assert "roots adopt" in message
    assert answer(capsys, "--catalog", "new", "add", "a.pdf", "--artifact-id", "b")[0] == ExitStatus.UNAVAILABLE
    assert answer(capsys, "--catalog", "new", "roots", "adopt")[0] == ExitStatus.DONE
    assert answer(capsys, "--catalog", "new", "add", "a.pdf", "--artifact-id", "b")[0] == ExitStatus.DONE
    assert answer(capsys, "add", "a.pdf", "--artifact-id", "b")[0] == ExitStatus.UNAVAILABLE
    assert answer(capsys, "restore", "nowhere", "--to", "other")[0] == ExitStatus.UNAVAILABLE
    break_index(path)
    status, report, message = answer(capsys, "backup", "backups/two")
    assert (status, report["findings"]) == (ExitStatus.FINDINGS, 1)
    assert "kvcatalog audit" in message


def test_compacting_is_refused_while_the_catalog_is_open(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_catalog(path):
        status, _, message = answer(capsys, "compact")
    assert status == ExitStatus.LOCKED
    assert "is open" in message
    status, report, _ = answer(capsys, "compact")
    assert (status, report["bytes_before"] - report["bytes_after"]) == (ExitStatus.DONE, report["freed_bytes"])
    assert answer(capsys, "--catalog", "dynamodb://table", "compact")[0] == ExitStatus.USAGE


def test_the_journal_is_listed_from_a_number_or_a_time_on(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill_journal(path)
    _, everything, _ = answer(capsys, "journal")
    numbers = [each["sequence"] for each in everything]
    assert len(numbers) > 3
    assert [each["sequence"] for each in answer(capsys, "journal", "--since", "2")[1]] == numbers[2:]
    assert answer(capsys, "journal", "--since", "2100-01-01")[1] == []
    assert answer(capsys, "journal", "--since", "2020-01-01T00:00:00Z")[1] == everything
    assert run(["--format", "ids", "journal", "--document", "1"]) == ExitStatus.DONE
    assert capsys.readouterr().out.split() == ["2", "3", "4"]
    for wrong in (["--since", "soon"], ["--older-than", "1d"], ["--apply"], ["--prune"], ["--older-than", "3y"]):
        assert answer(capsys, "journal", *wrong)[0] == ExitStatus.USAGE
    assert answer(capsys, "journal", "--prune", "--older-than", "1d", "--since", "1")[0] == ExitStatus.USAGE


def fill_journal(path: str) -> None:
    with open_catalog(path) as catalog:
        assert isinstance(catalog, LmdbCatalog)
        catalog._clock = lambda: 1_600_000_000_000_000
        for number in range(3):
            catalog.update(1, content_type=f"text/{number}")


def test_the_journal_is_pruned_on_purpose(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill_journal(path)
    prune = ("journal", "--prune", "--older-than", "52w")
    _, before, _ = answer(capsys, "journal")
    status, report, message = answer(capsys, *prune)
    # The first entry is of the root, and of now: what comes behind it stays with it.
    assert (status, report["applied"], report["entries"], message) == (ExitStatus.DONE, False, 0, "")
    status, report, _ = answer(capsys, "journal", "--prune", "--older-than", "0h", "--apply")
    assert (status, report["applied"], report["entries"]) == (ExitStatus.DONE, True, len(before))
    assert report["journal_start"] == len(before) + 1
    status, _, message = answer(capsys, "journal", "--since", "1")
    assert status == ExitStatus.NOT_FOUND
    assert "pruned" in message
    assert "Entries before" in answer(capsys, "journal")[2]
