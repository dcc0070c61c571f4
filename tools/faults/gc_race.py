"""Collect garbage without mercy while many threads and processes finalize, and look for a record without its blob.

    python -m tools.faults.gc_race --seconds 60 --processes 2 --threads 16

Child processes finalize the same contents again and again, read each blob after its record, and delete most records.
Another child collects all the time with no minimum of age, looks for records without blobs after each time, restores
and empties the trash now and then, and is killed at random moments with `--kill`. At the end every record must have its
blob, with the right bytes, and the indexes must agree. Exit status 1 says that one of that was not so. KVCATALOG_FAULT
plants one of the mistakes below into the collecting child, or `condemned-not-checked` into those that finalize, to show
that they are seen.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from kvcatalog import finalize_candidate_download, open_catalog, storage
from kvcatalog.clock import now_micros
from kvcatalog.config import StorageConfig
from kvcatalog.errors import CatalogError, NotFoundError
from kvcatalog.gc import plan_garbage
from kvcatalog.removal import Collection
from kvcatalog.removal.executing import Batch
from kvcatalog.removal.trash import empty, restore
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tools.faults import planting
from tools.faults.checking import dangling, missing
from tools.faults.planting import VARIABLE

OVER = "over"
TAKEN = "taken"
PATIENCE_SECONDS = 60.0
"""How long to go on beyond the time that was asked for until anything was taken at all."""

CONDEMNED_NOT_CHECKED = "condemned-not-checked"
MOMENT_SECONDS = 0.2
"""What a planted mistake leaves for others to come in between."""


def config_of(place: Path, layout: str) -> StorageConfig:
    return StorageConfig.model_validate({"root_dir": str(place / "root"), "layout": layout})


def opened(place: Path) -> LmdbCatalog:
    catalog = open_catalog(place / "catalog")
    assert isinstance(catalog, LmdbCatalog)
    return catalog


def finalize(place: Path, layout: str, process: int, threads: int, contents: int) -> None:
    """Finalize until it is over; this is what a child process does."""
    if os.environ.get(VARIABLE) == CONDEMNED_NOT_CHECKED:
        planting.plant(CONDEMNED_NOT_CHECKED)
    config = config_of(place, layout)
    with opened(place) as catalog:
        counts = [0] * threads

        def work(number: int) -> None:
            try:
                counts[number] = finalize_in_thread(place, config, catalog, f"{process}-{number}", contents)
            except BaseException:  # noqa: BLE001 - the parent sees the status
                sys.excepthook(*sys.exc_info())
                os._exit(1)

        each = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
    print(sum(counts))


def finalize_in_thread(place: Path, config: StorageConfig, catalog: LmdbCatalog, worker: str, contents: int) -> int:
    chance = random.Random(worker)
    store = storage.open_storage(config, catalog)
    calls = 0
    while not (place / OVER).exists():
        content = b"content %d" % chance.randrange(contents)
        source = place / f"{worker}.part"
        source.write_bytes(content)
        outcome = finalize_candidate_download(
            source,
            artifact_id=f"work {chance.randrange(10)}",
            source_url=f"https://example.org/{worker}/paper-{chance.randrange(4)}.pdf",
            resolver="r",
            catalog=catalog,
            cfg_storage=config,
        )
        with store.open(store.path_of(outcome.storage_uri or "") or "") as stream:  # only this thread deletes it
            if stream.read() != content:
                raise SystemExit(f"other bytes lie at {outcome.storage_uri}")
        calls += 1
        if chance.random() < 0.9 and outcome.record is not None:
            catalog.delete(outcome.record.id)
    return calls


def collect(place: Path, layout: str, seed: int) -> None:
    """Collect until it is over, and write down how much was taken."""
    plant(os.environ.get(VARIABLE, ""))
    config = config_of(place, layout)
    chance = random.Random(seed)
    with opened(place) as catalog:
        while not (place / OVER).exists():
            with Collection(catalog, config) as collection:
                plan = plan_garbage(catalog, collection.roots, orphan_ttl_days=0, now=now_micros())
                with plan:
                    taken = sum(bool(each.trash) for each in collection.execute(plan.header.plan, plan.items()))
                gone = [finding for store in collection.roots.stores for finding in missing(catalog, store)]
                if gone:
                    raise SystemExit("\n".join(gone))
                with (place / TAKEN).open("a") as log:
                    log.write(f"{taken}\n")
                if chance.random() < 0.2:
                    with suppress(NotFoundError):
                        list(restore(collection, plan.header.plan))
                if chance.random() < 0.2:
                    list(empty(collection.roots, catalog, now=now_micros(), apply=True))


def plant(mistake: str) -> None:
    """Put a mistake into this process; none for an empty name."""
    if not mistake:
        return
    condemn, move = Batch.condemn, Batch.move

    def not_condemned(self: Batch) -> int:
        return len(self._waiting)

    def condemned_late(self: Batch) -> int:
        time.sleep(MOMENT_SECONDS)
        return condemn(self)

    def moved_late(self: Batch) -> None:
        time.sleep(MOMENT_SECONDS)
        move(self)

    if mistake == CONDEMNED_NOT_CHECKED:  # made by those who finalize
        replaced: dict[str, object] = {"move": moved_late}
    elif mistake == "not-condemned":
        replaced = {"condemn": not_condemned, "move": moved_late}
    else:
        replaced = {"condemn": condemned_late, "check_again": lambda _: None}
    for name, replacement in replaced.items():
        setattr(Batch, name, replacement)


def taken_so_far(place: Path) -> int:
    return sum(int(line) for line in (place / TAKEN).read_text().split())


def start(place: Path, options: argparse.Namespace, role: str, number: int) -> subprocess.Popen[str]:
    arguments = ["--child", str(place), "--role", role, "--number", str(number), "--layout", options.layout]
    arguments += ["--threads", str(options.threads), "--contents", str(options.contents)]
    return subprocess.Popen(
        [sys.executable, "-m", "tools.faults.gc_race", *arguments], stdout=subprocess.PIPE, text=True
    )


def run(place: Path, options: argparse.Namespace) -> int:
    with opened(place) as catalog:
        storage.open_storage(config_of(place, options.layout), catalog)
    storage._open.clear()
    chance = random.Random(options.seed)
    deadline = time.monotonic() + options.seconds
    (place / TAKEN).touch()
    finalizing = [start(place, options, "finalize", each) for each in range(options.processes)]
    collecting = [start(place, options, "collect", 0)]
    while all(child.poll() is None for child in (*finalizing, collecting[-1])):
        beyond = time.monotonic() - deadline
        if beyond > PATIENCE_SECONDS or (beyond > 0 and taken_so_far(place)):
            break
        time.sleep(0.8 + chance.random() * 2 if options.kill else 0.2)
        if options.kill and time.monotonic() < deadline:
            collecting[-1].kill()
            collecting.append(start(place, options, "collect", len(collecting)))
    (place / OVER).touch()
    outputs = [child.communicate(timeout=120)[0].split() for child in finalizing]
    for child in collecting:
        child.communicate(timeout=120)
    wrong = [f"a finalizing child ended with status {child.returncode}" for child in finalizing if child.returncode]
    wrong += [] if collecting[-1].returncode == 0 else ["the collecting child failed"]
    with opened(place) as catalog:
        store = storage.open_storage(config_of(place, options.layout), catalog)
        wrong += dangling(catalog, store)
        try:
            assert_consistent(catalog)
        except AssertionError as error:
            wrong.append(f"the indexes do not agree: {error}")
        records = sum(1 for _ in catalog.iter_records())
    for finding in wrong[:20]:
        print(finding)
    facts = {"finalized": sum(int(word) for output in outputs for word in output), "taken": taken_so_far(place)}
    facts |= {"collectors": len(collecting), "records": records, "violations": len(wrong)}
    for name, value in facts.items():
        print(f"{name:>13} {value:>9,}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    parser.add_argument("--processes", type=int, default=2, help="finalizing ones")
    parser.add_argument("--threads", type=int, default=16, help="threads of each of them")
    parser.add_argument("--contents", type=int, default=100, help="the fewer, the more often two meet at one blob")
    parser.add_argument("--layout", choices=("cas", "policy_path"), default="cas")
    parser.add_argument("--kill", action="store_true", help="kill the collecting process now and then")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--dir", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        try:
            if options.role == "collect":
                collect(options.child, options.layout, options.number)
            else:
                finalize(options.child, options.layout, options.number, options.threads, options.contents)
        except CatalogError as error:
            raise SystemExit(f"{options.role}: {error}") from error
        return 0
    with tempfile.TemporaryDirectory(dir=options.dir) as place:
        return run(Path(place), options)


if __name__ == "__main__":
    sys.exit(main())
