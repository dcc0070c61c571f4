"""Who uses an environment in this process, and a way to have it to oneself: growing the map needs rest from all."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from kvcatalog.errors import MapLimitError
from kvcatalog.kv.transaction import Use

_REST_PAUSE_SECONDS = 0.0005
_REST_PAUSE_SECONDS_MAX = 0.02

Ticket = weakref.ref[Use]


class Gate:
    """Lets uses in at any time, and holds them back while one caller is to be at rest."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._uses: set[Ticket] = set()
        self._resting = False

    def enter(self, use: Use) -> Ticket:
        """Take note of a use; waits while others need rest, unless this thread has another use already.

        The note goes with the object, also where an interruption comes before `left`. It is made before the look at
        `_resting`, and `at_rest` does it the other way round, so one of the two sees the other without a lock.
        """
        use.thread = threading.get_ident()
        ticket = weakref.ref(use, self._uses.discard)
        self._uses.add(ticket)
        while self._resting and not self._used_here(ticket):
            self._uses.discard(ticket)
            with self._lock:
                pass
            self._uses.add(ticket)
        return ticket

    def left(self, ticket: Ticket) -> None:
        """Forget a use that `enter` took note of."""
        self._uses.discard(ticket)

    def let_go(self, use: Use) -> None:
        """Forget a use whose end was interrupted."""
        for ticket in list(self._uses):
            if ticket() is use:
                self._uses.discard(ticket)

    def _used_here(self, besides: Ticket | None = None) -> bool:
        thread = threading.get_ident()
        uses = [ticket() for ticket in list(self._uses) if ticket is not besides]
        return any(use is not None and use.thread == thread for use in uses)

    def give_up_here(self) -> None:
        """End the uses of this thread."""
        thread = threading.get_ident()
        for ticket in list(self._uses):
            use = ticket()
            if use is not None and use.thread == thread:
                use.give_up()
                self._uses.discard(ticket)

    @contextmanager
    def at_rest(self, seconds_max: float) -> Iterator[None]:
        """Run while no transaction of this process is open; MapLimitError if that cannot be had in time."""
        if self._used_here():
            raise MapLimitError(f"{self._path}: a snapshot of the same thread is open")
        deadline = time.monotonic() + seconds_max
        pause = _REST_PAUSE_SECONDS
        with self._lock:
            try:
                self._resting = True
                while self._uses:
                    if time.monotonic() > deadline:
                        raise MapLimitError(f"{self._path}: a snapshot was held for more than {seconds_max:g} s")
                    time.sleep(pause)
                    pause = min(2 * pause, _REST_PAUSE_SECONDS_MAX)
                yield
            finally:
                self._resting = False
