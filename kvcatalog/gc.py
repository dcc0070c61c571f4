"""Garbage collection: blobs that nothing refers to are found, planned for, and taken to the trash.

`plan_garbage` finds them, `kvcatalog.removal` carries the plan out. The two functions of the name `find_orphans` and
`retention_filter` serve those who bring paths and records of their own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from kvcatalog import clock, telemetry, uris, values
from kvcatalog.blobs import BlobStat, BlobStore
from kvcatalog.errors import UnsafePathError
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.holds import Holds
from kvcatalog.models import DocumentRecord, JournalEntry
from kvcatalog.removal.aliases import Aliases
from kvcatalog.removal.plans import FormerOwner, Plan, PlanItem
from kvcatalog.removal.protection import Ground, is_foreign

if TYPE_CHECKING:
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

CHUNK = 10_000
"""Places that are looked up together."""

ORPHAN = "orphan"

Progress = Callable[[Counter[str]], None]
"""Takes the counts so far: blobs `seen`, `orphans`, and `bytes` of these."""

_DAY_MICROS = 86_400_000_000
_DROPPING = frozenset(("delete", "replace", "update", "enrich", "relocate"))


def find_orphans(root_dir: str | os.PathLike[str], referenced_paths: Iterable[str]) -> list[str]:
    """Return the files below a folder that are not among some paths, each below `root_dir` as it is given, sorted.

    Paths may be relative to the working directory, absolute, or file URIs. What is none of our files (`.DS_Store`,
    `@eaDir`, whatever begins with a dot) is left out, and symbolic links are not followed. RootUnreachableError if
    there is no such folder.
    """
    used = {uris.file_path(path) if uris.has_scheme(path) else uris.absolute_path(path) for path in referenced_paths}
    root = os.fspath(root_dir)
    store = FileBlobStore(root)
    try:
        names = (name for name, _ in store.listing() if not is_foreign(name))
        return sorted(os.path.join(root, name) for name in names if store.local_path(name) not in used)
    finally:
        store.close()


def retention_filter(
    records: Iterable[DocumentRecord], days: float, *, now: datetime | None = None
) -> list[DocumentRecord]:
    """Return the records that were made more than some days before `now`; none where `days` is 0, which is for ever.

    InvalidValueError for a number of days that is none.
    """
    if not values.days("days", days):
        return []
    before = (now or clock.from_micros(clock.now_micros())) - timedelta(days=days)
    return [record for record in records if record.created_at < before]


def plan_garbage(
    catalog: CatalogStore,
    roots: OpenRoots,
    *,
    orphan_ttl_days: float,
    now: int,
    progress: Progress = lambda _: None,
) -> Plan:
    """Return the plan to take away what nothing refers to below some roots; nothing is changed.

    A blob is an orphan where no record, variant, conflict or link refers to it and no hold names its place. It stays
    while it is younger than `orphan_ttl_days` at `now` (microseconds): since it was last changed, lost its last
    reference, or came back from the trash, or since its root was adopted. Files that are none of ours or that a process
    writes to are left out. InvalidValueError for a number of days that is none.
    """
    values.days("orphan_ttl_days", orphan_ttl_days)
    search = _Search(catalog, roots.aliases(), before=now - round(orphan_ttl_days * _DAY_MICROS), progress=progress)
    items = (item for store in roots.stores for item in search.orphans(store))
    with telemetry.span("kvcatalog.gc.plan"):
        return Plan.make(items, catalog.identity, now=now, orphan_ttl_days=orphan_ttl_days)


class _Search:
    """Looks for orphans, and counts what it sees."""

    def __init__(self, catalog: CatalogStore, aliases: Aliases, *, before: int, progress: Progress) -> None:
        self.catalog = catalog
        self.aliases = aliases
        self.holds = Holds(catalog.holds())
        self.before = before
        self.progress = progress
        self.adopted = 0
        self.counts: Counter[str] = Counter()

    def orphans(self, store: BlobStore) -> Iterator[PlanItem]:
        """Yield what nothing refers to below a root."""
        ground = Ground(store)
        adoptions = (entry for entry in self.catalog.journal(storage_uri=store.uri) if entry.action == "adopt")
        self.adopted = max((clock.to_micros(entry.at) for entry in adoptions), default=0)
        listing = store.listing()
        start = f"{store.uri}/"
        while chunk := list(islice(listing, CHUNK)):
            if uris.is_plain("".join([path for path, _ in chunk])):
                places = {start + entry[0]: entry for entry in chunk}
            else:
                places = {store.uri_of(entry[0]): entry for entry in chunk}
            used = self.catalog.referenced(places)
            for uri in sorted(places.keys() - used):  # so that a batch meets few folders
                path, stat = places[uri]
                item = None if is_foreign(path) or not ground.holds(path) else self._item(store, uri, path, stat)
                if item is not None:
                    self.counts["orphans"] += 1
                    self.counts["bytes"] += item.bytes
                    yield item
            self.counts["seen"] += len(chunk)
            self.progress(self.counts)

    def _item(self, store: BlobStore, uri: str, path: str, stat: BlobStat | None) -> PlanItem | None:
        """Return the item for a blob without references, None if it stays."""
        if self.holds.of_place(uri) or self.aliases.has(store, path):
            return None
        with suppress(UnsafePathError):  # something else has come to its place
            found = stat or store.stat(path)
            if found is None or found.modified > self.before:
                return None
            entries = list(self.catalog.journal(storage_uri=uri))
            since = max([found.modified, self.adopted, *(clock.to_micros(entry.at) for entry in entries)])
            if since > self.before or store.is_written(path):
                return None
            owner = next((entry for entry in reversed(entries) if _dropped(entry, uri)), None)
            former = None if owner is None else self._former_owner(owner)
            return PlanItem.of(uri, found, reason=ORPHAN, unused_since=since, former_owner=former)
        return None

    def _former_owner(self, entry: JournalEntry) -> FormerOwner:
        document = None if entry.document_id is None else self.catalog.get_by_id(entry.document_id)
        return FormerOwner.of(entry, document)


def _dropped(entry: JournalEntry, uri: str) -> bool:
    """Tell whether an entry says that something ceased to refer to a place."""
    return entry.action in _DROPPING and entry.changes.get("storage_uri", (None, None))[0] == uri
