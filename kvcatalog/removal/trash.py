"""The trash of a root: what a plan took lies below its name, under the path that it had, until that is emptied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kvcatalog import layout, uris, values
from kvcatalog.blobs import BlobStat, BlobStore
from kvcatalog.clock import to_micros
from kvcatalog.custody import BlobMove
from kvcatalog.errors import NotFoundError, UnsafePathError
from kvcatalog.removal.sharing import FreedBytes

if TYPE_CHECKING:
    from kvcatalog.removal.executing import Collection
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

_CHUNK = 1000
_DAY_MICROS = 86_400_000_000

RestoreOutcome = Literal["restored", "taken", "missing", "unsafe", "other device"]


class Trashed(Struct, frozen=True):
    """What a plan took below a root and still lies in its trash."""

    plan: str
    root: str
    taken_at: datetime | None
    blobs: int
    bytes: int


class TrashedBlob(Struct, frozen=True):
    """A blob that a plan took: where it lay, and where it lies."""

    plan: str
    location: str
    bytes: int
    trash: str


class Restored(Struct, frozen=True):
    """What became of a blob in the trash.

    `taken` says that another one lies at its place, and it stays; `missing` that it is in the trash no more.
    """

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


def plans_in_trash(roots: OpenRoots) -> Iterator[Trashed]:
    """Yield what lies in the trash of each root, plan by plan, the oldest first."""
    for store in roots.stores:
        for label in store.folders(layout.TRASH_PATH):
            sizes = [0, 0]
            for blob in store.walk(_folder(label)):
                sizes[0] += 1
                sizes[1] += blob.size
            if sizes[0]:
                yield Trashed(label, store.uri, _made_at(label), *sizes)


def blobs_in_trash(roots: OpenRoots, plan: str) -> Iterator[TrashedBlob]:
    """Yield what a plan took and still lies in the trash; NotFoundError if that is nothing."""
    found = False
    for store in roots.stores:
        if plan in store.folders(layout.TRASH_PATH):
            start = len(_folder(plan)) + 1
            for blob in store.walk(_folder(plan)):
                found = True
                yield TrashedBlob(plan, store.uri_of(blob.path[start:]), blob.size, store.uri_of(blob.path))
    if not found:
        raise _nothing_of(plan)


def restore(collection: Collection, wanted: str) -> Iterator[Restored]:
    """Move what a plan took, or one blob, back to its place; nothing that is there is replaced.

    `wanted` is a plan's name, the path of a local file, or a storage URI, of its place or in the trash; of several that
    lay at one place the latest comes back. What comes back counts as used just now. What the journal says that a plan
    took, and that is neither in the trash nor at its place, is told last, as missing. NotFoundError.
    """
    found = False
    for store in collection.roots.stores:
        is_plan = _is_plan(store, wanted)
        for label, blobs in _wanted(store, wanted):
            while chunk := list(islice(blobs, _CHUNK)):
                found = True
                yield from _restored(collection.catalog, store, label, chunk)
            store.prune(_folder(label))
        if is_plan:
            yield from _missing(collection.catalog, store, wanted)
    if not found:
        raise _nothing_of(wanted)


def empty(
    roots: OpenRoots, catalog: CatalogStore, *, now: int, older_than_days: float | None = None, apply: bool
) -> Iterator[Emptied]:
    """Remove for good what lies in the trash of each root, or only tell what that would do.

    With `older_than_days` only plans that were made longer ago, `now` in microseconds. What something refers to stays.
    Whoever applies it holds the lease of a Collection. Where it is cut off, what was removed is yielded first.
    """
    before = None
    if older_than_days is not None:
        before = now - round(values.days("older_than_days", older_than_days) * _DAY_MICROS)
    for store in roots.stores:
        roots.check(store)
        counts: Counter[str] = Counter()
        cut_off: BaseException | None = None
        with FreedBytes() as freed:
            try:
                for label in store.folders(layout.TRASH_PATH):
                    if before is None or _made_before(label, before):
                        _empty_plan(store, catalog, label, counts, freed, apply=apply)
            except BaseException as error:  # noqa: BLE001 - it is raised when what was done is told
                cut_off = error
            of_names = 0 if apply else freed.total()
        try:
            yield Emptied(
                store.uri, counts["plans"], counts["blobs"], counts["bytes"], counts["freed"] + of_names, counts["kept"]
            )
        finally:
            if cut_off is not None:
                raise cut_off


def _nothing_of(wanted: str) -> NotFoundError:
    error = NotFoundError(f"nothing of {wanted} is in the trash")
    return error.advising("`kvcatalog gc trash` lists what is there; `kvcatalog why` tells of a place.")


def _missing(catalog: CatalogStore, store: BlobStore, plan: str) -> Iterator[Restored]:
    """Yield what the journal says that a plan took, and that is nowhere any more."""
    start = f"{_folder(plan)}/"
    for entry in catalog.journal():
        target = entry.changes["storage_uri"][1] if entry.action == "trash" else None
        path = store.path_of(target) if isinstance(target, str) else None
        if not isinstance(target, str) or path is None or not path.startswith(start) or not layout.is_path(path):
            continue
        place = path.removeprefix(start)
        if _is_there(store, path) or _is_there(store, place):
            continue
        if any(later.action == "restore" for later in catalog.journal(storage_uri=target)):
            continue  # it came back, and was taken away by something else
        size = entry.changes.get("bytes", (None, None))[0]
        yield Restored(store.uri_of(place), target, size if isinstance(size, int) else 0, "missing")


def _is_there(store: BlobStore, path: str) -> bool:
    """Tell whether anything has a name: also what is no blob, such as a link."""
    try:
        return store.stat(path) is not None
    except UnsafePathError:
        return True


def _empty_plan(
    store: BlobStore, catalog: CatalogStore, label: str, counts: Counter[str], freed: FreedBytes, *, apply: bool
) -> None:
    blobs = store.walk(_folder(label))
    removed_bytes, removed = 0, 0
    try:
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
    finally:
        counts["plans"] += 1
        counts["blobs"] += removed
        counts["bytes"] += removed_bytes
        if apply and removed:
            place = store.uri_of(_folder(label))
            catalog.record_moves([BlobMove("empty-trash", place, None, removed_bytes, f"{removed} blobs")])
    if apply:
        store.prune(_folder(label))


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
    if _is_plan(store, wanted):
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


def _is_plan(store: BlobStore, wanted: str) -> bool:
    return "/" not in wanted and wanted in store.folders(layout.TRASH_PATH)


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
    made = _made_at(label)
    return made is not None and to_micros(made) < moment


def _made_at(label: str) -> datetime | None:
    """Return when a plan was made, from its name; None for a folder that has none of our names."""
    try:
        return datetime.strptime(f"{label.partition('-')[0]}+0000", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        return None
