"""A garbage collection one step at a time; each step is the real one, and it takes whatever it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvcatalog.blobs import BlobStat, BlobStore
from kvcatalog.removal.aliases import Aliases
from kvcatalog.removal.executing import Batch
from kvcatalog.removal.plans import PlanItem
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tools.faults.checking import references


class _Item(PlanItem, frozen=True):
    """An item that takes whatever lies at its place."""

    def is_like(self, stat: BlobStat) -> bool:  # noqa: ARG002 - as PlanItem
        return True


class Collector:
    """Made with the catalog and one of its roots; whoever uses it holds the lease.

    One that `forgets` removes the rows of what it has cleared at once, else they stay. It condemns what it is told to,
    used or not, and the age of a blob never stops it: only the protocol stands between it and a record's blob.
    """

    def __init__(self, catalog: LmdbCatalog, store: BlobStore, *, forgets: bool = True) -> None:
        self.catalog = catalog
        self.store = store
        self.forgets = forgets
        self.condemned: tuple[str, ...] = ()
        self.moved = 0
        self._round = 0
        self._batch = self._batch_of()

    def steps(self, *paths: str) -> Iterator[Callable[[], None]]:
        """Yield the steps of one collection in their order."""
        yield lambda: self.condemn(*paths)
        yield self.check_again
        yield self.move
        yield self.clear

    def unreferenced(self) -> tuple[str, ...]:
        """Return the paths below the root that nothing refers to now."""
        there = [blob.path for blob in self.store.walk()]
        used = {uri for _, uri, _, _ in references(self.catalog)}
        return tuple(path for path in there if self.store.uri_of(path) not in used)

    def condemn(self, *paths: str) -> None:
        """Announce which blobs are about to be taken."""
        self.condemned = paths
        self._round += 1
        self._batch = self._batch_of(*paths)
        self._batch.condemn()

    def check_again(self) -> None:
        """Keep what something refers to by now."""
        self._batch.check_again()

    def move(self) -> None:
        """Take what is left to the trash."""
        self._batch.move()
        self.moved += len(self._batch._moves)

    def clear(self) -> None:
        """End the announcement."""
        self._batch.settle()
        if self.forgets:
            self.catalog.forget_condemned()
        self.condemned = ()

    def _batch_of(self, *paths: str) -> Batch:
        waiting = {path: (number, self._item(path)) for number, path in enumerate(paths)}
        return Batch(self.catalog, self.store, f"round-{self._round}", waiting, Aliases((), ()))

    def _item(self, path: str) -> PlanItem:
        stat = self.store.stat(path) or BlobStat(path, 0, 0)
        return _Item.of(self.store.uri_of(path), stat, reason="orphan", unused_since=stat.modified)
