"""What went wrong is told with an advice that fits the case."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import pytest

from kvcatalog import open_catalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from kvcatalog.schema import FORMAT_KEY, FORMAT_VERSION, META, NUMBER_CODEC
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.support import need_root

CATALOG = "state/catalog.lmdb"


@pytest.fixture(autouse=True)
def _workplace(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.pdf").write_bytes(b"%PDF")
    assert run(["add", "a.pdf", "--artifact-id", "W1"]) == ExitStatus.DONE
    assert run(["backup", "backup"]) == ExitStatus.DONE
    Path("folder").mkdir()
    Path("folder/file").touch()
    Path("stranger").mkdir()
    Path("stranger/data.mdb").write_bytes(b"no database")
    with lmdb.open("theirs", max_dbs=2) as theirs, theirs.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    Path("broken.yaml").write_text("{")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "status", "message", "advice"),
    [
        (["--catalog", "none", "stats"], 4, "there is no catalog", "Check --catalog; `kvcatalog import-manifest`"),
        (["--catalog", "a.pdf", "add", "a.pdf", "--artifact-id", "W"], 4, "is in the way", "a path of its own"),
        (["--catalog", "stranger", "stats"], 4, "is no LMDB database", "Check the path; if a catalog lay there"),
        (["--catalog", "theirs", "stats"], 4, "no catalog of ours", "belongs to another program"),
        (["--catalog", "backup", "add", "a.pdf", "--artifact-id", "W"], 4, "is a backup", "kvcatalog restore /"),
        (["--catalog", "backup", "compact"], 4, "is a backup", "`kvcatalog restore`"),
        (["backup", "folder"], 2, "is there already", "Give a path that is not there yet"),
        (["restore", "backup", "--to", CATALOG], 2, "is there already", "Give a path that is not there yet"),
        (["restore", "folder"], 4, "there is no backup", "backup.json"),
        (["export-sql", "-o", "a.pdf"], 2, "is there already", "--force"),
        (["export-sql", "-o", "/proc/x.sqlite"], 4, "No such file", "where a file can be made"),
        (["gc", "--plan", "nowhere/plan"], 4, "No such file", "where a file can be made"),
        (["gc", "--apply", "--plan", "a.pdf"], 2, "no line of a plan", "Make a new plan"),
        (["gc", "restore", "plan"], 3, "in the trash", "`kvcatalog gc trash` lists"),
        (["--root", "folder", "gc"], 3, "no storage root", "`kvcatalog roots list` lists"),
        (["hold", "release", "7"], 3, "there is no hold 7", "`kvcatalog hold list` lists"),
        (["show", "W2"], 3, "not in the catalog", "`kvcatalog search` lists"),
        (["-c", "none.yaml", "stats"], 2, "cannot be read", "Check -c."),
        (["-c", "a.pdf", "stats"], 2, "ends in .yaml", "Check -c"),
        (["-c", "broken.yaml", "stats"], 2, "broken.yaml", "Correct the file where the message says."),
        (["--root", "ftp://x", "add", "a.pdf", "--artifact-id", "W"], 2, "must be a folder", "Correct --root."),
        (["--catalog", "dynamodb://t?region=r", "compact"], 2, "local folder", "gives room back"),
        (["--catalog", "dynamodb://t?region=r", "backup", "b"], 2, "local folder", "`kvcatalog copy` makes"),
        (["--catalog", "dynamodb:/t", "stats"], 2, "can be opened", "'dynamodb://TABLE"),
        (["--catalog", "dynamodb://t", "stats"], 2, "3 to 255", "Write it as"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_the_advice_fits_the_case(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str, advice: str
) -> None:
    assert run(arguments) == status
    said = capsys.readouterr().err.splitlines()
    assert message in said[-2]
    assert advice in said[-1]


def test_a_newer_format_asks_for_a_newer_version(capsys: pytest.CaptureFixture[str]) -> None:
    with open_catalog(CATALOG) as catalog:
        assert isinstance(catalog, LmdbCatalog)
        with catalog._environment.write() as transaction:
            transaction.put(META, FORMAT_KEY, NUMBER_CODEC.encode(FORMAT_KEY, FORMAT_VERSION + 1))
    assert run(["stats"]) == ExitStatus.UNAVAILABLE
    assert "Use a version of kvcatalog that knows this format." in capsys.readouterr().err


def test_who_is_locked_out_is_told_to_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with open_catalog(CATALOG) as catalog, catalog.lease("gc"):
        assert run(["gc", "--apply"]) == ExitStatus.LOCKED
        assert "Wait for the other process, or stop it." in capsys.readouterr().err
        assert run(["compact"]) == ExitStatus.LOCKED
        assert "Wait for the other process, or stop it." in capsys.readouterr().err


def test_what_may_not_be_opened_is_for_its_owner(capsys: pytest.CaptureFixture[str]) -> None:
    need_root()
    with TemporaryDirectory() as folder:  # into which others may come, unlike into those of pytest
        os.chmod(folder, 0o755)
        shutil.copytree(CATALOG, f"{folder}/catalog")
        os.chmod(f"{folder}/catalog", 0o700)
        os.seteuid(65534)
        try:
            assert run(["--catalog", f"{folder}/catalog", "stats"]) == ExitStatus.UNAVAILABLE
        finally:
            os.seteuid(0)
    said = capsys.readouterr().err
    assert "Permission denied" in said
    assert "Use it as the user who owns it" in said
