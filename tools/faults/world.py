"""A catalog with two roots, what must be recorded there, and what lies there, each looked at without the other.

What lies in the roots is read from the disk, what refers to it from the rows (`checking.references`), what must be
recorded is a plain dict that whoever works on the world keeps beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from msgspec import Struct, field, structs

from kvcatalog import open_catalog, storage
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.config import CatalogConfig, StorageConfig
from kvcatalog.models import CatalogStats, DocumentRecord
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.uris import file_uri
from tests.invariants import assert_consistent
from tools.faults.checking import references
from tools.faults.workload import ELSEWHERE, content_of, digest_of

CONTENTS = 7
"""So few, that the same content comes under many keys; two of them have one size."""

NUMBERS = {content_of(number): number for number in range(CONTENTS)}
DIGESTS = {digest_of(number): number for number in range(CONTENTS)}

Key = tuple[str, str, str]
Conflict = tuple[str | None, int]
"""The name of a variant, None for the document itself, and a content."""


class Document(Struct, frozen=True):
    """What must be known of a document; contents by number, its age in days."""

    id: int
    content: int
    content_type: str | None = None
    run: str | None = None
    age_days: int = 0
    variants: dict[str, int] = field(default_factory=dict)
    conflicts: frozenset[Conflict] = frozenset()
    runs: frozenset[str] = frozenset()

    def met(self, run: str | None) -> Document:
        """Return it after a run has met it again."""
        return self if run in {None, self.run} else structs.replace(self, runs=self.runs | {run})

    def with_variant(self, name: str, content: int) -> Document:
        """Return it after a variant came."""
        known = self.variants.get(name)
        if known is None:
            return structs.replace(self, variants={**self.variants, name: content})
        return self if known == content else structs.replace(self, conflicts=self.conflicts | {(name, content)})

    def without_variant(self, name: str) -> Document:
        """Return it after a variant was deleted."""
        left = {other: content for other, content in self.variants.items() if other != name}
        return structs.replace(self, variants=left, conflicts=frozenset(x for x in self.conflicts if x[0] != name))


Documents = dict[Key, Document]
Holds = dict[int, tuple[str, str]]
"""For each hold the field that it asks for, and the value."""


class Place(Struct, frozen=True):
    """Where a file lies: its root's folder, and its path below that."""

    root: str
    path: str

    @property
    def uri(self) -> str:
        return file_uri(os.path.join(self.root, self.path))


class Snapshot:
    """One moment, held open in a thread of its own, to be compared with what was recorded then."""

    def __init__(self, world: World) -> None:
        self.expected = {known.id: (*key, digest_of(known.content)) for key, known in world.documents.items()}
        self._catalog = world.catalog
        self._said: Queue[object] = Queue()
        self._asked: Queue[None] = Queue()
        self._thread = Thread(target=self._read)
        self._thread.start()
        assert self._said.get() == "begun"

    def _read(self) -> None:
        try:
            with self._catalog.snapshot() as snapshot:
                self._said.put("begun")
                self._asked.get()
                rows = [row for some in snapshot.documents() for row in some]
            self._said.put({row[0]: (*row[1:4], row[6]) for row in rows})
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self._said.put(error)

    def end(self) -> None:
        self._asked.put(None)
        found = self._said.get()
        self._thread.join()
        assert found == self.expected


class Walk:
    """An iterator over all records that others change meanwhile."""

    def __init__(self, world: World) -> None:
        self._walk = world.catalog.iter_records()
        self.throughout = {known.id for known in world.documents.values()}
        self.found: list[int] = []

    def go(self, count: int) -> bool:
        """Read on, and tell whether there is more."""
        for _ in range(count):
            record = next(self._walk, None)
            if record is None:
                assert self.found == sorted(set(self.found))
                assert self.throughout <= set(self.found)
                return False
            self.found.append(record.id)
        return True


class World:
    """See the module; `documents` and `holds` are what must be recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "catalog"
        self.config = StorageConfig(root_dir=str(folder / "one"), layout="cas")
        self.documents: Documents = {}
        self.holds: Holds = {}
        self.last_id = 0
        self.catalog = self.opened()
        for root in ("one", "two"):
            storage.open_storage(self.config.model_copy(update={"root_dir": str(folder / root)}), self.catalog)

    @property
    def roots(self) -> list[str]:
        return [str(self.folder / name) for name in ("one", "two")]

    def opened(self) -> LmdbCatalog:
        catalog = open_catalog(CatalogConfig(path=str(self.path)))
        assert isinstance(catalog, LmdbCatalog)
        return catalog

    def live(self) -> dict[str, Path]:
        """Return every blob below the roots, by storage URI."""
        return {file_uri(str(path)): path for root in self.roots for path in _files(Path(root)) if not _is_ours(path)}

    def trash(self) -> dict[tuple[str, Place], Path]:
        """Return what lies in the trash, by the plan that took it and where it lay."""
        found = {}
        for root in self.roots:
            trash = Path(root, ".kvcatalog", "trash")
            for path in _files(trash):
                label, _, rest = str(path.relative_to(trash)).partition("/")
                found[label, Place(root, rest)] = path
        return found

    def referenced(self, documents: Iterable[int] | None = None) -> set[str]:
        """Return the storage URIs that the rows refer to, all or those of some documents."""
        if documents is None:
            return {uri for _, uri, _, _ in references(self.catalog)}
        chosen = set(documents)
        found = set()
        for record in self.catalog.iter_records():
            if record.id in chosen:
                parts: list[Any] = [record, *self.catalog.get_variants(record.id)]
                parts += [*self.catalog.get_conflicts(record.id), *self.catalog.get_links(record.id)]
                found |= {part.storage_uri for part in parts}
        return found

    def is_held(self, uri: str, document: tuple[Key, Document, str] | None = None) -> bool:
        """Tell whether a hold names a place or, with a document and its storage URI, that."""
        for kind, value in self.holds.values():
            if kind == "uri" and value == uri:
                return True
            if document is not None:
                key, known, _ = document
                if (kind == "artifact" and value == key[0]) or (kind == "type" and value == known.content_type):
                    return True
        return False

    def orphans(self) -> set[str]:
        """Return the blobs that a collection must take, whatever their age."""
        used = self.referenced()
        return {uri for uri in self.live() if uri not in used and not self.is_held(uri)}

    def check(self) -> None:
        """Hold everything against everything."""
        assert recorded(self.catalog) == self.documents
        assert {hold.id: hold.filters for hold in self.catalog.holds()} == {
            number: (f"{kind}={value}",) for number, (kind, value) in self.holds.items()
        }
        assert_consistent(self.catalog)
        assert_stats(self.catalog.stats(), self.documents)
        live = self.live()
        for owner, uri, size, digest in references(self.catalog):
            if not uri.startswith(ELSEWHERE):
                assert uri in live, f"{owner}: nothing lies at {uri}"
                content = live[uri].read_bytes()
                assert content in NUMBERS, f"{owner}: other bytes lie at {uri}"
                assert size in {None, len(content)}
                assert digest in {None, digest_of(NUMBERS[content])}, f"{owner}: another content lies at {uri}"
        for path in live.values():
            assert path.read_bytes() in NUMBERS, path
        assert not [path for root in self.roots for path in _files(Path(root, ".kvcatalog", "staging"))]


def _files(folder: Path) -> list[Path]:
    return [Path(base, name) for base, _, names in os.walk(folder) for name in names]


def _is_ours(path: Path) -> bool:
    return ".kvcatalog" in path.parts


def recorded(catalog: LmdbCatalog) -> Documents:
    """Return what a catalog knows, in the form of the model."""
    return {
        (record.artifact_id, record.source_url, record.resolver): Document(
            record.id,
            DIGESTS[record.sha256 or ""],
            record.content_type,
            record.run_id,
            age_of(record),
            {each.variant: DIGESTS[each.sha256 or ""] for each in catalog.get_variants(record.id)},
            frozenset((each.variant, DIGESTS[each.sha256 or ""]) for each in catalog.get_conflicts(record.id)),
            frozenset(each.run_id for each in catalog.get_sightings(document_id=record.id)),
        )
        for record in catalog.iter_records()
    }


def age_of(record: DocumentRecord) -> int:
    """Return the age of a record in whole days."""
    return round((from_micros(now_micros()) - record.created_at).total_seconds() / 86_400)


def assert_stats(stats: CatalogStats, documents: Documents) -> None:
    sizes = [len(content_of(each.content)) for each in documents.values()]
    assert (stats.documents, stats.bytes) == (len(sizes), sum(sizes))
    assert stats.variants == sum(len(each.variants) for each in documents.values())
    assert stats.conflicts == sum(len(each.conflicts) for each in documents.values())
    assert stats.sightings == sum(len(each.runs) for each in documents.values())
