"""An import that ends anywhere is run again, and comes to the same."""

import random
import signal
import time
from pathlib import Path

import pytest

from kvcatalog import open_catalog
from kvcatalog.migrate import import_manifest
from tests.invariants import assert_consistent
from tests.manifests import ATTEMPT, MISS, V2, V5, Fields, contents, write
from tests.support import HANG_SECONDS, child, finished, said
from tools.faults.manifest_fuzz import run as fuzz

IMPORT = """
from kvcatalog import open_catalog
from kvcatalog.migrate import importing
importing.BATCH_LINES = importing.BATCH_LINES_HASHED = 25
importing.PROGRESS_LINES = 10
with open_catalog(sys.argv[2]) as catalog:
    importing.import_manifest(sys.argv[1], catalog, compute_sha256=True, progress=lambda _: print("on", flush=True))
print("done", flush=True)
"""


def lines(count: int) -> list[Fields]:
    found: list[Fields] = []
    for number in range(count):
        work = {"work_id": f"W{number % (count // 2)}", "run_id": f"run-{number % 3}", "sha256": None}
        page = {"html_paths": ["one.html", "two.html"]}
        match number % 5:
            case 0:
                found.append(V5 | work | page)
            case 1:
                found += [ATTEMPT | {**work, "sha256": "ab" * 32}, MISS | work | page]
            case 2:
                found.append(V2 | work | {"path": "one.html", "classification": "exists", "url": None})
            case 3:
                found.append(V5 | work | {"classification": "cached", "content_length": None})
            case _:
                found.append(V2 | work | {"content_length": 7})
    return found


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "one.html").write_bytes(b"one")
    (tmp_path / "two.html").write_bytes(b"two")
    return write(tmp_path / "manifest.jsonl", *lines(600))


def test_killed_at_any_moment_and_run_again_it_completes(tmp_path: Path, manifest: Path) -> None:
    rng = random.Random()
    held = []
    for _ in range(8):
        process = child(IMPORT, manifest, tmp_path / "catalog")
        for _ in range(rng.randrange(1, 60)):
            if said(process) == "done":
                break
        time.sleep(rng.random() / 100)
        process.kill()
        process.communicate()
        with open_catalog(tmp_path / "catalog") as catalog:
            assert_consistent(catalog)
            held.append(catalog.stats().documents)
    finished(child(IMPORT, manifest, tmp_path / "catalog"))
    with open_catalog(tmp_path / "catalog") as catalog, open_catalog(tmp_path / "undisturbed") as undisturbed:
        import_manifest(manifest, undisturbed, compute_sha256=True)
        assert contents(catalog) == contents(undisturbed)
        assert min(held) < catalog.stats().documents, "at least one was killed on the way"


def test_control_c_leaves_what_was_registered_and_tells_how_far_it_came(tmp_path: Path, manifest: Path) -> None:
    script = """
import signal
from kvcatalog.cli import main
from kvcatalog.migrate import importing
from kvcatalog.migrate.batch import Batch
importing.BATCH_LINES, importing.PROGRESS_LINES = 50, 10
signal.signal(signal.SIGINT, signal.default_int_handler)
flush, calls = Batch.flush, []
def interrupted(batch):
    calls.append(batch)
    if len(calls) == 3:
        signal.raise_signal(signal.SIGINT)
    return flush(batch)
Batch.flush = interrupted
sys.argv[1:] = ["--catalog", sys.argv[2], "import-manifest", sys.argv[1]]
sys.exit(main())
"""
    process = child(script, manifest, tmp_path / "catalog")
    output, errors = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, output) == (130, "")
    assert "stopped behind " in errors
    assert "run it again for the rest" in errors
    assert errors.endswith("kvcatalog: interrupted\n")
    with open_catalog(tmp_path / "catalog") as catalog, open_catalog(tmp_path / "undisturbed") as undisturbed:
        import_manifest(manifest, undisturbed)
        assert 0 < len(contents(catalog)) < len(contents(undisturbed))
        import_manifest(manifest, catalog)
        assert contents(catalog) == contents(undisturbed)


def test_control_c_does_not_wait_for_large_files(tmp_path: Path) -> None:
    with (tmp_path / "large.pdf").open("wb") as file:
        file.truncate(1 << 40)
    manifest = write(tmp_path / "manifest.jsonl", V2 | {"path": "large.pdf", "sha256": None})
    script = """
import signal
from kvcatalog.cli import main
from kvcatalog.migrate.hashing import Hashing
signal.signal(signal.SIGINT, signal.default_int_handler)
count, announced = Hashing._count, []
def counted(hashing, size):
    if not announced:
        announced.append(True)
        print("reading", file=sys.stderr, flush=True)
    count(hashing, size)
Hashing._count = counted
sys.argv[1:] = ["--catalog", sys.argv[2], "import-manifest", "--compute-sha256", sys.argv[1]]
sys.exit(main())
"""
    process = child(script, manifest, tmp_path / "catalog")
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=HANG_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, output) == (130, "")
    assert errors.endswith("kvcatalog: interrupted\n")


def test_lines_that_mean_harm_are_accounted_for_in_little_memory() -> None:
    figures = fuzz(3_000, 3, seed=random.randrange(1 << 32))
    assert figures["lines"] == 3_000
    assert figures["documents"] > 300
    assert figures["broken"] > 300
    assert figures["peak_bytes"] < 256 << 20
