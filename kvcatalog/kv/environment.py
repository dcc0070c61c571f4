"""An LMDB environment that many threads, processes and forks may use: one a process, grown and reopened at rest.

`open_environment` hands out one Environment for each folder and process, however often it is asked. Growing the map and
reopening after an I/O error need every transaction of the process at rest; threads that enter meanwhile wait, except
those that hold a transaction already.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Protocol, TypeVar

from kvcatalog.errors import CatalogClosedError, CatalogUnavailableError, MapLimitError, StoragePermissionError
from kvcatalog.kv import door, engine, preflight
from kvcatalog.kv.gate import Gate, Ticket
from kvcatalog.kv.lock_guard import LockGuard
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import ReadTransaction, Use, WriteTransaction

MAP_SIZE_BYTES = 1 << 40
"""A sparse terabyte of addresses, so that the map hardly ever has to grow."""

MAP_SIZE_BYTES_MIN = 1 << 20

REST_SECONDS_MAX = 60.0
"""How long growing the map waits for open snapshots before it gives up."""

Result = TypeVar("Result")

_registry_lock = threading.Lock()
_open_environments: dict[str, Environment] = {}


class _Forks(Protocol):
    def forked(self) -> None: ...


class Environment:
    """Made by `open_environment`; `close` it as often as it was opened."""

    def __init__(
        self,
        path: str,
        tables: Iterable[Table],
        *,
        map_size_bytes: int,
        read_only: bool,
        durable: bool,
        locking: bool = True,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self.durable = durable
        self.locking = locking
        self.epoch = 0
        self.users = 0
        self.fork_hooks: weakref.WeakSet[_Forks] = weakref.WeakSet()
        self.handles: dict[Table, engine.RawDatabase] = {}
        self.carried: tuple[int, object] = (0, None)
        self._tables = tuple(tables)
        self._map_size_bytes = map_size_bytes
        self._raw: engine.RawEnvironment | None = None
        self._guard: LockGuard | None = None
        self._closed = False
        self._gate, self._opening = Gate(self.path), threading.Lock()
        self._open_raw()

    def read(self) -> ReadTransaction:
        """Return a snapshot to enter; keep it short, since it holds back the reuse of pages."""
        return ReadTransaction(self)

    def write(self) -> WriteTransaction:
        """Return a write transaction to enter; entering waits for the writer of any process."""
        return WriteTransaction(self)

    def grow(self, *, rest_seconds: float = REST_SECONDS_MAX) -> None:
        """Double the map; MapLimitError if snapshots stay open for `rest_seconds` or there are no addresses left."""
        with self._gate.at_rest(rest_seconds):
            raw = self._raw_or_closed()
            size = max(raw.info()["map_size"], MAP_SIZE_BYTES_MIN) * 2
            try:
                raw.set_mapsize(size)
            except engine.Error as error:
                self._reopen_raw()
                raise MapLimitError(f"{self.path}: cannot map {size} bytes: {error}") from error
            self._map_size_bytes = size

    def reopen(self, *, rest_seconds: float = REST_SECONDS_MAX) -> None:
        """Close and open the files again, as is needed after an I/O error."""
        with self._gate.at_rest(rest_seconds):
            self._raw_or_closed()
            self._reopen_raw()

    def close(self) -> None:
        """Give back one use; with the last one the files are closed, once every transaction has ended.

        On the way out of an interruption a transaction of this thread that is still open is one whose end was
        interrupted, and is given up. MapLimitError if snapshots stay open for too long: then the environment stays
        open, too.
        """
        with _registry_lock:
            if self.users > 1:
                self.users -= 1
                return
        if not isinstance(sys.exc_info()[1], Exception | None):
            self._gate.give_up_here()
        with self._gate.at_rest(REST_SECONDS_MAX), _registry_lock:
            self.users -= 1
            if self.users > 0 or self._closed:  # opened again meanwhile, or closed too often
                return
            _open_environments.pop(self.path, None)
            self._closed = True
            self._close_raw()

    def clear_stale_readers(self) -> int:
        """Free the reader slots of processes that died; return how many."""
        with self._in_use() as raw:
            return raw.reader_check()

    def file_figures(self) -> tuple[int, int]:
        """Return the size of the data file, and how much of it is taken by the last page in use, in bytes."""
        with self._in_use() as raw:
            size = os.stat(os.path.join(self.path, preflight.DATA_FILE)).st_size
            return size, (raw.info()["last_pgno"] + 1) * raw.stat()["psize"]

    def copy(self, descriptor: int) -> None:
        """Write the pages of one snapshot to a descriptor; whoever calls has no transaction open."""
        with self._in_use() as raw:
            raw.copyfd(descriptor)

    def walk(self, visit: Callable[[Table, engine.RawCursor], Result]) -> dict[str, Result]:
        """Return what a function makes of each table that there is, by name, all of one snapshot."""
        with self._in_use() as raw:
            handles = engine.tables_in(raw)
            with raw.begin() as transaction:
                answers = {}
                for table, handle in handles.items():
                    with transaction.cursor(handle) as cursor:
                        answers[table.name] = visit(table, cursor)
            return answers

    def count_rows(self) -> int:
        """Return how many values all tables that there are hold."""
        with self._in_use() as raw:
            handles = engine.tables_in(raw).values()
            with raw.begin() as transaction:
                return sum(transaction.stat(handle)["entries"] for handle in handles)

    def translated(self, error: engine.Error) -> Exception:
        """Return one of the engine's errors as ours; MapFull stays as it is for whoever can grow the map."""
        return error if isinstance(error, engine.MapFull) else engine.translate(error, self.path)

    def renew_locks(self) -> None:
        """Set LMDB's locks again, as each transaction does at its start."""
        if self._guard is not None:
            try:
                self._guard.renew()
            except OSError as error:
                raise engine.translate_os_error(error, self.path) from error

    def begin(self, use: Use, *, write: bool) -> tuple[engine.RawTransaction, Ticket]:
        """Begin an engine's transaction for a ReadTransaction, curing what can be cured; returns what `ended` takes."""
        if write and self.read_only:
            raise CatalogUnavailableError(f"{self.path} was opened for reading only").advising("Open it for writing.")
        cured: set[type[engine.Error]] = set()
        while True:
            ticket = self._gate.enter(use)
            try:
                raw = self._raw_or_closed()
                if self._guard is not None:
                    self._guard.renew()
                return raw.begin(write=write), ticket
            except engine.MapResized:  # as often as others make it larger
                self._gate.left(ticket)
                self._adopt_map_size()
            except engine.Error as error:
                self._gate.left(ticket)
                cure = self._cure(error)
                if cure is None or type(error) in cured:  # each cure is tried once
                    raise engine.translate(error, self.path) from error
                cured.add(type(error))
                cure()
            except BaseException as error:
                self._gate.left(ticket)
                if isinstance(error, OSError):
                    raise engine.translate_os_error(error, self.path) from error
                raise

    def _cure(self, error: engine.Error) -> Callable[[], object] | None:
        if isinstance(error, engine.ReadersFull):
            return self.clear_stale_readers
        return self.reopen if isinstance(error, engine.Panic) and not self.read_only else None

    def ended(self, ticket: Ticket) -> None:
        """Forget a use that `begin` took note of."""
        self._gate.left(ticket)

    def let_go(self, use: Use) -> None:
        """Forget a use whose end was interrupted."""
        self._gate.let_go(use)

    def forked(self) -> None:
        """In a forked child: let go of what belongs to the parent; the next transaction opens the files anew."""
        self.epoch += 1
        if self._raw is not None:
            engine.keep_forever(self._raw)
            self._raw = None
        if self._guard is not None:
            # This process has no locks yet that the close could drop, and the parent's descriptor keeps the shared one.
            self._guard.close()
            self._guard = None
        self._gate, self._opening = Gate(self.path), threading.Lock()
        for hook in list(self.fork_hooks):
            hook.forked()

    @contextmanager
    def _in_use(self) -> Iterator[engine.RawEnvironment]:
        """Keep the engine's environment from being closed or mapped anew meanwhile, as a transaction does."""
        use = Use()
        ticket = self._gate.enter(use)
        try:
            yield self._raw_or_closed()
        except engine.Error as error:
            raise engine.translate(error, self.path) from error
        except OSError as error:
            raise engine.translate_os_error(error, self.path) from error
        finally:
            self._gate.left(ticket)

    def _adopt_map_size(self) -> None:
        """Follow a map that another process has made larger."""
        with self._gate.at_rest(REST_SECONDS_MAX):
            try:
                self._raw_or_closed().set_mapsize(0)
            except engine.Error:
                self._reopen_raw()  # with as much of the map as there are addresses for

    def _raw_or_closed(self) -> engine.RawEnvironment:
        if self._closed:
            raise CatalogClosedError(f"{self.path} is closed")
        raw = self._raw
        if raw is None:  # in a forked child
            with self._opening:
                raw = self._raw or self._open_raw()
        return raw

    def _reopen_raw(self) -> None:
        self._close_raw()
        self._open_raw()

    def _close_raw(self) -> None:
        raw, guard = self._raw, self._guard
        self._raw = self._guard = None  # first: a child that is forked in between must find nothing half closed
        if raw is not None:
            if not (self.durable or self.read_only):
                with suppress(engine.Error):  # closing comes first; the last commit is what it was
                    raw.sync(True)  # noqa: FBT003  by position only
            raw.close()
        if guard is not None:
            guard.close()

    def _open_raw(self) -> engine.RawEnvironment:
        with door.passing(self.path) if self.locking else nullcontext():
            return self._open_inside()

    def _open_inside(self) -> engine.RawEnvironment:
        kind = preflight.check_data_file(self.path)
        try:
            if self.locking:
                preflight.prepare_lock_file(self.path)
        except StoragePermissionError:
            if not self.read_only:
                raise
        raw = self._without_namesake(self._map(kind), kind)
        guard: LockGuard | None = None
        try:
            if self.locking:
                guard = self._make_guard()
                raw.reader_check()
            while True:
                try:
                    self.handles = self._open_tables(raw)
                    break
                except engine.MapResized:  # others made it larger since it was mapped
                    raw.set_mapsize(0)
        except BaseException as error:
            raw.close()
            if guard is not None:
                guard.close()
            if isinstance(error, engine.Error):
                raise engine.translate(error, self.path) from error
            raise
        self.carried = (0, None)
        self._raw = raw
        self._guard = guard
        return raw

    def _without_namesake(self, raw: engine.RawEnvironment, kind: int) -> engine.RawEnvironment:
        """Free the reader slots of a dead process that had our process id, as in a container that was started again.

        They would keep pages from being used again for ever: the engine takes them for ours, and a check passes them
        over. On closing it frees all that have our id, if it has had one of them.
        """
        if not self.locking or not engine.has_readers_of_this_process(raw):
            return raw
        try:
            with raw.begin():
                pass
        except engine.Error as error:
            raise engine.translate(error, self.path) from error
        finally:
            raw.close()
        return self._map(kind)

    def _make_guard(self) -> LockGuard | None:
        lock_file = os.path.join(self.path, preflight.LOCK_FILE)
        try:
            return LockGuard(lock_file)
        except OSError as error:
            if self.read_only and error.errno in {errno.ENOENT, errno.EROFS}:
                return None  # on read-only media the engine uses no lock file, and nobody writes there
            raise engine.translate_os_error(error, lock_file) from error

    def _open_tables(self, raw: engine.RawEnvironment) -> dict[Table, engine.RawDatabase]:
        """Open each table, making those that are not there yet; for a reader a missing one is an error."""
        if self._tables and not any(engine.has_table(raw, table) for table in self._tables):
            raise engine.foreign(self.path)
        if self.read_only:
            # Without a transaction of its own a handle is opened in one that the binding commits; a reader's that is
            # passed in it only resets, and the handle would be lost.
            return {table: engine.open_table(raw, None, table, create=False) for table in self._tables}
        with raw.begin(write=True) as transaction:
            return {table: engine.open_table(raw, transaction, table, create=True) for table in self._tables}

    def _map(self, kind: int) -> engine.RawEnvironment:
        """Open the engine with as much of the map as there are addresses for."""
        size = affordable(self._map_size_bytes)
        while True:
            try:
                return engine.open_raw(
                    self.path,
                    map_size_bytes=size,
                    read_only=self.read_only,
                    durable=self.durable,
                    engine=kind,
                    locking=self.locking,
                )
            except engine.MapResized:  # others made it larger in the very moment of opening
                size *= 2
            except engine.Error as error:
                if engine.code(error) != errno.ENOMEM or size <= MAP_SIZE_BYTES_MIN:
                    raise engine.translate(error, self.path) from error
                size //= 2


def open_environment(
    path: engine.StrPath,
    tables: Iterable[Table],
    *,
    map_size_bytes: int = MAP_SIZE_BYTES,
    read_only: bool = False,
    durable: bool = True,
    locking: bool = True,
) -> Environment:
    """Open the environment in a folder, or return the one that this process has open there.

    `locking=False` is for reading files that nobody writes to, wherever they lie. Raises CatalogUnavailableError or one
    of its kinds; also if it is open already with other settings.
    """
    path = os.path.realpath(path)
    with _registry_lock:
        environment = _open_environments.get(path)
        if environment is None:
            if locking:
                preflight.refuse_network_file_system(path)
            environment = Environment(
                path, tables, map_size_bytes=map_size_bytes, read_only=read_only, durable=durable, locking=locking
            )
            _open_environments[path] = environment
        elif environment.durable != durable or (environment.read_only and not read_only):
            error = CatalogUnavailableError(f"{path} is already open in this process, with other settings")
            raise error.advising("Open it in the same way, or close it first.")
        environment.users += 1
        return environment


def affordable(size: int) -> int:
    """Return at most a quarter of the address space that the process may use."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return size if limit == resource.RLIM_INFINITY else max(MAP_SIZE_BYTES_MIN, min(size, limit // 4))


def _let_go_after_fork() -> None:
    global _registry_lock  # noqa: PLW0603  the parent's lock may be held by a thread that this process does not have
    _registry_lock = threading.Lock()
    for environment in _open_environments.values():
        environment.forked()


os.register_at_fork(after_in_child=_let_go_after_fork)
