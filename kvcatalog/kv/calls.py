"""What waits at the door for writing: an operation, what came of it, and how its caller is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from kvcatalog.kv.transaction import WriteTransaction

Result = TypeVar("Result")
Operation = Callable[[WriteTransaction], Result]
"""Changes rows inside the transaction that it is given; it may be called more than once, so it touches nothing else."""


class Joint(Protocol):
    """An operation that is quicker in company: those of one type that follow each other are made `together`."""

    def __call__(self, transaction: WriteTransaction) -> Any:  # noqa: ANN401 - as every operation
        """Make this one alone."""
        ...

    def together(self, transaction: WriteTransaction, operations: list[Any]) -> list[Any]:
        """Make several, of which this is the first, and return the result of each.

        An exception among the results is that of an operation that has written nothing. If one is raised, the
        transaction is given up, and each operation is made alone.
        """
        ...


class Call:
    """`wake` is released when the call is done, or shall see whether it has to lead; `alone` if it failed in company.

    Once it is done, its caller wakes the one `behind`.
    """

    is_posted = False

    __slots__ = ("alone", "behind", "done", "error", "operation", "result", "wake", "withdrawn")

    def __init__(self, operation: Operation[Any]) -> None:
        self.operation = operation
        self.alone = False
        self.behind: Call | None = None
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
