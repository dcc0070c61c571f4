"""The benchmarks run and print what they promise; no figure is held against anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

from kvcatalog import LmdbCatalog

CHECKOUT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=CHECKOUT, env=os.environ, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_layouts_are_put_beside_the_sqlite_design(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ("--records", "300", "--operations", "64", "--base", "50", "--lookups", "20", "--growth", "50", "100")
    blobs = ("--blobs", "4", "1000", "--files", "300")
    printed = run("tools.bench", *sizes, *blobs, "--repeats", "1", "--dir", str(tmp_path), "--json", str(report))
    rows = json.loads(report.read_text())["rows"]
    works = {
        "durable registrations, 1 thread",
        "durable registrations, 16 threads",
        "durable registrations, 64 threads",
        "durable registrations, 4 processes of 16 threads",
        "durable registrations, 16 threads, telemetry off",
        "durable registrations, 16 threads, telemetry on",
        "register_many, 300 new, default batches",
        "register_many, 300 new, 10,000 a commit",
        "register_many, 300 known, default batches",
        "import-manifest, 300 new",
        "import-manifest, 300 known",
        "file, bytes a record",
        "live pages, bytes a record",
        "get by key",
        "get by id",
        "get by sha256",
        "get by artifact",
        "stats",
        "dedup-report, totals",
        "dedup-report, every group",
        "export-sql, SQLite file",
        "export-sql, Postgres dump",
        "bulk registration, 100 records",
        "durable registration, 100 records",
        "verify, 3.73e-06 GiB in 4 files, the command",
        "verify, 3.73e-06 GiB in 4 files, in a process",
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
