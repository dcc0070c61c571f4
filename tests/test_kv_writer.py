from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import lmdb
import pytest

from kvcatalog.errors import (
    CatalogClosedError,
    CatalogError,
    CatalogUnavailableError,
    InvalidValueError,
    MapLimitError,
    NotFoundError,
    OutcomeUnknownError,
    StorageFailedError,
)
from kvcatalog.kv import calls, commits, keys, posted, writer
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.kv.writer import Writer
from tests.support import (
    ROWS,
    TABLES,
    TOKENS,
    all_rows,
    child,
    findings,
    forked,
    interrupted_at,
    last_transaction,
    made,
    put_rows,
    said,
    wait_until,
)

COUNT = b"count"


def add_one(transaction: WriteTransaction) -> int:
    """Count up, and return the number that was reached."""
    number = int(transaction.get(ROWS, COUNT) or 0) + 1
    transaction.put(ROWS, COUNT, b"%d" % number)
    return number


def put(key: bytes, value: bytes = b"1") -> Callable[[WriteTransaction], bytes]:
    def operation(transaction: WriteTransaction) -> bytes:
        transaction.put(ROWS, key, value)
        return key

    return operation


def nothing(_: WriteTransaction) -> None:
    pass


@pytest.fixture
def door(environment: Environment) -> Writer:
    return Writer(environment, TOKENS, nothing)


class Answers:
    """Calls from threads of their own that are let into one batch together."""

    def __init__(self, door: Writer) -> None:
        self._door = door
        self._threads: list[threading.Thread] = []
        self.answers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._held = self._door._door
        self._held.acquire()
        return self

    def submit(self, operation: Callable[[WriteTransaction], Any]) -> None:
        number = len(self._threads)

        def call() -> None:
            try:
                self.answers[number] = self._door.submit(operation)
            except BaseException as error:  # noqa: BLE001  it is the answer
                self.answers[number] = error

        waiting = len(self._door._waiting)
        self._threads.append(threading.Thread(target=call))
        self._threads[-1].start()
        wait_until(lambda: len(self._door._waiting) != waiting)

    def __exit__(self, *_: object) -> None:
        self._held.release()
        self._door._wake_next()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a call hangs"


def test_each_of_many_threads_gets_its_own_result(environment: Environment, door: Writer) -> None:
    results: list[int] = []

    def work() -> None:
        results.extend([door.submit(add_one) for _ in range(25)])

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(1, 401))
    assert dict(all_rows(environment)) == {COUNT: b"400"}


def test_calls_that_wait_share_a_transaction(environment: Environment, door: Writer) -> None:
    before = last_transaction(environment)
    with Answers(door) as calls:
        for _ in range(9):
            calls.submit(add_one)
    assert calls.answers == {number: number + 1 for number in range(9)}
    assert last_transaction(environment) == before + 1


def test_a_batch_has_its_limit(environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_CALLS_MAX", 4)
    before = last_transaction(environment)
    with Answers(door) as calls:
        for _ in range(9):
            calls.submit(add_one)
    assert calls.answers == {number: number + 1 for number in range(9)}
    assert last_transaction(environment) == before + 3


def test_calls_that_only_read_cost_no_commit(environment: Environment, door: Writer) -> None:
    put_rows(environment, [(b"a", b"1")])
    before = last_transaction(environment)
    assert door.submit(lambda transaction: transaction.get(ROWS, b"a")) == b"1"
    assert last_transaction(environment) == before


def bad(*, after_writing: bool) -> Callable[[WriteTransaction], None]:
    def operation(transaction: WriteTransaction) -> None:
        if after_writing:
            transaction.put(ROWS, b"bad", b"1")
            transaction.put(ROWS, COUNT, b"1000")
        raise ZeroDivisionError

    return operation


@pytest.mark.parametrize("after_writing", [True, False])
def test_a_bad_call_fails_alone(environment: Environment, door: Writer, after_writing: bool) -> None:
    ran: list[int] = []

    def counted(transaction: WriteTransaction) -> int:
        ran.append(1)
        return add_one(transaction)

    with Answers(door) as calls:
        calls.submit(counted)
        calls.submit(bad(after_writing=after_writing))
        calls.submit(counted)
        calls.submit(bad(after_writing=after_writing))
        calls.submit(counted)
    assert [calls.answers[number] for number in (0, 2, 4)] == [1, 2, 3]
    assert [type(calls.answers[number]) for number in (1, 3)] == [ZeroDivisionError] * 2
    assert dict(all_rows(environment)) == {COUNT: b"3"}
    # Without a write there is nothing to undo, so nobody is called twice.
    assert len(ran) == (1 + 2 + 3 if after_writing else 3)


def test_a_call_that_the_engine_refuses_fails_alone(environment: Environment, door: Writer) -> None:
    with Answers(door) as calls:
        calls.submit(add_one)
        calls.submit(put(b"k" * 9000))
        calls.submit(add_one)
    assert (calls.answers[0], calls.answers[2]) == (1, 2)
    assert isinstance(calls.answers[1], CatalogError)
    assert dict(all_rows(environment)) == {COUNT: b"2"}


def test_what_comes_before_the_commit_is_in_it(environment: Environment) -> None:
    door = Writer(environment, TOKENS, lambda transaction: transaction.put(ROWS, b"last", b"1"))
    door.submit(nothing)
    assert all_rows(environment) == []
    door.submit(put(b"a"))
    assert dict(all_rows(environment)) == {b"a": b"1", b"last": b"1"}


def test_an_error_before_the_commit_reaches_everybody(environment: Environment) -> None:
    def fails(_: WriteTransaction) -> None:
        raise StorageFailedError("no")

    door = Writer(environment, TOKENS, fails)
    with Answers(door) as calls:
        calls.submit(add_one)
        calls.submit(add_one)
    assert [type(answer) for answer in calls.answers.values()] == [StorageFailedError] * 2
    assert all_rows(environment) == []


def test_an_interrupted_call_leaves_the_others_in_the_queue(environment: Environment, door: Writer) -> None:
    def interrupted(transaction: WriteTransaction) -> None:
        transaction.put(ROWS, b"interrupted", b"1")
        raise KeyboardInterrupt

    with Answers(door) as calls:
        for operation in (add_one, interrupted, add_one, add_one):
            calls.submit(operation)
    # Whoever leads while the interruption comes takes it; everybody else gets an answer, and nobody is applied twice.
    stopped = [number for number, answer in calls.answers.items() if isinstance(answer, KeyboardInterrupt)]
    assert 1 in stopped
    assert len(calls.answers) == 4
    counted = len([number for number in calls.answers if number not in stopped])
    assert dict(all_rows(environment)) == ({COUNT: b"%d" % counted} if counted else {})
    assert not door._waiting
    assert door.submit(add_one) == counted + 1


def test_an_interruption_between_batches_answers_nobody_wrongly(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert door.submit(add_one) == 1
    real = door._commits.apply

    def interrupt_once(*_: object) -> None:
        monkeypatch.setattr(door._commits, "apply", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(door._commits, "apply", interrupt_once)
    with Answers(door) as calls:
        for _ in range(3):
            calls.submit(add_one)
    stopped = [answer for answer in calls.answers.values() if isinstance(answer, KeyboardInterrupt)]
    assert len(stopped) == 1
    assert sorted(answer for answer in calls.answers.values() if isinstance(answer, int)) == [2, 3]
    assert dict(all_rows(environment)) == {COUNT: b"3"}


def test_an_interruption_after_the_commit_does_not_repeat_it(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = door._commits.apply

    def interrupt_once(*batch: Any) -> None:
        monkeypatch.setattr(door._commits, "apply", real)
        real(*batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(door._commits, "apply", interrupt_once)
    with Answers(door) as calls:
        for _ in range(3):
            calls.submit(add_one)
    assert sorted(answer for answer in calls.answers.values() if isinstance(answer, int)) == [
        number for number in (1, 2, 3) if number in calls.answers.values()
    ]
    assert len([answer for answer in calls.answers.values() if isinstance(answer, KeyboardInterrupt)]) == 1
    assert dict(all_rows(environment)) == {COUNT: b"3"}


def failing_commit(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, *, late: bool, then: Callable[[], object]
) -> None:
    """Let the next commit fail, before or after it took place, and `then` happen at once."""
    real = WriteTransaction._end

    def end(self: WriteTransaction, raw: Any, *, failed: bool) -> None:
        monkeypatch.setattr(WriteTransaction, "_end", real)
        if late:
            real(self, raw, failed=failed)
        else:
            raw.abort()
        then()
        raise error

    monkeypatch.setattr(WriteTransaction, "_end", end)


@pytest.mark.parametrize("error", [lmdb.DiskError("injected"), lmdb.PanicError("injected"), lmdb.Error("errno 5")])
@pytest.mark.parametrize("late", [False, True], ids=["absent", "committed"])
def test_the_answer_after_a_failed_commit_is_the_truth(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch, late: bool, error: lmdb.Error
) -> None:
    if str(error) == "errno 5":
        vars(error)["code"] = 5  # the engine's errors have it, those that are made in Python do not
    door.submit(add_one)
    failing_commit(monkeypatch, error, late=late, then=lambda: None)
    with Answers(door) as calls:
        calls.submit(add_one)
        calls.submit(add_one)
        calls.submit(bad(after_writing=False))
    if late:
        assert (calls.answers[0], calls.answers[1]) == (2, 3)
    else:
        assert [type(calls.answers[number]) for number in (0, 1)] == [StorageFailedError] * 2
    assert dict(all_rows(environment)) == {COUNT: b"3" if late else b"1"}
    assert door.submit(add_one) == (4 if late else 2)


@pytest.mark.parametrize("late", [False, True], ids=["absent", "committed"])
@pytest.mark.parametrize("foreign", [1, 2])
def test_after_writes_of_another_process_the_answer_is_the_truth_or_that_it_is_unknown(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch, late: bool, foreign: int
) -> None:
    def another_process() -> None:
        other = Writer(environment, TOKENS, nothing)
        for number in range(foreign):
            other.submit(put(b"foreign %d" % number))

    failing_commit(
        monkeypatch, lmdb.DiskError("injected"), late=late, then=lambda: threads.append(started(another_process))
    )
    threads: list[threading.Thread] = []
    real = environment.reopen

    def reopen_after_them() -> None:
        for thread in threads:
            thread.join()
        real()

    monkeypatch.setattr(environment, "reopen", reopen_after_them)
    known = not late and foreign == 1  # their only commit has the number that ours would have had
    with pytest.raises(StorageFailedError if known else OutcomeUnknownError):
        door.submit(put(b"mine"))
    assert (b"mine" in dict(all_rows(environment))) == late


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_environment_that_does_not_open_again_leaves_the_outcome_unknown(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_reopening() -> None:
        raise StorageFailedError("still broken")

    failing_commit(monkeypatch, lmdb.DiskError("injected"), late=True, then=lambda: None)
    with monkeypatch.context() as broken:
        broken.setattr(environment, "reopen", no_reopening)
        with pytest.raises(OutcomeUnknownError, match="still broken"):
            door.submit(put(b"a"))
    assert door.submit(put(b"b")) == b"b"
    assert [key for key, _ in all_rows(environment)] == [b"a", b"b"]


@pytest.mark.usefixtures("engine_kind")
def test_a_full_map_grows_and_the_batch_is_applied_again(folder: Path) -> None:
    made(folder).close()
    environment = open_environment(folder, TABLES, map_size_bytes=1 << 20)
    door = Writer(environment, TOKENS, nothing)
    with Answers(door) as calls:
        calls.submit(add_one)
        for number in range(12):
            calls.submit(put(b"%d" % number, bytes(500_000)))
        calls.submit(add_one)
    assert (calls.answers[0], calls.answers[13]) == (1, 2)
    assert [calls.answers[number + 1] for number in range(12)] == [b"%d" % number for number in range(12)]
    assert len(all_rows(environment)) == 13
    environment.close()
    assert findings(folder) == []


def test_a_map_that_cannot_grow_is_an_error_of_everybody_and_stores_nothing(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: WriteTransaction) -> None:
        raise lmdb.MapFullError("injected")

    def limited() -> None:
        raise MapLimitError("no more")

    monkeypatch.setattr(environment, "grow", limited)
    with Answers(door) as calls:
        calls.submit(add_one)
        calls.submit(full)
    assert [type(answer) for answer in calls.answers.values()] == [MapLimitError] * 2
    assert all_rows(environment) == []


def test_close_lets_those_through_who_wait_and_refuses_later_callers(environment: Environment, door: Writer) -> None:
    with Answers(door) as calls:
        for _ in range(5):
            calls.submit(add_one)
        closing = started(door.close)
    closing.join(60)
    assert calls.answers == {number: number + 1 for number in range(5)}
    with pytest.raises(CatalogClosedError):
        door.submit(add_one)
    assert dict(all_rows(environment)) == {COUNT: b"5"}
    assert not environment.fork_hooks
    door.close()


def test_close_answers_a_queue_that_nobody_leads(environment: Environment, door: Writer) -> None:
    call = calls.Call(add_one)
    door._waiting.append(call)
    door.close()
    assert (call.done, call.result) == (True, 1)
    assert dict(all_rows(environment)) == {COUNT: b"1"}


def test_a_child_of_a_fork_has_a_queue_and_a_token_of_its_own(environment: Environment, door: Writer) -> None:
    door.submit(add_one)
    token = door._commits._token
    with Answers(door) as calls:  # the door is locked while the process forks
        calls.submit(add_one)
        calls.submit(add_one)

        def in_child() -> tuple[int, int, bool]:
            return len(door._waiting), door.submit(add_one), door._commits._token == token

        assert forked(in_child) == (0, 2, False)
    assert calls.answers == {0: 3, 1: 4}
    assert dict(all_rows(environment)) == {COUNT: b"4"}


def test_a_read_only_environment_refuses_the_call(environment: Environment, folder: Path) -> None:
    environment.close()
    reader = open_environment(folder, TABLES, read_only=True)
    with pytest.raises(CatalogUnavailableError, match="reading only"):
        Writer(reader, TOKENS, nothing).submit(add_one)
    reader.close()


def test_tokens_tell_batches_apart(environment: Environment, door: Writer) -> None:
    seen = set()
    for number in range(5):
        door.submit(put(keys.unsigned(number)))
        seen.add(dict(all_rows(environment, TOKENS))[commits.TOKEN_KEY])
    assert len(seen) == 5


def test_an_answered_call_returns_while_the_door_is_shut(environment: Environment) -> None:
    leave = threading.Event()
    door = Writer(environment, TOKENS, nothing, lambda _calls: assert_set(leave))
    with Answers(door) as calls:
        calls.submit(add_one)
        calls.submit(add_one)
        calls.submit(add_one)
        calls._held.release()
        door._wake_next()
        waited = time.monotonic() + 10
        while len(calls.answers) < 2 and time.monotonic() < waited:
            time.sleep(0.001)
        early = len(calls.answers)
        leave.set()
        calls._held.acquire()
    assert early == 2  # all but the one that leads
    assert sorted(calls.answers.values()) == [1, 2, 3]


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_a_second_interruption_loses_nobody(
    environment: Environment, door: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, outcome = door._commits.apply, door._commits.outcome

    def commit_once(*batch: Any) -> None:
        monkeypatch.setattr(door._commits, "apply", commit)
        commit(*batch)
        raise KeyboardInterrupt

    def outcome_once() -> str:
        monkeypatch.setattr(door._commits, "outcome", outcome)
        raise KeyboardInterrupt

    monkeypatch.setattr(door._commits, "apply", commit_once)
    monkeypatch.setattr(door._commits, "outcome", outcome_once)
    with Answers(door) as calls:
        for _ in range(4):
            calls.submit(add_one)
    assert len(calls.answers) == 4
    assert dict(all_rows(environment)) == {COUNT: b"4"}
    assert not door._waiting


def test_an_interruption_at_any_line_loses_nobody_and_holds_nothing(environment: Environment, door: Writer) -> None:
    step = 0
    while True:
        step += 1
        mate = calls.Call(put(b"mate %d" % step))
        door._waiting.append(mate)
        interrupted = interrupted_at(step, lambda: door.submit(add_one))
        thread = started(lambda step=step: door.submit(put(b"later %d" % step)))  # type: ignore[misc]
        thread.join(20)
        assert not thread.is_alive(), f"a call hangs after line {step}"
        assert mate.done, step
        assert not door._waiting, step
        environment.reopen(rest_seconds=1)
        if not interrupted:
            break
    assert step > 50
    assert {b"mate %d" % number for number in range(1, step + 1)} <= dict(all_rows(environment)).keys()


def test_an_interruption_at_any_line_loses_no_posted_call(environment: Environment, door: Writer) -> None:
    step, interrupted = 0, True
    while interrupted:
        step += 1
        told: list[object] = []
        mates = [posted.PostedCall(put(b"mate %d" % step)), posted.PostedCall(Together(b"refused", refuses=True))]
        for mate in mates:
            mate.future.add_done_callback(told.append)
            door._waiting.append(mate)
        interrupted = interrupted_at(step, lambda: door.submit(add_one))
        assert door.post(put(b"later %d" % step)).result(20) == b"later %d" % step
        assert mates[0].future.result(20) == b"mate %d" % step
        assert isinstance(mates[1].future.exception(20), NotFoundError)
        wait_until(lambda told=told: len(told) == 2, f"line {step}")  # type: ignore[misc]
        wait_until(lambda: not door._waiting and not door._untold, f"line {step}")
    assert step > 50


@pytest.mark.parametrize("work", [lambda door: door.post(add_one), lambda door: door.close()], ids=["post", "close"])
def test_an_interruption_between_finishing_and_telling_loses_nobody(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, work: Callable[[Writer], object]
) -> None:
    """Where no thread can be had the caller tells itself, as it does on closing."""
    monkeypatch.setattr(Writer, "_served", lambda _: False)
    step, interrupted = 0, True
    while interrupted:
        step += 1
        door = Writer(environment, TOKENS, nothing)
        told: list[object] = []
        mates = [posted.PostedCall(put(b"mate %d" % step)), posted.PostedCall(Together(b"refused", refuses=True))]
        for mate in mates:
            for _ in range(2):
                mate.future.add_done_callback(told.append)
            door._waiting.append(mate)
        interrupted = interrupted_at(step, lambda door=door: work(door))  # type: ignore[misc]
        door.close()
        assert mates[0].future.result(0) == b"mate %d" % step
        assert isinstance(mates[1].future.exception(0), NotFoundError)
        assert told == [mates[0].future] * 2 + [mates[1].future] * 2, f"line {step}"
    assert step > 50


def test_an_error_of_the_thread_is_told_to_its_own_batch_alone(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Another leader may be inside by the time the thread has left the door with an error."""
    failures = [RuntimeError("a meter failed")]

    def after_commit(_: int) -> None:
        if failures:
            raise failures.pop()

    door = Writer(environment, TOKENS, nothing, after_commit)
    inside, leave = threading.Event(), threading.Event()
    wake_next = door._wake_next

    def wait_outside() -> None:
        wake_next()
        if threading.current_thread().name == "kvcatalog writer" and not failures:
            inside.wait(20)

    def slow(transaction: WriteTransaction) -> int:
        inside.set()
        leave.wait(0.2)
        return add_one(transaction)

    vars(door)["_wake_next"] = wait_outside
    with door._door:
        first = door.post(put(b"first"))
    wait_until(lambda: not failures)
    assert door.submit(slow) == 1
    assert first.result(20) == b"first"
    assert dict(all_rows(environment)) == {b"first": b"1", COUNT: b"1"}
    assert "a meter failed" in caplog.text


@pytest.mark.parametrize("posting", [False, True])
def test_an_error_that_nobody_expects_is_told_to_the_whole_batch(environment: Environment, posting: bool) -> None:
    def fails(_: WriteTransaction) -> None:
        if problems:
            raise RuntimeError("not foreseen")

    problems = [1]
    door = Writer(environment, TOKENS, fails)
    if posting:
        answers = in_one_batch(door, [add_one, add_one])
    else:
        with Answers(door) as calls:
            calls.submit(add_one)
            calls.submit(add_one)
        answers = list(calls.answers.values())
    assert [type(answer) for answer in answers] == [CatalogError] * 2
    assert "not foreseen" in str(answers[0])
    assert all_rows(environment) == []
    problems.clear()
    assert door.submit(add_one) == 1


def test_an_operation_that_would_end_the_thread_fails_alone(environment: Environment, door: Writer) -> None:
    def leaves(_: WriteTransaction) -> None:
        raise SystemExit

    assert "SystemExit" in str(door.post(leaves).exception(20))
    assert door.post(add_one).result(20) == 1


def test_a_thread_that_died_has_a_successor(door: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    died = threading.Event()

    def dies() -> bool:
        died.set()
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(threading, "excepthook", lambda _: None)
        broken.setattr(door, "is_left", dies)
        first = door.post(add_one)
        assert died.wait(20)
        wait_until(lambda: door._server.thread is None)
    assert door.post(add_one).result(20) == 2
    assert first.result(20) == 1


def test_what_a_callback_raises_does_not_reach_who_closes(door: Writer, caplog: pytest.LogCaptureFixture) -> None:
    def leave(_: object) -> None:
        raise SystemExit

    call = posted.PostedCall(add_one)
    call.future.add_done_callback(leave)
    door._waiting.append(call)
    door.close()
    assert call.future.result(0) == 1
    assert "SystemExit" in caplog.text


def test_a_failure_is_dealt_with_before_it_is_told(door: Writer) -> None:
    seen: list[object] = []

    def deal(error: BaseException) -> None:
        seen.append((type(error), door.submit(add_one)))
        raise ZeroDivisionError

    future = door.post(bad(after_writing=False), deal)
    assert isinstance(future.exception(20), ZeroDivisionError)
    assert seen == [(ZeroDivisionError, 1)]


def test_each_caller_of_a_batch_gets_an_error_of_its_own(environment: Environment) -> None:
    def fails(_: WriteTransaction) -> None:
        raise InvalidValueError("field", "no")

    door = Writer(environment, TOKENS, fails)
    with Answers(door) as calls:
        calls.submit(add_one)
        calls.submit(add_one)
    first, second = calls.answers.values()
    assert (type(first), str(first)) == (type(second), str(second)) == (InvalidValueError, "field: no")
    assert first is not second


def test_a_writer_that_is_gone_is_forgotten(environment: Environment) -> None:
    for _ in range(5):
        Writer(environment, TOKENS, nothing)
    assert len(environment.fork_hooks) == 0


# Threads that number their rows and print each one that was acknowledged.
WRITING = """
import os, sys, threading
from pathlib import Path
from kvcatalog.kv.writer import Writer
from tests.support import *
environment = open_environment(Path(sys.argv[1]), TABLES)
door = Writer(environment, TOKENS, lambda transaction: None)
def loop(name):
    number = 0
    while True:
        rows = [b"%s %06d %d" % (name, number, part) for part in range(3)]
        def put(transaction):
            for row in rows:
                transaction.put(ROWS, row, row * 20)
        door.submit(put)
        os.write(1, b"%s %06d\\n" % (name, number))
        number += 1
for slot in range(3):
    threading.Thread(target=loop, args=(b"%s-%d" % (sys.argv[2].encode(), slot),)).start()
"""


def test_killed_processes_lose_nothing_that_was_acknowledged(environment: Environment, folder: Path) -> None:
    chance = random.Random(7)
    total = 0
    for cycle in range(4):
        processes = [child(WRITING, folder, f"{cycle}.{number}") for number in range(2)]
        lines = [[said(process)] for process in processes]
        time.sleep(chance.random() * 0.15)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process, acknowledged in zip(processes, lines, strict=True):
            assert process.stdout is not None
            acknowledged.extend(process.stdout.read().splitlines())  # from where `said` has left off
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
        rows = dict(all_rows(environment))
        expected = {b"%s %d" % (line.encode(), part) for group in lines for line in group for part in range(3)}
        assert expected <= rows.keys()
        assert all(value == key * 20 for key, value in rows.items())
        batches: dict[bytes, int] = {}
        for key in rows:
            batches[key[:-2]] = batches.get(key[:-2], 0) + 1
        assert set(batches.values()) == {3}, "a call was stored in part"
        total += len(expected)
    assert total
    environment.close()
    assert findings(folder) == []


class Together:
    """A joint operation that puts a row, and tells in which company it was made."""

    def __init__(self, name: bytes, *, refuses: bool = False, breaks: bool = False) -> None:
        self.name = name
        self.refuses = refuses
        self.breaks = breaks

    def __call__(self, transaction: WriteTransaction) -> int:
        (result,) = self.together(transaction, [self])
        if isinstance(result, Exception):
            raise result
        return result

    def together(self, transaction: WriteTransaction, operations: list[Together]) -> list[int | Exception]:
        results: list[int | Exception] = []
        for operation in operations:
            if operation.refuses:
                results.append(NotFoundError(operation.name.decode()))
                continue
            transaction.put(ROWS, operation.name, b"there")
            if operation.breaks:
                raise ValueError(operation.name)
            results.append(len(operations))
        return results


def in_one_batch(door: Writer, operations: list[Any]) -> list[Any]:
    """Make operations in one batch and return their results or errors."""
    with door._door:
        futures = [door.post(operation) for operation in operations]
    return [future.exception(20) or future.result() for future in futures]


def test_joint_operations_that_follow_each_other_are_made_together(environment: Environment, door: Writer) -> None:
    names = [b"a", b"b", b"c", b"d"]
    operations = [Together(names[0]), Together(names[1]), put(b"x"), Together(names[2]), Together(names[3])]
    results = in_one_batch(door, operations)
    assert (results[0], results[1], results[3], results[4]) == (2, 2, 2, 2)
    assert set(names) <= dict(all_rows(environment)).keys()


def test_one_that_refuses_leaves_its_company_alone(environment: Environment, door: Writer) -> None:
    results = in_one_batch(door, [Together(b"a"), Together(b"b", refuses=True), Together(b"c")])
    assert (results[0], results[2]) == (3, 3)
    assert isinstance(results[1], NotFoundError)
    assert {b"a", b"c"} <= dict(all_rows(environment)).keys()


def test_where_one_breaks_each_is_made_alone(environment: Environment, door: Writer) -> None:
    results = in_one_batch(door, [Together(b"a"), Together(b"b", breaks=True), Together(b"c")])
    assert (results[0], results[2]) == (1, 1)
    assert isinstance(results[1], ValueError)
    rows = dict(all_rows(environment))
    assert {b"a", b"c"} <= rows.keys()
    assert b"b" not in rows


def test_a_call_that_comes_while_the_queue_is_read_waits_its_turn(
    door: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector lets other threads in wherever an object is made; it is made to run at each such point."""

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            door._waiting.append(calls.Call(nothing))

    thresholds = gc.get_threshold()
    try:
        for objects in range(1, 30):

            def collect_soon(objects: int = objects) -> None:
                gc.collect()
                Garbage()
                gc.set_threshold(objects)

            monkeypatch.setattr(door, "_gather", collect_soon)
            door.submit(add_one)
            gc.set_threshold(*thresholds)
            monkeypatch.undo()
            gc.collect()
            door.submit(nothing)
    finally:
        gc.set_threshold(*thresholds)
