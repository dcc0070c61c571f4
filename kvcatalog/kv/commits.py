"""Commits of one process: calls applied together in a transaction, and what became of it where that is not plain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal

from msgspec import Struct

from kvcatalog.errors import CatalogError, OutcomeUnknownError
from kvcatalog.kv import engine
from kvcatalog.kv.calls import Call, Operation
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import WriteTransaction

TOKEN_KEY = b"last commit"


class _Attempt(Struct, frozen=True, array_like=True):
    """Who wrote the last commit: a process's token, its count of batches, and the engine's transaction number."""

    token: bytes
    batch: int
    transaction: int


_TOKEN = Codec(_Attempt, "last commit")


class RejectedError(Exception):
    """A call failed after it had written, so its transaction cannot stand."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class ApartError(Exception):
    """Operations could not be made together, and it is not known because of which."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls = calls


class Commits:
    """`token_table` takes the row by which a commit whose answer was lost is recognised.

    `flush_seconds` is how long the last commit waited for the disk; `has_company` tells whether another process has
    written since the one before.
    """

    def __init__(self, environment: Environment, token_table: Table, before_commit: Operation[None]) -> None:
        self._environment = environment
        self._token_table = token_table
        self._before_commit = before_commit
        self.forked()

    def forked(self) -> None:
        """Start afresh, with a token of this process."""
        self._token = os.urandom(16)
        self._batch = 0
        self._attempt: _Attempt | None = None
        self._last_number = 0
        self.flush_seconds = 0.0
        self.has_company = False

    @property
    def is_open(self) -> bool:
        """Tell whether a commit was begun of which nobody knows yet what became."""
        return self._attempt is not None

    def forget(self) -> None:
        """Take what was begun for settled."""
        self._attempt = None

    def apply(
        self,
        batch: list[Call],
        late: Callable[[], list[Call]] = list,
        before_flush: Callable[[], object] = lambda: None,
    ) -> None:
        """Make all calls in one transaction and commit it; each has its result then, or its error.

        Calls that are `late`, since they came while other processes wrote, join the batch. `before_flush` is called
        when the calls are made and the disk is about to be waited for. Raises ApartError or RejectedError where the
        transaction came to nothing because of some of the calls, MapFull, or CatalogError.
        """
        self.forget()
        with self._environment.write() as transaction:
            batch += late()
            self.has_company = transaction.number != self._last_number + 1
            for kind, calls in groupby(batch, _joint_type):
                if kind is None:
                    for call in calls:
                        _apply(call, transaction, self._environment.path)
                else:
                    _apply_together(list(calls), transaction)
            if transaction.writes:
                self._before_commit(transaction)
                self._batch += 1
                self._attempt = _Attempt(self._token, self._batch, transaction.number)
                transaction.put(self._token_table, TOKEN_KEY, _TOKEN.encode(TOKEN_KEY, self._attempt))
            before_flush()
            started = time.perf_counter()
        self.flush_seconds = time.perf_counter() - started
        self._last_number = transaction.number if transaction.writes else transaction.number - 1

    def settled(self, error: CatalogError) -> CatalogError | None:
        """Return what a failed commit means for its callers: None if it took place after all."""
        if self._attempt is None:
            return error
        try:
            self._environment.reopen()
            outcome = self.outcome()
        except CatalogError as failure:
            return OutcomeUnknownError(f"{error}; and then: {failure}")
        if outcome == "unknown":
            return OutcomeUnknownError(f"{error}; another process has written since")
        return error if outcome == "absent" else None

    def outcome(self) -> Literal["committed", "absent", "unknown"]:
        """Tell whether the last attempt took place, from the row that every commit leaves."""
        if self._attempt is None:
            return "absent"
        with self._environment.read() as transaction:
            value = transaction.get(self._token_table, TOKEN_KEY)
        last = None if value is None else _TOKEN.decode(TOKEN_KEY, value)
        if last == self._attempt:
            return "committed"
        return "unknown" if last is not None and last.transaction > self._attempt.transaction else "absent"


def _joint_type(call: Call) -> type | None:
    return type(call.operation) if hasattr(call.operation, "together") and not call.alone else None


def _apply_together(calls: list[Call], transaction: WriteTransaction) -> None:
    first: Any = calls[0].operation
    try:
        results = first.together(transaction, [call.operation for call in calls])
    except engine.MapFull:
        raise
    except Exception as error:
        raise ApartError(calls) from error
    for call, result in zip(calls, results, strict=True):
        call.result, call.error = (None, result) if isinstance(result, Exception) else (result, None)


def _apply(call: Call, transaction: WriteTransaction, path: str) -> None:
    writes = transaction.writes
    try:
        call.error = None
        call.result = call.operation(transaction)
    except engine.MapFull:
        raise
    except engine.Error as error:
        # The engine may not go on with this transaction, whether the call wrote or not.
        call.error = engine.translate(error, path)
        raise RejectedError(call) from error
    except Exception as error:
        call.error = error
        if transaction.writes != writes:
            raise RejectedError(call) from error
