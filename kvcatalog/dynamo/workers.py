"""Threads that carry requests side by side, since each waits for the network most of its time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

THREADS = 32
POSTED_MAX = 1024
"""How many calls may wait that nobody waits for; who posts another one waits himself."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """The threads of one process. Whoever has work done for them does a share of it, so nobody waits for a free one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="kvcatalog dynamo")
        self._room = threading.Semaphore(POSTED_MAX)

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do some work on each item, several at once, and return the results in order.

        Of errors the one of the first item is raised, once all that was begun is done; what was not begun is left.
        """
        if len(items) < 2:  # noqa: PLR2004 - one is nothing to share
            return [work(item) for item in items]
        share = _Share(work, items)
        for _ in range(min(len(items) - 1, THREADS - 1)):
            self._pool.submit(share.help)
        share.help()
        return share.results()

    def post(self, work: Callable[[], Result]) -> Future[Result]:
        """Do some work without waiting, unless very much waits already."""
        self._room.acquire()
        try:
            future = self._pool.submit(work)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    @property
    def is_crowded(self) -> bool:
        """Tell whether the next post would wait."""
        if self._room.acquire(blocking=False):
            self._room.release()
            return False
        return True

    def make_room(self) -> None:
        """Wait until it would not."""
        self._room.acquire()
        self._room.release()

    def close(self) -> None:
        """Finish what was posted, and end the threads."""
        self._pool.shutdown()


class _Share(Generic[Item, Result]):
    """Work that several threads take items of, until none is left or one has failed."""

    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._work = work
        self._left = deque(enumerate(items))
        self._results: dict[int, Result] = {}
        self._errors: dict[int, BaseException] = {}
        self._busy = 0
        self._changed = threading.Condition()

    def help(self) -> None:
        """Take items and do them."""
        while True:
            with self._changed:
                if not self._left or self._errors:
                    return
                number, item = self._left.popleft()
                self._busy += 1
            try:
                result = self._work(item)
            except BaseException as error:  # noqa: BLE001 - whoever has the work done raises it
                self._errors[number] = error
            else:
                self._results[number] = result
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def results(self) -> list[Result]:
        """Wait for the others, and return the results; raises the first error."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._results[number] for number in sorted(self._results)]
