"""The program `sqlite3`, for tests that load dumps: the one on PATH, or else Debian's package.

    python -m tools.servers.sqlite start DIR

Root installs the package; anybody else has it unpacked in the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tools.servers.processes import Access, ServerUnavailableError, main, run

PACKAGE = "sqlite3"


def started(folder: Path) -> Access:
    """Find or fetch it; nothing is started, the endpoint is the path of the program."""
    program = shutil.which("sqlite3") or _fetched(folder)
    run([program, "-version"])
    return {"endpoint": program, "key": "", "secret": ""}


def _fetched(folder: Path) -> str:
    if shutil.which("apt-get") is None:
        raise ServerUnavailableError("there is no program sqlite3 on PATH, and no apt-get to fetch it")
    if not os.geteuid():
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", PACKAGE])
        return shutil.which("sqlite3") or "sqlite3"
    run(["apt-get", "download", PACKAGE], folder)
    (archive,) = folder.glob("sqlite3_*.deb")
    run(["dpkg", "-x", str(archive), str(folder)])
    return str(folder / "usr" / "bin" / "sqlite3")


if __name__ == "__main__":
    main(started, "The program sqlite3")
