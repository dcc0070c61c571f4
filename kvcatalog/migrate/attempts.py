"""The attempts that stored a page, remembered until the result of their work is read."""

from __future__ import annotations

from collections import OrderedDict
from sys import getsizeof

from msgspec import Struct, structs

from kvcatalog.migrate.lines import Line, Value, first

WORKS_MAX = 50_000
BYTES_MAX = 64 << 20

_OVERHEAD_BYTES = 400
"""What an entry takes beside its values: the page, the key, and the slot in the dictionary."""


class StoredPage(Struct, gc=False):
    """What an attempt says about the page that it stored; whether it can be used is seen when its result is read."""

    url: Value
    resolver: Value
    sha256: Value
    size: Value
    content_type: Value


class Attempts:
    """Remembers the first attempt with status `html` of each work in each run; the works met last, within bounds."""

    def __init__(self, *, works_max: int = WORKS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._pages: OrderedDict[tuple[str | None, str], StoredPage] = OrderedDict()
        self._works_max = works_max
        self._bytes_max = bytes_max
        self._bytes = 0

    def remember(self, line: Line) -> None:
        """Take an attempt in, if it stored a page."""
        if line.status != "html":
            return
        key = _key(line)
        if key is None or key in self._pages:
            return
        page = StoredPage(
            url=first(line.url, line.source_url),
            resolver=first(line.resolver_name, line.resolver),
            sha256=line.sha256,
            size=line.content_length,
            content_type=line.content_type,
        )
        self._pages[key] = page
        self._bytes += _held_bytes(key, page)
        while len(self._pages) > self._works_max or self._bytes > self._bytes_max:
            self._bytes -= _held_bytes(*self._pages.popitem(last=False))

    def page_of(self, line: Line) -> StoredPage | None:
        """Return what is remembered for the work and run of a result."""
        key = _key(line)
        return None if key is None else self._pages.get(key)


def _key(line: Line) -> tuple[str | None, str] | None:
    work, run = first(line.work_id, line.artifact_id, line.doc_id), first(line.run_id)
    return (run, work) if isinstance(work, str) and isinstance(run, str | None) else None


def _held_bytes(key: tuple[str | None, str], page: StoredPage) -> int:
    return _OVERHEAD_BYTES + sum(map(getsizeof, (*key, *structs.astuple(page))))
