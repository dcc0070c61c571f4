"""The one door for writing: calls from any thread wait in a queue and are applied together, a batch a transaction.

Whoever finds the door open leads: it applies what waits in one transaction, commits once, wakes each caller with its
own result or error, and hands the door to the first in the queue. A call that fails takes nothing with it:
the batch is applied again without it. A call returns when its change is durable.

Calls that nobody waits for are told by a thread of their own, outside the door: what hangs on their futures may take
its time, use the catalog, or fail, and holds up nobody who writes.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, cast

from msgspec import Struct

from kvcatalog.errors import CatalogClosedError, CatalogError, OutcomeUnknownError
from kvcatalog.kv import engine
from kvcatalog.kv.calls import Call, Operation, Result
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import WriteTransaction

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kvcatalog.kv.posted import PostedCall

BATCH_CALLS_MAX = 1024

GATHER_SECONDS_MAX = 150e-6
GATHER_STEP_SECONDS = 10e-6

WAKE_SECONDS_MAX = 0.25
"""How long a call waits until it looks for itself: an interruption may have come before a wake-up."""

POSTED_CALLS_MAX = 8192
"""How many calls may wait until whoever posts another one has to help."""

LINGER_SECONDS = 0.02
"""How long the thread for posted calls waits for more; a process that ends waits for it."""

TOKEN_KEY = b"last commit"


class _Attempt(Struct, frozen=True, array_like=True):
    """Who wrote the last commit: a process's token, its count of batches, and the engine's transaction number."""

    token: bytes
    batch: int
    transaction: int


_TOKEN = Codec(_Attempt, "last commit")


class _RejectedError(Exception):
    """A call failed after it had written, so its transaction cannot stand."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class _ApartError(Exception):
    """Operations could not be made together, and it is not known because of which."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls = calls


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
        environment.fork_hooks.add(self)

    def forked(self) -> None:
        """Start afresh: what waits in the queue belongs to threads of the parent process."""
        self._door = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._begun: list[Call] = []
        self._untold: deque[PostedCall] = deque()
        self._token = os.urandom(16)
        self._batch = 0
        self._expected = 0
        self._attempt: _Attempt | None = None
        self._server_gate = threading.Lock()
        self._server: threading.Thread | None = None
        self._rest = threading.Lock()
        self._rest.acquire()

    def post(
        self, operation: Operation[Result], before_failing: Callable[[BaseException], None] | None = None
    ) -> Future[Result]:
        """Apply an operation as `submit` does, without waiting; the future has its result once that is durable.

        Where very many wait already, the caller works off some of them first. A future that is cancelled before its
        operation has begun stores nothing. CatalogClosedError is raised at once. What was posted is done before the
        process exits. `before_failing` gets an error before the future has it, and may write.
        """
        if self._closed:
            raise CatalogClosedError(f"{self._environment.path} is closed")
        from kvcatalog.kv.posted import PostedCall

        call = PostedCall(operation, before_failing)
        self._waiting.append(call)
        if not self._served():
            while not call.done:
                self._lead()
            self._tell()
        elif len(self._waiting) >= POSTED_CALLS_MAX:
            self._lead()
        else:
            self._rouse()
        return call.future

    @property
    def is_crowded(self) -> bool:
        """Tell whether whoever posts the next call has to help."""
        return len(self._waiting) + 1 >= POSTED_CALLS_MAX

    def make_room(self) -> None:
        """Work off some of the calls that wait, if they are very many."""
        if self.is_crowded:
            self._lead()

    def submit(self, operation: Operation[Result]) -> Result:
        """Apply an operation in a transaction, alone or with others, and return its result once that is durable.

        Raises what the operation raised (then nothing of it was stored), CatalogClosedError, or the error of the
        storage; OutcomeUnknownError if a failed commit cannot be told from one that took place.
        """
        call = Call(operation)
        try:
            self._waiting.append(call)
            while not call.done:
                if self._door.locked():  # whoever is inside wakes the first in the queue on leaving
                    call.wake.acquire(timeout=WAKE_SECONDS_MAX)
                    continue
                self._lead(call)
        except BaseException:
            self._withdraw(call)
            raise
        if call.error is not None:
            raise call.error
        result: Result = call.result
        return result

    def _lead(self, call: Call | None = None) -> None:
        """Answer a batch, unless a call of one's own has its answer already; whoever is posted is told by the thread.

        Told here, in the thread of a stranger, a callback might wait for a lock that this very thread holds.
        """
        try:
            with self._door:
                if call is None or not call.done:
                    self._answer_some()
        finally:
            self._wake_next()

    def _tell(self) -> None:
        """Give the futures of posted calls what came of them; never inside the door, since it calls what hangs on them.

        A call stays in the queue until that is over, so an interruption loses nobody. Two threads may be at it.
        """
        while self._untold:
            with suppress(IndexError):  # somebody else was quicker
                call = self._untold[0]
                call.tell()
                with suppress(ValueError):
                    self._untold.remove(call)

    def _served(self) -> bool:
        """See that a thread works off what was posted; False if there can be none, as when the interpreter ends."""
        if not threading.main_thread().is_alive():
            return False  # Python 3.11 still starts threads then, and waits for none
        if self._server is None:
            with self._server_gate:
                if self._server is None:
                    thread = threading.Thread(target=self._serve, name="kvcatalog writer")
                    try:
                        thread.start()
                    except RuntimeError:
                        return False
                    self._server = thread
        return True

    def _rouse(self) -> None:
        """Let the thread look that works off what was posted."""
        if self._rest.locked():
            with suppress(RuntimeError):  # somebody else was quicker
                self._rest.release()

    def _serve(self) -> None:
        """Work off what is posted until nothing has come for a moment; it is no daemon, so the process waits for it."""
        this = threading.current_thread()
        try:
            while True:
                roused = self._rest.acquire(timeout=LINGER_SECONDS)
                while self._has_posted():
                    try:
                        if self._waiting:
                            self._lead()
                        self._tell()
                    except BaseException as error:  # noqa: BLE001 - the next call needs this thread
                        _log_failure(self._environment.path, error)
                if roused:
                    continue
                with self._server_gate:
                    self._server = None
                    # Whoever posts now either finds no server, or was seen here.
                    if not self._has_posted():
                        return
                    self._server = this
        finally:
            with self._server_gate:
                if self._server is this:
                    self._server = None

    def _has_posted(self) -> bool:
        """Tell whether anything is left for the thread; a call that is done is untold before it waits no more."""
        return bool(self._waiting or self._untold)

    def close(self) -> None:
        """Let those through who wait, and refuse whoever comes later; every future that was given out is done then."""
        try:
            with self._door:
                waiting = set(self._waiting)
                while not waiting.isdisjoint(list(self._waiting)):
                    self._answer_some()
                self._closed = True
        finally:
            self._wake_next()
        self._environment.fork_hooks.discard(self)
        self._tell()

    def _wake_next(self) -> None:
        """Let the first in the queue see whether it has to lead, and the thread what it has to tell."""
        if self._untold:
            self._rouse()
        with suppress(IndexError):
            first = self._waiting[0]
            if first.is_posted:
                self._rouse()
            else:
                first.notify()

    def _withdraw(self, call: Call) -> None:
        """After an interruption: what nobody has begun nobody shall begin, and what was begun is waited for."""
        call.withdrawn = True
        with suppress(ValueError):
            self._waiting.remove(call)
        while not call.done and self._door.locked() and call in self._begun:
            call.wake.acquire(timeout=WAKE_SECONDS_MAX)
        self._wake_next()

    def _answer_some(self) -> None:
        """Answer as many of those who wait as fit into a batch; whoever leads calls it.

        They stay in the queue until they are done, so an interruption loses nobody.
        """
        if self._attempt is not None:
            self._settle_interrupted()
        self._gather()
        # One step of the interpreter, so nobody appends meanwhile; an iterator made before it might see that.
        self._begun = list(self._waiting)[:BATCH_CALLS_MAX]
        try:
            self._answer([call for call in self._begun if call.begin()])
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is not self._server:
                raise
            self._settle_failed(error)
        self._attempt = None
        for call in self._begun:
            if call.is_posted and call.done:
                self._untold.append(cast("PostedCall", call))
            with suppress(ValueError):
                self._waiting.remove(call)
        self._expected = len(self._begun) + len(self._waiting)
        self._begun = []

    def _gather(self) -> None:
        """Wait a moment for those who were answered last time and come again: one flush serves them all."""
        if len(self._waiting) < self._expected:
            until = time.perf_counter() + GATHER_SECONDS_MAX
            while len(self._waiting) < self._expected and time.perf_counter() < until:
                time.sleep(GATHER_STEP_SECONDS)

    def _settle_interrupted(self) -> None:
        """Answer the calls of a batch that may have been committed before its leader was interrupted."""
        try:
            outcome = self._outcome()
        except CatalogError as failure:
            _finish(self._begun, OutcomeUnknownError(f"the commit was interrupted; and then: {failure}"))
        else:
            if outcome == "unknown":
                text = "the commit was interrupted; another process has written since"
                _finish(self._begun, OutcomeUnknownError(text))
            if outcome == "committed":
                _finish(self._begun)
        self._attempt = None

    def _settle_failed(self, error: BaseException) -> None:
        """Answer the calls of a batch that ended with an error that is none of the catalog's."""
        _log_failure(self._environment.path, error)
        if self._attempt is not None:
            self._settle_interrupted()
        failure = CatalogError(f"unexpected {type(error).__name__}: {error}")
        failure.__cause__ = error
        _finish(self._begun, failure)

    def _answer(self, batch: list[Call]) -> None:
        """Apply a batch until every call in it has its result or its error."""
        while batch:
            try:
                self._commit(batch)
            except _ApartError as apart:
                for call in apart.calls:
                    call.alone = True
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

    def _commit(self, batch: list[Call]) -> None:
        if self._closed:
            raise CatalogClosedError(f"{self._environment.path} is closed")
        self._attempt = None
        with self._environment.write() as transaction:
            for kind, calls in groupby(batch, _joint_type):
                if kind is None:
                    for call in calls:
                        _apply(call, transaction, self._environment.path)
                else:
                    _apply_together(list(calls), transaction)
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


def _joint_type(call: Call) -> type | None:
    return type(call.operation) if hasattr(call.operation, "together") and not call.alone else None


def _apply_together(calls: list[Call], transaction: WriteTransaction) -> None:
    first: Any = calls[0].operation
    try:
        results = first.together(transaction, [call.operation for call in calls])
    except engine.MapFull:
        raise
    except Exception as error:
        raise _ApartError(calls) from error
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
        raise _RejectedError(call) from error
    except Exception as error:
        call.error = error
        if transaction.writes != writes:
            raise _RejectedError(call) from error


def _finish(calls: list[Call], error: CatalogError | None = None) -> None:
    for call in calls:
        if not call.done:
            call.error = call.error if error is None else _copied(error)
            call.done = True
        call.notify()


def _copied(error: CatalogError) -> CatalogError:
    """Return an error for one caller alone, since raising it writes its traceback into it."""
    try:
        own = copy.copy(error)
    except TypeError:  # its arguments are not those that it was made from
        return error
    own.__cause__ = error
    return own


def _log_failure(path: str, error: BaseException) -> None:
    """Log an error that nobody is there to get; logging is not imported by those who never need it."""
    import logging

    logging.getLogger(__name__).error("%s: writing failed unexpectedly", path, exc_info=error)
