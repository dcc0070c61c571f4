"""Work on files that may be damaged, in a process of its own: the engine can die on them, and its caller must not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from kvcatalog import errors
from kvcatalog.errors import CatalogError, CatalogUnavailableError, DatabaseDamagedError, StorageFailedError
from kvcatalog.kv import engine

_TOLD = 3
_SAID_BYTES_MAX = 2000
_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


@contextmanager
def answering(module: str, folder: engine.StrPath, *arguments: str) -> Iterator[IO[bytes]]:
    """Run a module, which calls `serve`, on a folder in a process of its own; yields what it writes, as it comes.

    What is read is whole only once the context has ended without an error: DatabaseDamagedError where the engine died,
    or the error of ours that ended the work. A process whose answer is not wanted any more is killed.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, and no shell
                [sys.executable, "-P", "-m", module, os.fspath(folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            failure = CatalogUnavailableError(f"no process can be started: {error}")
            raise failure.advising("End other processes, or raise what the user may start (ulimit -u).") from error
        with process:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            try:
                yield process.stdout
                process.stdout.read()
            except BaseException:
                process.kill()
                raise
        said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID_BYTES_MAX))
        _raise_what_ended_it(folder, process.returncode, said.read().decode(errors="replace").strip())


def serve(work: Callable[..., None]) -> None:
    """Do the work of such a process, with the arguments that it was given, and tell how it ended."""
    try:
        work(*sys.argv[1:])
        sys.stdout.flush()
    except CatalogError as error:
        sys.stderr.write("\n" + json.dumps([type(error).__name__, str(error), error.advice]))
        sys.stderr.flush()
        os._exit(_TOLD)
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # nobody listens any more


def _raise_what_ended_it(folder: engine.StrPath, status: int, said: str) -> None:
    if status == 0:
        return
    lines = said.splitlines() or [""]
    if status == _TOLD:
        name, message, advice = json.loads(lines[-1])
        kind = getattr(errors, name, CatalogUnavailableError)
        raise _made(kind, message).advising(advice)
    if status > 0:
        raise CatalogUnavailableError(f"{folder}: reading it ended with status {status}: {lines[-1]}")
    if -status in _BY_OTHERS:
        raise StorageFailedError(f"{folder}: the process that read it was killed ({signal.Signals(-status).name})")
    reason = f": {lines[-1]}" if said else ""
    raise DatabaseDamagedError(
        f"{folder}: the engine died on the database file ({signal.Signals(-status).name}){reason}"
    )


def _made(kind: type[CatalogError], message: str) -> CatalogError:
    try:
        return kind(message)
    except TypeError:  # it takes more than a message
        return CatalogUnavailableError(message)
