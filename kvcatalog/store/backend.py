"""What a catalog asks of whatever keeps its rows; all else about a catalog is the same for every backend.

`submit` makes one operation, whole or not at all. `submit_all` makes one on many things: LMDB takes them all into one
transaction, DynamoDB as many as fit, several transactions at once, so there each thing is whole or not at all, and an
error leaves what went before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

from kvcatalog.kv.protocol import ReadTransaction, WriteTransaction

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")
Item = TypeVar("Item")

Operation = Callable[[WriteTransaction], Result]
"""Changes rows inside the transaction that it is given; it may be called more than once, so it touches nothing else."""

JointOperation = Callable[[WriteTransaction, Sequence[Item]], list[Result]]
"""Does so for some things, and returns what became of each."""

GC_LEASE = "gc"
"""What a garbage collection holds while what it has condemned is its to take."""


class Backend(Protocol):
    """Usable from any thread, and after a fork from the child, too."""

    place: str
    """What errors call it."""

    rows_max: int | None
    """About how many rows one transaction may change; None if there is no limit."""

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Return a transaction to read in; it is kept short."""
        ...

    def submit(self, operation: Operation[Result]) -> Result:
        """Make an operation and return its result once that is durable; nothing is stored if it raises."""
        ...

    def submit_all(
        self,
        operation: JointOperation[Item, Result],
        items: Sequence[Item],
        *,
        rows: int,
        key: Callable[[Item], Hashable] | None = None,
        numbers: str | None = None,
    ) -> list[Result]:
        """Make an operation on each of some things, and return the results in their order once all are durable.

        One changes about so many `rows`. Those of one `key` are made in their order; without keys, all are. What is new
        has ids in their order, as far as they come from the counter `numbers` and nobody gets in between.
        """
        ...

    def post(
        self, operation: Operation[Result], before_failing: Callable[[BaseException], None] | None = None
    ) -> Future[Result]:
        """Make an operation without waiting; `before_failing` gets an error before the future has it, and may write."""
        ...

    @property
    def is_crowded(self) -> bool:
        """Tell whether whoever posts the next operation has to help, or to wait."""
        ...

    def make_room(self) -> None:
        """Help, or wait, until it is not crowded."""
        ...

    def lease(self, name: str, *, patiently: bool = True) -> AbstractContextManager[None]:
        """Hold something for one process of all; CatalogLockedError if another has it.

        Patiently means to find out whether the holder lives, where that takes time.
        """
        ...

    def figures(self) -> tuple[int | None, int | None]:
        """Return how many bytes the rows take where they are kept, and how many of these are in use, if known."""
        ...

    def close(self) -> None:
        """Finish what was begun and give everything back; a second time does nothing."""
        ...
