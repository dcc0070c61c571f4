"""The command copy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import open_catalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from tests import command_line
from tests.copies import fill

SOURCE, TARGET = "source.lmdb", "target.lmdb"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(workplace: Path) -> None:
    with open_catalog(SOURCE) as catalog:
        fill(catalog, 20)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    return command_line.answer(capsys, "copy", *arguments, "--json")


def figures(rows: Any, name: str) -> dict[str, int]:
    return {row["name"]: row[name] for row in rows}


def test_a_copy_is_planned_made_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    status, planned, note = answer(capsys, SOURCE, TARGET, "--dry-run")
    assert (status, os.path.exists(TARGET)) == (ExitStatus.DONE, False)
    assert "Nothing was changed" in note
    status, copied, note = answer(capsys, SOURCE, TARGET)
    assert status == ExitStatus.DONE
    assert figures(copied, "copied") == figures(planned, "missing") == figures(planned, "rows")
    assert f"--catalog {TARGET} --root ROOT roots adopt --force" in note
    status, again, _ = answer(capsys, SOURCE, TARGET)
    assert (status, sum(figures(again, "copied").values())) == (ExitStatus.DONE, 0)
    assert answer(capsys, SOURCE, TARGET, "--dry-run")[0] == ExitStatus.DONE
    assert answer(capsys, SOURCE, TARGET, "--compare")[::2] == (ExitStatus.DONE, "Both say the same.\n")
    assert run(["copy", SOURCE, TARGET, "--compare", "--format", "csv"]) == ExitStatus.DONE
    assert capsys.readouterr().out.startswith("name,rows,copied,missing,extra,examples\r\n")


def test_a_difference_is_a_finding_and_is_not_copied_over(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, SOURCE, TARGET)
    with open_catalog(TARGET) as catalog:
        catalog.update(1, content_type="text/\x1b[31m")
    status, rows, note = answer(capsys, SOURCE, TARGET, "--compare")
    assert (status, figures(rows, "extra")["documents"], rows[1]["examples"]) == (ExitStatus.FINDINGS, 1, ["1"])
    assert "They differ" in note
    for options in ([], ["--dry-run"]):
        status, rows, note = answer(capsys, SOURCE, TARGET, *options)
        assert (status, rows) == (ExitStatus.USAGE, None)
        assert json.loads(note)["error"]["type"] == "CopyTargetError"


def test_what_cannot_be_copied_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--dry-run"], ["--compare"]):
        assert answer(capsys, "nowhere.lmdb", TARGET, *options)[0] == ExitStatus.UNAVAILABLE
        assert answer(capsys, SOURCE, SOURCE, *options)[0] in {ExitStatus.USAGE, ExitStatus.UNAVAILABLE}
    assert answer(capsys, SOURCE, TARGET, "--compare")[0] == ExitStatus.UNAVAILABLE
    assert not os.path.exists(TARGET)
    assert answer(capsys, SOURCE, TARGET, "--dry-run", "--compare")[0] == ExitStatus.USAGE
    assert answer(capsys, SOURCE)[0] == ExitStatus.USAGE
    assert run(["--catalog", SOURCE, "backup", "saved"]) == ExitStatus.DONE
    capsys.readouterr()
    assert answer(capsys, SOURCE, "saved")[0] == ExitStatus.UNAVAILABLE
    assert answer(capsys, "saved", SOURCE)[0] == ExitStatus.USAGE
    assert answer(capsys, "saved", TARGET)[0] == ExitStatus.DONE
