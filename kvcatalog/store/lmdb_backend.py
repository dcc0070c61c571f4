"""Rows in an LMDB environment: one door for all that is written, and leases that the kernel keeps."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from kvcatalog import telemetry
from kvcatalog.errors import OS_ERRORS, CatalogLockedError, StorageFailedError
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.writer import Writer
from kvcatalog.schema import COUNTERS
from kvcatalog.store.backend import JointOperation
from kvcatalog.store.tally import write_tally

Result = TypeVar("Result")
Item = TypeVar("Item")


class LmdbBackend:
    """See Backend."""

    rows_max: int | None = None

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.place = environment.path
        self.writer = Writer(environment, COUNTERS, write_tally, telemetry.batch_committed, _followed)
        self.read = environment.read
        self.submit = self.writer.submit
        self.post = self.writer.post
        self.make_room = self.writer.make_room
        self._uses = [environment]

    def submit_all(
        self,
        operation: JointOperation[Item, Result],
        items: Sequence[Item],
        *,
        rows: int,  # noqa: ARG002 - a transaction takes as many as there are
        key: Callable[[Item], Hashable] | None = None,  # noqa: ARG002 - all are made in their order
        numbers: str | None = None,  # noqa: ARG002 - as they are numbered
    ) -> list[Result]:
        """See Backend; all in one transaction."""
        return self.submit(lambda transaction: operation(transaction, items))

    @property
    def is_crowded(self) -> bool:
        """See Backend."""
        return self.writer.is_crowded

    @contextmanager
    def lease(self, name: str, *, patiently: bool = True) -> Iterator[None]:  # noqa: ARG002 - the kernel knows at once
        """See Backend; the kernel keeps it, so it cannot outlive its process or expire under it."""
        path, holder = os.path.join(self.place, f"{name}.lease"), os.getpid()
        with _translated(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with _translated(path):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise CatalogLockedError(f"{self.place}: another process is at work: {name}") from error
            try:
                yield
            finally:
                # A child shares the lock, so closing alone would leave it with one that was forked meanwhile, and such
                # a child must not end it.
                if os.getpid() == holder:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def figures(self) -> tuple[int, int]:
        """See Backend: the size of the data file, and how much of it is taken by the last page in use."""
        return self.environment.file_figures()

    def close(self) -> None:
        """See Backend."""
        self.writer.close()
        try:
            use = self._uses.pop()
        except IndexError:  # another thread was quicker
            return
        try:
            self.environment.close()
        except BaseException:
            self._uses.append(use)
            raise


def _followed(calls: int) -> AbstractContextManager[object]:
    return telemetry.span("kvcatalog.commit", calls=calls)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = OS_ERRORS.get(error.errno or 0, StorageFailedError)
        raise kind(f"{path}: {error.strerror or error}") from error
