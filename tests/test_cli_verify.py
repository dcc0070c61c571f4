"""The commands `verify` and `doctor`: what they print, and how they end."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kvcatalog
from kvcatalog import open_catalog
from kvcatalog.cli import quantities
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from tests.command_line import Cli, Ran
from tests.test_telemetry import LISTEN, REPORT, points
from tests.test_telemetry import run as run_script


@pytest.fixture(autouse=True)
def _three_documents(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        Path(f"{name}.pdf").write_text(name)
        assert run(("add", f"{name}.pdf", "--artifact-id", f"W{name}", "--run", f"run-{name}")) == ExitStatus.DONE
    capsys.readouterr()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> Ran:
        capsys.readouterr()
        return Ran(run(arguments), *capsys.readouterr())

    return call


def blob(name: str) -> Path:
    return Path("data/docs", f"W{name}", f"{name}.pdf")


def tamper(name: str) -> None:
    blob(name).chmod(0o644)
    blob(name).write_text("X")


class TestVerify:
    def test_findings_are_listed_and_are_the_exit_status(self, cli: Cli) -> None:
        assert cli("verify") == (ExitStatus.DONE, "", "3 ok; 3 B read\n")
        tamper("b")
        blob("c").unlink()
        ran = cli("--json", "verify")
        assert (ran.status, ran.err.splitlines()[0]) == (ExitStatus.FINDINGS, "1 corrupt, 1 missing, 1 ok; 2 B read")
        assert "kvcatalog reconcile --refetch" in ran.err
        assert [(row["result"], row["document_ids"]) for row in ran.json] == [("corrupt", [2]), ("missing", [3])]
        assert [row["advice"] for row in ran.json] == [
            f"kvcatalog reconcile id={number} --refetch" for number in (2, 3)
        ]
        for row in ran.json:
            assert cli(*shlex.split(row["advice"])[1:]).status == ExitStatus.FINDINGS  # that it is lost: nobody has it
        assert [row["result"] for row in cli("--json", "verify", "--all").json] == ["ok", "corrupt", "missing"]
        assert cli("--format", "ids", "verify").out == "2\n3\n"
        assert cli("-q", "verify").err == ""

    def test_a_failure_is_counted_where_it_happens(self, tmp_path: Path) -> None:
        tamper("a")
        script = "from kvcatalog.cli.group import run\nassert run(['-q', '--format', 'ids', 'verify']) == 1\n"
        output = run_script(LISTEN + f"import os; os.chdir({str(tmp_path)!r})\n" + script + REPORT)
        found = points(output.removeprefix("1\n"))
        failures = found["contentdownload_verify_failures_total"]
        assert (failures["value"], failures["attributes"]) == (1, {})
        seconds = found["contentdownload_verification_seconds"]
        assert (seconds["count"], seconds["unit"], seconds["attributes"]) == (3, "s", {})

    @pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe", "link above"])
    def test_what_is_in_the_place_of_a_blob_is_not_read(self, cli: Cli, kind: str) -> None:
        place, elsewhere = blob("b"), Path("b.pdf").absolute()
        place.unlink()
        match kind:
            case "link":
                place.symlink_to(elsewhere)  # the right bytes, even
            case "dangling link":
                place.symlink_to("nowhere")
            case "folder":
                place.mkdir()
            case "pipe":
                os.mkfifo(place)
            case _:
                place.parent.rmdir()
                Path("aside").mkdir()
                Path("aside/b.pdf").write_text("b")
                place.parent.symlink_to(Path("aside").absolute())
        ran = cli("--json", "verify")
        assert ran.status == ExitStatus.FINDINGS
        (row,) = ran.json
        assert (row["result"], row["document_ids"], row["bytes_read"]) == ("missing", [2], 0)
        assert row["detail"].startswith("something else is in its place: ")
        assert row["advice"] == "kvcatalog reconcile id=2 --refetch"
        assert cli("--json", "where", "2").json[0]["blob"] == "missing"
        shutil.rmtree("data/docs/.kvcatalog")
        assert cli("--json", "verify").json[0]["result"] == "unreachable"

    @pytest.mark.parametrize(
        ("chosen", "ids"),
        [
            (("2",), [2]),
            (("Wa", "2", "1"), [1, 2]),
            (("--run", "run-c"), [3]),
            (("--run", "run-*"), []),
            (("--filter", "artifact=Wb"), [2]),
            (("--filter", "bytes<2", "--filter", "id>1"), [2, 3]),
            (("--older-than", "1h"), [1, 2, 3]),
        ],
    )
    def test_blobs_are_chosen_as_elsewhere(self, cli: Cli, chosen: tuple[str, ...], ids: list[int]) -> None:
        ran = cli("--json", "verify", "--all", *chosen)
        assert (ran.status, [row["document_ids"] for row in ran.json]) == (ExitStatus.DONE, [[each] for each in ids])

    def test_a_named_record_is_told_of_also_when_it_is_in_order(self, cli: Cli) -> None:
        (row,) = cli("--json", "verify", "1").json
        assert (row["result"], row["bytes_read"]) == ("ok", 1)
        assert cli("verify", "9").status == ExitStatus.NOT_FOUND

    @pytest.mark.parametrize(
        "wrong",
        [
            ("1", "--run", "r"),
            ("--sample", "0%"),
            ("--sample", "101%"),
            ("--sample", "5"),
            ("--max-time", "soon"),
            ("--older-than", "-1d"),
            ("--max-bytes", "many"),
            ("--max-bytes", ""),
            ("--filter", "nonsense"),
            ("--stat-only", "--quarantine"),
            ("-j", "0"),
        ],
    )
    def test_wrong_turns_are_told_and_nothing_is_read(self, cli: Cli, wrong: tuple[str, ...]) -> None:
        ran = cli("verify", *wrong)
        assert (ran.status, ran.out) == (ExitStatus.USAGE, "")
        with open_catalog("state/catalog.lmdb") as catalog:
            assert not [record for record in catalog.iter_records() if catalog.last_check(record.storage_uri)]

    def test_no_catalog_is_made(self, cli: Cli) -> None:
        assert cli("--catalog", "nope", "verify").status == ExitStatus.UNAVAILABLE
        assert not Path("nope").exists()

    def test_a_root_that_is_gone_is_unavailable_and_no_loss(self, cli: Cli) -> None:
        os.rename("data/docs", "data/away")
        os.mkdir("data/docs")
        ran = cli("--json", "verify", "--quarantine")
        assert (ran.status, ran.err) == (ExitStatus.UNAVAILABLE, "3 unreachable\n")
        (row,) = ran.json
        assert (row["result"], row["document_ids"]) == ("unreachable", [])
        assert os.listdir("data/docs") == []

    def test_quarantine_is_told_and_shown(self, cli: Cli) -> None:
        tamper("a")
        assert "quarantined" not in json.dumps(cli("--json", "show", "1").json[0]["variants"])
        (row,) = cli("--json", "verify", "--quarantine").json
        assert row["quarantined"].startswith("file://")
        assert not blob("a").exists()
        (shown,) = cli("--json", "show", "1").json
        assert (shown["check"], shown["quarantined"]) == ("missing", row["quarantined"])
        assert shown["checked_at"] == row["checked_at"]
        (again,) = cli("--json", "verify", "1").json
        assert (again["result"], again["quarantined"]) == ("missing", row["quarantined"])
        (entry,) = (
            each for each in json.loads(cli("--json", "why", "1").out)[0]["journal"] if each["action"] != "root"
        )
        assert (entry["action"], entry["command"]) == ("quarantine", "verify")

    def test_a_check_is_shown(self, cli: Cli) -> None:
        assert cli("--json", "show", "1").json[0]["check"] is None
        cli("verify", "1")
        text = cli("show", "1").out
        assert "\ncheck         ok\n" in text

    def test_hostile_names_reach_no_terminal(self, cli: Cli) -> None:
        with open_catalog("state/catalog.lmdb") as catalog:
            fields: dict[str, Any] = {"source_url": "u", "resolver": "r", "bytes": 1, "sha256": "0" * 64}
            catalog.register(artifact_id="x", storage_uri="gopher://x/\x1b[31m\u202e", **fields)
        assert "\\x1b[31m\\u202e" in cli("verify", "x").out

    def test_control_c_keeps_what_was_checked(self, tmp_path: Path) -> None:
        with open_catalog("state/catalog.lmdb") as catalog:
            large = tmp_path / "large"
            with large.open("wb") as file:
                file.truncate(20 << 30)
            fields: dict[str, Any] = {"source_url": "u", "resolver": "r", "bytes": 20 << 30, "sha256": "0" * 64}
            catalog.register(artifact_id="x", storage_uri=large.as_uri(), **fields)
        process = subprocess.Popen(
            [sys.executable, "-c", "from kvcatalog.cli import main; main()", "--format", "jsonl", "verify", "--all"],
            env=os.environ | {"PYTHONPATH": str(Path(kvcatalog.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline())["result"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate()
        assert (process.returncode, told) == (ExitStatus.INTERRUPTED, ["ok"] * 3)
        assert "3 ok" in messages
        assert "interrupted" in messages
        with open_catalog("state/catalog.lmdb") as catalog:
            checks = [catalog.last_check(record.storage_uri) for record in catalog.iter_records()]
        assert [None if check is None else check.result for check in checks] == ["ok", "ok", "ok", None]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2min", 120), ("1H", 3600), ("30d", 2_592_000), ("2w", 1_209_600)]
)
def test_times_are_understood(text: str, seconds: float) -> None:
    assert quantities.duration(text).total_seconds() == seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ("gc", "--orphans", "nan"),
        ("gc", "--orphans", "inf"),
        ("gc", "--apply", "--orphans", "-1"),
        ("gc", "--orphans", "1e300"),
        ("gc", "empty-trash", "--older-than", "nan"),
        ("gc", "empty-trash", "--older-than", "-inf"),
        ("gc", "empty-trash", "--older-than", "100001"),
        ("retention", "--days", "nan"),
        ("retention", "--days", "inf"),
        ("retention", "--free", "9999999999999999999"),
        ("retention", "--free", "nan"),
        ("retention", "--free", "-1"),
        ("verify", "--max-time", "999999999w"),
        ("verify", "--max-time", "nan"),
        ("verify", "--max-time", "-1h"),
        ("verify", "--older-than", "100001d"),
        ("verify", "--max-bytes", "9" * 19 + "T"),
        ("verify", "--max-bytes", "inf"),
        ("verify", "--sample", "nan%"),
        ("verify", "--sample", "101%"),
        ("verify", "-j", "0"),
        ("fetch", "http://127.0.0.1:1/", "--timeout", "nan"),
        ("fetch", "http://127.0.0.1:1/", "--timeout", "inf"),
        ("fetch", "http://127.0.0.1:1/", "--timeout", "1e12"),
        ("fetch", "http://127.0.0.1:1/", "--max-bytes", "1e400"),
        ("journal", "--prune", "--older-than", "999999999d"),
        ("journal", "--document", "9" * 30),
        ("journal", "--since", "9" * 30),
        ("journal", "--since", "9" * 5000),
        ("hold", "release", "9" * 30),
        ("search", "--limit", "nan"),
        ("search", "bytes>nan"),
        ("search", f"bytes>{'9' * 30}"),
        ("search", f"id={'9' * 30}"),
        ("search", "created>9999999-01-01"),
        ("dedup-report", "--min-count", "-1"),
        ("show", "--kind", "id", "9" * 30),
        ("import-manifest", ""),
        ("--catalog", "", "stats"),
        ("--root", "", "gc"),
        ("backup", ""),
        ("export-sql", "-o", ""),
        ("gc", "restore", ""),
        ("verify", "--run", ""),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_what_is_empty_or_no_number_or_beyond_all_bounds_is_a_wrong_turn(cli: Cli, arguments: tuple[str, ...]) -> None:
    ran = cli(*arguments)
    assert (ran.status, ran.out) == (ExitStatus.USAGE, ""), ran.err
    assert "Traceback" not in ran.err
    assert "unexpected" not in ran.err


@pytest.mark.parametrize("name", ["retention_days", "orphan_ttl_days"])
@pytest.mark.parametrize("days", ["-1", "1e300", "nan", "inf", "100001"])
def test_days_without_bounds_are_refused_in_the_configuration(cli: Cli, name: str, days: str) -> None:
    Path("c.yaml").write_text(
        f"catalog: {{{name}: .{days}}}\n" if days in {"nan", "inf"} else f"catalog: {{{name}: {days}}}\n"
    )
    ran = cli("-c", "c.yaml", "gc")
    assert ran.status == ExitStatus.USAGE
    assert f"catalog.{name}: " in ran.err


@pytest.mark.parametrize(
    ("text", "size"), [("500", 500), ("50G", 50_000_000_000), ("1.5MB", 1_500_000), ("4KiB", 4096)]
)
def test_sizes_are_understood(text: str, size: int) -> None:
    assert quantities.size(text) == size


class TestDoctor:
    def test_all_is_well(self, cli: Cli) -> None:
        before = sorted(map(str, Path("data").rglob("*")))
        ran = cli("--json", "doctor")
        assert (ran.status, {row["state"] for row in ran.json}) == (ExitStatus.DONE, {"ok"})
        assert {"hard links", "exclusive renames", "durable writes", "free space"} <= {row["check"] for row in ran.json}
        after = sorted(map(str, Path("data").rglob("*")))
        assert [path for path in after if path not in before] in ([], ["data/docs/.kvcatalog/staging"])

    def test_what_is_wrong_says_what_to_do(self, cli: Cli) -> None:
        ran = cli("--json", "--root", "elsewhere", "doctor")
        assert (ran.status, problems(ran)) == (ExitStatus.FINDINGS, ["configured root"])
        assert not Path("elsewhere").exists()
        ran = cli("--json", "--catalog", "nope", "doctor")
        assert (ran.status, problems(ran)) == (ExitStatus.FINDINGS, ["opens"])
        os.rename("data/docs", "data/away")
        ran = cli("--json", "doctor")
        assert (ran.status, problems(ran)) == (ExitStatus.FINDINGS, ["is there and ours"])

    def test_another_folder_of_contents_is_a_problem(self, cli: Cli) -> None:
        Path("c.yaml").write_text("storage: {cas_prefix: other}\n")
        assert problems(cli("--json", "-c", "c.yaml", "doctor")) == ["configured root"]


def problems(ran: Ran) -> list[str]:
    found = [row for row in ran.json if row["state"] == "problem"]
    assert all(row["advice"] for row in found)
    return [row["check"] for row in found]
