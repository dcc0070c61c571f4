"""The command `why`: who refers to a blob, what would break without it, what happened to it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from kvcatalog import uris, values
from kvcatalog.cli.blobs import Glance
from kvcatalog.cli.command import FILE_NAME, Command
from kvcatalog.cli.history import entry_row
from kvcatalog.cli.identify import find
from kvcatalog.errors import InvalidValueError, NotFoundError
from kvcatalog.holds import Holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.models import JournalEntry
    from kvcatalog.store.protocol import CatalogStore


class _Reference(Struct, frozen=True):
    """One row of the catalog that names a blob."""

    kind: str
    document_id: int
    variant: str | None
    sha256: str | None
    storage_uri: str


class _Subject(Struct, frozen=True):
    """What the question is about: the places of blobs, and the documents and the digest that the argument may name."""

    locations: frozenset[str]
    document_ids: frozenset[int] = frozenset()
    sha256: str | None = None


@click.command(cls=Command)
@click.argument("item", type=FILE_NAME, metavar="PATH|ID|DIGEST")
@click.pass_obj
def why(invocation: Invocation, item: str) -> None:
    """Tell who refers to a blob, what would break without it, and what happened to it.

    What `show` would not find is the path of a file, or a storage URI. `references` are the documents, variants,
    conflicts and links at its place, `copies` the same content elsewhere, `held_by` the holds that keep it, `trash`
    where it lies after a garbage collection took it, `condemned` the collection that is about to, `journal` what was
    done to it. The exit status is 3 where nothing of that is known.

    \b
    Example:
      kvcatalog why data/docs/a.pdf
      kvcatalog --json why 84695122
    """  # noqa: D301
    with invocation.open_catalog() as catalog, closing(Glance(catalog)) as glance:
        answer = _answer(catalog, item, _subject(catalog, item), glance)
    invocation.output.details((answer,), ("item", "without_it"), identity=None)


def _subject(catalog: CatalogStore, item: str) -> _Subject:
    try:
        found = find(catalog, item)
    except (NotFoundError, InvalidValueError):
        # It may be a blob without a record, or what was deleted, of which the journal knows.
        location = item if uris.has_scheme(item) else uris.file_uri(item)
        return _Subject(frozenset((location,)), frozenset((int(item),) if item.isdecimal() else ()), item.lower())
    if found.sha256 is not None:
        return _Subject(frozenset(each.storage_uri for each in _carriers(catalog, found.sha256)), sha256=found.sha256)
    variants = (variant for record in found.records for variant in catalog.get_variants(record.id))
    locations = frozenset(blob.storage_uri for blobs in (found.records, variants) for blob in blobs)
    return _Subject(locations, frozenset(record.id for record in found.records))


def _answer(catalog: CatalogStore, item: str, subject: _Subject, glance: Glance) -> dict[str, Any]:
    references = sorted(_references(catalog, subject.locations), key=lambda each: (each.storage_uri, each.document_id))
    digests = {each.sha256 for each in references if each.sha256 is not None}
    copies = [
        each
        for digest in sorted(digests)
        for each in _carriers(catalog, digest)
        if each.storage_uri not in subject.locations
    ]
    journal = _history(catalog, subject)
    held_by = _holds(catalog, subject, references)
    condemned = [asdict(each) for each in catalog.condemned() if each.storage_uri in subject.locations]
    if not (references or journal or held_by or condemned):
        raise NotFoundError(f"nothing refers to {item}, and the journal does not know it")
    return {
        "item": item,
        "without_it": _consequence(references, copies),
        "references": [asdict(each) for each in references],
        "copies": [asdict(each) for each in copies],
        "held_by": held_by,
        "trash": _trash(journal, subject, glance),
        "condemned": condemned,
        "journal": [entry_row(entry) for entry in journal],
    }


def _references(catalog: CatalogStore, locations: frozenset[str]) -> Iterator[_Reference]:
    for location in locations:
        for record in catalog.get_by_storage_uri(location):
            yield _Reference("document", record.id, None, record.sha256, location)
        for variant in catalog.get_variants_by_storage_uri(location):
            yield _Reference("variant", variant.document_id, variant.variant, variant.sha256, location)
        others = catalog.references(location)
        for document_id in sorted({each.document_id for each in others if each.kind == "conflict"}):
            for conflict in catalog.get_conflicts(document_id):
                if conflict.storage_uri == location:
                    yield _Reference("conflict", document_id, conflict.variant, conflict.sha256, location)
        for each in others:
            if each.kind == "link":
                yield _Reference("link", each.document_id, None, None, location)


def _carriers(catalog: CatalogStore, sha256: str) -> Iterator[_Reference]:
    for record in catalog.get_by_sha256(sha256):
        yield _Reference("document", record.id, None, sha256, record.storage_uri)
    for variant in catalog.get_variants_by_sha256(sha256):
        yield _Reference("variant", variant.document_id, variant.variant, sha256, variant.storage_uri)


def _history(catalog: CatalogStore, subject: _Subject) -> list[JournalEntry]:
    """Return the entries about the documents, or that name a place or the digest before or after a change."""
    found = {entry.sequence: entry for uri in subject.locations for entry in catalog.journal(storage_uri=uri)}
    for document_id in subject.document_ids:
        found |= {entry.sequence: entry for entry in catalog.journal(document_id=document_id)}
    if subject.sha256 is not None and values.is_digest(subject.sha256):
        for entry in catalog.journal():
            if subject.sha256 in entry.changes.get("sha256", ()):
                found[entry.sequence] = entry
    return [found[sequence] for sequence in sorted(found)]


def _holds(catalog: CatalogStore, subject: _Subject, references: list[_Reference]) -> list[dict[str, Any]]:
    holds = Holds(catalog.holds())
    found = {hold.id: hold for location in subject.locations for hold in holds.of_place(location)}
    for document_id in {each.document_id for each in references}:
        record = catalog.get_by_id(document_id)
        found |= {hold.id: hold for hold in (holds.of_record(record) if record else ())}
    return [asdict(found[number]) | {"filters": " ".join(found[number].filters)} for number in sorted(found)]


def _trash(journal: list[JournalEntry], subject: _Subject, glance: Glance) -> list[dict[str, Any]]:
    """Return what was taken to the trash from the places and has not come back; a look at local files tells more."""
    there: dict[str, dict[str, Any]] = {}
    for entry in journal:
        before, after = entry.changes.get("storage_uri", (None, None))
        if entry.action == "trash" and before in subject.locations:
            size = entry.changes["bytes"][0]
            state = glance.state(str(after), size if isinstance(size, int) else 0)
            there[str(after)] = {"storage_uri": after, "at": entry.at, "reason": entry.reason, "state": state}
        elif entry.action == "restore":
            there.pop(str(before), None)
    return list(there.values())


def _consequence(references: list[_Reference], copies: list[_Reference]) -> str:
    if not references:
        return "nothing would break: no record refers to it any more"
    kinds = ("document", "variant", "conflict", "link")
    counts = {kind: sum(each.kind == kind for each in references) for kind in kinds}
    losers = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items() if count)
    places = len({each.storage_uri for each in copies})
    rescue = (
        f"the same content lies in {places} other place{'s' * (places != 1)}" if places else "no other copy is known"
    )
    return f"{losers} would lose {'its' if len(references) == 1 else 'their'} bytes; {rescue}"
