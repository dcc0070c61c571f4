"""The one door for writing: calls from any thread wait in a queue and are applied together, a batch a transaction.

Whoever gets through the door first leads: it takes what waits, applies it in one transaction, commits once, and each
caller finds its own result or error. A call that fails takes nothing with it: the batch is applied again without it. A
call returns when its change is durable.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from msgspec import Struct

from kvcatalog.errors import CatalogClosedError, CatalogError, OutcomeUnknownError
from kvcatalog.kv import engine
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import WriteTransaction

Result = TypeVar("Result")
Operation = Callable[[WriteTransaction], Result]
"""Changes rows inside the transaction that it is given; it may be called more than once, so it touches nothing else."""

BATCH_CALLS_MAX = 1024

TOKEN_KEY = b"last commit"


class _Attempt(Struct, frozen=True, array_like=True):
    """Who wrote the last commit: a process's token, its count of batches, and the engine's transaction number."""

    token: bytes
    batch: int
    transaction: int


_TOKEN = Codec(_Attempt, "last commit")


class _RejectedError(Exception):
    """A call failed after it had written, so its transaction cannot stand."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.call = call


class _Call:
    __slots__ = ("done", "error", "operation", "result")

    def __init__(self, operation: Operation[Any]) -> None:
        self.operation = operation
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class Writer:
    """The door of one process. `token_table` takes the row by which a commit whose answer was lost is recognised."""

    def __init__(self, environment: Environment, token_table: Table, before_commit: Operation[None]) -> None:
        self._environment = environment
        self._token_table = token_table
        self._before_commit = before_commit
        self._closed = False
        self.forked()
        environment.fork_hooks.append(self.forked)

    def forked(self) -> None:
        """Start afresh: what waits in the queue belongs to threads of the parent process."""
        self._door = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._token = secrets.token_bytes(16)
        self._batch = 0
        self._attempt: _Attempt | None = None

    def submit(self, operation: Operation[Result]) -> Result:
        """Apply an operation in a transaction, alone or with others, and return its result once that is durable.

        Raises what the operation raised (then nothing of it was stored), CatalogClosedError, or the error of the
        storage; OutcomeUnknownError if a failed commit cannot be told from one that took place.
        """
        call = _Call(operation)
        self._waiting.append(call)
        with self._door:
            if not call.done:
                self._lead(call)
        if call.error is not None:
            raise call.error
        result: Result = call.result
        return result

    def close(self) -> None:
        """Let those through who wait, and refuse whoever comes later."""
        with self._door:
            self._closed = True

    def _lead(self, own: _Call) -> None:
        while not own.done:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_CALLS_MAX))]
            try:
                self._answer(batch)
            except BaseException:
                # Not an answer to the calls but an interruption of this thread: what did not take place goes back.
                if self._outcome() == "committed":
                    _finish(batch)
                self._waiting.extendleft(call for call in reversed(batch) if call is not own and not call.done)
                raise

    def _answer(self, batch: list[_Call]) -> None:
        """Apply a batch until every call in it has its result or its error."""
        while batch:
            try:
                self._commit(batch)
            except _RejectedError as rejected:
                _finish([rejected.call])
                batch.remove(rejected.call)
            except engine.MapFull:
                try:
                    self._environment.grow()
                except CatalogError as error:
                    _finish(batch, error)
                    return
            except CatalogError as error:
                _finish(batch, self._settled(error))
                return
            else:
                _finish(batch)
                return

    def _commit(self, batch: list[_Call]) -> None:
        if self._closed:
            raise CatalogClosedError(f"{self._environment.path} is closed")
        self._attempt = None
        with self._environment.write() as transaction:
            for call in batch:
                _apply(call, transaction)
            if transaction.writes:
                self._before_commit(transaction)
                number = self._environment.last_transaction() + 1
                self._batch += 1
                self._attempt = _Attempt(self._token, self._batch, number)
                transaction.put(self._token_table, TOKEN_KEY, _TOKEN.encode(TOKEN_KEY, self._attempt))

    def _settled(self, error: CatalogError) -> CatalogError | None:
        """Return what a failed commit means for its callers: None if it took place after all."""
        if self._attempt is None:
            return error
        try:
            self._environment.reopen()
            outcome = self._outcome()
        except CatalogError as failure:
            return OutcomeUnknownError(f"{error}; and then: {failure}")
        if outcome == "unknown":
            return OutcomeUnknownError(f"{error}; another process has written since")
        return error if outcome == "absent" else None

    def _outcome(self) -> Literal["committed", "absent", "unknown"]:
        """Tell whether the last attempt took place, from the row that every commit leaves."""
        if self._attempt is None:
            return "absent"
        with self._environment.read() as transaction:
            value = transaction.get(self._token_table, TOKEN_KEY)
        last = None if value is None else _TOKEN.decode(TOKEN_KEY, value)
        if last == self._attempt:
            return "committed"
        return "unknown" if last is not None and last.transaction > self._attempt.transaction else "absent"


def _apply(call: _Call, transaction: WriteTransaction) -> None:
    writes = transaction.writes
    try:
        call.error = None
        call.result = call.operation(transaction)
    except engine.Error:
        raise
    except Exception as error:
        call.error = error
        if transaction.writes != writes:
            raise _RejectedError(call) from error


def _finish(calls: list[_Call], error: CatalogError | None = None) -> None:
    for call in calls:
        call.error = error or call.error
        call.done = True
