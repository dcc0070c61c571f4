"""The one door for writing: calls from any thread wait in a queue and are applied together, a batch a transaction.

Whoever finds the door open leads: it applies what waits in one transaction, commits once, leaves each caller its own
result or error, and hands the door to the first in the queue. A call that fails takes nothing with it: the batch is
applied again without it. A call returns when its change is durable.

The engine lets go of the interpreter's lock with every row, which costs next to nothing unless another thread wants it.
So those who were answered are woken by the next leader just before it commits: they run while it waits for the disk,
and nobody runs while it applies. Each wakes the one behind it, so that they do not all ask for that lock at once.

Calls that nobody waits for are told by a thread of their own, outside the door, and what hangs on their futures is
called by another one: it may take its time, use the catalog, wait for other futures, or fail, and holds up nobody.
"""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, cast

from kvcatalog.errors import CatalogClosedError, CatalogError, OutcomeUnknownError
from kvcatalog.kv import engine
from kvcatalog.kv.attending import Attendant
from kvcatalog.kv.callbacks import Callbacks
from kvcatalog.kv.calls import Call, Operation, Result
from kvcatalog.kv.commits import ApartError, Commits, RejectedError
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.table import Table

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kvcatalog.kv.posted import PostedCall

BATCH_CALLS_MAX = 1024

GATHER_SHARE_MAX = 0.8
"""How long those who were answered last time may take to come back, as a share of the last flush, to be waited for."""

GATHER_CALL_SECONDS = 40e-6
"""How long one of them takes, roughly."""

GATHER_STEP_SECONDS = 300e-6
"""How long it waits for the next of them."""

WAKE_SECONDS_MAX = 0.25
"""How long a call waits until it looks for itself: an interruption may have come before a wake-up."""

POSTED_CALLS_MAX = 8192
"""How many calls may wait until whoever posts another one has to help."""


class Writer:
    """The door of one process.

    `token_table` and `before_commit` are those of Commits; `after_commit` is told how many calls a transaction has
    answered. `around_batch` gives a context for the work on a batch of so many calls.
    """

    def __init__(
        self,
        environment: Environment,
        token_table: Table,
        before_commit: Operation[None],
        after_commit: Callable[[int], None] = lambda _calls: None,
        around_batch: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._environment = environment
        self._commits = Commits(environment, token_table, before_commit)
        self._after_commit = after_commit
        self._around_batch = around_batch
        self._closed = False
        self.forked()
        environment.fork_hooks.add(self)

    def forked(self) -> None:
        """Start afresh: what waits in the queue belongs to threads of the parent process."""
        self._commits.forked()
        self._door = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._begun: list[Call] = []
        self._answered: list[Call] = []
        self._leading: Call | None = None
        self._gathered = threading.Lock()
        self._gathered.acquire()
        self._wanted = sys.maxsize
        self._untold: deque[PostedCall] = deque()
        self._expected = 0
        self._server = Attendant("kvcatalog writer")
        self._callbacks = Callbacks()

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
            self._callbacks.start()
        elif len(self._waiting) >= POSTED_CALLS_MAX:
            self._lead()
        else:
            self._server.rouse()
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
            if len(self._waiting) >= self._wanted:
                self._tell_gathered()
            while not call.done:
                if self._door.locked():  # whoever is inside wakes the first in the queue on leaving
                    call.wake.acquire(timeout=WAKE_SECONDS_MAX)
                    continue
                self._lead(call)
        except BaseException:
            self._withdraw(call)
            raise
        if call.behind is not None:
            call.behind.notify()
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
                    self._leading = call
                    self._answer_some()
        finally:
            self._wake_next()

    def _tell_gathered(self) -> None:
        """Let a leader go on that waits for calls."""
        with suppress(RuntimeError):  # somebody else was quicker
            self._gathered.release()

    def _tell(self) -> None:
        """Give the futures of posted calls what came of them; what hangs on them is left to be called.

        A call stays in the queue until that is over, so an interruption loses nobody. Two threads may be at it.
        """
        while self._untold:
            with suppress(IndexError):  # somebody else was quicker
                call = self._untold[0]
                call.tell()
                self._callbacks.add(call.future)
                with suppress(ValueError):
                    self._untold.remove(call)

    def _served(self) -> bool:
        """See that a thread works off what was posted; False if there can be none, as when the interpreter ends."""
        return self._server.serves(self)

    def do(self) -> None:
        """Work off what is posted, in the thread for that."""
        try:
            if self._waiting:
                self._lead()
            self._tell()
            self._callbacks.start()
        except BaseException as error:  # noqa: BLE001 - the next call needs this thread
            _log_failure(self._environment.path, error)

    def is_left(self) -> bool:
        """Tell whether anything is left for the thread; a call that is done is untold before it waits no more."""
        return bool(self._waiting or self._untold)

    def close(self) -> None:
        """Let those through who wait, and refuse whoever comes later; every future that was given out is done then.

        What hangs on futures is called here if the thread for that has not come to it yet.
        """
        try:
            with self._door:
                self._leading = None
                waiting = set(self._waiting)
                while not waiting.isdisjoint(list(self._waiting)):
                    self._answer_some()
                self._closed = True
        finally:
            self._wake_next()
        self._environment.fork_hooks.discard(self)
        self._tell()
        self._callbacks.call_here()

    def _wake_next(self) -> None:
        """Let the first in the queue see whether it has to lead, and the thread what it has to tell.

        Those who were answered are left to whoever leads next. If nobody does, or if that may take long since other
        processes write, they are woken now.
        """
        if self._untold:
            self._server.rouse()
        if self._commits.has_company:
            self._wake_answered()
        try:
            first = self._waiting[0]
        except IndexError:
            self._wake_answered()
        else:
            if first.is_posted:
                self._server.rouse()
            else:
                first.notify()

    def _wake_answered(self) -> None:
        """Let those go who have their answer, one after another."""
        while self._answered:
            with suppress(IndexError):  # somebody else was quicker
                self._answered.pop().notify()

    def _withdraw(self, call: Call) -> None:
        """After an interruption: what nobody has begun nobody shall begin, and what was begun is waited for."""
        call.withdrawn = True
        with suppress(ValueError):
            self._waiting.remove(call)
        while not call.done and self._door.locked() and call in self._begun:
            call.wake.acquire(timeout=WAKE_SECONDS_MAX)
        if call.behind is not None:
            call.behind.notify()
        self._wake_next()

    def _answer_some(self) -> None:
        """Answer as many of those who wait as fit into a batch; whoever leads calls it.

        They stay in the queue until they are done, so an interruption loses nobody.
        """
        if self._commits.is_open:
            self._settle_interrupted()
        self._gather()
        # One step of the interpreter, so nobody appends meanwhile; an iterator made before it might see that.
        self._begun = list(self._waiting)[:BATCH_CALLS_MAX]
        try:
            with self._around_batch(len(self._begun)):
                self._answer([call for call in self._begun if call.begin()])
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is not self._server.thread:
                raise
            self._settle_failed(error)
        self._commits.forget()
        for call in self._begun:
            if call.is_posted and call.done:
                self._untold.append(cast("PostedCall", call))
            with suppress(ValueError):
                self._waiting.remove(call)
        self._expected = sum([not call.is_posted for call in self._begun]) + len(self._waiting)
        self._begun = []
        self._leading = None

    def _late(self) -> list[Call]:
        """Begin those who came since the batch was made; waiting for the write lock may have taken a while."""
        if len(self._waiting) <= len(self._begun):
            return []
        begun = set(self._begun)
        late = [call for call in list(self._waiting)[:BATCH_CALLS_MAX] if call not in begun]
        self._begun = self._begun + late
        return [call for call in late if call.begin()]

    def _gather(self) -> None:
        """Wait a moment for those who were answered last time and come again: one flush serves them all.

        Where they are so many that it would take longer than a flush does, they had better make the next batch.
        """
        expected = self._expected
        flush_seconds = self._commits.flush_seconds
        takes_long = expected * GATHER_CALL_SECONDS > GATHER_SHARE_MAX * flush_seconds
        if len(self._waiting) >= expected or takes_long or self._commits.has_company:
            return
        self._wake_answered()
        self._wanted = expected
        until = time.perf_counter() + flush_seconds
        before = -1
        while before < len(self._waiting) < expected and time.perf_counter() < until:
            before = len(self._waiting)
            self._gathered.acquire(timeout=GATHER_STEP_SECONDS)
        self._wanted = sys.maxsize

    def _settle_interrupted(self) -> None:
        """Answer the calls of a batch that may have been committed before its leader was interrupted."""
        try:
            outcome = self._commits.outcome()
        except CatalogError as failure:
            self._finish(self._begun, OutcomeUnknownError(f"the commit was interrupted; and then: {failure}"))
        else:
            if outcome == "unknown":
                text = "the commit was interrupted; another process has written since"
                self._finish(self._begun, OutcomeUnknownError(text))
            if outcome == "committed":
                self._finish(self._begun)
        self._commits.forget()

    def _settle_failed(self, error: BaseException) -> None:
        """Answer the calls of a batch that ended with an error that is none of the catalog's."""
        _log_failure(self._environment.path, error)
        if self._commits.is_open:
            self._settle_interrupted()
        failure = CatalogError(f"unexpected {type(error).__name__}: {error}")
        failure.__cause__ = error
        self._finish(self._begun, failure)

    def _answer(self, batch: list[Call]) -> None:
        """Apply a batch until every call in it has its result or its error."""
        while batch:
            try:
                if self._closed:
                    raise CatalogClosedError(f"{self._environment.path} is closed")
                self._commits.apply(batch, self._late, self._wake_answered)
            except ApartError as apart:
                for call in apart.calls:
                    call.alone = True
            except RejectedError as rejected:
                self._finish([rejected.call])
                batch.remove(rejected.call)
            except engine.MapFull:
                try:
                    self._environment.grow()
                except CatalogError as error:
                    self._finish(batch, error)
                    return
            except CatalogError as error:
                self._finish(batch, self._commits.settled(error))
                return
            else:
                self._finish(batch)
                self._after_commit(len(batch))
                return

    def _finish(self, calls: list[Call], error: CatalogError | None = None) -> None:
        """Give each call its answer; who waits for one is woken later, each by the one before."""
        behind: Call | None = None
        for call in reversed(calls):
            if not call.done:
                call.error = call.error if error is None else _copied(error)
                if not (call.is_posted or call is self._leading):
                    call.behind = behind
                    behind = call
                call.done = True
        if behind is not None:
            self._answered.append(behind)


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
