"""Calls that nobody waits for; apart, since their futures cost more to import than most commands have to spend."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from kvcatalog.kv.calls import Call, Operation


class PostedCall(Call):
    """A call that nobody waits for; whoever holds the future is told. Cancelled before it has begun, it is not made."""

    is_posted = True

    __slots__ = ("begun", "future")

    def __init__(self, operation: Operation[Any]) -> None:
        self.operation = operation
        self.alone = False
        self.result = None
        self.error = None
        self.done = False
        self.withdrawn = False
        self.begun = False
        self.future: Future[Any] = Future()

    def begin(self) -> bool:
        """Tell whether the call is still wanted; from now on its future cannot be cancelled."""
        if self.done or self.withdrawn:
            return False
        if not self.begun:
            self.begun = True
            self.withdrawn = not self.future.set_running_or_notify_cancel()
        return not self.withdrawn

    def notify(self) -> None:
        """Give the future its result, once there is one."""
        if not self.done or self.withdrawn or self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)
