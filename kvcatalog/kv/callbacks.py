"""Calls what hangs on futures, apart from whoever gives them their results."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from kvcatalog.kv.attending import Attendant

if TYPE_CHECKING:
    from kvcatalog.kv.posted import PostedFuture


class Callbacks:
    """Calls what hangs on futures that are done, one after another, in a thread of their own.

    What is called may wait for any other future, but not for what hangs on one.
    """

    def __init__(self) -> None:
        self._attendant = Attendant("kvcatalog callbacks")
        self._waiting: deque[PostedFuture] = deque()

    def add(self, future: PostedFuture) -> None:
        """Take a future that is done."""
        if future.closes():
            self._waiting.append(future)

    def start(self) -> None:
        """See that they are called: by the thread, or here if there can be none."""
        if self._waiting:
            if self._attendant.serves(self):
                self._attendant.rouse()
            else:
                self.call_here()

    def is_left(self) -> bool:
        """See Work."""
        return bool(self._waiting)

    def do(self) -> None:
        """See Work."""
        with suppress(IndexError):  # somebody else was quicker
            self._waiting.popleft().call_back()

    def call_here(self) -> None:
        """Call all that wait; a future stays in the queue until that is over, so an interruption loses nobody."""
        while self._waiting:
            with suppress(IndexError):  # somebody else was quicker
                future = self._waiting[0]
                future.call_back()
                with suppress(ValueError):
                    self._waiting.remove(future)
