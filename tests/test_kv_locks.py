"""Whatever a process does with the files of its environment, others wait for it and leave its snapshots alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import child, made, run, said, tell

# The scene: a snapshot and a write transaction are open here, every file of the folder is opened and closed (a copy, a
# hash, a backup tool), and another process opens the environment and writes. Prints what came of it.
FIRST = """
import json, select, sys
from pathlib import Path
from kvcatalog.errors import CatalogError
from kvcatalog.kv.lock_guard import LockGuard
from tests.support import *

folder, guarded, renewed = Path(sys.argv[1]), sys.argv[2] != "bare", sys.argv[2] != "unrenewed"
if not guarded:
    LockGuard.__init__ = LockGuard.renew = LockGuard.close = lambda *_: None

OTHER = '''
import sys
from pathlib import Path
from tests.support import *
print("ready", flush=True)
sys.stdin.readline()
environment = open_environment(Path(sys.argv[1]), TABLES)
print("open", flush=True)
for turn in range(20):
    with environment.write() as transaction:
        for number in range(turn * 50, turn * 50 + 50):
            transaction.put(ROWS, b"B%06d" % number, b"x" * 300)
        for number in range(0, 2000, 7):
            transaction.delete(ROWS, b"S%06d" % number)
            transaction.put(ROWS, b"S%06d" % number, b"new%06d" % turn * 30)
print("done", flush=True)
environment.close()
'''

def touch():
    for path in folder.iterdir():
        path.read_bytes()

def scene():
    environment = made(folder)
    put_rows(environment, [(b"S%06d" % number, b"old" * 90) for number in range(2000)])
    other = child(OTHER, folder)
    said(other)
    with environment.read() as snapshot:
        before = dict(snapshot.items(ROWS))
        with environment.write() as transaction:
            for number in range(400):
                transaction.put(ROWS, b"A%06d" % number, b"y" * 300)
            touch()
            len(list(snapshot.items(ROWS)))
            if renewed:
                environment.renew_locks()
            tell(other, "go")
            early = None
            if guarded:
                # It cannot get to its first write: all that it can do is to stop at the door.
                select.select([other.stdout], [], [], 0.5)
                early = bool(select.select([other.stdout], [], [], 0)[0])
            else:
                early = said(other) == "open" and said(other) == "done"
        output, errors = other.communicate(timeout=HANG_SECONDS)
        touch()
        for turn in range(5):
            put_rows(environment, [(b"C%06d" % number, b"z" * 200) for number in range(turn * 100, turn * 100 + 100)])
        intact = not renewed or dict(snapshot.items(ROWS)) == before
    kept = [key[:1].decode() for key, _ in all_rows(environment)]
    environment.close()
    return {"early": early, "intact": intact, "other": other.returncode, "A": kept.count("A"), "B": kept.count("B")}

try:
    print(json.dumps(scene()))
except CatalogError as error:  # a snapshot that is no longer one
    print(json.dumps(str(error)))
"""

SOUND = {"early": False, "intact": True, "other": 0, "A": 400, "B": 1000}


@pytest.mark.usefixtures("engine_kind")
def test_reading_our_own_files_lets_nobody_in(folder: Path) -> None:
    assert json.loads(run(FIRST, folder, "guarded")) == SOUND


@pytest.mark.usefixtures("engine_kind")
def test_writers_wait_even_before_the_locks_are_renewed(folder: Path) -> None:
    assert json.loads(run(FIRST, folder, "unrenewed")) == SOUND


@pytest.mark.usefixtures("engine_kind")
def test_without_the_guard_the_same_scene_does_damage(folder: Path) -> None:
    scene = child(FIRST, folder, "bare")
    output, _ = scene.communicate(timeout=60)
    # The damage is wrong data, an error of the engine, or its death by a signal.
    assert scene.returncode <= 0
    if not scene.returncode:
        assert json.loads(output) != SOUND


IN_CONTAINER = """
import os, sys
from pathlib import Path
from kvcatalog.errors import CatalogUnavailableError
from tests.support import *

print(os.getpid(), flush=True)
try:
    environment = open_environment(Path(sys.argv[1]), TABLES)
except CatalogUnavailableError as error:
    print(error, flush=True)
else:
    print("open", flush=True)
    sys.stdin.readline()
    put_rows(environment, [(b"a", b"1")])
    environment.close()
"""


def test_two_containers_whose_processes_have_one_id_are_told_so(folder: Path) -> None:
    namespace = ["unshare", "--pid", "--fork", "--kill-child"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to make a process namespace")
    made(folder).close()
    command = [*namespace, sys.executable, "-c", IN_CONTAINER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:  # type: ignore[call-overload]
        assert [said(first), said(first)] == ["1", "open"]
        with subprocess.Popen(command, **pipes) as second:  # type: ignore[call-overload]
            assert said(second) == "1"
            assert "another container has the id 1 as well" in said(second)
        tell(first, "go")
    assert first.returncode == 0
