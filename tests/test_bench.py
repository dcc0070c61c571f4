"""The benchmarks run and print what they promise; no figure is held against anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

from kvcatalog import LmdbCatalog, open_catalog

CHECKOUT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=CHECKOUT, env=os.environ, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_layouts_are_put_beside_the_sqlite_design(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ("--records", "300", "--batch", "100", "--small-batches", "2", "--repeats", "1")
    printed = run("tools.bench.layouts", *sizes, "--only", "G", "sqlite", "--dir", str(tmp_path), "--json", str(report))
    assert "sqlite" in printed
    assert json.loads(report.read_text())


def test_an_answer_from_a_cold_shell_is_timed(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, storage_uri="file:///x")
    printed = run("tools.bench.startup", str(tmp_path / "catalog"), "--runs", "1")
    assert [line.split("  ")[0] for line in printed.splitlines()] == [
        "import click, lmdb, msgspec",
        "show --catalog",
        "show --config",
    ]


def test_the_catalog_is_put_beside_its_baselines(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = (
        "--records",
        "300",
        "--operations",
        "64",
        "--base",
        "50",
        "--lookups",
        "20",
        "--growth",
        "50",
        "100",
        "--files",
        "300",
    )
    printed = run("tools.bench", *sizes, "--repeats", "1", "--dir", str(tmp_path), "--json", str(report))
    rows = json.loads(report.read_text())["rows"]
    works = {
        "durable registrations, 1 thread",
        "durable registrations, 16 threads",
        "durable registrations, 64 threads",
        "durable registrations, 4 processes of 16 threads",
        "register_many, 300 new, default batches",
        "register_many, 300 new, 10,000 a commit",
        "register_many, 300 known, default batches",
        "file, bytes a record",
        "live pages, bytes a record",
        "get by key",
        "get by id",
        "get by sha256",
        "get by artifact",
        "stats",
        "dedup-report, totals",
        "dedup-report, every group",
        "bulk registration, 100 records",
        "durable registration, 100 records",
        "gc scan, 300 files and records",
    }
    if hasattr(LmdbCatalog, "register_async"):
        works.add("durable registrations, one producer with futures")
    assert {row["work"] for row in rows} == works
    assert {line.split("  ")[0] for line in printed.splitlines()[2:]} == works


def test_the_life_of_garbage_is_gone_through(tmp_path: Path) -> None:
    printed = run("tools.bench.collecting", "--files", "200", "--dir", str(tmp_path))
    assert "empty, dry and real, MiB" in printed
    assert list(tmp_path.iterdir()) == []
