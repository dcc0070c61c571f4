"""Real servers for tests: started by the first test that asks, shared by all workers, stopped at the end of the run.

A server that cannot be had makes its tests skip, and the end of the run says so under a heading of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import CHECKOUT
from tools.servers import processes

FOLDER = pytest.StashKey[Path]()
NAME = "kvcatalog-servers-"
OWNER = "owner"


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[FOLDER] = Path(worker["servers"])
        return
    for left in Path(tempfile.gettempdir()).glob(f"{NAME}*/{OWNER}"):
        if left.stat().st_uid == os.geteuid() and not processes.lives(left):
            end(left.parent)  # of a run that was killed
    folder = config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix=NAME))
    processes.note(folder / OWNER, os.getpid())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the servers of this run are."""
    node.workerinput["servers"] = str(node.config.stash[FOLDER])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason in sorted(config.stash[FOLDER].glob("*/unavailable")):
        terminalreporter.section(f"NOT TESTED: {reason.parent.name} could not be started", red=True, bold=True)
        terminalreporter.line(reason.read_text())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        end(config.stash[FOLDER])


def end(folder: Path) -> None:
    """Stop the servers of a run."""
    for server in folder.iterdir():
        processes.stop(server)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one worker in at a time."""
    with (folder / "workers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def server(config: pytest.Config, name: str, *, is_needed: bool = False) -> processes.Access:
    """Return the access to a server of this run, `tools.servers.NAME`.

    If it cannot be had the test is skipped, or fails where it `is_needed`.
    """
    folder = config.stash[FOLDER] / name
    folder.mkdir(exist_ok=True)
    access, unavailable = folder / "access.json", folder / "unavailable"
    with only_one(folder):
        if not access.exists() and not unavailable.exists():
            done = subprocess.run(
                [sys.executable, "-m", f"tools.servers.{name}", "start", str(folder)],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                check=False,
            )
            (unavailable if done.returncode else access).write_text(done.stderr if done.returncode else done.stdout)
    if unavailable.exists():
        (pytest.fail if is_needed else pytest.skip)(f"{name} could not be started, see the end of the run")
    found: processes.Access = json.loads(access.read_text())
    return found
