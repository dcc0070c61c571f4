"""Calls that nobody waits for; apart, since their futures cost more to import than most commands have to spend."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, cast

from kvcatalog.kv.calls import Call, Operation

Callback = Callable[[Future[Any]], object]

_log = logging.getLogger(__name__)


class PostedCall(Call):
    """A call that nobody waits for; whoever holds the future is told. Cancelled before it has begun, it is not made."""

    is_posted = True

    __slots__ = ("before_failing", "future")

    def __init__(
        self, operation: Operation[Any], before_failing: Callable[[BaseException], None] | None = None
    ) -> None:
        self.operation = operation
        self.alone = False
        self.behind = None
        self.result = None
        self.error = None
        self.done = False
        self.withdrawn = False
        self.before_failing = before_failing
        self.future = PostedFuture()

    def begin(self) -> bool:
        """Tell whether the call is still wanted; from now on its future cannot be cancelled."""
        if self.done or self.withdrawn:
            return False
        if not self.future.running():
            try:
                self.withdrawn = not self.future.set_running_or_notify_cancel()
            except RuntimeError:  # its end was told before an interruption came
                self.withdrawn = True
        return not self.withdrawn

    def notify(self) -> None:
        """Do nothing: the future is told outside the door."""

    def tell(self) -> None:
        """Give the future what came of the call; a second time goes on where the first was interrupted."""
        if not self.future.done():
            if self.error is not None and self.before_failing is not None:
                try:
                    self.before_failing(self.error)
                except Exception:  # noqa: BLE001 - the call has its own error to tell
                    _log.exception("what comes before a failure failed itself")
            with suppress(InvalidStateError):  # another thread was quicker
                if self.error is None:
                    self.future.set_result(self.result)
                else:
                    self.future.set_exception(self.error)
        self.future.call_back()


class PostedFuture(Future[Any]):
    """A future of which each callback is called once, whatever the ones before it raise."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: deque[Callback] = deque()

    def add_done_callback(self, fn: Callback) -> None:
        """Call a function with this future when it is done; what it raises is logged."""
        self._callbacks.append(fn)
        super().add_done_callback(cast("Callback", PostedFuture.call_back))

    def call_back(self) -> None:
        """Call whom nobody has called yet; an interruption leaves the rest to whoever comes here next."""
        while self._callbacks:
            try:
                _first(self._callbacks)(self)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                    raise
                _log.exception("a callback of a future failed")


def _first(callbacks: deque[Callback]) -> Callback:
    """Take the first; taken and called on one line, none is lost in between."""
    try:
        return callbacks.popleft()
    except IndexError:  # another thread was quicker
        return lambda _: None
