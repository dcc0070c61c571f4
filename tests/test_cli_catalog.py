from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kvcatalog
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import run
from kvcatalog.store import open_catalog
from tests.command_line import Cli, Ran

if TYPE_CHECKING:
    from kvcatalog.store.protocol import CatalogStore

A = "a1b2" + "0" * 60
B = "a1b3" + "0" * 60
C = "c0de" + "0" * 60
CREATED = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_environment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(kvcatalog.__file__).parents[1]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog with three documents, two of one content, a variant, a conflict and a sighting."""
    location = tmp_path / "catalog.lmdb"
    blob = tmp_path / "a b.pdf"
    blob.write_bytes(b"0123456789")
    with open_catalog(str(location)) as catalog:
        fill(catalog, blob.as_uri(), (tmp_path / "gone.pdf").as_uri())
    return location


def fill(catalog: CatalogStore, present: str, missing: str) -> None:
    first: dict[str, Any] = {"artifact_id": "doi:10.1/x", "source_url": "https://e.org/x", "resolver": "unpaywall"}
    facts: list[dict[str, Any]] = [
        {**first, "content_type": "application/pdf", "bytes": 10, "sha256": A, "storage_uri": present, "run_id": "r1"},
        {
            "artifact_id": "doi:10.1/y",
            "source_url": "https://e.org/y",
            "resolver": "crossref",
            "content_type": "text/html; charset=utf-8",
            "bytes": 10,
            "sha256": A,
            "storage_uri": missing,
            "run_id": "r1",
        },
        {
            "artifact_id": "W3\x1b[31m\u202e",
            "source_url": "https://e.org/z",
            "resolver": "openalex",
            "content_type": None,
            "bytes": 2_000_000,
            "sha256": B,
            "storage_uri": "s3://bucket/z",
            "run_id": None,
        },
    ]
    for fact in facts:
        catalog.register(**fact, created_at=CREATED)
    catalog.register_variant(
        document_id=1, variant="html", storage_uri="s3://bucket/x.html", bytes=5, content_type="text/html", sha256=C
    )
    catalog.register(
        **first, content_type="application/pdf", bytes=11, sha256=C, storage_uri="s3://bucket/other", run_id="r2"
    )


@pytest.fixture
def cli(path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> Ran:
        capsys.readouterr()
        status = run(["--catalog", str(path), *arguments])
        return Ran(status, *capsys.readouterr())

    return call


def program(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from kvcatalog.cli import main; main()", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **settings)


class TestShow:
    def test_everything_about_a_record(self, cli: Cli, tmp_path: Path) -> None:
        (record,) = cli("--json", "show", "1").json
        assert record["artifact_id"] == "doi:10.1/x"
        assert record["created_at"] == "2025-01-01T00:00:00.000000Z"
        assert record["blob"] == "present"
        (variant,) = record["variants"]
        assert (variant["variant"], variant["bytes"], variant["blob"]) == ("html", 5, None)
        assert record["twins"] == [{"document_id": 2, "variant": None, "storage_uri": (tmp_path / "gone.pdf").as_uri()}]
        (conflict,) = record["conflicts"]
        assert (conflict["sha256"], conflict["bytes"], conflict["storage_uri"]) == (C, 11, "s3://bucket/other")
        assert [sighting["run_id"] for sighting in record["sightings"]] == ["r2"]

    @pytest.mark.parametrize(
        ("item", "ids"),
        [
            ("2", [2]),
            ("doi:10.1/y", [2]),
            ("https://e.org/y", [2]),
            (A, [1, 2]),
            (A.upper(), [1, 2]),
            ("A1B2", [1, 2]),
            ("c0de", [1]),
        ],
    )
    def test_an_item_may_be_an_id_an_artifact_a_url_or_a_digest(self, cli: Cli, item: str, ids: list[int]) -> None:
        assert [record["id"] for record in cli("--json", "show", item).json] == ids

    def test_fewer_than_four_characters_are_no_digest(self, cli: Cli) -> None:
        assert cli("show", "a1b").status == ExitStatus.NOT_FOUND
        with_kind = cli("show", "--kind", "digest", "a1b")
        assert with_kind.status == ExitStatus.USAGE
        assert "4 to 64 hex digits" in with_kind.err

    def test_ambiguity_lists_the_candidates(self, path: Path, cli: Cli) -> None:
        with open_catalog(str(path)) as catalog:
            catalog.register(
                artifact_id="w", source_url="u", resolver="r", bytes=1, sha256="a1b2" + "1" * 60, storage_uri="s3://b/w"
            )
        ran = cli("show", "a1b2")
        assert ran.status == ExitStatus.USAGE
        assert A in ran.err
        assert "a1b2" + "1" * 60 in ran.err
        assert ran.out == ""

    def test_the_kind_settles_what_looks_like_two_things(self, path: Path, cli: Cli) -> None:
        with open_catalog(str(path)) as catalog:
            catalog.register(artifact_id="1", source_url="u", resolver="r", bytes=1, storage_uri="s3://b/w")
        assert [record["id"] for record in cli("show", "1", "--json").json] == [1]
        assert [record["id"] for record in cli("show", "1", "--json", "--kind", "artifact").json] == [4]
        assert cli("show", "x", "--kind", "id").status == ExitStatus.USAGE

    def test_a_file_of_another_size_shows(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "a b.pdf").write_bytes(b"short")
        assert cli("--json", "show", "1").json[0]["blob"] == "other size"
        assert cli("--json", "show", "2").json[0]["blob"] == "missing"

    def test_a_blob_of_a_root_that_is_gone_is_unreachable(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "new.pdf").write_bytes(b"the bytes")
        assert cli("--root", "docs", "add", "new.pdf", "--artifact-id", "n").status == ExitStatus.DONE
        stored = tmp_path / "docs" / "n" / "new.pdf"
        blob = stored.read_bytes()
        stored.unlink()
        assert cli("--json", "where", "n").json[0]["blob"] == "missing"
        assert cli("--json", "show", "n").json[0]["blob"] == "missing"
        (tmp_path / "docs").rename(tmp_path / "unmounted")
        (tmp_path / "docs").mkdir()
        assert cli("--json", "where", "n").json[0]["blob"] == "unreachable"
        assert cli("--json", "show", "n").json[0]["blob"] == "unreachable"
        (tmp_path / "docs").rmdir()
        assert cli("--json", "where", "n").json[0]["blob"] == "unreachable"
        (tmp_path / "unmounted").rename(tmp_path / "docs")
        stored.write_bytes(blob)
        assert cli("--json", "where", "n").json[0]["blob"] == "present"

    def test_control_characters_are_written_out(self, cli: Cli) -> None:
        ran = cli("show", "3")
        assert r"W3\x1b[31m\u202e" in ran.out
        assert "\x1b" not in ran.out

    def test_what_is_not_there_is_not_found(self, cli: Cli) -> None:
        ran = cli("show", "nothing\x1b[31m")
        assert (ran.status, ran.out) == (ExitStatus.NOT_FOUND, "")
        assert r"nothing\x1b[31m is not in the catalog" in ran.err


class TestWhere:
    def test_documents_and_their_variants(self, cli: Cli, tmp_path: Path) -> None:
        rows = cli("--json", "where", "doi:10.1/x").json
        assert [(row["storage_uri"], row["id"], row["variant"]) for row in rows] == [
            ((tmp_path / "a b.pdf").as_uri(), 1, None),
            ("s3://bucket/x.html", 1, "html"),
        ]

    def test_a_digest_names_its_own_places_only(self, cli: Cli, tmp_path: Path) -> None:
        rows = cli("--json", "where", "a1b2").json
        assert [row["storage_uri"] for row in rows] == [
            (tmp_path / "a b.pdf").as_uri(),
            (tmp_path / "gone.pdf").as_uri(),
        ]
        assert [row["storage_uri"] for row in cli("--json", "where", C).json] == ["s3://bucket/x.html"]


class TestHave:
    def test_all_there_is_0_and_one_missing_is_1(self, cli: Cli) -> None:
        assert cli("have", "https://e.org/x", "doi:10.1/y", A).status == ExitStatus.DONE
        ran = cli("--json", "have", "https://e.org/x", "https://e.org/none")
        assert ran.status == ExitStatus.FINDINGS
        assert [(row["item"], row["held"], row["ids"]) for row in ran.json] == [
            ("https://e.org/x", True, [1]),
            ("https://e.org/none", False, []),
        ]

    def test_ids_of_what_holds_the_items(self, cli: Cli) -> None:
        assert cli("have", "--format", "ids", A, "nothing", "doi:10.1/y").out == "1\n2\n2\n"

    def test_a_file_is_found_by_its_content(self, cli: Cli, path: Path, tmp_path: Path) -> None:
        (tmp_path / "new.pdf").write_bytes(b"the bytes")
        digest = hashlib.sha256(b"the bytes").hexdigest()
        assert cli("have", "new.pdf").status == ExitStatus.FINDINGS
        with open_catalog(str(path)) as catalog:
            catalog.register(
                artifact_id="n", source_url="n", resolver="r", bytes=9, sha256=digest, storage_uri="s3://b/n"
            )
        (row,) = cli("--json", "have", "new.pdf").json
        assert (row["kind"], row["ids"]) == ("file", [4])

    def test_a_list_on_standard_input(self, path: Path) -> None:
        items = "https://e.org/x\r\n\nnothing\n"
        ran = program("--catalog", str(path), "--format", "csv", "have", "-", input=items)
        assert ran.returncode == ExitStatus.FINDINGS
        assert ran.stdout.splitlines() == [
            "item,kind,held,ids",
            "https://e.org/x,url,true,[1]",
            "nothing,artifact,false,[]",
        ]

    def test_a_name_that_no_file_can_have_is_no_file(self, cli: Cli) -> None:
        rows = cli("--json", "have", "x" * 5000, "https://e.org/x").json
        assert [row["held"] for row in rows] == [False, True]

    def test_a_file_that_cannot_be_read_is_not_held(self, cli: Cli, path: Path, tmp_path: Path) -> None:
        (tmp_path / "new.pdf").write_bytes(b"the bytes")
        digest = hashlib.sha256(b"the bytes").hexdigest()
        with open_catalog(str(path)) as catalog:
            catalog.register(
                artifact_id="n", source_url="n", resolver="r", bytes=9, sha256=digest, storage_uri="s3://b/n"
            )
        ran = cli("--json", "have", "--kind", "file", "none.pdf", "new.pdf", ".", "x" * 5000)
        assert ran.status == ExitStatus.FINDINGS
        assert [(row["item"], row["kind"], row["ids"]) for row in ran.json] == [
            ("none.pdf", "file", []),
            ("new.pdf", "file", [4]),
            (".", "file", []),
            ("x" * 5000, "file", []),
        ]

    @pytest.mark.parametrize(
        ("kind", "bad"), [("any", b"a\0b"), ("file", b"a\0b"), ("url", b"a\0"), ("any", b"\xff\xfe")]
    )
    def test_what_nothing_that_is_stored_can_be_is_not_there(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, kind: str, bad: bytes
    ) -> None:
        lines = b"\n".join((b"", b"  ", bad, A.encode() if kind != "file" else b"none", b""))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        ran = cli("--json", "have", "--kind", kind, "-")
        assert ran.status == ExitStatus.FINDINGS
        assert [row["held"] for row in ran.json] == [False, kind == "any"]
        assert ran.err == ""

    @pytest.mark.parametrize(("kind", "bad"), [("digest", "a1b2"), ("any", ""), ("url", "")])
    def test_an_item_that_cannot_be_asked_is_named_by_number(self, cli: Cli, kind: str, bad: str) -> None:
        ran = cli("have", "--kind", kind, A, bad)
        assert ran.status == ExitStatus.USAGE
        assert "item 2" in ran.err

    def test_a_line_is_bounded_and_a_byte_order_mark_is_no_part_of_it(self, path: Path) -> None:
        options = ("--catalog", str(path), "--format", "ids", "have", "-")
        ran = program(*options, input="\ufeffhttps://e.org/x\n" + "x" * 2**20 + "\n")
        assert (ran.returncode, ran.stdout) == (ExitStatus.FINDINGS, "1\n")
        ran = program(*options, input="y\n" + "x" * (2**20 + 1) + "\n")
        assert ran.returncode == ExitStatus.USAGE
        assert "line 2 of standard input" in ran.stderr

    def test_a_closed_standard_input_is_usage(self, path: Path) -> None:
        ran = program("--catalog", str(path), "have", "-", preexec_fn=lambda: os.close(0))
        assert ran.returncode == ExitStatus.USAGE
        assert "standard input is closed" in ran.stderr


class TestWhy:
    def test_who_refers_to_a_file_and_where_else_its_content_is(self, cli: Cli, tmp_path: Path) -> None:
        (answer,) = cli("--json", "why", "a b.pdf").json
        assert answer["without_it"] == ("1 document would lose its bytes; the same content lies in 1 other place")
        assert [(each["kind"], each["document_id"]) for each in answer["references"]] == [("document", 1)]
        assert [each["storage_uri"] for each in answer["copies"]] == [(tmp_path / "gone.pdf").as_uri()]

    def test_a_conflict_refers_to_its_blob(self, cli: Cli) -> None:
        (answer,) = cli("--json", "why", "s3://bucket/other").json
        assert [(each["kind"], each["document_id"]) for each in answer["references"]] == [("conflict", 1)]

    def test_an_id_covers_its_variants(self, cli: Cli) -> None:
        (answer,) = cli("--json", "why", "1").json
        assert {each["kind"] for each in answer["references"]} == {"document", "variant"}

    def test_a_digest_covers_all_its_places(self, cli: Cli) -> None:
        (answer,) = cli("--json", "why", "a1b2").json
        assert [each["document_id"] for each in answer["references"]] == [1, 2]
        assert answer["copies"] == []

    @pytest.mark.parametrize("item", ["2", "gone.pdf"])
    def test_what_was_deleted_is_in_the_journal(self, cli: Cli, path: Path, item: str) -> None:
        with open_catalog(str(path)) as catalog:
            catalog.delete(2, reason="a duplicate")
        (answer,) = cli("--json", "why", item).json
        assert answer["references"] == []
        assert "nothing would break" in answer["without_it"]
        assert [(entry["document_id"], entry["reason"]) for entry in answer["journal"]] == [(2, "a duplicate")]

    def test_a_stranger_is_not_found(self, cli: Cli) -> None:
        ran = cli("why", "stranger.pdf")
        assert ran.status == ExitStatus.NOT_FOUND
        assert "nothing refers to stranger.pdf" in ran.err


class TestSearch:
    @pytest.mark.parametrize(
        ("filters", "ids"),
        [
            ([], ["1", "2", "3"]),
            (["resolver=unpaywall"], ["1"]),
            (["type=text/html"], ["2"]),
            (["bytes>1MB"], ["3"]),
            (["artifact=doi:10.1/*", "resolver!=unpaywall"], ["2"]),
            (["run="], ["3"]),
            (["created<2025-01-01"], []),
        ],
    )
    def test_filters(self, cli: Cli, filters: list[str], ids: list[str]) -> None:
        assert cli("--format", "ids", "search", *filters).out.split() == ids

    def test_pages_join_without_gap_or_repetition(self, cli: Cli) -> None:
        found: list[str] = []
        more: list[str] = []
        for _ in range(3):
            ran = cli("--format", "ids", "search", "--limit", "1", "--sort", "artifact", "--reverse", *more)
            found += ran.out.split()
            token = re.search(r"add --after (\S+)", ran.err)
            more = ["--after", token[1]] if token else []
        assert found == ["2", "1", "3"]
        assert not more
        assert cli("--format", "ids", "search", "--limit", "0").out.split() == ["1", "2", "3"]

    def test_csv_has_every_column(self, cli: Cli) -> None:
        header, first, *_ = cli("--format", "csv", "search").out.splitlines()
        assert (
            header
            == "id,artifact_id,source_url,resolver,content_type,bytes,sha256,storage_uri,created_at,updated_at,run_id"
        )
        assert first.startswith(f"1,doi:10.1/x,https://e.org/x,unpaywall,application/pdf,10,{A},file:///")

    def test_a_mistake_in_a_filter_is_usage(self, cli: Cli) -> None:
        ran = cli("search", "bytes>1XB")
        assert ran.status == ExitStatus.USAGE
        assert "bytes>1XB: at character 7" in ran.err


class TestImportManifest:
    LINE = (
        '{"artifact_id": "W9", "source_url": "https://e.org/9", "resolver": "crossref", "status": "success",'
        ' "content_type": "text/html", "bytes": 4, "storage_uri": "s3://bucket/9", "run_id": "r9"}\n'
    )

    def test_lines_become_records_once(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "m.jsonl").write_text(self.LINE, encoding="utf-8")
        ran = cli("--json", "import-manifest", "m.jsonl")
        assert ran.status == ExitStatus.DONE
        (report,) = ran.json
        assert (report["manifest"], report["lines"], report["registered"]) == ("m.jsonl", 1, 1)
        assert cli("--json", "import-manifest", "m.jsonl").json[0]["registered"] == 0
        assert cli("--json", "search", "run=r9").json[0]["artifact_id"] == "W9"

    def test_a_line_that_is_not_understood_is_a_finding_and_is_kept(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "m.jsonl").write_text(self.LINE + "{broken\n", encoding="utf-8")
        ran = cli("import-manifest", "m.jsonl", "--rejects", "bad.jsonl")
        assert ran.status == ExitStatus.FINDINGS
        assert re.search(r"^broken +1$", ran.out, re.MULTILINE)
        assert re.search(r"^reasons \(1\)$", ran.out, re.MULTILINE)
        assert (tmp_path / "bad.jsonl").read_text(encoding="utf-8") == "{broken\n"
        again = cli("import-manifest", "m.jsonl", "--rejects", "bad.jsonl")
        assert again.status == ExitStatus.USAGE
        assert "give a new file" in again.err

    def test_a_dry_run_changes_nothing_and_needs_no_catalog(
        self, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "m.jsonl").write_text(self.LINE, encoding="utf-8")
        assert cli("--json", "import-manifest", "--dry-run", "m.jsonl").json[0]["registered"] == 1
        assert cli("search", "run=r9", "--format", "ids").out == ""
        new = tmp_path / "new.lmdb"
        assert run(["--catalog", str(new), "--json", "import-manifest", "--dry-run", "m.jsonl"]) == ExitStatus.DONE
        assert json.loads(capsys.readouterr().out)[0]["registered"] == 1
        assert not new.exists()
        assert run(["--catalog", str(new), "import-manifest", "m.jsonl"]) == ExitStatus.DONE
        assert new.exists()

    def test_options_reach_the_import(self, cli: Cli, tmp_path: Path) -> None:
        folder = tmp_path / "files"
        folder.mkdir()
        (folder / "d.pdf").write_bytes(b"1234")
        line = (
            '{"work_id": "W8", "url": "https://e.org/8", "path": "d.pdf", "classification": "pdf",'
            ' "timestamp": "2025-07-01 12:00:00"}\n'
        )
        (tmp_path / "m.jsonl").write_text(line + line.replace("8", "7").replace("d.pdf", "e.pdf"), encoding="utf-8")
        options = ["--base-dir", str(folder), "--compute-sha256", "--require-files", "--resolver-default", "other"]
        ran = cli("import-manifest", *options, "--timezone", "Europe/Berlin", "m.jsonl")
        assert ran.status == ExitStatus.DONE
        (record,) = cli("--json", "search", "resolver=other").json
        assert record["sha256"] == hashlib.sha256(b"1234").hexdigest()
        assert record["created_at"] == "2025-07-01T10:00:00.000000Z"
        assert cli("import-manifest", "--timezone", "Mars", "m.jsonl").status == ExitStatus.USAGE

    def test_a_reader_that_leaves_does_not_stop_the_import(self, path: Path, tmp_path: Path) -> None:
        for number in range(40):
            (tmp_path / f"m{number}.jsonl").write_text(
                self.LINE.replace("W9", f"W{number}") + "{broken\n", encoding="utf-8"
            )
        names = [f"m{number}.jsonl" for number in range(40)]
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-c", "from kvcatalog.cli import main; main()", "--catalog", str(path)]
        ran = subprocess.run(
            [*command, "import-manifest", *names],
            check=False,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        os.close(writing)
        assert (ran.returncode, ran.stderr) == (ExitStatus.FINDINGS, "")
        with open_catalog(str(path)) as catalog:
            assert catalog.stats().documents == 43

    def test_rejects_are_refused_before_a_catalog_is_made(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "m.jsonl").write_text(self.LINE, encoding="utf-8")
        new = tmp_path / "new.lmdb"
        for rejects in ("m.jsonl", "none/bad.jsonl"):
            options = ["import-manifest", "m.jsonl", "--rejects", rejects]
            assert run(["--catalog", str(new), *options]) == ExitStatus.USAGE
            assert "give a new file" in capsys.readouterr().err
        assert not new.exists()

    def test_no_rejects_are_left_where_no_catalog_was_opened(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        options = ["import-manifest", "m.jsonl", "--rejects", "bad.jsonl"]
        assert run(["--catalog", str(tmp_path / "file"), *options]) == ExitStatus.UNAVAILABLE
        assert not (tmp_path / "bad.jsonl").exists()

    def test_nothing_is_registered_where_the_catalog_is_switched_off(
        self, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "m.jsonl").write_text(self.LINE, encoding="utf-8")
        (tmp_path / "c.yaml").write_text(f"catalog: {{path: {path}, enabled: no}}\n", encoding="utf-8")
        assert run(["-c", "c.yaml", "import-manifest", "m.jsonl"]) == ExitStatus.USAGE
        assert "switched off" in capsys.readouterr().err
        assert run(["-c", "c.yaml", "show", "1"]) == ExitStatus.DONE

    def test_a_manifest_that_is_not_there_is_usage(self, cli: Cli) -> None:
        ran = cli("import-manifest", "none.jsonl")
        assert ran.status == ExitStatus.USAGE
        assert "none.jsonl" in ran.err


class TestFigures:
    def test_stats(self, cli: Cli) -> None:
        figures = cli("--json", "stats").json
        assert figures["documents"] == 3
        assert {"resolver": "unpaywall", "documents": 1, "bytes": 10} in figures["by_resolver"]
        assert "documents" in cli("stats").out
        assert cli("--format", "ids", "stats").status == ExitStatus.USAGE

    def test_dedup_report(self, cli: Cli) -> None:
        ran = cli("--json", "dedup-report")
        assert ran.json == [
            {"sha256": A, "bytes": 10, "document_count": 2, "variant_count": 0}
            | {"copy_count": 1, "unseen_count": 1, "saved_bytes": 0, "savable_bytes": 0}
        ]
        assert "1 digest, 0 B saved by sharing, 0 B savable; 1 of their files could not be seen" in ran.err
        assert cli("dedup-report", "--min-count", "3").out == ""
        assert cli("dedup-report", "--format", "ids", "--limit", "0").out == A + "\n"
        assert cli("-q", "dedup-report").err == ""

    def test_the_most_wasteful_come_first(self, cli: Cli, path: Path) -> None:
        with open_catalog(str(path)) as catalog:
            catalog.register(
                artifact_id="b", source_url="b", resolver="r", bytes=2_000_000, sha256=B, storage_uri="s3://b/b"
            )
        assert [row["sha256"] for row in cli("--json", "dedup-report").json] == [B, A]
        assert [row["sha256"] for row in cli("--json", "dedup-report", "--limit", "1").json] == [B]
        assert cli("--json", "dedup-report", "--by", "resolver").json == [
            {"resolver": "r", "record_count": 1, "saved_bytes": 0, "savable_bytes": 2_000_000}
        ]
        assert cli("--format", "ids", "dedup-report", "--by", "resolver").out == "r\n"


class TestConfiguration:
    def test_the_catalog_comes_from_flag_environment_and_file(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "c.yaml"
        file.write_text(f"catalog: {{path: {path}}}\n", encoding="utf-8")
        assert run(["-c", str(file), "show", "1"]) == ExitStatus.DONE
        monkeypatch.setenv("KVCATALOG_CATALOG__PATH", str(tmp_path / "none.lmdb"))
        assert run(["-c", str(file), "show", "1"]) == ExitStatus.UNAVAILABLE
        assert run(["-c", str(file), "--catalog", str(path), "show", "1"]) == ExitStatus.DONE
        assert not (tmp_path / "none.lmdb").exists()
        capsys.readouterr()
        assert run(["-c", str(file), "config", "show", "--json"]) == ExitStatus.DONE
        rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(capsys.readouterr().out)}
        assert rows["catalog.path"] == (str(tmp_path / "none.lmdb"), "environment")

    def test_a_bad_configuration_is_usage(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("catalog: {pahth: x}\n", encoding="utf-8")
        assert run(["-c", str(file), "stats"]) == ExitStatus.USAGE
        message = capsys.readouterr().err
        assert "catalog.pahth: there is no such key; there are enabled, " in message
        assert f"({file})" in message

    def test_a_configuration_is_checked(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("catalog: {pahth: x}\nstorage: {backend: tape}\n", encoding="utf-8")
        assert run(["-c", str(file), "--json", "config", "check"]) == ExitStatus.USAGE
        problems = json.loads(capsys.readouterr().out)
        assert [(problem["key"], problem["source"]) for problem in problems] == [
            ("storage.backend", str(file)),
            ("catalog.pahth", str(file)),
        ]
        file.write_text("catalog: {path: x}\n", encoding="utf-8")
        assert run(["-c", str(file), "config", "check"]) == ExitStatus.DONE
        written = capsys.readouterr()
        assert (written.out, "in order" in written.err) == ("", True)
        file.write_text("catalog: [\n", encoding="utf-8")
        assert run(["-c", str(file), "config", "check"]) == ExitStatus.USAGE
        assert str(file) in capsys.readouterr().err
