"""What several test modules need: environments to play with, child processes and forks that cannot hang the run."""

from __future__ import annotations

import linecache
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lmdb.verify import verify

from kvcatalog.kv import engine
from kvcatalog.kv.creation import create_environment
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.table import Table

CHECKOUT = Path(__file__).parents[1]

HANG_SECONDS = 60
"""What takes longer hangs."""

ROWS = Table("rows")
SETS = Table("sets", sets=True)
TOKENS = Table("tokens")
TABLES = (ROWS, SETS, TOKENS)


def made(folder: Path, **settings: Any) -> Environment:
    """Return an open environment in a folder, made first where there is none."""
    create_environment(folder, TABLES, ())
    return open_environment(folder, TABLES, **settings)


def put_rows(environment: Environment, rows: Iterable[tuple[bytes, bytes]], table: Table = ROWS) -> None:
    with environment.write() as transaction:
        for key, value in rows:
            transaction.put(table, key, value)


def all_rows(environment: Environment, table: Table = ROWS) -> list[tuple[bytes, bytes]]:
    with environment.read() as transaction:
        return list(transaction.items(table))


def last_transaction(environment: Environment) -> int:
    """Return the number of the last commit of any process."""
    with environment.read() as transaction:
        return transaction._raw.id()


def interrupted_at(step: int, work: Callable[[], object]) -> bool:
    """Do some work with an interruption before a line of the modules that write; tell whether it came so far."""
    left = [step]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "kvcatalog/kv/" not in frame.f_code.co_filename:
            return None
        # The end of a `with` block is one step of the interpreter, to which no signal comes.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not line.strip().startswith("with "):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False


def findings(folder: Path) -> list[str]:
    """Return what the engine's offline verifier finds wrong with an environment that nobody writes to."""
    return list(verify(str(folder)))  # type: ignore[no-untyped-call]


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that can import what tests can; `sys.argv[1:]` are the arguments.

    It works with the engine that this process has as its default.
    """
    preamble = f"import sys; sys.path[:0] = [{str(CHECKOUT)!r}]\n"
    preamble += f"from kvcatalog.kv import engine; engine.DEFAULT_ENGINE = {engine.DEFAULT_ENGINE}\n"
    return subprocess.Popen(
        [sys.executable, "-c", preamble + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], *, status: int = 0) -> str:
    """Wait for a child, hold its exit status against the expected one, and return what it printed."""
    try:
        output, errors = process.communicate(timeout=HANG_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, f"exit status {process.returncode}\n{output}\n{errors}"
    return output


def run(script: str, *arguments: object, status: int = 0) -> str:
    return finished(child(script, *arguments), status=status)


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that a child prints; fails if it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        finished(process)
        raise AssertionError("the child ended without a word")
    return line.strip()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def forked(work: Callable[[], object], leave: Callable[[int], object] = os._exit) -> Any:
    """Run `work` in a forked child that then calls `leave`, and return what it returned.

    A child that raises, dies or hangs fails the test. `leave` decides how the child ends, so that whatever it
    inherited goes the same way.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
        process = os.fork()
    if not process:
        signal.alarm(HANG_SECONDS)
        answer: tuple[bool, object]
        try:
            answer = True, work()
        except BaseException:  # noqa: BLE001  the parent raises it
            answer = False, traceback.format_exc()
        os.write(writing, pickle.dumps(answer))
        leave(0)
        os._exit(3)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answered = pipe.read()
    _, status = os.waitpid(process, 0)
    assert answered, f"the child ended without an answer, status {status}"
    good, result = pickle.loads(answered)
    assert good, result
    assert os.waitstatus_to_exitcode(status) == 0
    return result


def need_root() -> None:
    """Skip a test that changes owners or mounts file systems, with a reason that the summary shows."""
    if os.geteuid():
        pytest.skip("needs root: it changes owners or mounts file systems")


def wait_until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for what another thread or process has yet to do; fails if that hangs."""
    give_up = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"waited for nothing: {what}"
        time.sleep(0.001)


@contextmanager
def mounted(place: Path, *commands: Iterable[object]) -> Iterator[Path]:
    """Run commands that mount something at a place, which is made first; skips the test where that is not allowed."""
    place.mkdir()
    for command in commands:
        done = subprocess.run([*map(str, command), place], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a file system: {done.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def close_all(*environments: Environment) -> None:
    for environment in environments:
        with suppress(Exception):
            environment.close()
