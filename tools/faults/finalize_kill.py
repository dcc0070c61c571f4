"""Kill processes that finalize downloads, again and again, and hold what is left against what they were told.

    python -m tools.faults.finalize_kill [--seconds S] [--processes N] [--threads T] [--layout cas|policy_path]

Several processes with several threads finalize random downloads: equal contents, equal names, other contents under a
known key, variants. Each thread writes what it was answered to a log of its own before it goes on. At random moments
one process or all of them get SIGKILL. Then everything that was acknowledged must be there, what was not must be there
or its temporary file must, every record must have its blob, the indexes must agree with the records, and once the root
is opened again no staging file may be left. Exit status 1 says that one of that was not so.

What was written but not flushed survives SIGKILL, so a missing fsync cannot be seen here; a replay of the recorded
writes is what sees that. KVCATALOG_FAULT plants one of the mistakes of `tools.faults.planting` in the children, to show
that they are seen.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from msgspec import Struct, json, structs

from kvcatalog import finalize_candidate_download, open_catalog, storage
from kvcatalog.config import StorageConfig
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tools.faults.checking import dangling, staged
from tools.faults.planting import VARIABLE, plant

CONTENTS = 200
"""Contents that are met again and again; half of the calls bring one that nobody has."""

CONTENTS_MAX = 1 << 40
WORKS = 60
NAMES = 3
LIFE_SECONDS_MAX = 1.0


class Call(Struct, frozen=True):
    """A line of a log: what is about to be finalized, or what was; `content` is the number of the content."""

    artifact_id: str
    source_url: str
    variant: str | None
    content: int
    source: str
    acknowledged: bool = False


class Figures(Struct):
    cycles: int = 0
    kills: int = 0
    acknowledged: int = 0
    records: int = 0
    violations: int = 0


def content_of(number: int) -> bytes:
    """Return a content; some have equal sizes, and the sizes reach over several blocks."""
    return f"content {number:05} ".encode() * (1 + number % 7 * 200)


@cache
def digest_of(number: int) -> str:
    return hashlib.sha256(content_of(number)).hexdigest()


def config_of(place: Path, layout: str) -> StorageConfig:
    return StorageConfig.model_validate({"root_dir": str(place / "root"), "layout": layout})


def opened(place: Path) -> LmdbCatalog:
    catalog = open_catalog(place / "catalog")
    assert isinstance(catalog, LmdbCatalog)
    return catalog


def work(place: Path, layout: str, cycle: int, process: int, threads: int) -> None:
    """Finalize until killed; this is what a child process does."""
    plant(os.environ.get(VARIABLE, ""))
    threading.excepthook = fail
    config = config_of(place, layout)
    with opened(place) as catalog:
        each = [
            threading.Thread(target=work_in_thread, args=(place, config, catalog, f"{cycle}-{process}-{number}"))
            for number in range(threads)
        ]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()


def fail(failure: threading.ExceptHookArgs) -> None:
    """End the process when one of its threads fails; the parent reports that."""
    sys.__excepthook__(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(1)


def work_in_thread(place: Path, config: StorageConfig, catalog: LmdbCatalog, name: str) -> None:
    chance = random.Random(name)
    log = os.open(place / f"log-{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for count in range(sys.maxsize):
        number = chance.randrange(CONTENTS if chance.random() < 0.5 else CONTENTS_MAX)
        source = place / "incoming" / f"{name}-{count}.part"
        source.write_bytes(content_of(number))
        artifact = f"work {chance.randrange(WORKS)}"
        # The host tells the keys apart; the name of the file is the same for all of them.
        url = f"https://host-{chance.randrange(NAMES)}.example/paper.pdf"
        known = catalog.get(artifact_id=artifact, source_url=url, resolver="r")
        variant = chance.choice(("text", "html", None)) if known is not None else None
        call = Call(artifact, url, variant, number, str(source))
        write(log, call)
        finalize_candidate_download(
            source,
            artifact_id=artifact,
            source_url=url,
            resolver="r",
            variant=variant,
            run_id=name,
            catalog=catalog,
            cfg_storage=config,
        )
        write(log, structs.replace(call, acknowledged=True))


def write(log: int, call: Call) -> None:
    """Append a line."""
    os.write(log, json.encode(call) + b"\n")


def start(place: Path, layout: str, cycle: int, process: int, threads: int) -> subprocess.Popen[bytes]:
    arguments = ["--child", str(place), "--layout", layout, "--threads", str(threads)]
    arguments += ["--cycle", str(cycle), "--process", str(process)]
    return subprocess.Popen([sys.executable, "-m", "tools.faults.finalize_kill", *arguments])


def logs(place: Path) -> Iterator[list[Call]]:
    """Yield what each thread wrote, without a line that was torn."""
    for log in sorted(place.glob("log-*")):
        lines = log.read_bytes().split(b"\n")[:-1]
        yield [json.decode(line, type=Call) for line in lines]


def violations(place: Path, layout: str) -> tuple[int, int, list[str]]:
    """Return the numbers of acknowledged outcomes and of records, and what is wrong."""
    wrong: list[str] = []
    acknowledged = 0
    config = config_of(place, layout)
    storage._open.clear()
    with opened(place) as catalog:
        store = storage.open_storage(config, catalog)
        wrong += staged(store)
        wrong += dangling(catalog, store)
        try:
            assert_consistent(catalog)
        except AssertionError as error:
            wrong.append(f"the indexes do not agree: {error}")
        contents = known_contents(catalog)
        for log in logs(place):
            acknowledged += sum(call.acknowledged for call in log)
            for call in log:
                key = (call.artifact_id, call.source_url, call.variant, digest_of(call.content))
                if key in contents:
                    continue
                if call.acknowledged:
                    wrong.append(f"acknowledged, but not there: {call}")
                elif call == log[-1] and not is_kept(call):
                    wrong.append(f"neither stored nor kept: {call}")
        return acknowledged, sum(1 for _ in catalog.iter_records()), wrong


def is_kept(call: Call) -> bool:
    source = Path(call.source)
    return source.exists() and source.read_bytes() == content_of(call.content)


def known_contents(catalog: LmdbCatalog) -> set[tuple[str, str, str | None, str | None]]:
    """Return every content under its key, those of conflicts too."""
    found: set[tuple[str, str, str | None, str | None]] = set()
    for record in catalog.iter_records():
        key = record.artifact_id, record.source_url
        found.add((*key, None, record.sha256))
        found |= {(*key, each.variant, each.sha256) for each in catalog.get_variants(record.id)}
        found |= {(*key, each.variant, each.sha256) for each in catalog.get_conflicts(record.id)}
    return found


def run(place: Path, options: argparse.Namespace) -> Figures:
    figures = Figures()
    chance = random.Random(options.seed)
    deadline = time.monotonic() + options.seconds
    (place / "incoming").mkdir()
    opened(place).close()
    while not figures.cycles or (time.monotonic() < deadline and not figures.violations):
        cycle = figures.cycles
        children = [start(place, options.layout, cycle, each, options.threads) for each in range(options.processes)]
        while len(list(place.glob(f"log-{cycle}-*"))) < options.processes and all(
            child.poll() is None for child in children
        ):
            time.sleep(0.01)
        time.sleep(chance.random() * LIFE_SECONDS_MAX)
        if chance.random() < 0.5:
            figures.kills += kill(chance.choice(children))
            time.sleep(chance.random() * LIFE_SECONDS_MAX / 2)
        for child in children:
            figures.kills += kill(child)
        figures.cycles += 1
        figures.acknowledged, figures.records, wrong = violations(place, options.layout)
        figures.violations += len(wrong)
        for finding in wrong[:20]:
            print(finding)
    return figures


def kill(child: subprocess.Popen[bytes]) -> int:
    """Kill a child that lives; one that ended by itself is an error of the harness or of what it runs."""
    if child.returncode is not None:
        return 0
    child.kill()
    if child.wait() != -signal.SIGKILL:
        raise SystemExit(f"a child ended by itself with status {child.returncode}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=4, help="threads of each process")
    parser.add_argument("--layout", choices=("cas", "policy_path"), default="cas")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which processes are killed")
    parser.add_argument("--dir", type=Path, help="where to work; a temporary folder by default")
    for name, kind in (("--child", Path), ("--cycle", int), ("--process", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        work(options.child, options.layout, options.cycle, options.process, options.threads)
        return 0
    with tempfile.TemporaryDirectory(dir=options.dir) as place:
        figures = run(Path(place), options)
    for name in figures.__struct_fields__:
        print(f"{name:>13} {getattr(figures, name):>9,}")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
