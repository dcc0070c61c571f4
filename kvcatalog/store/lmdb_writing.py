"""How a catalog in an LMDB environment writes: one door for all calls, and leases that the kernel keeps."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Self, TypeVar

from kvcatalog import telemetry, values
from kvcatalog.clock import Clock, now_micros
from kvcatalog.errors import (
    OS_ERRORS,
    BlobCondemnedError,
    CatalogError,
    CatalogLockedError,
    StorageFailedError,
    StoragePermissionError,
)
from kvcatalog.kv.calls import Operation
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.kv.writer import Writer
from kvcatalog.schema import COUNTERS
from kvcatalog.store import operations, upkeep
from kvcatalog.store.lmdb_reader import LmdbReader
from kvcatalog.store.operations import Scribe
from kvcatalog.store.protocol import GC_LEASE
from kvcatalog.store.tally import write_tally

Result = TypeVar("Result")


class LmdbWriting(LmdbReader):
    """A reader that writes as well, and knows of what was told by whom."""

    def __init__(
        self,
        environment: Environment,
        *,
        read_only: bool = False,
        clock: Clock = now_micros,
        command: str = "library",
    ) -> None:
        super().__init__(environment)
        self._read_only = read_only
        self._clock = clock
        self._command = command
        self._writer = Writer(environment, COUNTERS, write_tally, telemetry.batch_committed, _followed)

    def close(self) -> None:
        """See CatalogStore."""
        if not self._closed:
            self._writer.close()
            self._environment.close()
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """See CatalogStore; the kernel keeps it, so it cannot outlive its process or expire under it."""
        path, holder = os.path.join(self._environment.path, f"{name}.lease"), os.getpid()
        with _translated(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with _translated(path):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    text = f"{self._environment.path}: another process is at work: {name}"
                    raise CatalogLockedError(text) from error
            try:
                yield
            finally:
                # A child shares the lock, so closing alone would leave it with one that was forked meanwhile, and such
                # a child must not end it.
                if os.getpid() == holder:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _refer(self, operation: Operation[Result]) -> Result:
        """Write what refers to blobs; announcements of a garbage collection that is no more do not stand in the way."""
        try:
            return self._writer.submit(operation)
        except BlobCondemnedError as error:
            self._clear_stale(error)
            raise

    def _clear_stale(self, error: BaseException) -> None:
        """Where a registration was refused, end the announcements of a collection that is no more.

        Nobody knows how far that came, so the blob has to be looked for all the same, and the error stands.
        """
        if not isinstance(error, BlobCondemnedError):
            return
        with suppress(CatalogError):
            with self._read() as transaction:
                if not upkeep.any_condemned(transaction):  # it is over, and nobody is to be kept from the lease
                    return
            with self.lease(GC_LEASE):
                self._write(operations.clear_stale)

    def _write(self, operation: Callable[[WriteTransaction, Scribe], Result], reason: str | None = None) -> Result:
        """Put an operation through the writing door."""
        return self._writer.submit(self._inside(operation, reason))

    def _inside(
        self, operation: Callable[[WriteTransaction, Scribe], Result], reason: str | None = None
    ) -> Operation[Result]:
        """Return an operation as the writing door takes it, with the time of the call and the roots of its moment."""
        self._check_writable()
        now, why = self._clock(), values.optional_text("reason", reason)
        return lambda txn: operation(txn, Scribe(self._roots.at(txn), now, self._command, why))

    def _check_writable(self) -> None:
        if self._read_only:
            raise StoragePermissionError(f"{self._environment.path} was opened for reading only")


def _followed(calls: int) -> AbstractContextManager[object]:
    return telemetry.span("kvcatalog.commit", calls=calls)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = OS_ERRORS.get(error.errno or 0, StorageFailedError)
        raise kind(f"{path}: {error.strerror or error}") from error
