"""The commands export-sql and import-sql, as a person meets them."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from kvcatalog import open_catalog
from kvcatalog.cli.group import run
from kvcatalog.sql_export import Format
from tests.sql_exports import exported, fill, rows_of


@pytest.fixture(autouse=True)
def _workplace(workplace: Path) -> None:
    with open_catalog(Path("catalog")) as catalog:
        fill(catalog)


def test_an_export_reports_in_the_format_of_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--catalog", "catalog", "--json", "export-sql", "--format", "jsonl", "-o", "lines"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "jsonl"
    assert report["documents"] == 14
    assert report["bytes"] == Path("lines").stat().st_size
    assert run(["--catalog", "catalog", "export-sql", "-o", "file"]) == 0
    shown = capsys.readouterr().out
    assert f"position   {report['position']}\n" in shown
    with open_catalog(Path("catalog")) as catalog:
        assert rows_of(Path("file")) == exported(catalog)


def test_an_export_reports_in_json_where_that_is_asked_behind_its_name(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["--catalog", "catalog", "export-sql", "-o", "file", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["format"] == "sqlite"
    assert run(["--catalog", "catalog", "export-sql", "--format", "csv", "--table", "roots", "--json"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith("id,uri,uuid,cas_prefix")
    assert json.loads(captured.err)["format"] == "csv"
    assert run(["--catalog", "catalog", "export-sql", "-o", "file", "--json"]) == 2
    assert json.loads(capfd.readouterr().err)["error"]["type"] == "OutputExistsError"


def test_an_export_goes_to_standard_output_alone(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["--catalog", "catalog", "export-sql", "--format", "csv", "--table", "roots"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == b"id,uri,uuid,cas_prefix\r\n1,file:///store,one,sha256\r\n"
    assert b"position " in captured.err
    assert run(["--catalog", "catalog", "-q", "export-sql", "--format", "postgres", "--filter", "bytes=1"]) == 0
    captured = capfdbinary.readouterr()
    assert b"COPY documents (id, " in captured.out
    assert captured.err == b""


def test_changes_go_to_an_earlier_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--catalog", "catalog", "--json", "export-sql", "-o", "file"]) == 0
    position = json.loads(capsys.readouterr().out)["position"]
    with open_catalog(Path("catalog")) as catalog:
        catalog.delete(1)
        expected = exported(catalog)
    assert run(["--catalog", "catalog", "--json", "export-sql", "-o", "file", "--since", position]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["changed"], report["removed"]) == (0, 1)
    assert rows_of(Path("file")) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a name"),
        (["-o", "-"], "needs a name"),
        (["--format", "json"], "is not one of"),
        (["--table", "roots", "-o", "x"], "goes with --format csv only"),
        (["--dsn", "x", "-o", "x"], "goes with --format postgres only"),
        (["--dsn", "x", "--format", "csv"], "goes with --format postgres only"),
        (["-o", "x", "--since", "yesterday"], "is not what an export gave"),
        (["-o", "x", "--filter", "nonsense"], "nonsense"),
        (["-o", "catalog"], "is no regular file"),
        (["--format", "csv", "-o", "x", "--since", "0-0-0-0-0"], "no form for what was changed"),
    ],
)
def test_a_wrong_turn_is_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(["--catalog", "catalog", "export-sql", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not Path("x").exists()


def test_errors_are_json_where_the_group_says_so_only(capsys: pytest.CaptureFixture[str]) -> None:
    for options, is_json in ((["--json"], True), ([], False)):
        assert run(["--catalog", "none", *options, "export-sql", "--format", "jsonl"]) == 4
        assert capsys.readouterr().err.startswith("{") is is_json


def test_a_folder_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--catalog", "catalog", "export-sql", "-o", "nowhere/file"]) == 4
    assert "nowhere/file: No such file or directory" in capsys.readouterr().err


def test_a_terminal_gets_no_export() -> None:
    """What is stored may hold anything that a terminal obeys."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "kvcatalog.cli", "--catalog", "catalog", "export-sql", "--format", "csv"]
    command[1:3] = ["-c", "from kvcatalog.cli import main; main()"]
    done = subprocess.run(command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, check=False)
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


def test_a_catalog_that_was_kept_in_sqlite_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--catalog", "catalog", "export-sql", "-o", "file"]) == 0
    with closing(sqlite3.connect("file")) as connection:
        connection.execute("UPDATE documents SET bytes=-1, artifact_id=char(27) || 'x' WHERE id=1")
        connection.commit()
    capsys.readouterr()
    assert run(["--catalog", "other", "--json", "import-sql", "file"]) == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["kept_ids"]) == (13, True)
    refused = {(each["table"], each["reason"]): each["count"] for each in report["refusals"]}
    assert refused["documents", "invalid-bytes"] == 1
    assert refused["variants", "no-such-document"] == 1
    assert run(["--catalog", "other", "import-sql", "file"]) == 1
    shown = capsys.readouterr().out
    assert "invalid-bytes" in shown
    assert "existing" in shown


@pytest.mark.parametrize(("source", "message"), [("missing", "does not exist"), ("catalog", "is a directory")])
def test_a_source_that_is_none_makes_no_catalog(capsys: pytest.CaptureFixture[str], source: str, message: str) -> None:
    assert run(["--catalog", "other", "import-sql", source]) == 2
    assert message in capsys.readouterr().err
    assert not Path("other").exists()


def test_the_help_tells_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export-sql", "--help"]) == 0
    told = capsys.readouterr().out
    assert [form for form in get_args(Format) if f"\n  {form} " not in told] == []


def test_what_is_no_export_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text").write_text("hello\x1b[2J")
    assert run(["--catalog", "catalog", "import-sql", "text"]) == 2
    assert "text is neither a SQLite database nor anything that export-sql writes" in capsys.readouterr().err
