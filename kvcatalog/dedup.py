"""What is stored more than once: the room that sharing saves already, and the room that it could save.

Local files are told apart by inode, so hard links and content-addressed blobs take their room once. Of a bucket, every
key is a copy of its own; nothing is asked of it.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from kvcatalog import values
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.models import DuplicateGroup
    from kvcatalog.store.protocol import CatalogStore

_PROGRESS_GROUPS = 100

Progress = Callable[[int, int], object]


class DuplicateContent(Struct, frozen=True):
    """A digest that several records carry; `bytes` is the size of one copy, and there are `copy_count` of them.

    `saved_bytes` is what its records would take more if each had a copy of its own, `savable_bytes` what one copy for
    all would free. `unseen_count` are records whose file is not there, or not of that size: they count for neither.
    """

    sha256: str
    bytes: int
    document_count: int
    variant_count: int
    copy_count: int
    unseen_count: int
    saved_bytes: int
    savable_bytes: int


class ResolverShare(Struct, frozen=True):
    """What a resolver brought that was there already: `record_count` records, and whose room is or could be saved."""

    resolver: str
    record_count: int
    saved_bytes: int
    savable_bytes: int


class DedupReport(Struct, frozen=True):
    """The contents with most bytes to be saved, and the sums of all, also of those that are not listed.

    The first record of a content, by id, takes its room; what comes later is put down to its own resolver.
    """

    contents: tuple[DuplicateContent, ...]
    resolvers: tuple[ResolverShare, ...]
    content_count: int
    unseen_count: int
    saved_bytes: int
    savable_bytes: int


def dedup_report(
    catalog: CatalogStore,
    *,
    variants: bool = False,
    min_count: int = 2,
    limit: int | None = 100,
    progress: Progress | None = None,
) -> DedupReport:
    """Look at every content that `min_count` or more records carry (with `variants`: records and variants).

    `limit` bounds the list of contents, None lists all; the memory that is needed grows with it. `progress` gets the
    number of contents that were looked at, and of all. Raises InvalidValueError.
    """
    values.positive("min_count", min_count)
    count = _Count()
    contents = _contents(catalog, count, variants=variants, min_count=min_count, progress=progress)
    top = sorted(contents, key=_weight) if limit is None else heapq.nsmallest(limit, contents, key=_weight)
    shares = (
        ResolverShare(resolver, records, count.saved[resolver], count.savable[resolver])
        for resolver, records in count.records.items()
    )
    return DedupReport(
        tuple(top),
        tuple(sorted(shares, key=lambda share: (-share.savable_bytes, -share.saved_bytes, share.resolver))),
        count.contents,
        count.unseen,
        count.saved.total(),
        count.savable.total(),
    )


class _Carrier(NamedTuple):
    """A record or variant of a content."""

    resolver: str
    storage_uri: str


class _Count:
    """Sums over contents, by resolver."""

    def __init__(self) -> None:
        self.contents = 0
        self.unseen = 0
        self.records: Counter[str] = Counter()
        self.saved: Counter[str] = Counter()
        self.savable: Counter[str] = Counter()


def _weight(content: DuplicateContent) -> tuple[int, int, str]:
    return -content.savable_bytes, -content.saved_bytes, content.sha256


def _contents(
    catalog: CatalogStore, count: _Count, *, variants: bool, min_count: int, progress: Progress | None
) -> Iterator[DuplicateContent]:
    total = 0 if progress is None else catalog.stats().duplicate_groups
    for number, group in enumerate(catalog.find_duplicates(variants=variants)):
        if progress is not None and not number % _PROGRESS_GROUPS:
            progress(number, max(number, total))
        if group.document_count + (group.variant_count if variants else 0) >= min_count:
            yield _content(catalog, group, count, variants=variants)


def _content(catalog: CatalogStore, group: DuplicateGroup, count: _Count, *, variants: bool) -> DuplicateContent:
    copies: set[object] = set()
    unseen = saved = savable = 0
    is_first = True
    for carrier in _carriers(catalog, group.sha256, variants=variants):
        copy = _copy_at(carrier.storage_uri, group.bytes)
        if copy is None:
            unseen += 1
            continue
        if not is_first:
            count.records[carrier.resolver] += 1
            if copy in copies:
                saved += group.bytes
                count.saved[carrier.resolver] += group.bytes
            else:
                savable += group.bytes
                count.savable[carrier.resolver] += group.bytes
        is_first = False
        copies.add(copy)
    count.contents += 1
    count.unseen += unseen
    return DuplicateContent(
        group.sha256, group.bytes, group.document_count, group.variant_count, len(copies), unseen, saved, savable
    )


def _carriers(catalog: CatalogStore, sha256: str, *, variants: bool) -> Iterator[_Carrier]:
    for record in catalog.get_by_sha256(sha256):
        yield _Carrier(record.resolver, record.storage_uri)
    if variants:
        for variant in catalog.get_variants_by_sha256(sha256):
            owner = catalog.get_by_id(variant.document_id)
            if owner is not None:
                yield _Carrier(owner.resolver, variant.storage_uri)


def _copy_at(storage_uri: str, size: int) -> object | None:
    """Return what tells the copy at a place from any other, None if there is none of that size."""
    path = file_path(storage_uri)
    if path is None:
        return storage_uri
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) and status.st_size == size else None
