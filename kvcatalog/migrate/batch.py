"""Registers what lines say, many at a time, with the effect of taking them one by one."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from kvcatalog.errors import InvalidValueError
from kvcatalog.migrate.followers import Followers, Variants, is_settled
from kvcatalog.migrate.lines import Claim
from kvcatalog.migrate.places import Place, Places
from kvcatalog.migrate.report import Position
from kvcatalog.models import (
    DocumentRecord,
    Outcome,
    Registration,
    RegistrationRequest,
    SightingRequest,
    VariantRecord,
    VariantRegistration,
    VariantRegistrationRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvcatalog.migrate.hashing import Hashing
    from kvcatalog.migrate.report import Tally

_VARIANT_BYTES = 256


class Target(Protocol):
    """What an import needs of a catalog; `CatalogStore` says what the methods do."""

    def register_many(
        self, requests: Iterable[RegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[Registration]:
        """Register documents."""
        ...

    def get(self, *, artifact_id: str, source_url: str, resolver: str) -> DocumentRecord | None:
        """Return the document under a key."""
        ...

    def get_by_artifact(self, artifact_id: str) -> list[DocumentRecord]:
        """Return the documents of an artifact."""
        ...

    def get_variants(self, document_id: int) -> list[VariantRecord]:
        """Return the variants of a document."""
        ...

    def register_variants(
        self, requests: Iterable[VariantRegistrationRequest], *, batch_size: int = 10_000
    ) -> Iterator[VariantRegistration]:
        """Register variants."""
        ...

    def record_sightings(self, sightings: Iterable[SightingRequest], *, batch_size: int = 10_000) -> Iterator[bool]:
        """Remember that runs met documents again."""
        ...


class Entry(Struct, gc=False):
    """A line that speaks of a stored document, and where it stands; `computed_sha256` is the digest of its file."""

    claim: Claim
    place: Place
    raw: bytes
    position: Position
    wave: int = 0
    computed_sha256: str | None = None


class Batch:
    """Collects entries and writes them together; with `hashing`, files are read where a digest is missing.

    A line that has no URL is matched to what its artifact has at its path, so it must see what earlier lines of the
    same artifact registered. Entries are therefore sorted into waves: even ones register, odd ones look up, and the
    waves of one artifact keep the order of its lines. Lines of different artifacts do not concern each other.
    """

    def __init__(self, target: Target, places: Places, tally: Tally, hashing: Hashing | None) -> None:
        self._target = target
        self._places = places
        self._tally = tally
        self._hashing = hashing
        self._followers = Followers(target, places, tally, hashing)
        self._waves: defaultdict[int, list[Entry]] = defaultdict(list)
        self._last_wave: dict[str, int] = {}
        self._last_wave_of_key: dict[tuple[str, str | None, str], int] = {}
        self.entries = 0
        self.bytes = 0

    def add(self, entry: Entry) -> None:
        """Take an entry in."""
        claim = entry.claim
        wave = self._last_wave.get(claim.artifact_id, 0)
        if claim.exists or claim.source_url is None or (claim.cached and self._size(entry) is None):
            wave += 1 + wave % 2
        else:
            wave += wave % 2
            if self._hashing is not None:
                wave = self._wave_after_its_key(entry, wave)
        if wave:  # no entry is the first wave
            self._last_wave[claim.artifact_id] = wave
        self._waves[wave].append(entry)
        self.entries += 1
        self.bytes += len(entry.raw) + _VARIANT_BYTES * len(claim.variants)

    def _wave_after_its_key(self, entry: Entry, wave: int) -> int:
        """Return the wave of an entry whose file is read or not depending on what stands under its key by then."""
        key = (entry.claim.artifact_id, entry.claim.source_url, entry.claim.resolver)
        if self._needs_digest(entry) and self._last_wave_of_key.get(key) == wave:
            wave += 2
        self._last_wave_of_key[key] = wave
        return wave

    def flush(self) -> list[tuple[Entry, str]]:
        """Write all entries and count them; return those that the catalog refuses, with the reason."""
        waves = self._waves
        self._waves, self._last_wave, self._last_wave_of_key = defaultdict(list), {}, {}
        self.entries = self.bytes = 0
        refused: list[tuple[Entry, str]] = []
        for wave in sorted(waves):
            entries = waves[wave]
            refused += self._register(self._unmatched(entries) if wave % 2 else entries)
        self._followers.flush()
        return refused

    def _size(self, entry: Entry) -> int | None:
        """Return the size to register: the stated one, but the file's own where its digest is to be the file's own."""
        return entry.place.size if entry.claim.size is None or self._needs_digest(entry) else entry.claim.size

    def _needs_digest(self, entry: Entry) -> bool:
        return self._hashing is not None and entry.claim.sha256 is None and entry.place.size is not None

    def _unmatched(self, entries: list[Entry]) -> list[Entry]:
        """Count the entries that speak of a known document, and return the others."""
        others = []
        for entry in entries:
            record = self._match(entry)
            if record is None:
                others.append(entry)
            else:
                self._count(entry, record, "existing", is_matched=True)
        return others

    def _match(self, entry: Entry) -> DocumentRecord | None:
        """Return the document that an entry speaks of without being its registration.

        The oldest of those at its path and the one under its key: then whatever later lines register, importing again
        finds the same one. For this reason too, an entry that cannot be registered for want of a size is matched to
        documents of its own time or before only, and one that has no time to none.
        """
        claim = entry.claim
        key = (claim.artifact_id, claim.source_url or entry.place.uri, claim.resolver)
        if _is_by_path(claim):
            uris = self._places.uris(claim.location or "") | {entry.place.uri}
            known = [
                record
                for record in self._target.get_by_artifact(claim.artifact_id)
                if record.storage_uri in uris or _key(record) == key
            ]
            record = min(known, key=lambda record: record.id, default=None)
        else:
            record = self._target.get(artifact_id=key[0], source_url=key[1], resolver=key[2])
        if record is None:
            return None
        if self._size(entry) is None:
            is_earlier = claim.created_at is not None and record.created_at <= claim.created_at
            return record if is_earlier else None
        return None if _key(record) == key else record

    def _register(self, entries: list[Entry]) -> list[tuple[Entry, str]]:
        if self._hashing is not None:
            self._hash_missing(entries, self._hashing)
        ready, requests = [], []
        for entry in entries:
            claim = entry.claim
            size = claim.size if self._hashing is None and claim.size is not None else self._size(entry)
            if size is None:
                self._tally.other("skipped", "size-unknown", entry.position)
                continue
            ready.append(entry)
            requests.append(
                RegistrationRequest(
                    artifact_id=claim.artifact_id,
                    source_url=claim.source_url or entry.place.uri,
                    resolver=claim.resolver,
                    bytes=size,
                    storage_uri=entry.place.uri,
                    content_type=claim.content_type,
                    sha256=claim.sha256 or entry.computed_sha256,
                    run_id=claim.run_id,
                    created_at=claim.created_at,
                )
            )
        refused = []
        for entry, registration in zip(ready, self._registrations(requests), strict=True):
            if isinstance(registration, InvalidValueError):
                refused.append((entry, f"invalid-{registration.field.replace('_', '-')}"))
            else:
                self._count(entry, registration.record, registration.outcome)
        return refused

    def _registrations(self, requests: list[RegistrationRequest]) -> list[Registration | InvalidValueError]:
        if not requests:
            return []
        try:
            return list(self._target.register_many(requests, batch_size=len(requests)))
        except InvalidValueError as error:
            if len(requests) == 1:
                return [error]
        # One request that the catalog refuses keeps its batch from being stored: halve until it stands alone.
        middle = len(requests) // 2
        return self._registrations(requests[:middle]) + self._registrations(requests[middle:])

    def _hash_missing(self, entries: list[Entry], hashing: Hashing) -> None:
        """Give digests to entries that have a file and none, unless the document that stands for them has one."""
        wanted = [entry for entry in entries if self._needs_digest(entry) and not self._is_hashed(entry)]
        digests = hashing.digests([entry.place.path or "" for entry in wanted])
        for entry, result in zip(wanted, digests, strict=True):
            if result is None:
                self._tally.figures["unhashed"] += 1
                self._tally.note("file-unreadable", entry.position)
            else:
                self._tally.figures["hashed"] += 1
                entry.computed_sha256, entry.place.size = result

    def _is_hashed(self, entry: Entry) -> bool:
        claim, place = entry.claim, entry.place
        known = self._target.get(
            artifact_id=claim.artifact_id, source_url=claim.source_url or place.uri, resolver=claim.resolver
        )
        return known is not None and is_settled(known, place)

    def _count(self, entry: Entry, record: DocumentRecord, outcome: Outcome, *, is_matched: bool = False) -> None:
        claim, place, tally = entry.claim, entry.place, self._tally
        tally.document(outcome)
        if outcome != "registered" and claim.run_id is not None and claim.run_id != record.run_id:
            tally.figures["sighting"] += 1
            if is_matched:
                self._followers.add_sighting(record.id, claim.run_id, claim.created_at)
        if place.size is None:
            if place.path is not None:
                tally.note("file-missing", entry.position)
        elif claim.size is not None and claim.size != place.size:
            tally.note("size-mismatch", entry.position)
        for note in claim.notes:
            tally.note(note, entry.position)
        if claim.variants:
            self._followers.add_variants(
                Variants(record.id, place.uri, claim.variants, claim.created_at, entry.position)
            )


def _is_by_path(claim: Claim) -> bool:
    return claim.exists or claim.source_url is None


def _key(record: DocumentRecord) -> tuple[str, str, str]:
    return record.artifact_id, record.source_url, record.resolver
