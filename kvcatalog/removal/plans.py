"""Plans: what is to be taken away, as a value in a file of JSON lines.

The first line says whose plan it is, each further one names a blob, and the last has the totals, so a plan that was cut
short is never taken for a whole one. A plan that is not saved lies in a temporary file: none is ever whole in memory.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import BinaryIO, Self

import msgspec
from msgspec import Struct

from kvcatalog.blobs import BlobStat, new_label
from kvcatalog.clock import from_micros, to_micros
from kvcatalog.errors import PlanError, of_file
from kvcatalog.models import CatalogIdentity, DocumentRecord, JournalEntry
from kvcatalog.removal.sharing import FreedBytes

_FORMAT = 1
_LABEL = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_MEMORY_BYTES_MAX = 1 << 20


class FormerOwner(Struct, frozen=True, omit_defaults=True):
    """Who referred to a blob last, as far as the journal knows, and what became of that at `until`."""

    document_id: int | None
    until: datetime
    action: str
    artifact_id: str | None = None
    source_url: str | None = None
    resolver: str | None = None
    variant: str | None = None

    @classmethod
    def of(cls, entry: JournalEntry, document: DocumentRecord | None = None) -> Self:
        """Return what an entry of the journal tells of it, and what it does not say of a document that is there."""

        def fact(field: str) -> str | None:
            value = entry.changes.get(field, (getattr(document, field, None),))[0]
            return None if value is None else str(value)

        return cls(
            entry.document_id,
            entry.at,
            entry.action,
            artifact_id=fact("artifact_id"),
            source_url=fact("source_url"),
            resolver=fact("resolver"),
            variant=fact("variant"),
        )


class PlanItem(Struct, frozen=True, omit_defaults=True):
    """A blob that is to be taken away, as it was when the plan was made.

    `location` is its storage URI, `unused_since` when it was last changed or referred to. It has `links` names in all;
    what they have in common is `file`.
    """

    location: str
    bytes: int
    modified_at: datetime
    unused_since: datetime
    reason: str
    links: int = 1
    file: str | None = None
    former_owner: FormerOwner | None = None

    @classmethod
    def of(
        cls, location: str, stat: BlobStat, *, reason: str, unused_since: int, former_owner: FormerOwner | None = None
    ) -> Self:
        """Return the item for a blob; `unused_since` in microseconds."""
        return cls(
            location=location,
            bytes=stat.size,
            modified_at=from_micros(stat.modified),
            unused_since=from_micros(unused_since),
            reason=reason,
            links=stat.links,
            file=None if stat.links == 1 or stat.file is None else f"{stat.file:x}",
            former_owner=former_owner,
        )

    def is_like(self, stat: BlobStat) -> bool:
        """Tell whether a blob is still what it was."""
        return (stat.size, stat.modified) == (self.bytes, to_micros(self.modified_at))


class Totals(Struct, frozen=True):
    """How many blobs, their bytes, and how many bytes are free once they are gone and nothing else is."""

    blobs: int = 0
    bytes: int = 0
    bytes_freed: int = 0


class Summing:
    """Adds up totals; a context manager."""

    def __init__(self) -> None:
        self._freed = FreedBytes()
        self._blobs = 0
        self._bytes = 0

    def add(self, item: PlanItem) -> None:
        """Take an item into account."""
        self._blobs += 1
        self._bytes += item.bytes
        self._freed.add(item.bytes, item.links, None if item.file is None else int(item.file, 16))

    def totals(self) -> Totals:
        """Return the totals of all that was added."""
        return Totals(self._blobs, self._bytes, self._freed.total())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._freed.__exit__(*exc_info)


class PlanHeader(Struct, frozen=True):
    """Which plan it is, whose, and when it was made; `orphan_ttl_days` is None for a plan of another kind."""

    plan: str
    catalog: str
    generation: int
    created_at: datetime
    orphan_ttl_days: float | None = None
    format: int = _FORMAT


class _Line(Struct, omit_defaults=True):
    """One line of a file; exactly one of the fields is there."""

    header: PlanHeader | None = None
    item: PlanItem | None = None
    totals: Totals | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


class Plan:
    """A plan that lies in an open file; a context manager."""

    def __init__(self, file: BinaryIO, header: PlanHeader, totals: Totals, name: str) -> None:
        self._file = file
        self._name = name
        self.header = header
        self.totals = totals

    @classmethod
    def make(
        cls, items: Iterable[PlanItem], identity: CatalogIdentity, *, now: int, orphan_ttl_days: float | None = None
    ) -> Self:
        """Write a new plan, item by item as they come; `now` in microseconds."""
        header = PlanHeader(new_label(), identity.uuid, identity.generation, from_micros(now), orphan_ttl_days)
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            with Summing() as summing:
                file.write(_encode(_Line(header=header)) + b"\n")
                for item in items:
                    file.write(_encode(_Line(item=item)) + b"\n")
                    summing.add(item)
                totals = summing.totals()
            file.write(_encode(_Line(totals=totals)) + b"\n")
            stack.pop_all()
        return cls(file, header, totals, "the plan")

    @classmethod
    def load(cls, path: str, identity: CatalogIdentity) -> Self:
        """Open a saved plan; PlanError if it is none, is not whole, or was made for another catalog."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(path, "rb"))
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise PlanError(f"{path}: {reason}") from error
            header, totals = _outer_lines(file, path)
            if (header.catalog, header.generation) != (identity.uuid, identity.generation):
                raise PlanError(f"{path} was made for another catalog, or before this one was restored")
            stack.pop_all()
        return cls(file, header, totals, path)

    def items(self) -> Iterator[PlanItem]:
        """Yield the items in their order, from the first on."""
        self._file.seek(0)
        for number, data in enumerate(iter(self._file.readline, b""), 1):
            line = _line(data, self._name, number)
            if line.item is not None:
                yield line.item

    def save(self, path: str) -> None:
        """Write the plan into a new file; FileExistsError if there is one."""
        try:
            with open(path, "xb") as target:
                self._file.seek(0)
                while data := self._file.read(_MEMORY_BYTES_MAX):
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())
        except FileExistsError:
            raise
        except OSError as error:
            raise of_file(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def _outer_lines(file: BinaryIO, path: str) -> tuple[PlanHeader, Totals]:
    """Read a file to its end, and return its first and last line."""
    header: PlanHeader | None = None
    totals: Totals | None = None
    blobs = 0
    for number, data in enumerate(file, 1):
        line = _line(data, path, number)
        if totals is not None or (number == 1) != (line.header is not None):
            raise PlanError(f"{path}: line {number} does not stand where it should")
        header = header or line.header
        totals = line.totals
        blobs += line.item is not None
    if header is None or totals is None or totals.blobs != blobs:
        raise PlanError(f"{path} is no plan, or was cut short")
    if not _LABEL.fullmatch(header.plan):
        raise PlanError(f"{path}: {header.plan!r} is no name of a plan")
    if header.format != _FORMAT:
        raise PlanError(f"{path} has format {header.format}; this version knows {_FORMAT}")
    return header, totals


def _line(data: bytes, path: str, number: int) -> _Line:
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise PlanError(f"{path}: line {number} is no line of a plan: {error}") from error
