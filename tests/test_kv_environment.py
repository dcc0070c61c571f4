from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kvcatalog.errors import (
    CatalogClosedError,
    CatalogError,
    CatalogUnavailableError,
    DatabaseDamagedError,
    MapLimitError,
    StorageFailedError,
    StoragePermissionError,
    TooManyReadersError,
)
from kvcatalog.kv import engine, preflight
from kvcatalog.kv import environment as module
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.table import Table
from tests.support import (
    ROWS,
    TABLES,
    all_rows,
    child,
    findings,
    finished,
    forked,
    made,
    mounted,
    need_root,
    put_rows,
    run,
    said,
    tell,
    wait_until,
)

SMALL = 1 << 20


@pytest.fixture
def small(engine_kind: int, folder: Path) -> Iterator[Environment]:
    """An environment with the smallest map."""
    opened = made(folder, map_size_bytes=SMALL)
    yield opened
    if not opened._closed:
        opened.close()
    assert findings(folder) == []


def put_growing(environment: Environment, key: bytes, value: bytes) -> None:
    while True:
        try:
            return put_rows(environment, [(key, value)])
        except lmdb.MapFullError:
            environment.grow()


def in_threads(*works: Callable[[], object]) -> None:
    """Run all at once; raises what one of them raised."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    for failure in failures:
        raise failure


def test_the_map_grows_among_threads_that_read_and_write(small: Environment) -> None:
    done = threading.Event()

    def write(slot: int) -> None:
        for number in range(150):
            put_growing(small, b"%d %04d" % (slot, number), os.urandom(8) * 1500)

    def read() -> None:
        while not done.is_set():
            for key, value in all_rows(small):
                assert value == value[:8] * 1500, key
            small.file_figures()
            small.clear_stale_readers()

    reader = threading.Thread(target=lambda: in_threads(read, read))
    reader.start()
    try:
        in_threads(*(lambda slot=slot: write(slot) for slot in range(3)))
    finally:
        done.set()
        reader.join()
    assert len(all_rows(small)) == 450
    assert small.file_figures()[1] > SMALL


def test_growth_by_another_process_is_seen_here(small: Environment, folder: Path) -> None:
    put_rows(small, [(b"first", b"1")])
    grown = """
import sys
from pathlib import Path
from tests.support import *
environment = open_environment(Path(sys.argv[1]), TABLES, map_size_bytes=1 << 26)
for number in range(20):
    put_rows(environment, [(b"%d %d" % (int(sys.argv[2]), number), b"x" * 200_000)])
environment.close()
"""
    run(grown, folder, 1)
    assert len(all_rows(small)) == 21
    put_rows(small, [(b"last", b"1")])
    assert len(all_rows(small)) == 22


def test_processes_that_grow_the_map_in_turns_see_each_other(small: Environment, folder: Path) -> None:
    growing = """
import sys
from pathlib import Path
import lmdb
from tests.support import *
environment = open_environment(Path(sys.argv[1]), TABLES, map_size_bytes=1 << 20)
for number in range(60):
    while True:
        try:
            put_rows(environment, [(b"%d %d" % (int(sys.argv[2]), number), b"x" * 60_000)])
            break
        except lmdb.MapFullError:
            environment.grow()
    assert all_rows(environment)
environment.close()
"""
    processes = [child(growing, folder, number) for number in range(2)]
    for number in range(60):
        put_growing(small, b"here %d" % number, b"x" * 60_000)
        assert all_rows(small)
    for process in processes:
        finished(process)
    assert len(all_rows(small)) == 180


def test_a_map_that_others_keep_growing_is_adopted_each_time(
    small: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted: list[int] = []
    real = small._raw_or_closed

    class Resized:
        def begin(self, *, write: bool) -> Any:  # noqa: ARG002
            raise lmdb.MapResizedError("injected")

    monkeypatch.setattr(small, "_adopt_map_size", lambda: adopted.append(1))
    monkeypatch.setattr(small, "_raw_or_closed", lambda: real() if len(adopted) >= 3 else Resized())
    assert all_rows(small) == []
    assert len(adopted) == 3


def test_growing_waits_for_snapshots_up_to_a_limit(small: Environment) -> None:
    put_rows(small, [(b"a", b"1")])
    entered, leave = threading.Event(), threading.Event()
    seen: list[object] = []

    def hold() -> None:
        with small.read() as snapshot:
            entered.set()
            leave.wait(60)
            seen.append(snapshot.get(ROWS, b"a"))

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(60)
    with pytest.raises(MapLimitError, match="held for more than"):
        small.grow(rest_seconds=0.05)
    put_rows(small, [(b"b", b"1")])  # nobody has to wait after it gave up
    growing = threading.Thread(target=small.grow)
    growing.start()
    wait_until(lambda: small._gate._resting)
    later: list[object] = []
    late = threading.Thread(target=lambda: later.append(all_rows(small)))
    late.start()
    assert growing.is_alive()
    leave.set()
    for thread in (holder, growing, late):
        thread.join(60)
    assert seen == [b"1"]
    assert later == [[(b"a", b"1"), (b"b", b"1")]]
    for number in range(20):  # fits now without growing again
        put_rows(small, [(b"%d" % number, bytes(50_000))])


def test_what_needs_rest_fails_at_once_inside_a_snapshot_of_the_same_thread(small: Environment) -> None:
    with small.read() as snapshot:
        for work in (small.grow, small.reopen, small.close):
            with pytest.raises(MapLimitError, match="same thread"):
                work()
        assert snapshot.get(ROWS, b"a") is None
        put_rows(small, [(b"a", b"1")])
    assert all_rows(small) == [(b"a", b"1")]
    small.close()
    with pytest.raises(CatalogClosedError):
        all_rows(small)


def test_a_thread_with_a_snapshot_may_begin_another_while_others_wait_to_grow(small: Environment) -> None:
    with small.read():
        growing = threading.Thread(target=small.grow)
        growing.start()
        wait_until(lambda: small._gate._resting)
        put_rows(small, [(b"a", b"1")])
        assert all_rows(small) == [(b"a", b"1")]
    growing.join(60)
    assert not growing.is_alive()


LIMITED = """
import resource, sys
from pathlib import Path
import lmdb
from kvcatalog.errors import MapLimitError
from tests.support import *
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
environment = open_environment(Path(sys.argv[1]), TABLES)
put_rows(environment, [(b"limited", b"1")])
print(len(all_rows(environment)), flush=True)
sys.stdin.readline()
print(len(all_rows(environment)), flush=True)
try:
    while True:
        environment.grow()
except MapLimitError:
    pass
put_rows(environment, [(b"still", b"1")])
print(len(all_rows(environment)))
environment.close()
"""


def test_few_addresses_suffice_though_others_map_a_terabyte(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"here", b"1")])
    limited = child(LIMITED, folder)
    assert said(limited) == "2"
    for number in range(30):  # beyond what the other has mapped
        put_rows(environment, [(b"%d" % number, bytes(10_000_000))])
    tell(limited, "go")
    assert finished(limited).split() == ["32", "33"]
    assert (b"still", b"1") in all_rows(environment)


# A process that reads in so many threads, and stays in them until it is killed.
READERS = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from tests.support import *
environment = open_environment(Path(sys.argv[1]), TABLES)
with ExitStack() as stack:
    for _ in range(int(sys.argv[2])):
        stack.enter_context(environment.read()).get(ROWS, b"a")
    print("reading", flush=True)
    time.sleep(600)
"""


def slots(environment: Environment) -> int:
    raw = environment._raw
    assert raw is not None
    return sum(1 for line in raw.readers().splitlines() if line.strip()[:1].isdigit())


def test_a_table_full_of_dead_readers_is_cured(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"a", b"1")])
    raw = environment._raw
    assert raw is not None
    room = raw.info()["max_readers"] - slots(environment)
    readers = child(READERS, folder, room - 1)
    assert said(readers) == "reading"
    with ExitStack() as stack, pytest.raises(TooManyReadersError):
        for _ in range(10):
            stack.enter_context(environment.read())
    readers.kill()
    readers.communicate()
    with ExitStack() as stack:
        for _ in range(20):
            assert stack.enter_context(environment.read()).get(ROWS, b"a") == b"1"
    assert slots(environment) < 50


def test_stale_readers_are_cleared_on_opening_and_on_demand(environment: Environment, folder: Path) -> None:
    for on_opening in (False, True):
        readers = child(READERS, folder, 5)
        assert said(readers) == "reading"
        assert environment.clear_stale_readers() == 0  # they live
        readers.kill()
        readers.communicate()
        before = slots(environment)
        if on_opening:
            environment.reopen()
            assert slots(environment) <= before - 5
        else:
            assert environment.clear_stale_readers() == 5
            assert slots(environment) == before - 5


def test_slots_of_a_dead_process_that_had_our_id_are_cleared_on_opening(environment: Environment, folder: Path) -> None:
    """As in a container that is started again beside others: its process has the id that the one before it had."""
    keeper = child(READERS, folder, 0)
    assert said(keeper) == "reading"
    readers = child(READERS, folder, 5)
    assert said(readers) == "reading"
    readers.kill()
    readers.communicate()
    environment.close()
    lock_file = folder / "lock.mdb"
    held = lock_file.read_bytes()
    theirs, ours = (process.to_bytes(4, "little") for process in (readers.pid, os.getpid()))
    assert held.count(theirs) == 5
    with open(lock_file, "r+b") as file:
        file.write(held.replace(theirs, ours))
    again = open_environment(folder, TABLES)
    try:
        assert slots(again) == 0
        put_rows(again, [(b"a", b"1")])
        assert all_rows(again) == [(b"a", b"1")]
    finally:
        again.close()
        keeper.kill()
        keeper.communicate()


def test_an_environment_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    for name in (None, b"theirs"):
        with lmdb.open(str(tmp_path), max_dbs=4) as theirs, theirs.begin(write=True) as transaction:
            transaction.put(b"key", b"value", db=theirs.open_db(name, transaction))
        before = (tmp_path / "data.mdb").read_bytes()
        for read_only in (True, False):
            with pytest.raises(DatabaseDamagedError, match="no catalog of ours") as raised:
                open_environment(tmp_path, TABLES, read_only=read_only)
            assert "another program" in raised.value.advice
        assert (tmp_path / "data.mdb").read_bytes() == before


@pytest.mark.usefixtures("engine_kind")
def test_a_process_opens_an_environment_once(folder: Path, tmp_path: Path) -> None:
    environment = made(folder)
    (tmp_path / "link").symlink_to(folder)
    again = [open_environment(path, TABLES) for path in (folder, tmp_path / "link", folder / ".." / folder.name)]
    again.append(open_environment(folder, TABLES, read_only=True))
    assert all(other is environment for other in again)
    for other in again:
        other.close()
        put_rows(environment, [(b"a", b"1")])
    environment.close()
    with pytest.raises(CatalogClosedError):
        put_rows(environment, [])
    fresh = open_environment(folder, TABLES)
    assert fresh is not environment
    assert all_rows(fresh) == [(b"a", b"1")]
    environment.close()  # once too often
    assert all_rows(fresh) == [(b"a", b"1")]
    fresh.close()


def test_other_settings_for_an_open_environment_are_refused(environment: Environment, folder: Path) -> None:
    with pytest.raises(CatalogUnavailableError, match="already open"):
        open_environment(folder, TABLES, durable=False)
    environment.close()
    reader = open_environment(folder, TABLES, read_only=True)
    with pytest.raises(CatalogUnavailableError, match="already open"):
        open_environment(folder, TABLES)
    reader.close()
    loose = open_environment(folder, TABLES, durable=False)
    put_rows(loose, [(b"a", b"1")])
    loose.close()


def test_close_waits_for_transactions(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"a", b"1")])
    entered, leave = threading.Event(), threading.Event()
    seen: list[object] = []

    def hold() -> None:
        with environment.read() as snapshot:
            entered.set()
            leave.wait(60)
            seen.append(snapshot.get(ROWS, b"a"))

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(60)
    closing = threading.Thread(target=environment.close)
    closing.start()
    wait_until(lambda: environment._gate._resting)
    refused: list[BaseException] = []

    def late() -> None:
        try:
            all_rows(environment)
        except CatalogError as error:
            refused.append(error)

    latecomer = threading.Thread(target=late)
    latecomer.start()
    again = open_environment(folder, TABLES)  # in time: it stays open
    assert again is environment
    leave.set()
    for thread in (holder, closing, latecomer):
        thread.join(60)
    assert (seen, refused) == ([b"1"], [])
    environment.close()
    with pytest.raises(CatalogClosedError):
        all_rows(environment)


def test_a_close_that_gave_up_waiting_can_be_repeated(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS_MAX", 0.02)
    with environment.read() as snapshot:
        with pytest.raises(MapLimitError):
            in_threads(environment.close)
        assert snapshot.get(ROWS, b"a") is None
        assert open_environment(folder, TABLES) is environment
        environment.close()
    environment.close()
    fresh = open_environment(folder, TABLES)
    assert fresh is not environment
    fresh.close()


def test_a_closed_environment_refuses_everything(environment: Environment) -> None:
    environment.close()
    for work in (
        environment.grow,
        environment.reopen,
        environment.clear_stale_readers,
        environment.file_figures,
        environment.read().__enter__,
        environment.write().__enter__,
    ):
        with pytest.raises(CatalogClosedError):
            work()


def test_no_descriptor_and_no_lock_is_left_behind(environment: Environment, folder: Path) -> None:
    def held() -> list[str]:
        links = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        return sorted(link for link in links if link.startswith(str(folder)))

    count = len(held())
    assert count
    environment.reopen()
    assert len(held()) == count
    environment.close()
    assert held() == []
    missing = Table("missing")
    with pytest.raises(DatabaseDamagedError):
        open_environment(folder, (*TABLES, missing), read_only=True)
    assert held() == []
    made(folder).close()
    assert held() == []


def test_a_panic_is_cured_by_opening_again(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    put_rows(environment, [(b"a", b"1")])
    real = environment._raw_or_closed
    reopened: list[int] = []

    class Panicking:
        def begin(self, *, write: bool) -> Any:  # noqa: ARG002
            raise lmdb.PanicError("injected")

    monkeypatch.setattr(environment, "reopen", lambda: reopened.append(1))
    monkeypatch.setattr(environment, "_raw_or_closed", lambda: real() if reopened else Panicking())
    assert all_rows(environment) == [(b"a", b"1")]
    monkeypatch.setattr(environment, "_raw_or_closed", Panicking)
    with pytest.raises(StorageFailedError):
        all_rows(environment)
    assert len(reopened) == 2


def test_a_file_that_lasts_not_until_the_reopening_is_a_typed_error(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"a", b"1")])
    data = folder / preflight.DATA_FILE
    moved = data.rename(folder.parent / "moved")
    with pytest.raises(CatalogUnavailableError):
        environment.reopen()
    with pytest.raises(CatalogUnavailableError):
        all_rows(environment)
    moved.rename(data)
    assert all_rows(environment) == [(b"a", b"1")]


def test_for_reading_only(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"a", b"1")])
    environment.close()
    reader = open_environment(folder, TABLES, read_only=True)
    assert all_rows(reader) == [(b"a", b"1")]
    with pytest.raises(CatalogUnavailableError, match="reading only"):
        put_rows(reader, [])
    run(WRITE_ONE, folder)
    assert len(all_rows(reader)) == 2
    reader.close()


WRITE_ONE = """
import sys
from pathlib import Path
from tests.support import *
environment = open_environment(Path(sys.argv[1]), TABLES)
put_rows(environment, [(b"from another", b"1")])
environment.close()
"""


@pytest.fixture
def read_only_mount(environment: Environment, folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The environment, closed, where it cannot be written."""
    put_rows(environment, [(b"a", b"1")])
    environment.close()
    commands = ["mount", "--bind", folder], ["mount", "-o", "remount,ro,bind"]
    with mounted(tmp_path / "mounted", *commands) as place:
        yield place


@pytest.mark.parametrize("lock_file", ["whole", "sparse", "missing"])
def test_read_only_media_are_read_and_not_written(read_only_mount: Path, folder: Path, lock_file: str) -> None:
    lock = folder / preflight.LOCK_FILE
    if lock_file != "whole":
        lock.unlink()
    if lock_file == "sparse":
        lock.touch()
        os.truncate(lock, 70_000)
    reader = open_environment(read_only_mount, TABLES, read_only=True)
    assert all_rows(reader) == [(b"a", b"1")]
    reader.reopen()
    assert all_rows(reader) == [(b"a", b"1")]
    assert reader.clear_stale_readers() == 0
    reader.close()
    with pytest.raises(StoragePermissionError):
        open_environment(read_only_mount, TABLES)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("data_mode", "lock_mode", "opens"),
    [(0o644, 0o644, False), (0o600, 0o666, False), (0o644, 0o666, True), (0o666, 0o644, False), (0o666, 0o666, True)],
)
def test_another_user_gets_what_the_permissions_give(
    environment: Environment, folder: Path, read_only: bool, data_mode: int, lock_mode: int, opens: bool
) -> None:
    need_root()
    environment.close()
    (folder / preflight.DATA_FILE).chmod(data_mode)
    (folder / preflight.LOCK_FILE).chmod(lock_mode)
    for path in (folder, *list(folder.parents)[:-2]):
        path.chmod(0o755)

    def as_somebody_else() -> str:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            opened = open_environment(folder, TABLES, read_only=read_only)
        except CatalogError as error:
            return type(error).__name__
        rows = all_rows(opened)
        opened.close()
        return f"{len(rows)} rows"

    allowed = opens and (read_only or data_mode == 0o666)
    assert forked(as_somebody_else) == ("0 rows" if allowed else StoragePermissionError.__name__)


def test_figures_of_the_file(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"a", bytes(100_000))])
    size, used = environment.file_figures()
    assert size == (folder / preflight.DATA_FILE).stat().st_size
    assert 100_000 < used <= size


def test_the_engine_of_the_file_counts_not_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (engine.ENGINE_0_9, engine.ENGINE_1_0):
        monkeypatch.setattr(engine, "DEFAULT_ENGINE", kind)
        made(tmp_path / str(kind)).close()
        monkeypatch.setattr(engine, "DEFAULT_ENGINE", 1 - kind)
        opened = made(tmp_path / str(kind))
        assert opened._raw is not None
        assert opened._raw.lib_version()[0] == kind
        opened.close()


def test_the_guard_holds_the_lock_file(environment: Environment, folder: Path) -> None:
    """Nobody else gets byte 0 for himself alone, which is how the engine tells that it is the first."""
    for path in folder.iterdir():
        path.read_bytes()

    code = f"import fcntl; file = open({str(folder / preflight.LOCK_FILE)!r}, 'r+b')\n"
    code += "try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0); print('mine')\n"
    code += "except BlockingIOError: print('held')"
    assert run(code).strip() == "held"
    environment.close()
    assert run(code).strip() == "mine"


def test_a_transaction_that_is_gone_does_not_count(environment: Environment) -> None:
    transaction = environment.read()
    transaction.__enter__()
    del transaction
    environment.reopen(rest_seconds=1)
    assert all_rows(environment) == []


def test_errors_of_the_operating_system_are_ours(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = folder.with_name("away")
    folder.rename(away)
    with pytest.raises(CatalogUnavailableError):
        environment.file_figures()
    away.rename(folder)

    def fails() -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as broken:
        broken.setattr(environment, "_guard", type("Guard", (), {"renew": staticmethod(fails)}))
        with pytest.raises(CatalogUnavailableError, match="No locks"):
            all_rows(environment)
    assert all_rows(environment) == []


def test_a_map_that_grows_in_the_moment_of_opening_is_opened(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.close()
    open_raw, failures = engine.open_raw, [engine.MapResized("mdb_txn_begin", -30785)] * 3

    def grown_meanwhile(*arguments: Any, **settings: Any) -> engine.RawEnvironment:
        if failures:
            raise failures.pop()
        return open_raw(*arguments, **settings)

    monkeypatch.setattr(engine, "open_raw", grown_meanwhile)
    again = open_environment(folder, TABLES, map_size_bytes=1 << 20)
    assert not failures
    again.close()
