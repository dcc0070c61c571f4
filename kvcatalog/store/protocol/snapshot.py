"""CatalogSnapshot: one moment of a catalog, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kvcatalog.checks import BlobCheck
from kvcatalog.custody import Hold
from kvcatalog.filters import Filter
from kvcatalog.models import CatalogPosition

FlatRow = tuple[str | int | None, ...]
"""A row whose columns are those of its table in `schema.sql`; times are text as `clock.to_text` gives it."""


class CatalogSnapshot(Protocol):
    """One moment of a catalog; rows come in lists, never all at once.

    With a filter only those documents come that it lets through, and only what belongs to them. `after` goes on behind
    an id or sequence number. Raises as the methods of CatalogStore.
    """

    position: CatalogPosition
    """What had been given out at that moment."""

    is_one_moment: bool
    """Whether all rows are of that moment. Otherwise each is as it was when it was read; none has an id or number above
    the position, and some below it may still be on their way, so it is nothing to go on from. What hangs on a document
    that `documents` has passed and not met does not come; that narrows nothing else, whatever its `after`."""

    document_count: int
    """How many documents there are in all."""

    def documents(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """Yield the documents, by id."""
        ...

    def document(self, document_id: int, where: Filter | None = None) -> FlatRow | None:
        """Return one document; None if it is not there or the filter does not let it through."""
        ...

    def variants(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """Yield the variants, by id."""
        ...

    def variants_of(self, document_id: int) -> list[FlatRow]:
        """Return the variants of a document, by name."""
        ...

    def sightings(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """Yield the sightings, by run."""
        ...

    def conflicts(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """Yield the conflicts, by document."""
        ...

    def links(self, where: Filter | None = None) -> Iterator[list[FlatRow]]:
        """Yield the links, by document."""
        ...

    def journal(self, where: Filter | None = None, *, after: int = 0) -> Iterator[list[FlatRow]]:
        """Yield the journal, by sequence number; with a filter, what it says of the documents let through."""
        ...

    def roots(self) -> list[FlatRow]:
        """Return the known storage roots, by id."""
        ...

    def holds(self) -> list[Hold]:
        """Return what is protected, by id."""
        ...

    def checks(self) -> Iterator[list[BlobCheck]]:
        """Yield the last check of each blob, by root and path."""
        ...
