"""CatalogStore: what every catalog can do, whichever engine keeps it.

Arguments are checked before anything is stored: InvalidValueError names the field. Lookups for what is not there return
None or nothing; changes to it raise NotFoundError. Every method may raise CatalogUnavailableError, CatalogClosedError
and, where a stored value fails its checksum, CorruptRecordError. A method that writes returns when its change is
durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from kvcatalog.models import CatalogIdentity
from kvcatalog.store.protocol.reads import CatalogReads
from kvcatalog.store.protocol.snapshot import CatalogSnapshot, FlatRow
from kvcatalog.store.protocol.upkeep import CatalogUpkeep, Restorable, Restored
from kvcatalog.store.protocol.writes import CatalogWrites

if TYPE_CHECKING:
    from kvcatalog.store.aio import AsyncCatalog

__all__ = [
    "CatalogReads",
    "CatalogSnapshot",
    "CatalogStore",
    "CatalogUpkeep",
    "CatalogWrites",
    "FlatRow",
    "Restorable",
    "Restored",
]


class CatalogStore(CatalogReads, CatalogWrites, CatalogUpkeep, Protocol):
    """The catalog; a context manager, usable from any thread."""

    identity: CatalogIdentity
    """Which catalog this is."""

    @property
    def aio(self) -> AsyncCatalog:
        """The same for asyncio: what a coroutine asks and registers without waiting in a thread."""
        ...

    def close(self) -> None:
        """Give everything back; calls that come later raise CatalogClosedError. Closing twice does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...
