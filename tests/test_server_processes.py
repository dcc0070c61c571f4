"""The servers for tests are stopped by their process id, and nobody else is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import run
from tools.servers import processes


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_a_process_outlives_who_started_it_and_is_stopped(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tools.servers import processes
processes.start(Path(sys.argv[1]), "sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
"""
    run(script, tmp_path)
    record = tmp_path / "sleeper.process"
    assert processes.lives(record)
    kept = tmp_path / "kept"
    kept.write_text(record.read_text())
    processes.stop(tmp_path)
    assert not processes.lives(kept)
    assert not record.exists()


def test_one_that_ignores_the_request_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        processes.note(tmp_path / "deaf.process", process.pid)
        processes.stop(tmp_path)
        assert process.wait(timeout=10) == -9


def test_another_process_with_the_same_id_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record = tmp_path / "other.process"
    processes.note(record, sleeper.pid)
    known = json.loads(record.read_text())
    record.write_text(json.dumps({**known, "started": str(int(known["started"]) - 1)}))
    assert not processes.lives(record)
    processes.stop(tmp_path)
    time.sleep(0.1)
    assert sleeper.poll() is None


def test_a_process_that_is_gone_does_not_live(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    processes.note(tmp_path / "gone", process.pid)
    assert not processes.lives(tmp_path / "gone")


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tools.servers import processes
folder = Path(sys.argv[1])
processes.start(folder, "broken", [sys.executable, "-c", "raise SystemExit('no such luck')"])
try:
    processes.wait_for_port(folder, "broken", processes.free_ports(1)[0])
except processes.ServerUnavailableError as error:
    print(error)
"""
    assert "no such luck" in run(script, tmp_path)
