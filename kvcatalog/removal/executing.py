"""A plan is carried out: blobs go to the trash of their root, each looked at again, while others register.

For each batch the catalog is told what is about to go; from then on nobody can refer to it anew. What something refers
to all the same, and what has changed, stays; the rest is moved; then the announcement ends. A process that is killed in
between leaves announcements, and whoever comes next finds out from them what was moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Literal, Self

from msgspec import Struct

from kvcatalog import layout, telemetry
from kvcatalog.blobs import BlobStat, BlobStore
from kvcatalog.custody import BlobMove, Condemned
from kvcatalog.errors import CatalogError, UnsafePathError
from kvcatalog.holds import Holds
from kvcatalog.removal.aliases import Aliases
from kvcatalog.removal.asking import asked
from kvcatalog.removal.opened import open_roots
from kvcatalog.removal.plans import PlanItem
from kvcatalog.removal.protection import Ground, is_foreign
from kvcatalog.store.backend import GC_LEASE

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.store.protocol import CatalogStore

BATCH_FILES = 1000
BATCH_OBJECTS = 64
"""Blobs that are condemned together; who wants one of them has to wait until the batch is over."""

_FORGET_EVERY = 10_000

KeptReason = Literal[
    "gone",
    "changed",
    "referenced",
    "held",
    "known by another name",
    "written to",
    "not ours",
    "taken",
    "on another file system",
]
"""Why a blob of a plan stays: it is not there; it is not what it was; something refers to it, or may; a process writes
to it; it is none of this root's blobs; the trash holds one from its place already, or is not on its file system."""


class Result(Struct, frozen=True):
    """What became of an item: it lies at `trash` now, or was kept."""

    item: PlanItem
    trash: str | None = None
    kept: KeptReason | None = None


Waiting = dict[str, tuple[int, PlanItem]]
"""Paths below one root, and the item of each with its number among the results."""


class Collection:
    """One process takes blobs away; a context manager, which ends what a killed one left.

    Raises CatalogLockedError where another process is at it, and what `open_roots` does.
    """

    def __init__(self, catalog: CatalogStore, config: StorageConfig, *, only: str | None = None) -> None:
        self.catalog = catalog
        self._config = config
        self._only = only
        self._stack = ExitStack()
        self._condemned = 0
        self._started = 0.0
        self._has_executed = False

    def __enter__(self) -> Self:
        self._started = perf_counter()
        with ExitStack() as stack:
            stack.enter_context(telemetry.detached_span("kvcatalog.gc"))
            stack.enter_context(self.catalog.lease(GC_LEASE))
            self.roots = stack.enter_context(open_roots(self.catalog, self._config, only=self._only))
            stack.callback(self._forget)
            self._finish_announced()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
        if self._has_executed:
            telemetry.gc_finished(perf_counter() - self._started)

    def execute(
        self, plan: str, items: Iterable[PlanItem], *, told: Callable[[Result], object] = lambda _result: None
    ) -> Iterator[Result]:
        """Move what a plan names to the trash, `.kvcatalog/trash/<plan>/<path>`, and yield what became of each item.

        An item's blob is gone, durably, when its result appears; whoever stops iterating stops the plan there. Nothing
        that is referred to or held goes, or that is not as it was when the plan was made. Before an error of catalog or
        storage is raised, or an interruption, what was moved is written down, and its results are yielded. `told` is
        called with each result as soon as it is known, and so with all, however the iteration ends.
        """
        self._has_executed = True
        aliases = self.roots.aliases()
        waiting = iter(items)
        while chunk := list(islice(waiting, BATCH_FILES)):
            groups: dict[str, tuple[BlobStore, Waiting]] = {}
            results: dict[int, Result] = {}
            for number, item in enumerate(chunk):
                located = self.roots.locate(item.location)
                if located is None or not layout.is_path(located[1]):
                    results[number] = Result(item, kept="not ours")
                    continue
                store, path = located
                _, group = groups.setdefault(store.uri, (store, {}))
                if path in group:
                    results[number] = Result(item, kept="gone")  # it is named twice, and goes once
                else:
                    group[path] = (number, item)
            cut_off: BaseException | None = None
            try:
                for store, group in groups.values():
                    left = iter(group.items())
                    size = BATCH_OBJECTS if store.local_path("-") is None else BATCH_FILES
                    while some := dict(islice(left, size)):
                        self._carry_out(Batch(self.catalog, store, plan, some, aliases), results)
            except BaseException as error:  # noqa: BLE001 - it is raised when what was done is told
                cut_off = error
            found = [results[number] for number in sorted(results)]
            for result in found:
                told(result)
            try:
                yield from found
            finally:
                if cut_off is not None:
                    raise cut_off

    def _carry_out(self, batch: Batch, results: dict[int, Result]) -> None:
        self.roots.check(batch.store)
        batch.keep_what_is_used()
        try:
            self._condemned += batch.condemn()
            batch.check_again()
            batch.move()
            batch.settle()
        except BaseException:
            with suppress(CatalogError):
                batch.take_note(self._finish_announced())
            raise
        finally:
            results |= batch.results
        if self._condemned >= _FORGET_EVERY:
            self._forget()

    def _forget(self) -> None:
        self._condemned = 0
        with suppress(CatalogError):  # the next collection does it
            self.catalog.forget_condemned()

    def _finish_announced(self) -> list[BlobMove]:
        """End the announcements of a collection that is no more, and write down what it moved; return that."""
        announced = self.catalog.condemned()
        moves = [move for each in announced if (move := self._what_was_done(each)) is not None]
        if announced:
            self.catalog.settle_condemned([each.storage_uri for each in announced], moves)
            telemetry.gc_removed(len(moves))
        return moves

    def _what_was_done(self, announced: Condemned) -> BlobMove | None:
        located = self.roots.locate(announced.storage_uri)
        if located is None:
            return None
        store, path = located
        target = layout.set_aside_path(layout.TRASH_PATH, announced.plan, path)
        there, here = _stat(store, target), _stat(store, path)
        if there is None:
            return None
        if here is None:
            return _moved_to(store, path, target, there.size, "finished after an interruption")
        if here.sha256 is not None and (here.sha256, here.size) == (there.sha256, there.size):
            store.delete(target)  # an object was copied and not yet deleted: it was not moved
        return None


class Batch:
    """Blobs below one root that go together, and the steps in which they do."""

    def __init__(self, catalog: CatalogStore, store: BlobStore, plan: str, waiting: Waiting, aliases: Aliases) -> None:
        self.catalog = catalog
        self.store = store
        self.plan = plan
        self.results: dict[int, Result] = {}
        self._aliases = aliases
        self._ground = Ground(store)
        self._waiting = waiting
        self._announced: list[str] = []
        self._moves: list[BlobMove] = []

    def keep_what_is_used(self) -> None:
        """Leave out what nobody need be told of."""
        for path, reason in self._used().items():
            self._keep(path, reason)
        paths = list(self._waiting)
        for path, is_ours in zip(paths, asked(self.store, self._is_ours, paths), strict=True):
            if not is_ours:
                self._keep(path, "not ours")

    def condemn(self) -> int:
        """Announce what is about to go, and return how many that are."""
        uris = [self.store.uri_of(path) for path in self._waiting]
        if uris:
            self.catalog.condemn(uris, plan=self.plan)
        self._announced = uris
        return len(uris)

    def check_again(self) -> None:
        """Keep what something refers to by now, and what is not what it was."""
        for path, reason in self._used().items():
            self._keep(path, reason)
        paths = list(self._waiting)
        for path, refusal in zip(paths, asked(self.store, self._refusal, paths), strict=True):
            if refusal is not None:
                self._keep(path, refusal)

    def move(self) -> None:
        """Take what is left to the trash."""
        moves = [(path, layout.set_aside_path(layout.TRASH_PATH, self.plan, path)) for path in self._waiting]
        outcomes = self.store.move_many(moves) if moves else []
        for (path, target), outcome in zip(moves, outcomes, strict=True):
            number, item = self._waiting[path]
            if outcome == "moved":
                self._moves.append(_moved_to(self.store, path, target, item.bytes, item.reason))
                self.results[number] = Result(item, trash=self.store.uri_of(target))
            else:
                self._keep(path, _KEPT[outcome])

    def take_note(self, moves: list[BlobMove]) -> None:
        """Take note of what was moved when the batch was cut off, as was found out and written down afterwards."""
        numbers = {self.store.uri_of(path): (number, item) for path, (number, item) in self._waiting.items()}
        for move in moves:
            if move.storage_uri in numbers:
                number, item = numbers[move.storage_uri]
                self.results[number] = Result(item, trash=move.target)

    def settle(self) -> None:
        """End the announcement, and write down what was moved."""
        if self._announced:
            self.catalog.settle_condemned(self._announced, self._moves)
        telemetry.gc_removed(len(self._moves))

    def _used(self) -> dict[str, KeptReason]:
        """Return the paths that must stay whatever lies there, and why."""
        uris = {path: self.store.uri_of(path) for path in self._waiting}
        referenced = self.catalog.referenced(uris.values())
        holds = Holds(self.catalog.holds())
        used: dict[str, KeptReason] = {}
        for path, uri in uris.items():
            if uri in referenced:
                used[path] = "referenced"
            elif holds.of_place(uri):
                used[path] = "held"
            elif self._aliases.has(self.store, path):
                used[path] = "known by another name"
        return used

    def _is_ours(self, path: str) -> bool:
        return not is_foreign(path) and self._ground.holds(path)

    def _refusal(self, path: str) -> KeptReason | None:
        """Return why a blob is not what the plan says."""
        _, item = self._waiting[path]
        try:
            found = self.store.stat(path)
            if found is None:
                return "gone"
            if not item.is_like(found):
                return "changed"
            return "written to" if self.store.is_written(path) else None
        except UnsafePathError:
            return "not ours"

    def _keep(self, path: str, reason: KeptReason) -> None:
        number, item = self._waiting.pop(path)
        self.results[number] = Result(item, kept=reason)


_KEPT: dict[str, KeptReason] = {
    "missing": "gone",
    "taken": "taken",
    "unsafe": "not ours",
    "other device": "on another file system",
}


def _stat(store: BlobStore, path: str) -> BlobStat | None:
    try:
        return store.stat(path)
    except UnsafePathError:
        return None


def _moved_to(store: BlobStore, path: str, target: str, size: int, reason: str) -> BlobMove:
    return BlobMove("trash", store.uri_of(path), store.uri_of(target), size, reason)
