"""Compaction: the same rows in a smaller file, for whoever opens it then, and never under anybody's feet."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import lmdb
import pytest

from kvcatalog.errors import CatalogError, CatalogLockedError, DatabaseDamagedError, StorageFullError
from kvcatalog.kv import compaction, door, engine, preflight
from kvcatalog.kv.compaction import compact_environment
from kvcatalog.kv.copying import copy_environment, copy_rows
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.table import Table
from tests.killing import deaths, steps_of
from tests.support import ROWS, SETS, TABLES, all_rows, child, findings, finished, made, put_rows, said, tell

PAGE = 4096
Rows = dict[Table, list[tuple[bytes, bytes]]]


def fill(environment: Environment, seed: int = 1) -> None:
    """Store rows of many sizes and sets with one and with thousands of values, and delete much of it again."""
    chance = random.Random(seed)
    with environment.write() as transaction:
        for number in range(3000):
            transaction.put(ROWS, b"%06d" % number, b"v" * chance.choice([0, 10, 300, 3000, 9000]))
            transaction.put(SETS, b"%d" % chance.choice([1, 2, number]), number.to_bytes(8, "big"))
    with environment.write() as transaction:
        for number in range(0, 3000, 2):
            transaction.delete(ROWS, b"%06d" % number)


def rows_of(environment: Environment) -> Rows:
    return {table: all_rows(environment, table) for table in TABLES}


def filled(folder: Path) -> Rows:
    environment = made(folder)
    fill(environment)
    rows = rows_of(environment)
    environment.close()
    return rows


def reopened(folder: Path) -> Rows:
    environment = open_environment(folder, TABLES)
    try:
        return rows_of(environment)
    finally:
        environment.close()


def test_the_same_rows_take_less_room(engine_kind: int, folder: Path) -> None:
    rows = filled(folder)
    os.chmod(folder / preflight.DATA_FILE, 0o640)
    before = (folder / preflight.DATA_FILE).stat()
    assert compact_environment(folder) == (before.st_size, (folder / preflight.DATA_FILE).stat().st_size)
    after = (folder / preflight.DATA_FILE).stat()
    assert after.st_size < before.st_size * 0.7
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert sorted(os.listdir(folder)) == [preflight.DATA_FILE, preflight.LOCK_FILE]
    assert preflight.check_data_file(folder) == engine_kind
    assert findings(folder) == []
    assert reopened(folder) == rows
    environment = open_environment(folder, TABLES)
    put_rows(environment, [(b"more", b"x")])
    environment.close()
    assert findings(folder) == []


def test_a_file_with_pages_out_of_place_is_left_as_it_is(engine_kind: int, folder: Path) -> None:
    filled(folder)
    file = folder / preflight.DATA_FILE
    image = file.read_bytes()
    pages = [image[start : start + PAGE] for start in range(0, len(image), PAGE)]
    leaves = [number for number, page in enumerate(pages) if page[:8] == number.to_bytes(8, "little")]
    one, other = leaves[-1], leaves[-2]
    pages[one], pages[other] = pages[other], pages[one]
    damaged = b"".join(pages)
    file.write_bytes(damaged)
    with pytest.raises(DatabaseDamagedError, match="belongs lies page"):
        compact_environment(folder)
    assert file.read_bytes() == damaged
    assert sorted(os.listdir(folder)) == [preflight.DATA_FILE, preflight.LOCK_FILE]


@pytest.mark.parametrize("read_only", [False, True])
def test_it_is_refused_while_this_process_has_it_open(engine_kind: int, folder: Path, read_only: bool) -> None:
    rows = filled(folder)
    environment = open_environment(folder, TABLES, read_only=read_only)
    # What drops LMDB's own locks of this process must not open the way.
    (folder / preflight.LOCK_FILE).read_bytes()
    with pytest.raises(CatalogLockedError):
        compact_environment(folder)
    assert rows_of(environment) == rows
    environment.close()
    compact_environment(folder)
    assert reopened(folder) == rows


HOLDER = """
from kvcatalog.kv.environment import open_environment
from tests.support import ROWS, TABLES, put_rows
environment = open_environment(sys.argv[1], TABLES, read_only=sys.argv[2] == "True")
print("open", flush=True)
sys.stdin.readline()
if not environment.read_only:
    put_rows(environment, [(b"by the other", b"x")])
environment.close()
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_it_is_refused_while_another_process_has_it_open(engine_kind: int, folder: Path, read_only: bool) -> None:
    rows = filled(folder)
    other = child(HOLDER, folder, read_only)
    assert said(other) == "open"
    with pytest.raises(CatalogLockedError):
        compact_environment(folder)
    tell(other, "go")
    finished(other)
    if not read_only:
        rows[ROWS].append((b"by the other", b"x"))
    compact_environment(folder)
    assert reopened(folder) == rows


def test_who_opens_meanwhile_waits_and_has_the_new_file(
    engine_kind: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(folder)
    others = []

    def while_it_is_shut() -> None:
        others.extend([child(HOLDER, folder, read_only) for read_only in (False, True)])
        thread.start()
        time.sleep(0.5)
        assert not opened

    opened: list[Rows] = []
    thread = threading.Thread(target=lambda: opened.append(reopened(folder)))
    hook(monkeypatch, while_it_is_shut)
    compact_environment(folder)
    thread.join()
    assert opened == [rows]
    for other in others:
        assert said(other) == "open"
        tell(other, "go")
        finished(other)
    rows[ROWS].append((b"by the other", b"x"))
    assert reopened(folder) == rows
    assert findings(folder) == []


def hook(monkeypatch: pytest.MonkeyPatch, before_the_exchange: Callable[[], object]) -> None:
    real = door.forget_lock_table

    def hooked(path: engine.StrPath) -> None:
        before_the_exchange()
        real(path)

    monkeypatch.setattr(door, "forget_lock_table", hooked)


STRANGER = """
import lmdb
try:
    with lmdb.open(sys.argv[1], readonly=sys.argv[2] == "True", max_dbs=9, map_size=1 << 30) as environment:
        with environment.begin(db=environment.open_db(b"rows", create=False)) as transaction:
            print("rows", transaction.stat()["entries"], flush=True)
except lmdb.Error as error:
    print("refused", type(error).__name__, flush=True)
"""


def waits_for_a_lock(process: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and str(process) in line.split() for line in lines)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_stranger_who_waits_for_the_lock_is_turned_away_and_never_gets_the_old_file(
    folder: Path, read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(folder)
    strangers = []

    def come() -> None:
        strangers.append(child(STRANGER, folder, read_only))
        while not waits_for_a_lock(strangers[0].pid):
            assert strangers[0].poll() is None, finished(strangers[0])
            time.sleep(0.01)

    hook(monkeypatch, come)
    compact_environment(folder)
    assert finished(strangers[0]).strip() == "refused InvalidError"
    assert finished(child(STRANGER, folder, read_only)).strip() == f"rows {len(rows[ROWS])}"
    assert reopened(folder) == rows


def test_a_door_that_stays_shut_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder)
    monkeypatch.setattr(door, "WAIT_SECONDS_MAX", 0.05)
    with door.alone(folder):
        with pytest.raises(CatalogLockedError, match="compacted"):
            open_environment(folder, TABLES)
        with pytest.raises(CatalogLockedError):
            compact_environment(folder)
    open_environment(folder, TABLES).close()


def test_killed_at_any_step_it_leaves_a_whole_environment(folder: Path) -> None:
    rows = filled(folder)
    template = folder.with_name("template")
    folder.rename(template)

    def again() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)

    again()
    compact_environment(folder)
    expected = (folder / preflight.DATA_FILE).stat().st_size
    count = 0
    for count, death in enumerate(deaths(lambda: compact_environment(folder), again), 1):  # noqa: B007
        assert reopened(folder) == rows, death
        compact_environment(folder)
        assert (folder / preflight.DATA_FILE).stat().st_size == expected, death
        assert sorted(os.listdir(folder)) == [preflight.DATA_FILE, preflight.LOCK_FILE], death
        assert reopened(folder) == rows, death
    assert count > 5
    again()
    assert {"mkdir", "fsync", "pwrite", "rename"} <= set(steps_of(lambda: compact_environment(folder)))


def test_a_copy_that_differs_never_takes_the_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = filled(folder)
    real = copy_rows

    def short(source: engine.StrPath, target: engine.StrPath, progress: Any = None) -> None:
        real(source, target, progress)
        with lmdb.open(os.fspath(target), max_dbs=9, map_size=1 << 30) as raw, raw.begin(write=True) as transaction:
            transaction.delete(rows[ROWS][0][0], db=raw.open_db(b"rows", transaction))

    monkeypatch.setattr(compaction, "copy_rows", short)
    with pytest.raises(DatabaseDamagedError, match="other rows"):
        compact_environment(folder)
    assert reopened(folder) == rows
    assert sorted(os.listdir(folder)) == [preflight.DATA_FILE, preflight.LOCK_FILE]


def test_a_copy_of_one_moment_while_others_write(environment: Environment, folder: Path, tmp_path: Path) -> None:
    fill(environment)
    with environment.write() as transaction:
        for number in range(1, 3000, 30):
            transaction.delete(ROWS, b"%06d" % number)
    stop = threading.Event()

    keys = [b"%06d" % number for number in range(1, 3000, 30)]  # on pages all over the file

    def write() -> None:
        for number in range(200):  # each makes the file half a megabyte longer while a copy is under way
            put_rows(environment, [(key, b"%09d" % number) for key in keys])
            if stop.wait(0.01):
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            target = tmp_path / str(number)
            target.mkdir()
            with (target / preflight.DATA_FILE).open("wb") as file:

                def keep(piece: bytes, file: BinaryIO = file) -> None:
                    time.sleep(0.05)  # so that much is written before the rest is read
                    file.write(piece)

                copy_environment(folder, keep)
            copied = open_environment(target, TABLES, read_only=True, locking=False)
            rows = dict(all_rows(copied))
            copied.close()
            assert len({rows[key] for key in keys}) == 1
            assert len(rows) == 1500
            assert findings(target) == []
            assert os.listdir(target) == [preflight.DATA_FILE]
    finally:
        stop.set()
        thread.join()


def test_damage_is_an_error_and_kills_nobody(engine_kind: int, folder: Path) -> None:
    filled(folder)
    whole = (folder / preflight.DATA_FILE).read_bytes()
    chance = random.Random(4)
    refused = 0
    for _ in range(12):
        damaged = bytearray(whole)
        for _ in range(40):
            page = chance.randrange(2, len(whole) // 4096) * 4096
            damaged[page : page + 24] = chance.randbytes(24)
        (folder / preflight.DATA_FILE).write_bytes(damaged)
        try:
            compact_environment(folder)
        except CatalogError:
            refused += 1
            assert (folder / preflight.DATA_FILE).read_bytes() == damaged
            assert sorted(os.listdir(folder)) == [preflight.DATA_FILE, preflight.LOCK_FILE]
    assert refused > 8


def test_progress_ends_at_all_of_it(folder: Path) -> None:
    rows = filled(folder)
    total = sum(map(len, rows.values()))
    seen: dict[str, list[tuple[int, int]]] = {}
    compact_environment(folder, progress=lambda what, done, total: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["copy", "check the copy", "compare"]
    for told in seen.values():
        assert told[-1] == (total, total)
        assert told == sorted(told)


def test_a_full_disk_is_told_from_damage(small_disk: Path) -> None:
    folder = small_disk / "environment"
    environment = made(folder)
    put_rows(environment, ((b"%d" % number, b"v" * 90) for number in range(900)))
    rows = rows_of(environment)
    environment.close()
    size = (folder / preflight.DATA_FILE).stat().st_size
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        for left in range(0, size, 4096):
            filler.truncate(0)
            os.posix_fallocate(filler.fileno(), 0, free - left) if free > left else None
            with pytest.raises(StorageFullError):
                compact_environment(folder)
            assert sorted(os.listdir(folder)) == [preflight.DATA_FILE, preflight.LOCK_FILE]
    assert reopened(folder) == rows
