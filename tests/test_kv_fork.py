"""A child of a fork may do whatever it likes with what it inherited; the parent's transactions stay as they are."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvcatalog.errors import CatalogClosedError
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.lock_guard import LockGuard
from kvcatalog.kv.transaction import ReadTransaction, WriteTransaction
from tests.support import ROWS, TABLES, all_rows, findings, forked, put_rows, run

OLD = [(b"%05d" % number, b"v" * 100) for number in range(1500)]


def overwrite(environment: Environment, turns: int = 12) -> None:
    """Write so much that pages of a snapshot whose reader slot was freed are used again."""
    for turn in range(turns):
        put_rows(environment, [(b"%05d" % number, b"w%d" % turn * 30) for number in range(0, 1500, 7)])


def reads(environment: Environment) -> object:
    return len(all_rows(environment))


def writes(environment: Environment) -> object:
    put_rows(environment, [(b"from the child", b"1")])
    return dict(all_rows(environment))[b"from the child"]


def closes(environment: Environment) -> object:
    environment.close()
    with pytest.raises(CatalogClosedError), environment.read():
        pass
    return True


def reopens(environment: Environment) -> object:
    path = environment.path
    environment.close()
    again = open_environment(path, TABLES)
    put_rows(again, [(b"reopened", b"1")])
    again.close()
    return True


def clears(environment: Environment) -> object:
    return environment.clear_stale_readers() == 0


def maintains(environment: Environment) -> object:
    environment.reopen()
    environment.grow()
    return len(all_rows(environment))


def drops(environment: Environment) -> object:
    del environment
    gc.collect()
    return True


def forks_again(environment: Environment) -> object:
    writes(environment)
    return forked(lambda: writes(environment))


WORK = [reads, writes, closes, reopens, clears, maintains, drops, forks_again]
LEAVES: list[Callable[[int], object]] = [os._exit, sys.exit]


@pytest.fixture(autouse=True)
def filled(environment: Environment) -> Iterator[None]:
    put_rows(environment, OLD)
    yield
    if not environment._closed:
        put_rows(environment, [(b"still here", b"1")])
        environment.close()
    assert findings(Path(environment.path)) == []


@pytest.mark.parametrize("work", WORK)
def test_fork_while_nothing_is_open(environment: Environment, work: Callable[[Environment], object]) -> None:
    assert forked(lambda: work(environment))
    with environment.read() as snapshot:
        before = list(snapshot.items(ROWS))
        overwrite(environment)
        assert list(snapshot.items(ROWS)) == before


@pytest.mark.parametrize("work", WORK)
def test_fork_while_a_snapshot_is_open(environment: Environment, work: Callable[[Environment], object]) -> None:
    with environment.read() as snapshot:
        assert forked(lambda: work(environment))
        overwrite(environment)
        assert list(snapshot.items(ROWS)) == OLD
    assert reads(environment)


@pytest.mark.parametrize("work", [reads, closes, clears, drops])
def test_fork_while_a_write_transaction_is_open(
    environment: Environment, work: Callable[[Environment], object]
) -> None:
    with environment.read() as snapshot:
        with environment.write() as transaction:
            transaction.put(ROWS, b"mine", b"1")
            if work is reads:
                # The child opens the files anew, which waits for the writer: it goes on once the parent has committed.
                process = os.fork()
                if not process:
                    os._exit(0 if reads(environment) == len(OLD) + 1 else 1)
            else:
                process = 0
                assert forked(lambda: _without_opening(environment, work))
            transaction.put(ROWS, b"mine too", b"1")
            if process:
                transaction.delete(ROWS, b"mine too")
        if process:
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        overwrite(environment)
        assert list(snapshot.items(ROWS)) == OLD
    assert dict(all_rows(environment))[b"mine"] == b"1"


def _without_opening(environment: Environment, work: Callable[[Environment], object]) -> object:
    return True if work is clears else work(environment)


# How a child leaves the `with` block of a transaction that its parent entered: with an error that says so, or with
# whatever it was that it left with.
INSIDE = """
import gc, os, sys
from pathlib import Path
from kvcatalog.errors import CatalogClosedError
from tests.support import *

kind, way = sys.argv[2], sys.argv[3]
environment = made(Path(sys.argv[1]))
old = [(b"%05d" % number, b"v" * 100) for number in range(1500)]
put_rows(environment, old)

def child_part(transaction):
    if way == "os._exit":
        os._exit(7)
    if way == "sys.exit":
        sys.exit(7)
    if way == "raise":
        raise ZeroDivisionError
    if way == "use":
        try:
            put_rows(environment, []); all_rows(environment)
        except BaseException:
            os._exit(1)

def scene():
    try:
        with (environment.read() if kind == "read" else environment.write()) as transaction:
            rows = transaction.items(ROWS)
            first = next(rows)
            if kind == "write":
                transaction.put(ROWS, b"mine", b"1")
            pid = os.fork()
            if not pid:
                if kind == "write" and way == "use":
                    os._exit(7)
                child_part(transaction)
            else:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7, "the child's status"
                if kind == "read":
                    for turn in range(12):
                        put_rows(environment, [(b"%05d" % n, b"w%d" % turn * 30) for n in range(0, 1500, 7)])
                    assert [first, *rows] == old
                return
    except CatalogClosedError:
        assert not pid and way in {"fall out", "use"}
        sys.exit(7)
    except ZeroDivisionError:
        assert not pid
        sys.exit(7)

scene()
gc.collect()
put_rows(environment, [(b"still here", b"1")])
rows = dict(all_rows(environment))
assert rows[b"still here"] == b"1" and (kind == "read" or rows[b"mine"] == b"1")
environment.close()
print("sound", findings(environment.path))
"""


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("way", ["os._exit", "sys.exit", "raise", "fall out", "use"])
def test_ways_to_leave_a_transaction_that_the_parent_entered(environment: Environment, kind: str, way: str) -> None:
    folder = Path(environment.path).parent / "another"
    assert run(INSIDE, folder, kind, way).strip() == "sound []"


@pytest.mark.parametrize("leave", LEAVES)
def test_snapshots_that_a_child_holds_to_its_end_harm_nobody(
    environment: Environment, leave: Callable[[int], object]
) -> None:
    with environment.read() as snapshot:
        kept: list[object] = [snapshot, snapshot.items(ROWS)]
        process = os.fork()
        if not process:
            try:
                kept.clear()
                gc.collect()
                leave(0)
            except SystemExit:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        overwrite(environment)
        assert list(snapshot.items(ROWS)) == OLD


@contextmanager
def busy(environment: Environment) -> Iterator[None]:
    """Let a thread write and another read all the while."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def loop(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:  # noqa: BLE001  raised below
            failures.append(error)

    threads = [
        threading.Thread(target=loop, args=(lambda: put_rows(environment, [(b"busy", os.urandom(50))]),)),
        threading.Thread(target=loop, args=(lambda: all_rows(environment),)),
        threading.Thread(target=loop, args=(environment.reopen,)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.parametrize("work", WORK)
def test_fork_while_other_threads_are_at_work(environment: Environment, work: Callable[[Environment], object]) -> None:
    with busy(environment):
        for _ in range(3):
            assert forked(lambda: work(environment))
    assert dict(all_rows(environment))[b"00000"] == b"v" * 100


def test_a_transaction_entered_before_a_fork_says_so(environment: Environment) -> None:
    entered: list[ReadTransaction | WriteTransaction] = [environment.read(), environment.write()]
    for transaction in entered:
        transaction.__enter__()

    def leaves() -> bool:
        for transaction in entered:
            with pytest.raises(CatalogClosedError, match="forked"):
                transaction.__exit__(None, None, None)
        return True

    assert forked(leaves)
    for transaction in reversed(entered):
        transaction.__exit__(None, None, None)


def test_fork_in_the_middle_of_closing(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LockGuard.close
    answers: list[object] = []

    def close_and_fork(self: LockGuard) -> None:
        monkeypatch.setattr(LockGuard, "close", real)
        real(self)
        forking = threading.Thread(target=lambda: answers.append(forked(lambda: writes(environment))))
        forking.start()
        forking.join()

    monkeypatch.setattr(LockGuard, "close", close_and_fork)
    environment.reopen()
    assert answers == [b"1"]
    assert dict(all_rows(environment))[b"from the child"] == b"1"
