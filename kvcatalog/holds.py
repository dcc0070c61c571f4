"""What holds protect: records by all of a hold's filter, and blobs without a record by the places that it names."""

from __future__ import annotations

from collections.abc import Iterable

from kvcatalog.clock import from_micros
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.models import DocumentRecord, Hold

_NEVER = from_micros(0)


class Holds:
    """The holds of one moment, ready to be asked about many records and blobs."""

    def __init__(self, holds: Iterable[Hold]) -> None:
        self._filters = [(hold, parse_filter(hold.filters)) for hold in holds]
        # Of a blob without a record only its place is known. What else such a hold asks for cannot be answered, and
        # does not let the blob go.
        self._places = [
            (hold, tuple(condition for condition in where.conditions if condition.field == "uri"))
            for hold, where in self._filters
            if any(condition.field == "uri" and condition.operator == "=" for condition in where.conditions)
        ]

    def of_record(self, record: DocumentRecord) -> list[Hold]:
        """Return the holds that protect a record."""
        return [hold for hold, where in self._filters if where.matches(record)]

    def of_place(self, storage_uri: str) -> list[Hold]:
        """Return the holds that name the place of a blob, whether a record refers to it or not."""
        if not self._places:
            return []
        nobody = DocumentRecord(0, "", "", "", None, 0, None, storage_uri, _NEVER, _NEVER, None)
        return [hold for hold, conditions in self._places if Filter(conditions).matches(nobody)]
