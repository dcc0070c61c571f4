from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import wait
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

import kvcatalog
from kvcatalog import DocumentRecord, open_catalog
from kvcatalog.cli import fetching, output
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from kvcatalog.pipeline import running
from kvcatalog.uris import file_path
from tests.command_line import Cli, Ran
from tests.web import PDF, Web

INTERRUPTED = """
import signal, sys
from kvcatalog.cli import main
from kvcatalog.pipeline import running

wait = running.wait

def interrupted(futures, **settings):
    running.wait = wait
    sys.stdin.readline()
    signal.raise_signal(signal.SIGINT)

running.wait = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""The program, which gets Control-C where it first waits for downloads, and then only when it is told to."""

HOSTILE = "W\x1b[31m\u202e"


@pytest.fixture(autouse=True)
def _no_environment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("PYTHONPATH", str(Path(kvcatalog.__file__).parents[1]))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    def call(*arguments: str, given: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(given)))
        capsys.readouterr()
        status = run(["--root", "docs", *arguments])
        return Ran(status, *capsys.readouterr())

    return call


def records() -> list[DocumentRecord]:
    with open_catalog("state/catalog.lmdb") as catalog:
        return list(catalog.iter_records())


def blob(record: DocumentRecord) -> Path:
    path = file_path(record.storage_uri)
    assert path is not None
    return Path(path)


class TestAdd:
    def test_a_file_is_copied_and_registered(self, cli: Cli, tmp_path: Path) -> None:
        Path("paper.pdf").write_bytes(PDF)
        key = ("--artifact-id", "doi:10.1/x", "--url", "https://e.org/a.pdf", "--resolver", "manual", "--run", "r1")
        ran = cli("--json", "add", "paper.pdf", *key)
        assert (ran.status, ran.err) == (ExitStatus.DONE, "1 registered\n")
        (record,) = records()
        (row,) = ran.json
        assert (row["outcome"], row["id"], row["storage_uri"]) == ("registered", record.id, record.storage_uri)
        assert (record.artifact_id, record.source_url) == ("doi:10.1/x", "https://e.org/a.pdf")
        assert (record.resolver, record.run_id, record.content_type) == ("manual", "r1", "application/pdf")
        assert blob(record).read_bytes() == PDF
        assert blob(record).is_relative_to(tmp_path / "docs")
        assert Path("paper.pdf").exists()
        assert cli("--json", "add", "paper.pdf", *key).json[0]["outcome"] == "existing"

    def test_several_files_are_documents_of_their_own(self, cli: Cli) -> None:
        for name in ("a b.pdf", "c.unknown"):
            Path(name).write_text(name)
        ran = cli("--format", "ids", "add", "a b.pdf", "c.unknown", "--artifact-id", "W1")
        assert (ran.status, ran.out) == (ExitStatus.DONE, "1\n2\n")
        assert [record.source_url for record in records()] == [
            Path(name).absolute().as_uri() for name in ("a b.pdf", "c.unknown")
        ]
        assert [(record.resolver, record.content_type) for record in records()] == [
            ("local", "application/pdf"),
            ("local", None),
        ]

    def test_a_file_may_be_moved(self, cli: Cli) -> None:
        Path("a.pdf").write_bytes(PDF)
        assert cli("add", "a.pdf", "--artifact-id", "W1", "--move").status == ExitStatus.DONE
        assert not Path("a.pdf").exists()
        (record,) = records()
        assert blob(record).read_bytes() == PDF
        assert cli("add", str(blob(record)), "--artifact-id", "W2", "--move").status == ExitStatus.DONE
        assert [blob(record).read_bytes() for record in records()] == [PDF, PDF]

    def test_a_variant_belongs_to_its_document(self, cli: Cli) -> None:
        Path("a.pdf").write_bytes(PDF)
        Path("a.txt").write_text("text")
        key = ("--artifact-id", "W1", "--url", "https://e.org/a.pdf")
        ran = cli("--json", "add", "a.txt", *key, "--variant", "text")
        assert ran.status == ExitStatus.FINDINGS
        assert "no document" in ran.json[0]["reason"]
        assert cli("add", "a.pdf", *key).status == ExitStatus.DONE
        assert cli("add", "a.txt", *key, "--variant", "text").status == ExitStatus.DONE
        with open_catalog("state/catalog.lmdb") as catalog:
            assert [variant.content_type for variant in catalog.get_variants(1)] == ["text/plain"]

    def test_other_bytes_under_a_key_are_a_conflict(self, cli: Cli) -> None:
        Path("a.pdf").write_bytes(PDF)
        cli("add", "a.pdf", "--artifact-id", "W1")
        Path("a.pdf").write_bytes(b"other")
        ran = cli("--json", "add", "a.pdf", "--artifact-id", "W1")
        assert (ran.status, ran.json[0]["outcome"]) == (ExitStatus.DONE, "conflict")
        (record,) = records()
        assert blob(record).read_bytes() == PDF

    def test_without_a_catalog_a_file_is_stored(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KVCATALOG_CATALOG__ENABLED", "false")
        Path("a.pdf").write_bytes(PDF)
        (row,) = cli("--json", "add", "a.pdf", "--artifact-id", "W1").json
        assert (row["outcome"], row["id"]) == ("stored", None)
        assert Path("docs/W1/a.pdf").read_bytes() == PDF
        assert not Path("state").exists()

    @pytest.mark.parametrize(
        ("name", "mapping"),
        [
            ("m.csv", "file,Artifact-ID,url\na.pdf,W1,https://e.org/a\nb.pdf,W2,\n"),
            ("m.txt", "\ufeffartifact,file,url\nW1,a.pdf,https://e.org/a\n\nW2,b.pdf,\n"),
            (
                "m.jsonl",
                '{"file":"a.pdf","artifact_id":"W1","url":"https://e.org/a"}\n{"file":"b.pdf","artifact":"W2"}',
            ),
            (
                "-",
                '\n{"file":"a.pdf","artifact_id":"W1","url":"https://e.org/a"}\n\n{"file":"b.pdf","artifact":"W2"}\n',
            ),
        ],
    )
    def test_a_mapping_names_files_and_keys(self, cli: Cli, name: str, mapping: str) -> None:
        for file in ("a.pdf", "b.pdf"):
            Path(file).write_text(file)
        if name != "-":
            Path(name).write_text(mapping)
        ran = cli("add", "--from", name, "--resolver", "crawl", "--run", "r1", given=mapping.encode())
        assert (ran.status, ran.err) == (ExitStatus.DONE, "2 registered\n")
        facts = [(record.artifact_id, record.source_url, record.resolver, record.run_id) for record in records()]
        assert facts == [
            ("W1", "https://e.org/a", "crawl", "r1"),
            ("W2", Path("b.pdf").absolute().as_uri(), "crawl", "r1"),
        ]

    @pytest.mark.parametrize(
        ("name", "mapping", "reasons"),
        [
            (
                "m.csv",
                'file,artifact_id,resolver\na.pdf,W1,\nnone.pdf,W2,\n,W3,\na.pdf,,x\na.pdf,W4\ndocs,W5,\na.pdf,W\0,\n"a',
                {3: "No such file", 4: "no file", 5: "no artifact_id", 6: "2 cells", 7: "", 8: "NUL", 9: "no CSV"},
            ),
            (
                "m.jsonl",
                '{"file":"a.pdf","artifact_id":"W1"}\n[]\n{\n{"file":3,"artifact_id":"W2"}\n{"artifact_id":"W3"}\n'
                '{"file":"a\\u0000b","artifact_id":"W4"}\n{"file":"\\ud800","artifact_id":"W4"}\n' + "[" * 100_000,
                {2: "no JSON object", 3: "no JSON", 4: "file is no text", 5: "no file", 6: "", 7: "", 8: "no JSON"},
            ),
        ],
    )
    def test_a_bad_row_is_reported_with_its_line_and_the_others_go_on(
        self, cli: Cli, name: str, mapping: str, reasons: dict[int, str]
    ) -> None:
        Path("a.pdf").write_bytes(PDF)
        Path(name).write_text(mapping)
        ran = cli("--json", "add", "--from", name)
        assert ran.status == ExitStatus.FINDINGS
        failed = {row["line"]: row["reason"] for row in ran.json if row["outcome"] == "error"}
        assert failed.keys() == reasons.keys()
        assert [line for line, reason in reasons.items() if reason not in failed[line]] == []
        assert [record.artifact_id for record in records()] == ["W1"]

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["a.pdf"],
            ["a.pdf", "--from", "m.csv", "--artifact-id", "x"],
            ["a.pdf", "b.pdf", "--artifact-id", "x", "--url", "https://e.org/"],
            ["--from", "none.csv"],
            ["--from", "header.csv"],
            ["--from", "twice.csv"],
        ],
    )
    def test_usage(self, cli: Cli, arguments: list[str]) -> None:
        Path("header.csv").write_text("artifact_id,resolver\nW1,x\n")
        Path("twice.csv").write_text("file,artifact_id,file\na,W1,b\n")
        ran = cli("add", *arguments)
        assert (ran.status, ran.out) == (ExitStatus.USAGE, "")

    def test_hostile_names_are_made_visible(self, cli: Cli) -> None:
        Path(f"{HOSTILE}.pdf").write_bytes(PDF)
        ran = cli("add", f"{HOSTILE}.pdf", f"{HOSTILE}none.pdf", "--artifact-id", HOSTILE)
        assert ran.status == ExitStatus.FINDINGS
        assert "\x1b" not in ran.out + ran.err
        assert "\u202e" not in ran.out + ran.err
        assert [record.artifact_id for record in records()] == [HOSTILE]

    def test_names_that_are_no_utf8_are_added(self, cli: Cli) -> None:
        name = os.fsdecode(b"\xff.pdf")
        Path(name).write_bytes(PDF)
        assert cli("add", name, "--artifact-id", "W1").status == ExitStatus.DONE
        Path("m.csv").write_bytes(b"file,artifact_id\n\xff.pdf,W2\n")
        assert cli("add", "--from", "m.csv").status == ExitStatus.DONE
        assert {record.source_url.rpartition("/")[2] for record in records()} == {"%FF.pdf"}


class TestFetch:
    @pytest.mark.parametrize(
        "target", ["docs/b/a.pdf", "docs/.kvcatalog/root.json", "state/catalog.lmdb/data.mdb", "pipe"]
    )
    def test_what_is_no_manifest_is_not_written_to(self, cli: Cli, web: Web, target: str) -> None:
        Path("a.pdf").write_bytes(b"{a blob")
        os.mkfifo("pipe")
        assert cli("--root", "docs", "add", "a.pdf", "--artifact-id", "b", "--url", "https://x.org/a.pdf").status == 0
        before = Path(target).read_bytes() if target != "pipe" else b""
        ran = cli("--root", "docs", "fetch", f"{web.url}/same", "--manifest", target)
        assert ran.status == ExitStatus.USAGE
        assert "manifest" in ran.err
        assert target == "pipe" or Path(target).read_bytes() == before
        assert sum(web.requests.values()) == 0

    def test_urls_are_stored_and_registered(self, cli: Cli, web: Web) -> None:
        urls = [f"{web.url}/ok/1", f"{web.url}/gzip"]
        ran = cli("--json", "fetch", *urls, "--run", "r1")
        assert (ran.status, ran.err) == (ExitStatus.DONE, "2 stored (176 kB), 0 passed over, 0 failed\n")
        assert {row["url"] for row in ran.json} == set(urls)
        assert {record.artifact_id for record in records()} == set(urls)
        assert {(record.resolver, record.run_id) for record in records()} == {("direct", "r1")}
        assert len(Path("state/manifest.jsonl").read_text().splitlines()) == 2
        again = cli("--json", "fetch", *urls)
        assert (again.status, {row["reason"] for row in again.json}) == (ExitStatus.DONE, {"have"})
        assert web.requests == {"/ok/1": 1, "/gzip": 1}

    def test_a_failure_is_told_and_the_others_go_on(self, cli: Cli, web: Web) -> None:
        ran = cli("--json", "fetch", f"{web.url}/status/404", f"{web.url}/ok/1", "--artifact-id", "W1")
        assert ran.status == ExitStatus.FINDINGS
        assert {row["reason"] for row in ran.json} == {"http-404", None}
        assert [record.artifact_id for record in records()] == ["W1"]

    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("m.csv", "artifact,url,resolver\nW1,{}/ok/1,unpaywall\n,{}/ok/2,\n"),
            ("-", '{{"artifact":"W1","url":"{}/ok/1","resolver":"unpaywall"}}\n{{"url":"{}/ok/2"}}\n'),
        ],
    )
    def test_rows_name_keys(self, cli: Cli, web: Web, name: str, rows: str) -> None:
        text = rows.format(web.url, web.url)
        if name != "-":
            Path(name).write_text(text)
        assert cli("fetch", "-i", name, given=text.encode()).status == ExitStatus.DONE
        assert {(record.artifact_id, record.resolver) for record in records()} == {
            ("W1", "unpaywall"),
            (f"{web.url}/ok/2", "direct"),
        }

    def test_a_list_of_urls(self, cli: Cli, web: Web) -> None:
        text = f"{web.url}/ok/1\n\n{web.url}/ok/2,3\r\n"
        assert cli("fetch", "-i", "-", "--resolver", "crawl", given=text.encode()).status == ExitStatus.DONE
        assert {record.source_url for record in records()} == {f"{web.url}/ok/1", f"{web.url}/ok/2,3"}

    def test_a_bad_row_is_reported_with_its_line(self, cli: Cli, web: Web) -> None:
        bad = '{"artifact":"W1"}\n{"url":"x:\\u001b\\u202e"}\n{"url":"\\u0000"}\nno\n'
        text = json.dumps({"url": f"{web.url}/ok/1"}) + "\n" + bad
        ran = cli("--json", "fetch", "-i", "-", given=text.encode())
        assert ran.status == ExitStatus.FINDINGS
        assert {(row["line"], row["reason"]) for row in ran.json if row["outcome"] == "error"} == {
            (2, "there is no url"),
            (None, "unsupported-scheme"),
            (None, "invalid-url"),
            (5, "no JSON"),
        }
        assert [row["line"] for row in cli("--json", "fetch", "-i", "-", given=b'{"url":3}').json] == [1]
        table = cli("fetch", "-i", "-", given=text.encode())
        assert "x:\\x1b\\u202e" in table.out
        assert "\x1b" not in table.out + table.err

    def test_limits(self, cli: Cli, web: Web) -> None:
        ran = cli("--json", "fetch", f"{web.url}/endless", "--max-bytes", "1.5MB")
        assert [row["reason"] for row in ran.json] == ["too-large"]
        ran = cli("--json", "fetch", f"{web.url}/drip", "--timeout", "0.3")
        assert [row["reason"] for row in ran.json] == ["timeout"]

    def test_a_dry_run_fetches_and_writes_nothing(self, cli: Cli, web: Web, tmp_path: Path) -> None:
        ran = cli("--json", "fetch", f"{web.url}/ok/1", "--dry-run")
        assert (ran.status, [row["reason"] for row in ran.json]) == (ExitStatus.DONE, ["dry-run"])
        assert ran.err == "1 would be fetched, 0 passed over, 0 refused\n"
        assert list(tmp_path.iterdir()) == []
        assert not web.requests

    def test_the_manifest_may_lie_elsewhere(self, cli: Cli, web: Web) -> None:
        cli("fetch", f"{web.url}/ok/1", "--manifest", "runs/m.jsonl")
        assert json.loads(Path("runs/m.jsonl").read_text())["outcome"] == "success"
        assert cli("--catalog", "other.lmdb", "import-manifest", "runs/m.jsonl").status == ExitStatus.DONE

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["-i", "none"],
            ["u", "--max-bytes", "much"],
            ["u", "-j", "0"],
            ["u", "--timeout", "0"],
            ["u", "--run=\0"],
        ],
    )
    def test_usage(self, cli: Cli, arguments: list[str]) -> None:
        assert cli("fetch", *arguments).status == ExitStatus.USAGE

    def test_an_interrupted_run_keeps_what_is_done(self, web: Web) -> None:
        web.hanging.clear()
        command = [sys.executable, "-c", INTERRUPTED, "--root", "docs", "--json"]
        command += ["fetch", "-j1", f"{web.url}/ok/1", f"{web.url}/hangbody"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert web.hanging.wait(60)
            out, err = process.communicate("now\n", timeout=60)
        assert process.returncode == ExitStatus.INTERRUPTED
        assert [row["url"] for row in json.loads(out)] == [f"{web.url}/ok/1"]
        assert "run it again" in err
        assert '"message": "interrupted"' in err
        assert [record.source_url for record in records()] == [f"{web.url}/ok/1"]
        files = [path for path in Path("docs").rglob("*") if path.is_file() and ".kvcatalog" not in path.parts]
        assert [path.read_bytes() for path in files] == [PDF + b"/ok/1"]

    @pytest.mark.parametrize("place", ["between", "writing"])
    def test_an_interruption_may_come_anywhere(
        self, cli: Cli, web: Web, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        def all_done(futures: Any, **_: object) -> Any:
            return wait(futures)

        def interrupted(*_: object) -> str:
            monkeypatch.undo()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(running, "wait", all_done)
            patch.setattr(
                *{"between": (fetching._Run, "_rejections"), "writing": (output, "_json")}[place], interrupted
            )
            ran = cli("--format", "jsonl", "fetch", f"{web.url}/ok/1", f"{web.url}/ok/2", f"{web.url}/ok/3")
        assert ran.status == ExitStatus.INTERRUPTED
        assert "3 stored" in ran.err
        assert "run it again" in ran.err

    def test_a_reader_that_leaves_stops_no_download(self, web: Web) -> None:
        program = f"{sys.executable} -c 'from kvcatalog.cli import main; main()'"
        Path("urls").write_text("".join(f"{web.url}/status/404/{number}\n" for number in range(300)))
        pipeline = f"{program} --root docs --format jsonl fetch -i urls -j 8 | head -1; echo ${{PIPESTATUS[0]}}"
        ran = subprocess.run(["bash", "-c", pipeline], check=True, capture_output=True, text=True, timeout=60)
        assert ran.stdout.splitlines()[1] == "1"
        assert len(Path("state/manifest.jsonl").read_text().splitlines()) == 300


class TestRoot:
    @pytest.mark.parametrize("root", ["elsewhere", "{}/elsewhere", "file://{}/elsewhere"])
    def test_a_folder(self, cli: Cli, tmp_path: Path, root: str) -> None:
        Path("a.pdf").write_bytes(PDF)
        assert cli("--root", root.format(tmp_path), "add", "a.pdf", "--artifact-id", "W1").status == ExitStatus.DONE
        assert Path("elsewhere/W1/a.pdf").read_bytes() == PDF

    @pytest.mark.parametrize(
        ("root", "prefix"), [("s3://b", ""), ("s3://b/", ""), ("s3://b/docs", "docs/"), ("s3://b/a/c/", "a/c/")]
    )
    def test_a_bucket(self, cli: Cli, root: str, prefix: str) -> None:
        ran = cli("--root", root, "--json", "config", "show")
        values = {row["key"]: (row["value"], row["origin"]) for row in ran.json}
        assert values["storage.backend"] == ("s3", "flag")
        assert values["storage.s3_bucket"] == ("b", "flag")
        assert values["storage.s3_prefix"] == (prefix, "flag")

    @pytest.mark.parametrize("root", ["", "s3://", "ftp://x/y", "file://host/x"])
    def test_no_root(self, cli: Cli, root: str) -> None:
        assert cli("--root", root, "config", "show").status == ExitStatus.USAGE
