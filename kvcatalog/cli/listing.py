"""Commands that list and count: search, stats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import Command
from kvcatalog.filters import parse_filter
from kvcatalog.models import DocumentRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.filters import Filter
    from kvcatalog.models import SortOrder, Totals
    from kvcatalog.store.protocol import CatalogStore

_SEARCH_COLUMNS = ("id", "artifact_id", "resolver", "content_type", "bytes", "sha256", "created_at", "source_url")
_PAGE = 1000


@click.command(cls=Command)
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option(
    "--sort",
    type=click.Choice(["id", "artifact", "created"]),
    help="Default: artifact where a filter asks for one, else id.",
)
@click.option("--reverse", is_flag=True, help="The last first.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Records at most; 0: all.")
@click.option("--after", metavar="TOKEN", help="Go on where an earlier search with the same sorting ended.")
@click.pass_obj
def search(
    invocation: Invocation,
    filters: tuple[str, ...],
    *,
    sort: SortOrder | None,
    reverse: bool,
    limit: int,
    after: str | None,
) -> None:
    """List the records that all FILTERs let through.

    A FILTER is a name, an operator and a value without spaces, in quotes where the shell would see < > or *.

    \b
    resolver artifact url run uri  = !=  text; a final * is any end, \\* a star
    type                           = !=  media type, or text/*
    sha256                         = !=  64 hex digits, ab12*, or none
    bytes                = != < <= > >=  500, 1.5MB, 4GiB
    created updated         = < <= > >=  2025-01-31 (the day), 2025-01-31T08:30Z
    id                   = != < <= > >=

    \b
    Example:
      kvcatalog search resolver=unpaywall 'bytes>1MB' 'created<2025-01-01'
      kvcatalog --format ids search 'artifact=doi:10.1234/*' --limit 0
    """  # noqa: D301
    where = parse_filter(filters)
    with invocation.open_catalog() as catalog:
        pages = _Pages(catalog, where, sort=sort, reverse=reverse, limit=limit, after=after)
        columns = DocumentRecord.__struct_fields__ if invocation.output_format == "csv" else _SEARCH_COLUMNS
        invocation.output.rows(map(asdict, pages.records()), columns)
    if pages.next is not None:
        invocation.note(f"To go on, add --after {pages.next}")


@click.command(cls=Command)
@click.pass_obj
def stats(invocation: Invocation) -> None:
    """Print the catalog's figures, which are kept with every write; nothing is scanned.

    `duplicate_documents` counts the records beyond the first of each digest, `duplicate_bytes` their sizes.

    \b
    Example:
      kvcatalog stats
      kvcatalog --json stats
    """  # noqa: D301
    with invocation.open_catalog() as catalog:
        figures = catalog.stats()
    row = asdict(figures)
    row["by_resolver"] = _by_bytes("resolver", figures.by_resolver)
    row["by_content_type"] = _by_bytes("content_type", figures.by_content_type)
    invocation.output.item(row)


class _Pages:
    """The records of a search, page by page; `next` is then where a later search goes on, None at the end."""

    def __init__(
        self,
        catalog: CatalogStore,
        where: Filter,
        *,
        sort: SortOrder | None,
        reverse: bool,
        limit: int,
        after: str | None,
    ) -> None:
        self._catalog = catalog
        self._where = where
        self._sort = sort
        self._reverse = reverse
        self._limit = limit
        self.next = after

    def records(self) -> Iterator[DocumentRecord]:
        remaining = self._limit
        while True:
            page = self._catalog.search(
                self._where,
                sort=self._sort,
                reverse=self._reverse,
                limit=min(remaining, _PAGE) if self._limit else _PAGE,
                after=self.next,
            )
            self.next = page.next
            yield from page.records
            remaining -= len(page.records)
            if self.next is None or (self._limit and remaining <= 0):
                return


def _by_bytes(name: str, totals: Mapping[str, Totals]) -> list[dict[str, Any]]:
    rows = [
        {name: value or None, "documents": total.documents, "bytes": total.bytes} for value, total in totals.items()
    ]
    return sorted(rows, key=lambda row: (-row["bytes"], row[name] or ""))
