"""A garbage collection that follows the protocol and nothing else, one step at a time; it takes whatever it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from kvcatalog import layout
from kvcatalog.blobs import BlobStore
from kvcatalog.errors import BlobNotFoundError
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.schema import CondemnedRow
from kvcatalog.store import upkeep
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tools.faults.checking import references


class Collector:
    """Made with the catalog and one of its roots; whoever uses it holds the lease.

    One that `forgets` removes the rows of what it has cleared at once, else they stay.
    """

    def __init__(self, catalog: LmdbCatalog, store: BlobStore, *, forgets: bool = True) -> None:
        self.catalog = catalog
        self.store = store
        self.forgets = forgets
        self.root = next(root.id for root in catalog.roots() if root.uri == store.uri)
        self.condemned: tuple[str, ...] = ()
        self.doomed: tuple[str, ...] = ()
        self.moved = 0
        self._round = 0

    def steps(self, *paths: str) -> Iterator[Callable[[], None]]:
        """Yield the steps of one collection in their order."""
        yield lambda: self.condemn(*paths)
        yield self.check_again
        yield self.move
        yield self.clear

    def unreferenced(self) -> tuple[str, ...]:
        """Return the paths below the root that nothing refers to now."""
        there = [blob.path for blob in self.store.walk()]
        return self._unreferenced(tuple(there))

    def condemn(self, *paths: str) -> None:
        """Announce which blobs are about to be taken."""
        self.condemned = paths

        def operation(transaction: WriteTransaction) -> None:
            for path in paths:
                upkeep.put_condemned(transaction, CondemnedRow(self.root, path, "plan", 0))

        self.catalog._writer.submit(operation)

    def check_again(self) -> None:
        """Keep what something refers to by now."""
        self.doomed = self._unreferenced(self.condemned)

    def move(self) -> None:
        """Take what is left to the trash."""
        for path in self.doomed:
            self._round += 1
            with suppress(BlobNotFoundError):
                self.store.move(path, layout.set_aside_path(layout.TRASH_PATH, f"round {self._round}", path))
                self.moved += 1

    def clear(self) -> None:
        """End the announcement."""

        def operation(transaction: WriteTransaction) -> None:
            for path in self.condemned:
                upkeep.clear_condemned(transaction, self.root, path)
            if self.forgets:
                upkeep.forget_cleared(transaction)

        self.catalog._writer.submit(operation)
        self.condemned = self.doomed = ()

    def _unreferenced(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        used = {uri for _, uri, _, _ in references(self.catalog)}
        return tuple(path for path in paths if self.store.uri_of(path) not in used)
