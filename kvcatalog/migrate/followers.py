"""What follows from a document's line once the document is stored: its variants, and that a run has met it again."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.migrate.lines import BrokenLineError
from kvcatalog.migrate.places import Place, Places
from kvcatalog.migrate.report import Position
from kvcatalog.models import DocumentRecord, SightingRequest, VariantRecord, VariantRegistrationRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvcatalog.migrate.batch import Target
    from kvcatalog.migrate.hashing import Hashed, Hashing
    from kvcatalog.migrate.report import Tally

_TOGETHER = 10_000
"""Variants or sightings that are written in one transaction."""


class Variants(Struct, gc=False):
    """The variants that a line lists for its document, by name and location; `uri` is where the document lies."""

    document_id: int
    uri: str
    listed: tuple[tuple[str, str], ...]
    created_at: datetime | None
    position: Position


class _Found(Struct, gc=False):
    """A variant whose file is there, and whether it is to be read."""

    variants: Variants
    name: str
    place: Place
    is_wanted: bool = False


class Followers:
    """Collects variants and sightings, and writes them together, those of one document in the order of their lines."""

    def __init__(self, target: Target, places: Places, tally: Tally, hashing: Hashing | None) -> None:
        self._target = target
        self._places = places
        self._tally = tally
        self._hashing = hashing
        self._variants: list[Variants] = []
        self._sightings: list[SightingRequest] = []

    def add_variants(self, variants: Variants) -> None:
        """Take the variants of one line in."""
        self._variants.append(variants)

    def add_sighting(self, document_id: int, run_id: str, seen_at: datetime | None) -> None:
        """Remember that a run met a document again."""
        self._sightings.append(SightingRequest(document_id, run_id, seen_at))

    def flush(self) -> None:
        """Write all that was collected, and count the variants."""
        sightings, self._sightings = self._sightings, []
        for _ in self._target.record_sightings(sightings, batch_size=_TOGETHER):
            pass
        variants, self._variants = self._variants, []
        found = self._found(variants)
        while together := list(islice(found, _TOGETHER)):
            self._register(together)

    def _found(self, listed: Iterable[Variants]) -> Iterator[_Found]:
        """Yield the variants whose file is found, and count the others."""
        for variants in listed:
            for name, location in variants.listed:
                place, reason = self._find(location, variants.uri)
                if place is None:
                    self._tally.figures["variant-left-out"] += 1
                    self._tally.note(reason, variants.position)
                else:
                    yield _Found(variants, name, place)

    def _find(self, location: str, document_uri: str) -> tuple[Place | None, str]:
        try:
            place = self._places.find(location)
        except BrokenLineError:
            return None, "variant-path-invalid"
        if place.size is None:
            return None, "variant-size-unknown"
        if place.uri == document_uri:
            return None, "variant-is-the-document"
        return place, ""

    def _register(self, together: list[_Found]) -> None:
        digests = self._digests(together)
        requests = []
        for found in together:
            hashed = digests[found.place.path or ""] if found.is_wanted else None
            digest, size = hashed or (None, found.place.size or 0)
            if found.is_wanted and not hashed:
                self._tally.note("file-unreadable", found.variants.position)
            requests.append(
                VariantRegistrationRequest(
                    document_id=found.variants.document_id,
                    variant=found.name,
                    storage_uri=found.place.uri,
                    bytes=size,
                    sha256=digest,
                    created_at=found.variants.created_at,
                )
            )
        for registration in self._target.register_variants(requests, batch_size=_TOGETHER):
            self._tally.figures[f"variant-{registration.outcome}"] += 1

    def _digests(self, together: list[_Found]) -> dict[str, Hashed | None]:
        """Read the files of variants whose digest is not known, each once, and return what they gave by path."""
        if self._hashing is None:
            return {}
        known: dict[int, dict[str, VariantRecord]] = {}
        for found in together:
            document_id = found.variants.document_id
            if document_id not in known:
                known[document_id] = {variant.variant: variant for variant in self._target.get_variants(document_id)}
            variant = known[document_id].get(found.name)
            found.is_wanted = variant is None or not is_settled(variant, found.place)
        paths = list(dict.fromkeys(found.place.path or "" for found in together if found.is_wanted))
        return dict(zip(paths, self._hashing.digests(paths), strict=True))


def is_settled(known: DocumentRecord | VariantRecord, place: Place) -> bool:
    """Tell whether what is stored has a digest and agrees with the file as far as one sees without reading it."""
    return known.sha256 is not None and known.bytes == place.size and known.storage_uri == place.uri
