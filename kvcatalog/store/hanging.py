"""What hangs on a document and goes with it: variants, conflicts, links, sightings."""

from __future__ import annotations

from msgspec import Struct

from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.schema import SIGHTINGS_BY_DOCUMENT, ConflictRow, LinkRow, VariantRow, id_key
from kvcatalog.store import reading

_ROWS_OF_SIGHTING = 2
_ROWS_OF_OTHERS = 11
"""Its own rows and those that lead to it, an entry in the journal and those that lead there."""

_ROWS_OF_DOCUMENT = 24


class Hanging(Struct, frozen=True):
    """Rows that belong to one document, or some of them; a sighting is the key of its run."""

    variants: list[tuple[int, VariantRow]]
    conflicts: list[tuple[bytes, ConflictRow]]
    links: list[LinkRow]
    sightings: list[bytes]

    @classmethod
    def on(cls, transaction: ReadTransaction, document_id: int) -> Hanging:
        """Return all that hangs on a document."""
        prefix = id_key(document_id)
        return cls(
            list(reading.variant_rows(transaction, document_id)),
            list(reading.conflict_rows(transaction, document_id)),
            list(reading.link_rows(transaction, document_id)),
            [key[len(prefix) :] for key in reading.keys_with_prefix(transaction, SIGHTINGS_BY_DOCUMENT, prefix)],
        )

    def fits(self, rows_max: int) -> bool:
        """Tell whether it can go together with its document where so many rows may change at once."""
        others = len(self.variants) + len(self.conflicts) + len(self.links)
        rows = _ROWS_OF_SIGHTING * len(self.sightings) + _ROWS_OF_OTHERS * others
        return rows + _ROWS_OF_DOCUMENT <= rows_max

    def some(self, rows_max: int) -> Hanging:
        """Return as much of it as can go where so many rows may change at once: sightings first, of one kind only."""
        few = rows_max // _ROWS_OF_OTHERS - 1
        if self.sightings:
            return Hanging([], [], [], self.sightings[: rows_max // _ROWS_OF_SIGHTING - 4])
        if self.links:
            return Hanging([], [], self.links[:few], [])
        if self.conflicts:
            return Hanging([], self.conflicts[:few], [], [])
        return Hanging(self.variants[:few], [], [], [])
