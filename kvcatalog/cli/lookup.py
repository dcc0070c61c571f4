"""Commands that look up what they are given: show, where, have."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import click
from msgspec.structs import asdict

from kvcatalog import values
from kvcatalog.cli.blobs import Glance
from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.identify import KINDS, Kind, find
from kvcatalog.errors import InvalidValueError
from kvcatalog.models import DocumentRecord, HaveKind, VariantRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.cli.identify import Found
    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.store.protocol import CatalogStore

_RECORD_COLUMNS = (*DocumentRecord.__struct_fields__, "blob", "check", "checked_at", "quarantined")
_WHERE_COLUMNS = ("storage_uri", "id", "variant", "bytes", "sha256", "blob")
_HAVE_COLUMNS = ("item", "kind", "held", "ids")
_LINE_BYTES = 1 << 20

_kind_option = click.option("--kind", type=click.Choice(KINDS), default="any", help="What ITEM is.", show_default=True)


class _Asked(NamedTuple):
    """An item of `have` and what the catalog is asked for it, None where nothing that is stored can be it."""

    item: str
    question: str | None
    is_file: bool


@click.command(cls=Command)
@click.argument("item")
@_kind_option
@click.pass_obj
def show(invocation: Invocation, item: str, kind: Kind) -> None:
    """Show the records that ITEM names, with variants, twins, conflicts and sightings.

    ITEM is an id, a URL, an artifact id, or a digest or its first characters (4 or more); the first of these that is
    there. `blob` tells whether a local file of the right size is in place, without reading it (`unreachable`: its root
    is not there or not ours), `check` what `verify` found last. Twins are other documents and variants of the same
    digest.

    \b
    Example:
      kvcatalog show https://example.org/a.pdf
      kvcatalog --json show 84695122
    """  # noqa: D301
    with invocation.open_catalog() as catalog:
        records = find(catalog, item, kind).records
        with closing(Glance(catalog)) as glance:
            rows = (_full_record(catalog, glance, record) for record in records)
            invocation.output.details(rows, _RECORD_COLUMNS)


@click.command(cls=Command)
@click.argument("item")
@_kind_option
@click.pass_obj
def where(invocation: Invocation, item: str, kind: Kind) -> None:
    """Print where the bytes of the documents that ITEM names lie, and those of their variants.

    ITEM is an id, a URL, an artifact id, or a digest or its first characters (4 or more). For a digest these are the
    places of that content only. `blob` is as in `show`.

    \b
    Example:
      kvcatalog where doi:10.1234/abc
      kvcatalog where 84695122 --format csv
    """  # noqa: D301
    with invocation.open_catalog() as catalog:
        found = find(catalog, item, kind)
        with closing(Glance(catalog)) as glance:
            invocation.output.rows(_places(catalog, glance, found), _WHERE_COLUMNS)


@click.command(cls=Command)
@click.argument("items", nargs=-1, required=True, metavar="ITEM... | -")
@click.option(
    "--kind", type=click.Choice(get_args(HaveKind)), default="any", help="What the items are.", show_default=True
)
@click.pass_obj
def have(invocation: Invocation, items: tuple[str, ...], kind: HaveKind) -> ExitStatus:
    """Tell for each ITEM whether it is in the catalog; `-` reads items from standard input, one on a line.

    An ITEM is the path of a file (found by its content), a whole digest, a URL, or an artifact id; empty lines are
    passed over. The exit status is 0 if all are there and 1 if one is not. `--format ids` prints the ids of the records
    that hold them.

    \b
    Example:
      kvcatalog have https://example.org/a.pdf || wget https://example.org/a.pdf
      kvcatalog --format csv have - --kind url < urls.txt
    """  # noqa: D301
    missing = 0

    def rows(catalog: CatalogStore) -> Iterator[dict[str, Any]]:
        nonlocal missing
        for item, found_as, records in _possessions(catalog, items, kind):
            missing += not records
            ids = [record.id for record in records]
            yield {
                "item": item,
                "kind": found_as,
                "held": bool(ids),
                "ids": ids,
                "records": [asdict(record) for record in records],
            }

    with invocation.open_catalog() as catalog:
        invocation.output.rows(rows(catalog), _HAVE_COLUMNS, identity="ids")
    return ExitStatus.FINDINGS if missing else ExitStatus.DONE


def _full_record(catalog: CatalogStore, glance: Glance, record: DocumentRecord) -> dict[str, Any]:
    return {
        **asdict(record),
        "blob": glance.state(record.storage_uri, record.bytes),
        **_last_check(catalog, record.storage_uri),
        "variants": [
            {
                "id": variant.id,
                "variant": variant.variant,
                "content_type": variant.content_type,
                "bytes": variant.bytes,
                "sha256": variant.sha256,
                "storage_uri": variant.storage_uri,
                "created_at": variant.created_at,
                "blob": glance.state(variant.storage_uri, variant.bytes),
                **_last_check(catalog, variant.storage_uri),
            }
            for variant in catalog.get_variants(record.id)
        ],
        "twins": list(_twins(catalog, record)),
        "conflicts": [
            {name: value for name, value in asdict(conflict).items() if name != "document_id"}
            for conflict in catalog.get_conflicts(record.id)
        ],
        "sightings": [
            {"run_id": sighting.run_id, "seen_at": sighting.seen_at}
            for sighting in catalog.get_sightings(document_id=record.id)
        ],
    }


def _last_check(catalog: CatalogStore, storage_uri: str) -> dict[str, Any]:
    check = catalog.last_check(storage_uri)
    return {
        "check": None if check is None else check.result,
        "checked_at": None if check is None else check.checked_at,
        "quarantined": None if check is None else check.quarantined,
    }


def _twins(catalog: CatalogStore, record: DocumentRecord) -> Iterator[dict[str, Any]]:
    if record.sha256 is None:
        return
    for twin in catalog.get_by_sha256(record.sha256):
        if twin.id != record.id:
            yield {"document_id": twin.id, "variant": None, "storage_uri": twin.storage_uri}
    for variant in catalog.get_variants_by_sha256(record.sha256):
        yield {
            "document_id": variant.document_id,
            "variant": variant.variant,
            "storage_uri": variant.storage_uri,
        }


def _places(catalog: CatalogStore, glance: Glance, found: Found) -> Iterator[dict[str, Any]]:
    for record in found.records:
        blobs: tuple[DocumentRecord | VariantRecord, ...] = (record, *catalog.get_variants(record.id))
        for blob in blobs:
            if found.sha256 is None or blob.sha256 == found.sha256:
                yield {
                    "storage_uri": blob.storage_uri,
                    "id": record.id,
                    "variant": blob.variant if isinstance(blob, VariantRecord) else None,
                    "bytes": blob.bytes,
                    "sha256": blob.sha256,
                    "blob": glance.state(blob.storage_uri, blob.bytes),
                }


def _possessions(
    catalog: CatalogStore, items: tuple[str, ...], kind: HaveKind
) -> Iterator[tuple[str, HaveKind, tuple[DocumentRecord, ...]]]:
    """Yield each item, what it was taken for, and the records that hold it."""
    waiting: deque[_Asked] = deque()

    def questions() -> Iterator[str]:
        for number, item in enumerate(_listed(items), 1):
            asked = _as_asked(number, item, kind)
            waiting.append(asked)
            if asked.question is not None:
                yield asked.question

    for possession in catalog.have(questions(), kind="digest" if kind == "file" else kind):
        while (asked := waiting.popleft()).question is None:
            yield asked.item, "file" if asked.is_file else kind, ()
        yield asked.item, "file" if asked.is_file else possession.kind, possession.records
    for asked in waiting:
        yield asked.item, "file" if asked.is_file else kind, ()


def _listed(items: tuple[str, ...]) -> Iterator[str]:
    for item in items:
        if item == "-":
            yield from _lines()
        else:
            yield item


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise click.UsageError("standard input is closed, so `-` has no items")
    number = 0
    while line := sys.stdin.buffer.readline(_LINE_BYTES + 3):
        number += 1
        content = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
        if len(content) > _LINE_BYTES:
            raise click.UsageError(f"line {number} of standard input is longer than 1 MiB")
        if content.strip():
            yield content.decode("utf-8", "surrogateescape")


def _as_asked(number: int, item: str, kind: HaveKind) -> _Asked:
    # A whole digest is one, whatever files lie around; everything else may name a file first.
    if "\0" not in item and (kind == "file" or (kind == "any" and not values.is_digest(item) and _is_file(item))):
        from kvcatalog.digest import sha256_file

        try:
            digest, _ = sha256_file(item)
        except OSError:
            return _Asked(item, None, is_file=True)
        return _Asked(item, digest, is_file=True)
    if not item:
        raise click.UsageError(f"item {number} is empty")
    try:
        values.required_text("item", item)
    except InvalidValueError:  # nothing that is stored can be so
        return _Asked(item, None, is_file=kind in {"any", "file"})
    if kind == "digest":
        try:
            values.digest(f"item {number}", item)
        except InvalidValueError as error:
            raise click.UsageError(str(error)) from error
    return _Asked(item, item, is_file=False)


def _is_file(name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False
