"""All decisions of a retention: what the rules say of each record, and what has to be looked at as a whole.

Copies that must stay are counted over what would remain, so a plan never takes the last ones one by one. Nothing is
held in memory whole: candidates, contents and places are sorted on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Self

from msgspec import Struct

from kvcatalog import clock
from kvcatalog.errors import UnsafePathError
from kvcatalog.filters import Filter
from kvcatalog.holds import Holds
from kvcatalog.models import DocumentRecord
from kvcatalog.removal.glances import Glances
from kvcatalog.removal.sorting import SortedRows
from kvcatalog.retention.rules import Judge, Rule
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

Rank = tuple[int, int]
"""Since when a record's age counts, in microseconds, and its id: the lowest goes first."""


class Decision(Struct, frozen=True):
    """What becomes of a record, by which rule, and why; its age counts from `since`."""

    record: DocumentRecord
    goes: bool
    rule: str
    since: datetime
    reason: str


class Totals(Struct, frozen=True):
    """What a plan decides over, and what it takes: records, their blobs, and the bytes that are free at last.

    `blobs` are those below storage roots to which nothing else refers; one with a further name frees nothing.
    """

    records: int = 0
    going: int = 0
    blobs: int = 0
    bytes: int = 0
    bytes_freed: int = 0


class _Judged(NamedTuple):
    """A record by itself, on disk."""

    id: int
    since: int
    rule: str
    may_go: bool
    reason: str


class _Carrier(NamedTuple):
    """A candidate carries a content, of which so many copies must stay."""

    digest: str
    since: int
    id: int
    copies_min: int


class _Place(NamedTuple):
    """A candidate refers to a place."""

    uri: str
    since: int
    id: int


class _Name(NamedTuple):
    """One name of a file goes once its last candidate has."""

    file: str
    links: int
    bytes: int
    since: int
    id: int


class RetentionPlan:
    """Decisions that lie on disk; a context manager. `cut` is the last rank that goes, None if all may."""

    def __init__(self, catalog: CatalogStore, *, free: int | None, cut: Rank | None, reviews: bool) -> None:
        self._catalog = catalog
        self._reviews = reviews
        self._stack = ExitStack()
        self._judged = self._stack.enter_context(SortedRows(_Judged))
        self._rescued = self._stack.enter_context(SortedRows(tuple[int, str]))
        self._names = self._stack.enter_context(SortedRows(_Name))
        self.free = free
        self.cut = cut
        self.totals = Totals()

    def decisions(self) -> Iterator[Decision]:
        """Yield the decisions by record id; those to keep a record only where a review was asked for."""
        for judged, reason in self._together():
            goes = reason is None and (self.cut is None or (judged.since, judged.id) <= self.cut)
            if goes or self._reviews:
                record = self._catalog.get_by_id(judged.id)
                if record is not None:
                    why = judged.reason if goes else reason or f"{self.free} bytes are free without it"
                    yield Decision(record, goes, judged.rule, clock.from_micros(judged.since), why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def judge(self, judge: Judge, where: Filter, roots: OpenRoots) -> None:
        """Decide over the records that a filter lets through."""
        records = 0
        with SortedRows(_Carrier) as carriers:
            for record in self._catalog.iter_records(where):
                records += 1
                verdict = judge.verdict(record)
                since = clock.to_micros(verdict.since)
                if verdict.may_go or self._reviews:
                    self._judged.add(_Judged(record.id, since, verdict.rule.name, verdict.may_go, verdict.reason))
                if verdict.may_go and verdict.rule.min_copies:
                    self._carry(carriers, record, since, verdict.rule.min_copies)
            self._rescue(carriers, roots)
        self._measure(roots)
        if self.free is not None and self.cut is None:
            self.cut = self._enough(self.free)
        self._sum(records)

    def _carry(self, carriers: SortedRows[_Carrier], record: DocumentRecord, since: int, copies_min: int) -> None:
        digests = {record.sha256, *(variant.sha256 for variant in self._catalog.get_variants(record.id))}
        if None in digests:
            self._rescued.add((record.id, "without a digest no other copy of its content can be known"))
            return
        for digest in digests:
            carriers.add(_Carrier(digest or "", since, record.id, copies_min))

    def _rescue(self, carriers: SortedRows[_Carrier], roots: OpenRoots) -> None:
        """Keep so many candidates, the latest first, that enough copies of each content stay."""
        for digest, group in groupby(carriers, key=itemgetter(0)):
            members = {each.id: each for each in group}
            copies_min = max(each.copies_min for each in members.values())
            places: dict[int, list[str]] = {}
            copies = _Copies(roots)
            for owner, uri in self._places_of_content(digest):
                if owner in members:
                    places.setdefault(owner, []).append(uri)
                elif copies.count < copies_min:
                    copies.add(uri)
            for each in sorted(members.values(), key=lambda each: (each.since, each.id), reverse=True):
                if copies.count >= copies_min:
                    break
                if any([copies.add(uri) for uri in places.get(each.id, ())]):  # noqa: C419 - each is to be counted
                    self._rescued.add((each.id, f"its content would have fewer than {copies_min} physical copies"))

    def _places_of_content(self, digest: str) -> Iterator[tuple[int, str]]:
        for record in self._catalog.get_by_sha256(digest):
            yield record.id, record.storage_uri
        for variant in self._catalog.get_variants_by_sha256(digest):
            yield variant.document_id, variant.storage_uri

    def _together(self) -> Iterator[tuple[_Judged, str | None]]:
        """Yield what was judged, with why it stays, None if it may go."""
        rescued = iter(self._rescued)
        kept = next(rescued, None)
        for judged in self._judged:
            while kept is not None and kept[0] < judged.id:
                kept = next(rescued, None)
            saved = kept[1] if kept is not None and kept[0] == judged.id else None
            yield judged, saved if judged.may_go else judged.reason

    def _measure(self, roots: OpenRoots) -> None:
        """Find the blobs that go with the candidates, each with the last of those that refer to it."""
        with SortedRows(_Place) as places, Glances() as glances:
            for judged, reason in self._together():
                if reason is None:
                    for uri in self._places_of_document(judged.id):
                        places.add(_Place(uri, judged.since, judged.id))
            for uri, group in groupby(places, key=itemgetter(0)):
                members = {each.id: each.since for each in group}
                located = roots.locate(uri)
                if located is None or any(each.document_id not in members for each in self._catalog.references(uri)):
                    continue
                store, path = located
                with suppress(UnsafePathError):
                    found = glances.at(store, path)
                    if found is not None:
                        since, document_id = max((since, document_id) for document_id, since in members.items())
                        file = uri if found.file is None or found.links <= 1 else f"{found.file:x}"
                        self._names.add(_Name(file, found.links, found.size, since, document_id))

    def _places_of_document(self, document_id: int) -> set[str]:
        record = self._catalog.get_by_id(document_id)
        return {
            *(() if record is None else (record.storage_uri,)),
            *(each.storage_uri for each in self._catalog.get_variants(document_id)),
            *(each.storage_uri for each in self._catalog.get_conflicts(document_id)),
            *(each.storage_uri for each in self._catalog.get_links(document_id)),
        }

    def _freed(self) -> Iterator[tuple[Rank, int]]:
        """Yield what becomes free and with which candidate: a file with several names goes with the last of them."""
        for _, group in groupby(self._names, key=itemgetter(0)):
            names = list(group)
            if len(names) >= names[-1].links:
                yield max((each.since, each.id) for each in names), names[-1].bytes

    def _enough(self, free: int) -> Rank | None:
        """Return the first rank with which so many bytes are free, None if all candidates do not free that much."""
        with SortedRows(tuple[int, int, int]) as ranks:
            for rank, size in self._freed():
                ranks.add((*rank, size))
            freed = 0
            for since, document_id, size in ranks:
                freed += size
                if freed >= free:
                    return since, document_id
        return None

    def _sum(self, records: int) -> None:
        cut = self.cut
        going = sum(
            reason is None and (cut is None or (judged.since, judged.id) <= cut) for judged, reason in self._together()
        )
        sizes = [0, 0]
        for name in self._names:
            if cut is None or (name.since, name.id) <= cut:
                sizes[0] += 1
                sizes[1] += name.bytes
        freed = sum(size for rank, size in self._freed() if cut is None or rank <= cut)
        self.totals = Totals(records, going, sizes[0], sizes[1], freed)


class _Copies:
    """Counts physical copies: what lies at a place, whatever names it has; what is not there is none."""

    def __init__(self, roots: OpenRoots) -> None:
        self._roots = roots
        self._found: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._found)

    def add(self, uri: str) -> bool:
        """Count what lies at a place; False if it is not there or was counted."""
        file = self._file_at(uri)
        if file is None or file in self._found:
            return False
        self._found.add(file)
        return True

    def _file_at(self, uri: str) -> str | None:
        located = self._roots.locate(uri)
        if located is not None:
            with suppress(UnsafePathError):
                store, path = located
                found = store.stat(path)
                if found is not None:
                    return uri if found.file is None or found.links <= 1 else f"{found.file:x}"
            return None
        local = file_path(uri)
        with suppress(OSError):
            if local is not None:
                status = os.stat(local)
                return uri if status.st_nlink == 1 else f"{status.st_dev}:{status.st_ino}"
        return None


def plan_retention(
    catalog: CatalogStore,
    roots: OpenRoots,
    rules: Sequence[Rule],
    *,
    now: int,
    where: Filter | None = None,
    free: int | None = None,
    cut: Rank | None = None,
    reviews: bool = False,
) -> RetentionPlan:
    """Return all decisions over the records that `where` lets through, at `now` in microseconds; nothing is changed.

    The first rule that lets a record through decides whether it may go; holds keep it. Of each content as many physical
    copies stay as the rules demand, counted over what would remain. With `free`, records go by age, the oldest first,
    only until so many bytes are free, or with a `cut` as far as that rank. `reviews` keeps the decisions to keep, too.
    """
    with ExitStack() as stack:
        plan = stack.enter_context(RetentionPlan(catalog, free=free, cut=cut, reviews=reviews))
        plan.judge(Judge(catalog, rules, Holds(catalog.holds()), now=now), where or Filter(), roots)
        stack.pop_all()
    return plan
