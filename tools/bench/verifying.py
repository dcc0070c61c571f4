"""Checks of blobs beside `openssl dgst` of the same files: as a command from a cold shell, and inside a process.

`xargs -P` alone gives all files to one process; beside the checks inside a process it gives each core its share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kvcatalog import StorageConfig, finalize_candidate_download, open_catalog
from kvcatalog.verify import verify_blobs
from tools.bench.parts import Bench, Row, in_child, scratch

if TYPE_CHECKING:
    from collections.abc import Callable

GOAL = 0.95


def measure(bench: Bench) -> list[Row]:
    """Verify every blob and hash every file, in turns; the page cache is warm for both."""
    count, size = bench.blobs
    cores = len(os.sched_getaffinity(0))
    work = f"{count * size / (1 << 30):.3g} GiB in {count} files"
    with scratch(bench.folder) as folder:
        paths = _stored(folder, count, size)
        program = [str(Path(sys.executable).parent / "kvcatalog"), "--catalog", str(folder / "catalog"), "-q", "verify"]
        plain = ["xargs", "-0", f"-P{cores}", "openssl", "dgst", "-sha256"]
        spread = ["xargs", "-0", f"-P{cores}", f"-n{-(-count // cores)}", "openssl", "dgst", "-sha256"]
        sides: dict[str, Callable[[], float]] = {
            "command": lambda: _command_seconds(program, b""),
            "plain": lambda: _command_seconds(plain, paths),
            "process": lambda: in_child(_verify_seconds, folder / "catalog", count),
            "spread": lambda: _command_seconds(spread, paths),
        }
        sides["spread"]()  # brings the files into the page cache
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(bench.repeats):
            for name, seconds in sides.items():
                rates[name].append(count * size / seconds() / 1e6)
    command, plainly = rates["command"], rates["plain"]
    process, shares = rates["process"], rates["spread"]
    theirs = f"xargs -P{cores} openssl"
    return [
        Row(f"verify, {work}, the command", "MB/s", command, theirs, plainly, at_least=GOAL),
        Row(f"verify, {work}, in a process", "MB/s", process, f"{theirs}, -n", shares, at_least=GOAL),
    ]


def _stored(folder: Path, count: int, size: int) -> bytes:
    """Store random files and return their paths, each with NUL behind it."""
    config = StorageConfig(root_dir=str(folder / "root"), layout="cas")
    paths = []
    with open_catalog(folder / "catalog") as catalog:
        for number in range(count):
            source = folder / "source"
            source.write_bytes(os.urandom(size))
            done = finalize_candidate_download(
                str(source),
                artifact_id=f"artifact {number}",
                source_url="https://example.org/a.bin",
                resolver="bench",
                catalog=catalog,
                cfg_storage=config,
            )
            paths.append(os.fsencode(done.path or "") + b"\0")
    return b"".join(paths)


def _command_seconds(command: list[str], given: bytes) -> float:
    started = time.perf_counter()
    subprocess.run(command, input=given, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _verify_seconds(path: Path, count: int) -> float:
    with open_catalog(path) as catalog:
        started = time.perf_counter()
        run = verify_blobs(catalog)
        findings = [each for each in run if each.result != "ok"]
        seconds = time.perf_counter() - started
    assert not findings
    assert run.counts["ok"] == count
    return seconds
