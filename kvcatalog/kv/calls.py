"""What waits at the door for writing: an operation, what came of it, and how its caller is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from kvcatalog.kv.transaction import WriteTransaction

Result = TypeVar("Result")
Operation = Callable[[WriteTransaction], Result]
"""Changes rows inside the transaction that it is given; it may be called more than once, so it touches nothing else."""


class Call:
    """`wake` is released when the call is done or shall see whether it has to lead."""

    is_posted = False

    __slots__ = ("done", "error", "operation", "result", "wake", "withdrawn")

    def __init__(self, operation: Operation[Any]) -> None:
        self.operation = operation
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.withdrawn = False
        self.wake = threading.Lock()
        self.wake.acquire()

    def begin(self) -> bool:
        """Tell whether the call is still wanted."""
        return not (self.done or self.withdrawn)

    def notify(self) -> None:
        """Let the caller look."""
        with suppress(RuntimeError):  # it was woken already
            self.wake.release()
