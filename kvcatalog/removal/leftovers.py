"""Blobs that other work leaves without a reference, taken away at its end, even if that was cut off on the way.

Such work writes into the journal that it begins, what it changes, and that it is finished. So whoever comes after a
killed one knows from where on the journal is to be read, and takes what that one left.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.blobs import BlobStore
from kvcatalog.clock import now_micros, to_micros
from kvcatalog.custody import BlobMove
from kvcatalog.errors import UnsafePathError
from kvcatalog.models import JournalEntry
from kvcatalog.removal.asking import asked
from kvcatalog.removal.plans import FormerOwner, Plan, PlanItem
from kvcatalog.removal.protection import is_foreign

if TYPE_CHECKING:
    from kvcatalog.removal.executing import Collection
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

_CHUNK = 1000


class Undertaking(Struct, frozen=True):
    """Work of some name that leaves blobs behind: each change of it stands in the journal with this action and reason.

    The reasons of its entries begin with the name and a colon.
    """

    name: str
    action: str

    def reason(self, text: str) -> str:
        """Return the reason that an entry of this work has."""
        return f"{self.name}: {text}"

    def begun(self, catalog: CatalogStore) -> JournalEntry | None:
        """Return the entry with which unfinished work began, None if there is none."""
        last = None
        for last in catalog.journal(storage_uri=self._place):  # noqa: B007 - the last counts
            pass
        return last if last is not None and last.action == "begin" else None

    def begin(self, catalog: CatalogStore, note: str | None = None) -> JournalEntry:
        """Write down that the work begins, unless it has; `note` is kept for whoever goes on with it."""
        entry = self.begun(catalog)
        if entry is not None:
            return entry
        catalog.record_moves([BlobMove("begin", self._place, None, 0, note)])
        entry = self.begun(catalog)
        assert entry is not None  # noqa: S101 - it was just written, under the lease of a collection
        return entry

    def finish(self, catalog: CatalogStore) -> None:
        """Write down that nothing is left to do."""
        catalog.record_moves([BlobMove("finish", self._place, None, 0, None)])

    def leftovers(self, collection: Collection, began: JournalEntry) -> Plan:
        """Return the plan to take away what the work left behind since it began."""
        items = self._items(collection.catalog, collection.roots, began.sequence)
        return Plan.make(items, collection.catalog.identity, now=now_micros())

    @property
    def _place(self) -> str:
        return f"kvcatalog:{self.name}"

    def _items(self, catalog: CatalogStore, roots: OpenRoots, after: int) -> Iterator[PlanItem]:
        entries = (
            entry
            for entry in catalog.journal(after=after)
            if entry.action == self.action and (entry.reason or "").startswith(f"{self.name}: ")
        )
        while chunk := list(islice(entries, _CHUNK)):
            left = {str(place): entry for entry in chunk if (place := entry.changes.get("storage_uri", (None,))[0])}
            found: dict[str, tuple[BlobStore, list[tuple[str, JournalEntry]]]] = {}
            for place in sorted(left.keys() - catalog.referenced(left)):
                located = roots.locate(place)
                if located is not None and not is_foreign(located[1]):
                    store, path = located
                    found.setdefault(store.uri, (store, []))[1].append((path, left[place]))
            for store, those in found.values():
                for item in asked(store, partial(_item, store, self.name), those):
                    if item is not None:
                        yield item


def _item(store: BlobStore, reason: str, lost: tuple[str, JournalEntry]) -> PlanItem | None:
    path, entry = lost
    try:
        found = store.stat(path)
    except UnsafePathError:
        return None
    if found is None:
        return None
    unused_since = max(found.modified, to_micros(entry.at))
    return PlanItem.of(
        store.uri_of(path), found, reason=reason, unused_since=unused_since, former_owner=FormerOwner.of(entry)
    )
