"""How a catalog writes: operations go through its backend, with the time of the call and the roots of its moment."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Self, TypeVar

from kvcatalog import values
from kvcatalog.clock import Clock, now_micros
from kvcatalog.errors import BlobCondemnedError, CatalogError, StoragePermissionError
from kvcatalog.kv.protocol import WriteTransaction
from kvcatalog.store import upkeep
from kvcatalog.store.backend import GC_LEASE, Backend, Operation
from kvcatalog.store.catalog_reader import CatalogReader
from kvcatalog.store.scribe import Scribe

Result = TypeVar("Result")
Item = TypeVar("Item")


class CatalogWriting(CatalogReader):
    """A reader that writes as well, and knows of what was told by whom."""

    def __init__(
        self,
        backend: Backend,
        *,
        read_only: bool = False,
        clock: Clock = now_micros,
        command: str = "library",
    ) -> None:
        super().__init__(backend)
        self._read_only = read_only
        self._clock = clock
        self._command = command

    def close(self) -> None:
        """See CatalogStore."""
        self._backend.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def lease(self, name: str) -> AbstractContextManager[None]:
        """See CatalogStore."""
        return self._backend.lease(name)

    def _refer(self, operation: Operation[Result]) -> Result:
        """Write what refers to blobs; announcements of a garbage collection that is no more do not stand in the way."""
        try:
            return self._backend.submit(operation)
        except BlobCondemnedError as error:
            self._clear_stale(error)
            raise

    def _refer_all(
        self,
        items: Sequence[Item],
        operation: Callable[[WriteTransaction, Sequence[Item], Scribe], list[Result]],
        *,
        rows: int,
        key: Callable[[Item], Hashable] | None = None,
        numbers: str | None = None,
    ) -> list[Result]:
        """Do as `_refer` does for many things."""
        try:
            return self._write_all(items, operation, rows=rows, key=key, numbers=numbers)
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
            with self._backend.lease(GC_LEASE, patiently=False):
                while self._write(lambda txn, _: upkeep.clear_some(txn, self._backend.rows_max)):
                    pass

    def _write(self, operation: Callable[[WriteTransaction, Scribe], Result], reason: str | None = None) -> Result:
        """Make an operation, whole or not at all."""
        return self._backend.submit(self._inside(operation, reason))

    def _write_all(
        self,
        items: Sequence[Item],
        operation: Callable[[WriteTransaction, Sequence[Item], Scribe], list[Result]],
        *,
        rows: int,
        key: Callable[[Item], Hashable] | None = None,
        numbers: str | None = None,
        reason: str | None = None,
    ) -> list[Result]:
        """Make an operation on many things, each of which changes about so many rows; see Backend."""
        scribe = self._scribe(reason)
        return self._backend.submit_all(
            lambda txn, some: operation(txn, some, scribe(txn)), items, rows=rows, key=key, numbers=numbers
        )

    def _inside(
        self, operation: Callable[[WriteTransaction, Scribe], Result], reason: str | None = None
    ) -> Operation[Result]:
        """Return an operation as a backend takes it."""
        scribe = self._scribe(reason)
        return lambda txn: operation(txn, scribe(txn))

    def _scribe(self, reason: str | None) -> Callable[[WriteTransaction], Scribe]:
        """Return what makes the scribe of a call in each of its transactions."""
        self._check_writable()
        now, why = self._clock(), values.optional_text("reason", reason)
        return lambda txn: Scribe(self._roots.at(txn), now, self._command, why)

    def _check_writable(self) -> None:
        if self._read_only:
            raise StoragePermissionError(f"{self._backend.place} was opened for reading only")
