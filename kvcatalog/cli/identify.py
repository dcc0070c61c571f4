"""How an argument names records: by id, digest or its first characters, URL, or artifact."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

from msgspec import Struct

from kvcatalog import values
from kvcatalog.errors import AmbiguousDigestError, InvalidValueError, NotFoundError
from kvcatalog.models import DocumentRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvcatalog.store.protocol import CatalogStore

Kind = Literal["any", "id", "digest", "url", "artifact"]
KINDS: tuple[str, ...] = get_args(Kind)

_DIGEST_START = re.compile(r"[0-9a-fA-F]{4,64}")
_ID = re.compile(r"[1-9][0-9]{0,15}")
_CANDIDATES = 10


class Found(Struct, frozen=True):
    """The documents that an argument names, by id; `sha256` is set where it named a digest."""

    records: tuple[DocumentRecord, ...]
    sha256: str | None = None


def find(catalog: CatalogStore, item: str, kind: Kind = "any") -> Found:
    """Return what an argument names.

    With `any` the first of these that is there: an id, a whole digest, a URL, an artifact, the first characters of a
    digest (four or more). A digest also names the documents whose variants carry it. NotFoundError if nothing is there,
    AmbiguousDigestError if the characters begin several digests.
    """
    found = None
    if kind in ("any", "id"):
        found = _by_id(catalog, item, kind)
    if not found and kind in ("any", "digest") and values.is_digest(item):
        found = _by_digest(catalog, item, kind)
    if not found and kind in ("any", "url"):
        found = _found(catalog.get_by_url(item))
    if not found and kind in ("any", "artifact"):
        found = _found(catalog.get_by_artifact(item))
    if not found and kind in ("any", "digest") and not values.is_digest(item):
        found = _by_digest(catalog, item, kind)
    if not found:
        raise NotFoundError(f"{item} is not in the catalog")
    return found


def _by_id(catalog: CatalogStore, item: str, kind: Kind) -> Found | None:
    if _ID.fullmatch(item) and int(item) <= values.ID_MAX:
        record = catalog.get_by_id(int(item))
        return Found((record,)) if record else None
    if kind == "id":
        raise InvalidValueError("id", f"{item} is not an id")
    return None


def _by_digest(catalog: CatalogStore, item: str, kind: Kind) -> Found | None:
    if not _DIGEST_START.fullmatch(item):
        if kind == "digest":
            raise InvalidValueError("digest", f"{item} is not 4 to 64 hex digits")
        return None
    candidates = catalog.digests(item.lower(), limit=_CANDIDATES)
    if len(candidates) > 1:
        raise AmbiguousDigestError(item, tuple(candidates))
    if not candidates:
        return None
    (sha256,) = candidates
    owners = (catalog.get_by_id(variant.document_id) for variant in catalog.get_variants_by_sha256(sha256))
    found = _found([*catalog.get_by_sha256(sha256), *(owner for owner in owners if owner)])
    return Found(found.records, sha256) if found else None


def _found(records: Iterable[DocumentRecord]) -> Found | None:
    by_id = {record.id: record for record in records}
    return Found(tuple(by_id[number] for number in sorted(by_id))) if by_id else None
