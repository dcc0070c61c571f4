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
        """Give the future what came of the call; what hangs on it is called by `callbacks`."""
        if self.future.done():
            return
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


class PostedFuture(Future[Any]):
    """A future that calls nobody when it is given its result: each callback is called once, by `call_back`.

    So whoever gives results is never held up by what hangs on them, which may wait for other results. What is added
    after they were called is called at once, and after cancelling it is whoever cancels that calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: deque[Callback] = deque()
        self._is_called = False
        super().add_done_callback(cast("Callback", PostedFuture._after_cancelling))

    def add_done_callback(self, fn: Callback) -> None:
        """Have a function called with this future when it is done; what it raises is logged."""
        self._callbacks.append(fn)
        if self._is_called:
            self._call_waiting()

    def closes(self) -> bool:
        """Take note that the future is done; tell whether that leaves somebody to be called by `call_back`."""
        if not self._callbacks:
            self._is_called = True
        return bool(self._callbacks)

    def call_back(self) -> None:
        """Call whom nobody has called yet; an interruption leaves the rest to whoever comes here next."""
        self._call_waiting()
        self._is_called = True
        self._call_waiting()

    def _after_cancelling(self) -> None:
        if self.cancelled():
            self.call_back()

    def _call_waiting(self) -> None:
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
