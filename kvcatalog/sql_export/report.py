"""What an export wrote, and the position from which a later one goes on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.errors import InvalidValueError
from kvcatalog.models import CatalogIdentity, CatalogPosition

if TYPE_CHECKING:
    from kvcatalog.store.protocol import CatalogSnapshot

_POSITION = re.compile(r"([0-9a-f]{1,8})-([0-9]{1,16})-([0-9]{1,16})-([0-9]{1,16})-([0-9]{1,16})")


class ExportReport(Struct, frozen=True, kw_only=True):
    """How many rows of each table an export wrote; `position` is what a later one takes as `since`.

    It is None where several hosts write to the catalog, and so no later one can go on from it. `changed` and `removed`
    count documents that were there at `since`; both are 0 without it. `bytes` is the size of what was written, None
    where that cannot be known.
    """

    format: str
    documents: int
    variants: int
    sightings: int
    conflicts: int
    links: int
    roots: int
    journal: int
    changed: int
    removed: int
    bytes: int | None
    position: str | None


class Progress(Struct, frozen=True):
    """How many documents are written, of how many at most."""

    documents: int
    documents_total: int


def position_text(identity: CatalogIdentity, position: CatalogPosition) -> str:
    """Return a position as text that another catalog, or one restored from a backup, does not take."""
    return f"{_name(identity)}-{identity.generation}-{position.journal}-{position.document}-{position.variant}"


def parse_position(text: str, identity: CatalogIdentity, snapshot: CatalogSnapshot) -> CatalogPosition:
    """Return the position that a text stands for; InvalidValueError if it is none of this catalog."""
    match = _POSITION.fullmatch(text)
    if match is None:
        raise InvalidValueError("since", f"{text!r} is not what an export gave as its position")
    journal, document, variant = map(int, match.groups()[2:])
    if (match[1], int(match[2])) != (_name(identity), identity.generation):
        raise InvalidValueError("since", "is a position of another catalog, or of one before it was restored")
    now = snapshot.position
    if journal > now.journal or document > now.document or variant > now.variant:
        raise InvalidValueError("since", "lies ahead of this catalog")
    return CatalogPosition(journal, document, variant)


def _name(identity: CatalogIdentity) -> str:
    return identity.uuid.replace("-", "")[:8]
