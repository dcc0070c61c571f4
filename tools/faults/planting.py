"""Mistakes to be planted into a process, to show which of them a harness sees."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import lmdb

from kvcatalog import layout, schema
from kvcatalog.blobs import BlobStat, BlobStore, Publication
from kvcatalog.finalize import DownloadOutcome, _Finalizing
from kvcatalog.fs_layout.folders import RootFolder
from kvcatalog.holds import Holds
from kvcatalog.kv import engine, preflight
from kvcatalog.kv.codec import Codec
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.models import DocumentRecord, Registration, VariantRegistration
from kvcatalog.placement import Placed
from kvcatalog.removal import trash
from kvcatalog.store import contents
from kvcatalog.store.catalog_reader import CatalogReader
from kvcatalog.store.catalog_upkeep import CatalogUpkeep
from kvcatalog.store.protocol import CatalogStore

VARIABLE = "KVCATALOG_FAULT"
"""The environment variable that names the mistake; only harnesses look at it."""

_Registered = Registration | VariantRegistration

_attempt, _register = _Finalizing._attempt, _Finalizing._register
_fsync, _open_raw, _decode = os.fsync, engine.open_raw, Codec.decode
_put = WriteTransaction.put


def plant(mistake: str) -> None:
    """Put a mistake into this process; none for an empty name."""
    if mistake:
        owner, name, replacement = MISTAKES[mistake]
        getattr(owner, name)  # what has another name now would be planted in vain
        setattr(owner, name, replacement)


def _record_first(self: _Finalizing, sha256: str | None) -> DownloadOutcome:
    """Register before the blob is stored."""
    path, config = self.candidate.path, self.placement.config
    if config.layout == "cas":
        path = layout.cas_relative_path(config.cas_prefix, bytes.fromhex(sha256 or ""))
    if self.catalog is not None:
        stored = Placed(None, self.store.uri_of(path), Publication("stored"))
        _register(self, self.catalog, self._document(self.catalog), stored, sha256, self.catalog.blob_epoch())
    return _attempt(self, sha256)


def _source_first(
    self: _Finalizing,
    catalog: CatalogStore,
    document: DocumentRecord | None,
    stored: Placed,
    *rest: Any,  # noqa: ANN401 - passed on
) -> _Registered:
    """Remove the temporary file before the record is made; a killed call cannot be made again."""
    os.unlink(self.file.path or "")
    return _register(self, catalog, document, stored, *rest)


def _answer_first(
    self: _Finalizing,
    catalog: CatalogStore,
    document: DocumentRecord | None,
    stored: Placed,
    *rest: Any,  # noqa: ANN401 - passed on
) -> None:
    """Answer before the record is durable."""
    Thread(target=_register, args=(self, catalog, document, stored, *rest), daemon=True).start()


def _written_in_place(self: _Finalizing, path: str, *_: object, **__: object) -> Publication:
    """Write a blob where everybody sees it, and take whatever lies there for the same content."""
    place = Path(self.store.local_path(path) or "")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        return Publication("present")
    with open(place, "wb", buffering=0) as target, self.file.reader() as source:
        while data := source.read(512):
            target.write(data)
    return Publication("stored", "copied")


def _unflushed(is_spared: Callable[[int], bool]) -> Callable[[int], None]:
    """Return an fsync that does nothing for files of a kind."""

    def fsync(descriptor: int) -> None:
        if not is_spared(os.fstat(descriptor).st_mode):
            _fsync(descriptor)

    return fsync


def _never_failing(descriptor: int) -> None:
    """Take a flush that failed for one that did not."""
    with suppress(OSError):
        _fsync(descriptor)


def _opened_unflushed(path: engine.StrPath, **settings: Any) -> engine.RawEnvironment:  # noqa: ANN401 - passed on
    """Open an environment whose commits are not flushed."""
    raw = _open_raw(path, **settings)
    raw.close()
    return lmdb.open(
        os.fspath(path), map_size=settings["map_size_bytes"], max_dbs=engine.TABLES_MAX, sync=False, create=False
    )


def _forgetful(self: WriteTransaction, table: Table, key: bytes, value: bytes, *, append: bool = False) -> None:
    """Leave out an index row now and then."""
    if table is not schema.VARIANTS_BY_SHA256 or value[-1] % 4:
        _put(self, table, key, value, append=append)


def _unchecked(self: Codec[Any], key: bytes, value: bytes) -> Any:  # noqa: ANN401 - any row
    """Decode a value without a look at its checksum."""
    payload = value[9:]
    return self._decode(payload) if payload else _decode(self, key, value)


def _whatever_is_there(self: RootFolder) -> int:
    """Take what lies at a root's place for the root, and make it where there is nothing."""
    os.makedirs(os.path.join(self.path, layout.STAGING_PATH), exist_ok=True)
    if self._descriptor >= 0:
        os.close(self._descriptor)
    self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
    return self._descriptor


def _nothing(*_: object) -> None:
    """Leave out what should be done."""


def _without_conflicts(self: CatalogReader, storage_uris: Iterable[str]) -> set[str]:
    """Forget that a conflict refers to a blob as well."""
    return {uri for uri in storage_uris if any(each.kind != "conflict" for each in self.references(uri))}


def _everything(_store: BlobStore, _catalog: CatalogStore, _label: str, blobs: list[BlobStat]) -> list[BlobStat]:
    """Take all that is in the trash for unwanted."""
    return blobs


MISTAKES: dict[str, tuple[object, str, Callable[..., object]]] = {
    "record-first": (_Finalizing, "_attempt", _record_first),
    "source-first": (_Finalizing, "_register", _source_first),
    "answer-first": (_Finalizing, "_register", _answer_first),
    "written-in-place": (_Finalizing, "_publish", _written_in_place),
    "file-not-flushed": (os, "fsync", _unflushed(stat.S_ISREG)),
    "folder-not-flushed": (os, "fsync", _unflushed(stat.S_ISDIR)),
    "commit-not-flushed": (engine, "open_raw", _opened_unflushed),
    "error-swallowed": (os, "fsync", _never_failing),
    "index-row-dropped": (WriteTransaction, "put", _forgetful),
    "checksum-not-checked": (Codec, "decode", _unchecked),
    "file-not-checked": (preflight, "_check_meta", lambda *_: engine.ENGINE_0_9),
    "lock-file-not-backed": (preflight, "prepare_lock_file", _nothing),
    "root-not-checked": (RootFolder, "descriptor", _whatever_is_there),
    "fork-not-noticed": (Environment, "forked", _nothing),
    "condemned-not-checked": (contents, "refuse_condemned", _nothing),
    "conflicts-not-asked": (CatalogReader, "referenced", _without_conflicts),
    "holds-not-asked": (Holds, "of_place", lambda *_: []),
    "trash-not-looked-at": (trash, "_unwanted", _everything),
    "generation-kept": (CatalogUpkeep, "begin_generation", lambda self, **_: self.identity),
}
"""For each mistake: where it goes, and what takes that place."""
