"""The attempts that stored a page, remembered until the result of their work is read."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from kvcatalog.migrate.lines import Line

WORKS_MAX = 50_000
BYTES_MAX = 64 << 20


class StoredPage(Struct, gc=False):
    """What an attempt says about the page that it stored, unchecked."""

    url: Any
    resolver: Any
    sha256: Any
    size: Any
    content_type: Any
    line_bytes: int


class Attempts:
    """Remembers the first attempt with status `html` of each work in each run; the works met last, within bounds."""

    def __init__(self, *, works_max: int = WORKS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._pages: OrderedDict[tuple[str | None, str], StoredPage] = OrderedDict()
        self._works_max = works_max
        self._bytes_max = bytes_max
        self._bytes = 0

    def remember(self, line: Line, line_bytes: int) -> None:
        """Take an attempt in, if it stored a page."""
        if line.status != "html":
            return
        key = _key(line)
        if key is None or key in self._pages:
            return
        url, size = line.url or line.source_url, line.content_length
        resolver = line.resolver_name or line.resolver
        self._pages[key] = StoredPage(url, resolver, line.sha256, size, line.content_type, line_bytes)
        self._bytes += line_bytes
        while len(self._pages) > self._works_max or self._bytes > self._bytes_max:
            self._bytes -= self._pages.popitem(last=False)[1].line_bytes

    def page_of(self, line: Line) -> StoredPage | None:
        """Return what is remembered for the work and run of a result."""
        key = _key(line)
        return None if key is None else self._pages.get(key)


def _key(line: Line) -> tuple[str | None, str] | None:
    work, run = line.work_id or line.artifact_id or line.doc_id, line.run_id or None
    return (run, work) if isinstance(work, str) and isinstance(run, str | None) else None
