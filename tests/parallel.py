"""Work done by many threads and processes at once; whatever raises, dies or hangs fails the test."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.support import HANG_SECONDS

Result = TypeVar("Result")


def in_threads(count: int, work: Callable[[int], Result]) -> list[Result]:
    """Run `work` with each number below `count`, all beginning at the same moment, and return the results in order."""
    start = threading.Barrier(count)

    def started(number: int) -> Result:
        start.wait(HANG_SECONDS)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(started, range(count)))


def in_processes(count: int, work: Callable[[int], Result]) -> list[Result]:
    """Run `work` in forked processes with each number below `count`, and return the results in order."""
    return [collect() for collect in [start_process(work, number) for number in range(count)]]


def start_process(work: Callable[[int], Result], number: int = 0) -> Callable[[], Result]:
    """Start `work` in a forked process, and return what waits for its result."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads of the test runner
        process = os.fork()
    if not process:
        signal.alarm(HANG_SECONDS)
        answer: tuple[bool, object]
        try:
            answer = True, work(number)
        except BaseException:  # noqa: BLE001  the parent raises it
            answer = False, traceback.format_exc()
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)

    def collected() -> Result:
        with os.fdopen(reading, "rb") as pipe:
            answered = pipe.read()
        _, status = os.waitpid(process, 0)
        assert answered, f"the process ended without an answer, status {status}"
        good, result = pickle.loads(answered)
        assert good, result
        returned: Result = result
        return returned

    return collected
