"""Fixtures for whatever stores something in LMDB."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from kvcatalog.kv import engine
from kvcatalog.kv.environment import Environment
from tests.support import close_all, made, mounted

pytest_plugins = ("tests.servers", "tests.buckets", "tests.web")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background is born so, and so would be the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("kvcatalog", deadline=None)
hypothesis.settings.load_profile("kvcatalog")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Let one more work than there are processors: tests wait for disks, servers and each other."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what stays to the end: the tests, which forked children would copy for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _levels_of_logging() -> Iterator[None]:
    """Undo what `-q` does to the whole process."""
    assert logging.lastResort is not None
    handled: list[logging.Logger | logging.Handler] = [logging.getLogger("kvcatalog"), logging.lastResort]
    levels = [each.level for each in handled]
    yield
    for each, level in zip(handled, levels, strict=True):
        each.setLevel(level)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, in which it works, without any setting from outside."""
    for name in os.environ:
        if name.upper().startswith("KVCATALOG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=[engine.ENGINE_0_9, engine.ENGINE_1_0], ids=["engine-0.9", "engine-1.0"])
def engine_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The engine that new environments are made with in this test; it runs once with each."""
    kind: int = request.param
    monkeypatch.setattr(engine, "DEFAULT_ENGINE", kind)
    return kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the environment of a test belongs; nothing is there yet."""
    return tmp_path / "environment"


@pytest.fixture
def environment(engine_kind: int, folder: Path) -> Iterator[Environment]:
    """An open environment with the tables of tests.support."""
    opened = made(folder)
    yield opened
    close_all(opened)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    with mounted(tmp_path / "small", ["mount", "-t", "tmpfs", "-o", "size=512k", "none"]) as place:
        yield place
