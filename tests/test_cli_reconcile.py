"""Reconciling on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvcatalog import open_catalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from tests.command_line import answer
from tests.gc_store import tree
from tests.web import PDF, Web


@pytest.fixture(autouse=True)
def _store(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two documents, of which one was moved by hand, and a stray file."""
    for name in ("a", "b"):
        Path(f"{name}.pdf").write_bytes(name.encode() * 10)
        assert run(["add", f"{name}.pdf", "--artifact-id", name]) == ExitStatus.DONE
    Path("data/docs/work").mkdir()
    Path("data/docs/a/a.pdf").rename("data/docs/work/moved.pdf")
    Path("data/docs/work/stray.pdf").write_bytes(b"stray")
    capsys.readouterr()


@pytest.mark.parametrize("arguments", [(), ("--artifact-from", "x:{folder}/{stem}", "--refetch")])
def test_without_apply_nothing_is_changed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert run(["reconcile", *arguments]) == ExitStatus.DONE
    after = tree(tmp_path)
    del before["state/catalog.lmdb/lock.mdb"], after["state/catalog.lmdb/lock.mdb"]
    assert after == before


def test_it_is_shown_and_applied(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("reconcile", "--artifact-from", "x:{folder}/{stem}", "--json")
    _, planned, message = answer(capsys, *options)
    assert {(row["action"], row["outcome"]) for row in planned} == {("rebind", "planned"), ("adopt", "planned")}
    assert "--apply" in message
    status, done, message = answer(capsys, *options, "--apply")
    assert status == ExitStatus.DONE
    assert "1 adopt, 1 rebind" in message
    assert {(row["action"], row["outcome"]) for row in done} == {("rebind", "done"), ("adopt", "done")}
    _, (record,), _ = answer(capsys, "show", "x:work/stray", "--json")
    assert (record["content_type"], record["resolver"]) == ("application/pdf", "local")
    assert run(["verify"]) == ExitStatus.DONE
    capsys.readouterr()
    assert answer(capsys, *options, "--apply")[1] == []


def test_a_mapping_names_what_is_adopted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("found.csv").write_text("file,artifact_id,url,resolver\ndata/docs/work/stray.pdf,doi:10/s,https://x/s,crawl\n")
    Path("data/docs/work/other.pdf").write_bytes(b"not named")
    _, rows, _ = answer(capsys, "reconcile", "--adopt", "found.csv", "--apply", "--json")
    assert sorted(row["action"] for row in rows) == ["adopt", "rebind", "unknown"]
    _, (record,), _ = answer(capsys, "show", "doi:10/s", "--json")
    assert (record["source_url"], record["resolver"]) == ("https://x/s", "crawl")


def test_what_is_lost_is_fetched(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{web.url}/same/x.pdf"
    assert run(["fetch", url, "--artifact-id", "w"]) == ExitStatus.DONE
    with open_catalog("state/catalog.lmdb") as catalog:
        (record,) = catalog.get_by_artifact("w")
    path = Path(record.storage_uri.removeprefix("file://"))
    assert path.read_bytes() == PDF
    path.unlink()
    capsys.readouterr()
    status, rows, _ = answer(capsys, "reconcile", "artifact=w", "--json")
    assert (status, {row["action"] for row in rows}) == (ExitStatus.FINDINGS, {"lost", "unknown"})
    status, rows, _ = answer(capsys, "reconcile", "artifact=w", "--refetch", "--apply", "--json")
    assert status == ExitStatus.DONE
    assert path.read_bytes() == PDF
    assert run(["add", "b.pdf", "--artifact-id", "gone", "--url", f"{web.url}/status/404"]) == ExitStatus.DONE
    Path("data/docs/gone/404.pdf").unlink()
    capsys.readouterr()
    status, rows, message = answer(capsys, "reconcile", "artifact=gone", "--refetch", "--apply", "--json")
    assert (status, "1 refetch failed" in message) == (ExitStatus.FINDINGS, True)
    assert "http-404" in {row["detail"] for row in rows}


def test_wrong_turns_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.csv").write_text("file,artifact_id\ndata/docs/work/stray.pdf\n")
    for arguments in (
        ["--artifact-from", "{colour}"],
        ["--artifact-from", "same for all"],
        ["--artifact-from", "{folder"],
        ["--artifact-from", "{folder.__class__}"],
        ["--adopt", "none.csv"],
        ["--adopt", "wrong.csv"],
        ["colour=red"],
    ):
        assert run(["reconcile", *arguments]) == ExitStatus.USAGE
    os.rename("data/docs", "away")
    assert run(["reconcile", "--apply"]) == ExitStatus.UNAVAILABLE
    assert "marker" in capsys.readouterr().err
