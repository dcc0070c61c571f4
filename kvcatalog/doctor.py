"""Whether catalog, roots and configuration agree, and what the places that they name can do.

Nothing is repaired. Below a root that is the catalog's, files of our own are written and removed again, in its staging
folder; elsewhere nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

from msgspec import Struct

from kvcatalog.blob_backends import probe_at
from kvcatalog.blobs import Capability
from kvcatalog.errors import CatalogError, CatalogUnavailableError
from kvcatalog.storage import root_state, root_uri
from kvcatalog.uris import absolute_path, file_path

if TYPE_CHECKING:
    from kvcatalog.config import ContentDownloadConfig, StorageConfig
    from kvcatalog.models import Root
    from kvcatalog.store.dynamo_catalog import DynamoCatalog
    from kvcatalog.store.protocol import CatalogStore

FREE_BYTES_MIN = 1 << 30
"""Less than this on a disk is a problem: downloads and the catalog itself end with it."""

FREE_INODES_MIN = 10_000

State = Literal["ok", "note", "problem"]

_ADVICE: dict[str, str] = {
    "durable writes": "Use a file system on which fsync works; until then a crash may lose blobs that were registered.",
    "nameless files": "Nothing needs to be done: temporary files have names here, and leftovers are swept.",
    "exclusive renames": "Use a file system that renames without replacing, or one writer at a time.",
    "objects": "Do not store here: the server does not give back what it was given.",
    "kept metadata": "Blobs are read wherever their digest is asked for; use a server that keeps metadata.",
    "copies": "Quarantine and trash need copies within the bucket; look at the server's policy.",
    "conditional puts": "One host keeps its writers apart; let no two hosts write to the same policy paths at once.",
}
_STATE_ADVICE: dict[str, str] = {
    "unreachable": "Mount it, or correct the configuration; `kvcatalog roots adopt` follows a root that was moved.",
    "of another catalog": "Use a root of its own for each catalog; `kvcatalog roots adopt` takes one over.",
    "of another generation": "After a restore, a copy or a move to another disk, run `kvcatalog roots adopt`.",
}


class Diagnosis(Struct, frozen=True):
    """One thing that was looked at: a `problem` needs somebody, a `note` is worth knowing; `advice` says what to do."""

    state: State
    subject: str
    check: str
    detail: str | None = None
    advice: str | None = None


def diagnose(config: ContentDownloadConfig, catalog: CatalogStore | CatalogUnavailableError) -> Iterator[Diagnosis]:
    """Yield what is found out about a configuration and its catalog, or why that cannot be opened."""
    place = config.catalog.path
    if config.catalog.backend == "lmdb":
        place = absolute_path(place)
    if isinstance(catalog, CatalogUnavailableError):
        yield Diagnosis("problem", place, "opens", str(catalog), catalog.advice)
        return
    yield Diagnosis("ok", place, "opens", f"catalog {catalog.identity.uuid}")
    if not config.catalog.enabled:
        advice = "Set catalog.enabled to true to register downloads."
        yield Diagnosis("note", place, "enabled", "the configuration switches the catalog off", advice)
    if config.catalog.backend == "lmdb":
        yield _writable(place)
        yield from _free_space(place, place)
    else:
        yield _recoverable(place, cast("DynamoCatalog", catalog))
    roots = catalog.roots()
    yield from _configured_root(config.storage, roots)
    for root in roots:
        yield from _examined(root, config.storage, catalog)


def _writable(path: str) -> Diagnosis:
    refused = [name for name in ("data.mdb", "lock.mdb") if not os.access(os.path.join(path, name), os.W_OK)]
    if not refused:
        return Diagnosis("ok", path, "may be written")
    advice = "Use it as the user who owns it; readers need to write lock.mdb, too."
    return Diagnosis("problem", path, "may be written", f"no permission for {', '.join(refused)}", advice)


def _recoverable(place: str, catalog: DynamoCatalog) -> Diagnosis:
    check = "point-in-time recovery"
    try:
        if catalog.is_recoverable():
            return Diagnosis("ok", place, check)
    except CatalogError as error:
        return Diagnosis("note", place, check, f"cannot be told: {error}", error.advice)
    advice = "`kvcatalog init` switches it on; until then nothing brings back what is lost with the table."
    return Diagnosis("note", place, check, "it is off", advice)


def _free_space(subject: str, path: str) -> Iterator[Diagnosis]:
    figures = os.statvfs(path)
    free = figures.f_bavail * figures.f_frsize
    state: State = "ok" if free >= FREE_BYTES_MIN else "problem"
    advice = None if state == "ok" else "Free some space; nothing is lost when a disk is full, but nothing is stored."
    yield Diagnosis(state, subject, "free space", f"{free // 1_000_000} MB", advice)
    if figures.f_files and figures.f_favail < FREE_INODES_MIN:
        advice = "Remove files, or use a file system with more inodes."
        yield Diagnosis("problem", subject, "free inodes", f"{figures.f_favail} files more", advice)


def _configured_root(config: StorageConfig, roots: list[Root]) -> Iterator[Diagnosis]:
    """Compare where the configuration stores blobs with what the catalog knows."""
    uri = root_uri(config)
    known = next((root for root in roots if root.uri == uri or _is_same_folder(root.uri, uri)), None)
    if known is None and not roots:
        advice = "Nothing needs to be done: the first `kvcatalog add` or `fetch` makes it one."
        yield Diagnosis("note", uri, "configured root", "the catalog has no root yet", advice)
    elif known is None:
        others = ", ".join(root.uri for root in roots)
        advice = (
            "Correct storage.root_dir (it is relative to the working directory) or --root; "
            "the next download makes this place a further root."
        )
        yield Diagnosis("problem", uri, "configured root", f"the catalog knows other roots only: {others}", advice)
    elif known.cas_prefix != config.cas_prefix:
        detail = f"storage.cas_prefix is {config.cas_prefix!r}, and the root has {known.cas_prefix!r}"
        yield Diagnosis("problem", uri, "configured root", detail, "Correct storage.cas_prefix.")
    else:
        yield Diagnosis("ok", uri, "configured root", f"root {known.id} of the catalog")


def _examined(root: Root, config: StorageConfig, catalog: CatalogStore) -> Iterator[Diagnosis]:
    try:
        state = root_state(root, config, catalog)
        if state != "ok":
            yield Diagnosis("problem", root.uri, "is there and ours", state, _STATE_ADVICE[state])
            return
        yield Diagnosis("ok", root.uri, "is there and ours")
        folder = file_path(root.uri)
        if folder is not None:
            yield from _free_space(root.uri, folder)
        for capability in probe_at(root.uri, config):
            yield _judged(root, capability, config)
    except CatalogError as error:
        yield Diagnosis("problem", root.uri, "may be written", str(error), error.advice)


def _judged(root: Root, capability: Capability, config: StorageConfig) -> Diagnosis:
    name = capability.name
    if capability.works:
        return Diagnosis("ok", root.uri, name)
    if name == "hard links":
        wanted = config.policy_links or (config.hardlink_dedup and config.layout == "policy_path")
        advice = "Equal contents are copied; the layout cas stores each content once without links."
        return Diagnosis("problem" if wanted else "note", root.uri, name, capability.detail, advice)
    state: State = "note" if name in {"nameless files", "conditional puts"} else "problem"
    return Diagnosis(state, root.uri, name, capability.detail, _ADVICE[name])


def _is_same_folder(one: str, other: str) -> bool:
    """Tell whether two URIs name one folder, over a symbolic link."""
    paths = file_path(one), file_path(other)
    try:
        return paths[0] is not None and paths[1] is not None and os.path.samefile(paths[0], paths[1])
    except OSError:
        return False
