"""The one door for writing: calls from any thread wait in a queue and are applied together, a batch a transaction.

Whoever gets through the door first leads: it takes what waits, applies it in one transaction, commits once, and each
caller finds its own result or error. A call that fails takes nothing with it: the batch is applied again without it. A
call returns when its change is durable.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
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
    """The door of one process.

    `token_table` takes the row by which a commit whose answer was lost is recognised. `after_commit` is told how many
    calls a transaction has answered.
    """

    def __init__(
        self,
        environment: Environment,
        token_table: Table,
        before_commit: Operation[None],
        after_commit: Callable[[int], None] = lambda _calls: None,
    ) -> None:
        self._environment = environment
        self._token_table = token_table
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._closed = False
        self.forked()
        environment.fork_hooks.append(self.forked)

    def forked(self) -> None:
        """Start afresh: what waits in the queue belongs to threads of the parent process."""
        self._door = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._token = os.urandom(16)
        self._batch = 0
        self._attempt: _Attempt | None = None

    def submit(self, operation: Operation[Result]) -> Result:
        """Apply an operation in a transaction, alone or with others, and return its result once that is durable.

        Raises what the operation raised (then nothing of it was stored), CatalogClosedError, or the error of the
        storage; OutcomeUnknownError if a failed commit cannot be told from one that took place.
        """
        call = _Call(operation)
        self._waiting.append(call)
        door = self._door
        try:
            with door:
                while not call.done:
                    self._answer_some()
        except BaseException:
            # An interruption. What nobody has taken up yet nobody shall.
            with suppress(ValueError, IndexError):
                self._waiting.remove(call)
            raise
        if call.error is not None:
            raise call.error
        result: Result = call.result
        return result

    def close(self) -> None:
        """Let those through who wait, and refuse whoever comes later."""
        with self._door:
            while self._waiting:
                self._answer_some()
            self._closed = True
        with suppress(ValueError):
            self._environment.fork_hooks.remove(self.forked)

    def _answer_some(self) -> None:
        """Answer as many of those who wait as fit into a batch; they go back into the queue if this is interrupted."""
        self._attempt = None
        batch: list[_Call] = []
        try:
            while self._waiting and len(batch) < BATCH_CALLS_MAX:
                batch.append(self._waiting.popleft())
            self._answer(batch)
        except BaseException:
            self._settle_interrupted(batch)
            self._waiting.extendleft(call for call in reversed(batch) if not call.done)
            raise

    def _settle_interrupted(self, batch: list[_Call]) -> None:
        """Answer the calls of a batch that may have been committed before it was interrupted."""
        try:
            outcome = self._outcome()
        except CatalogError as failure:
            _finish(batch, OutcomeUnknownError(f"the commit was interrupted; and then: {failure}"))
            return
        if outcome == "unknown":
            _finish(batch, OutcomeUnknownError("the commit was interrupted; another process has written since"))
        if outcome == "committed":
            _finish(batch)

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
                self._after_commit(len(batch))
                return

    def _commit(self, batch: list[_Call]) -> None:
        if self._closed:
            raise CatalogClosedError(f"{self._environment.path} is closed")
        self._attempt = None
        with self._environment.write() as transaction:
            for call in batch:
                _apply(call, transaction, self._environment.path)
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


def _apply(call: _Call, transaction: WriteTransaction, path: str) -> None:
    writes = transaction.writes
    try:
        call.error = None
        call.result = call.operation(transaction)
    except engine.MapFull:
        raise
    except engine.Error as error:
        # The engine may not go on with this transaction, whether the call wrote or not.
        call.error = engine.translate(error, path)
        raise _RejectedError(call) from error
    except Exception as error:
        call.error = error
        if transaction.writes != writes:
            raise _RejectedError(call) from error


def _finish(calls: list[_Call], error: CatalogError | None = None) -> None:
    for call in calls:
        call.error = error or call.error
        call.done = True
