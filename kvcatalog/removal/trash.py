"""The trash of a root: what a plan took lies below its name, under the path that it had, until that is emptied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kvcatalog import layout, uris
from kvcatalog.blobs import BlobStat, BlobStore
from kvcatalog.clock import to_micros
from kvcatalog.errors import NotFoundError
from kvcatalog.models import BlobMove
from kvcatalog.removal.sharing import FreedBytes

if TYPE_CHECKING:
    from kvcatalog.removal.executing import Collection
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

_CHUNK = 1000
_DAY_MICROS = 86_400_000_000

RestoreOutcome = Literal["restored", "taken", "missing", "unsafe", "other device"]


class Restored(Struct, frozen=True):
    """What became of a blob in the trash; `taken` says that another one lies at its place, and it stays."""

    location: str
    trash: str
    bytes: int
    outcome: RestoreOutcome


class Emptied(Struct, frozen=True):
    """What emptying the trash of a root removes, and how many bytes that frees.

    `kept` counts blobs that something refers to, where they are now or where they were.
    """

    root: str
    plans: int
    blobs: int
    bytes: int
    bytes_freed: int
    kept: int


def restore(collection: Collection, wanted: str) -> Iterator[Restored]:
    """Move what a plan took, or one blob, back to its place; nothing that is there is replaced.

    `wanted` is a plan's name, the path of a local file, or a storage URI, of its place or in the trash; of several that
    lay at one place the latest comes back. What comes back counts as used just now. NotFoundError.
    """
    found = False
    for store in collection.roots.stores:
        for label, blobs in _wanted(store, wanted):
            while chunk := list(islice(blobs, _CHUNK)):
                found = True
                yield from _restored(collection.catalog, store, label, chunk)
            store.prune(_folder(label))
    if not found:
        raise NotFoundError(f"nothing of {wanted} is in the trash")


def empty(
    roots: OpenRoots, catalog: CatalogStore, *, now: int, older_than_days: float | None = None, apply: bool
) -> Iterator[Emptied]:
    """Remove for good what lies in the trash of each root, or only tell what that would do.

    With `older_than_days` only plans that were made longer ago, `now` in microseconds. What something refers to stays.
    Whoever applies it holds the lease of a Collection.
    """
    before = None if older_than_days is None else now - round(older_than_days * _DAY_MICROS)
    for store in roots.stores:
        roots.check(store)
        counts: Counter[str] = Counter()
        with FreedBytes() as freed:
            for label in store.folders(layout.TRASH_PATH):
                if before is None or _made_before(label, before):
                    _empty_plan(store, catalog, label, counts, freed, apply=apply)
            of_names = 0 if apply else freed.total()
        yield Emptied(
            store.uri, counts["plans"], counts["blobs"], counts["bytes"], counts["freed"] + of_names, counts["kept"]
        )


def _empty_plan(
    store: BlobStore, catalog: CatalogStore, label: str, counts: Counter[str], freed: FreedBytes, *, apply: bool
) -> None:
    blobs = store.walk(_folder(label))
    removed_bytes, removed = 0, 0
    while chunk := list(islice(blobs, _CHUNK)):
        going = _unwanted(store, catalog, label, chunk)
        counts["kept"] += len(chunk) - len(going)
        gone = store.delete_many([blob.path for blob in going]) if apply else going
        removed += len(gone)
        removed_bytes += sum(blob.size for blob in gone)
        for blob in gone:
            if not apply:
                freed.add(blob.size, blob.links, blob.file)
            elif blob.links <= 1:
                counts["freed"] += blob.size
    counts["plans"] += 1
    counts["blobs"] += removed
    counts["bytes"] += removed_bytes
    if apply:
        store.prune(_folder(label))
        if removed:
            place = store.uri_of(_folder(label))
            catalog.record_moves([BlobMove("empty-trash", place, None, removed_bytes, f"{removed} blobs")])


def _unwanted(store: BlobStore, catalog: CatalogStore, label: str, blobs: list[BlobStat]) -> list[BlobStat]:
    """Leave out what something refers to: by its place in the trash, or by the one that it had and nothing else has."""
    start = len(_folder(label)) + 1
    places = {blob.path: store.uri_of(blob.path[start:]) for blob in blobs}
    here = {blob.path: store.uri_of(blob.path) for blob in blobs}
    used = catalog.referenced([*places.values(), *here.values()]) if blobs else set()
    return [
        blob
        for blob in blobs
        if here[blob.path] not in used and (places[blob.path] not in used or store.stat(blob.path[start:]) is not None)
    ]


def _restored(catalog: CatalogStore, store: BlobStore, label: str, blobs: list[BlobStat]) -> Iterator[Restored]:
    start = len(_folder(label)) + 1
    outcomes = store.move_many([(blob.path, blob.path[start:]) for blob in blobs])
    results = [
        Restored(
            store.uri_of(blob.path[start:]),
            store.uri_of(blob.path),
            blob.size,
            "restored" if outcome == "moved" else outcome,
        )
        for blob, outcome in zip(blobs, outcomes, strict=True)
    ]
    catalog.record_moves(
        BlobMove("restore", each.trash, each.location, each.bytes, None)
        for each in results
        if each.outcome == "restored"
    )
    yield from results


def _wanted(store: BlobStore, wanted: str) -> Iterator[tuple[str, Iterator[BlobStat]]]:
    """Yield the plans in whose folders something is wanted, and what it is."""
    if "/" not in wanted and wanted in store.folders(layout.TRASH_PATH):
        yield wanted, store.walk(_folder(wanted))
        return
    path = store.path_of(wanted if uris.has_scheme(wanted) else uris.file_uri(wanted))
    if path is None or not layout.is_path(path):
        return
    inside = path.removeprefix(f"{layout.TRASH_PATH}/")
    if inside != path:
        label, _, rest = inside.partition("/")
        found = store.stat(path) if rest else None
        if found is not None:
            yield label, iter((found,))
        return
    for label, found in _copies(store, path):
        yield label, iter((found,))
        return


def _copies(store: BlobStore, path: str) -> Iterator[tuple[str, BlobStat]]:
    """Yield what lay at a path and lies in the trash, the latest first."""
    for label in reversed(store.folders(layout.TRASH_PATH)):
        found = store.stat(f"{_folder(label)}/{path}")
        if found is not None:
            yield label, found


def _folder(label: str) -> str:
    return f"{layout.TRASH_PATH}/{label}"


def _made_before(label: str, moment: int) -> bool:
    """Tell whether a plan's name says that it was made before a moment."""
    try:
        made = datetime.strptime(f"{label.partition('-')[0]}+0000", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        return False
    return to_micros(made) < moment
