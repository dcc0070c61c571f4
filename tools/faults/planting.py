"""Mistakes to be planted into a process that finalizes downloads, to show which of them a harness sees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from kvcatalog import layout
from kvcatalog.blobs import Publication
from kvcatalog.finalize import _Finalizing, _Stored
from kvcatalog.models import DocumentRecord, Registration, VariantRecord, VariantRegistration
from kvcatalog.store.protocol import CatalogStore

VARIABLE = "KVCATALOG_FAULT"
"""The environment variable that names the mistake; only harnesses look at it."""

_Registered = Registration | VariantRegistration

_store, _register = _Finalizing._store, _Finalizing._register


def plant(mistake: str) -> None:
    """Put a mistake into this process; none for an empty name."""
    if mistake:
        name, replacement = _MISTAKES[mistake]
        setattr(_Finalizing, name, replacement)


def _record_first(self: _Finalizing, sha256: str | None, same: DocumentRecord | VariantRecord | None) -> _Stored:
    """Register before the blob is stored."""
    path = self.candidate.path
    if self.config.layout == "cas":
        path = layout.cas_relative_path(self.config.cas_prefix, bytes.fromhex(sha256 or ""))
    if self.catalog is not None:
        stored = _Stored(None, self.store.uri_of(path), Publication("stored"))
        _register(self, self.catalog, self._document(self.catalog), stored, sha256, self.catalog.blob_epoch())
    return _store(self, sha256, same)


def _source_first(
    self: _Finalizing,
    catalog: CatalogStore,
    document: DocumentRecord | None,
    stored: _Stored,
    *rest: Any,  # noqa: ANN401 - passed on
) -> _Registered:
    """Remove the temporary file before the record is made; a killed call cannot be made again."""
    os.unlink(self.file.path or "")
    return _register(self, catalog, document, stored, *rest)


def _answer_first(
    self: _Finalizing,
    catalog: CatalogStore,
    document: DocumentRecord | None,
    stored: _Stored,
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


_MISTAKES: dict[str, tuple[str, Callable[..., object]]] = {
    "record-first": ("_store", _record_first),
    "source-first": ("_register", _source_first),
    "answer-first": ("_register", _answer_first),
    "written-in-place": ("_publish", _written_in_place),
}
