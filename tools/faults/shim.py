"""The preloaded library of shim.c: compiled, handed to a child process, and worked from inside that."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import CHECKOUT

SOURCE = Path(__file__).with_name("shim.c")
_SECONDS_MAX = 86_400

KINDS = {"open": "o", "write": "w", "sync": "s", "link": "l", "rename": "r", "unlink": "u", "mkdir": "m", "read": "p"}
"""What can be made to fail, and the letter by which shim.c knows it."""


class NoCompilerError(Exception):
    """There is no C compiler, so nothing can be recorded and no call be made to fail."""


def need_compiler() -> str:
    """Return the path of the C compiler, or raise NoCompilerError."""
    path = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if path is None:
        raise NoCompilerError("no C compiler (cc, gcc, clang): crash states and failing calls CANNOT BE TRIED HERE")
    return path


@contextmanager
def preloaded(folder: Path, log: Path | None = None) -> Iterator[dict[str, str]]:
    """Compile the library, and yield the environment of a child that has it watch a folder."""
    compiler = need_compiler()
    with tempfile.TemporaryDirectory() as place:
        library = Path(place) / "shim.so"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        variables = {"LD_PRELOAD": str(library), "FAULTS_PREFIX": str(folder.resolve())}
        yield os.environ | variables | ({} if log is None else {"FAULTS_LOG": str(log)})


def run_child(module: str, arguments: list[str], environment: dict[str, str]) -> str:
    """Run a module of this package in a child, and return what it printed; SystemExit if it failed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=_SECONDS_MAX,
    )
    if done.returncode:
        raise SystemExit(f"{module} ended with status {done.returncode}: {done.stdout}")
    return done.stdout


class Shim:
    """The library inside the process that has it preloaded; a source of faults (`surroundings`)."""

    opens_late = False

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_mark.argtypes = (ctypes.c_int, ctypes.c_uint64)
        self._library.faults_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
        self._library.faults_clock.argtypes = (ctypes.c_int64,)

    def mark(self, number: int, *, begun: bool) -> None:
        """Note in the record that a step begins, or that it was answered."""
        self._library.faults_mark(begun, number)

    def arm(self, kind: str, number: int, code: int, *, forever: bool) -> None:
        """Let a system call fail: the one of that number, counted from 1 among those of a kind (of KINDS).

        `code` 0 makes a write come short by half instead.
        """
        self._library.faults_arm(KINDS[kind].encode(), number, code, forever)

    def disarm(self, *, failed: bool) -> int:  # noqa: ARG002
        """Let system calls be; return how many failed."""
        return int(self._library.faults_disarm())

    def set_clock(self, seconds: int) -> None:
        """Move the wall clock of this process against the real one."""
        self._library.faults_clock(seconds)


def name_of(code: int) -> str:
    """Return the name of an error number."""
    return errno.errorcode[code] if code else "short"
