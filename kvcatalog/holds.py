"""What holds protect: records by all of a hold's filter, and blobs without a record by the places that it names."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from kvcatalog import uris
from kvcatalog.clock import from_micros
from kvcatalog.custody import Hold
from kvcatalog.filters import Condition, Filter, parse_filter
from kvcatalog.models import DocumentRecord

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


def named_places(where: Filter) -> list[str]:
    """Return the storage URIs that a filter names in full, as a hold that keeps blobs without a record does."""
    return [
        str(condition.value)
        for condition in where.conditions
        if condition.field == "uri" and condition.operator == "=" and not condition.prefix
    ]


def with_places(where: Filter) -> Filter:
    """Return a filter in which paths of files that stand for storage URIs are these: `uri=data/docs/a.pdf`."""
    return Filter(tuple(map(_with_place, where.conditions)))


def _with_place(condition: Condition) -> Condition:
    path = condition.value
    if condition.field != "uri" or not isinstance(path, str) or uris.has_scheme(path):
        return condition
    if condition.prefix and "/" not in path:
        return condition  # it may be the beginning of a scheme
    uri = uris.file_uri(path)
    return structs.replace(condition, value=f"{uri}/" if path.endswith("/") and not uri.endswith("/") else uri)
