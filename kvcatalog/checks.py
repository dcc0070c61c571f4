"""What checks of blobs and audits of catalogs find, as immutable values."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

CheckResult = Literal["ok", "corrupt", "missing", "unreachable", "not hashed", "stored checksum only", "size only"]
"""What a check of a blob found.

`ok`: its bytes were read and are those of the record. `corrupt`: they are others, or of another number. `missing`: its
root is there, the blob is not. `unreachable`: nothing can be said, and nothing is said to be lost. `not hashed`: the
record has no digest, and the size agrees. Where bytes were not to be read: `stored checksum only` is the digest that an
object store keeps beside them, `size only` the size.
"""


class Claim(Struct, frozen=True, gc=False):
    """What a document, one of its variants or a conflict says of the bytes at a place."""

    document_id: int
    variant: str | None
    sha256: str | None
    bytes: int


class BlobCheck(Struct, frozen=True, gc=False):
    """The last check of a blob; never `unreachable`, which says nothing about it.

    `checked_at` is the last look of any kind. `read_at` is when all that could be compared was read, None if that never
    was: it gives the blob's turn. `quarantined` is where the corrupt bytes were put that lay there.
    """

    storage_uri: str
    result: CheckResult
    checked_at: datetime
    read_at: datetime | None
    quarantined: str | None = None


class StoredBlob(Struct, frozen=True, gc=False):
    """A place that the catalog refers to, what is expected there, and its last check; without claims nothing is."""

    storage_uri: str
    claims: tuple[Claim, ...]
    last_check: BlobCheck | None


class Verification(Struct, frozen=True, gc=False):
    """What a check found at a place; true only if the bytes were read and are the right ones.

    `document_ids` are the documents that the result concerns, by themselves or by a variant. `sha256` is the digest of
    the bytes that lie there; `bytes_read` is 0 where that file was read under another of its names. `quarantined` is
    the storage URI where corrupt bytes lie now.
    """

    storage_uri: str
    result: CheckResult
    detail: str | None
    document_ids: tuple[int, ...]
    checked_at: datetime
    bytes_read: int = 0
    sha256: str | None = None
    quarantined: str | None = None

    def __bool__(self) -> bool:
        return self.result == "ok"


FindingKind = Literal[
    "file", "row", "index", "figure", "reference", "blob missing", "blob size", "blob unknown", "root"
]
"""What is wrong: the database file itself; a stored value; an index row or mirror that is missing or too much; a
counter; a row that refers to what is not there; a blob that is missing, has another size, or that nothing refers to; a
storage root that is not there or not ours, of whose blobs nothing is said."""


Repair = Literal["row", "duplicates", "counter", "number", "check"]
"""How what is wrong is made good from what it derives from."""


class Finding(Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that an audit found to be wrong.

    `repair` says how it can be derived anew, None that it cannot; `key` and `value` then name the row, in hex, or what
    the figure should be. `repaired` is set once that was done.
    """

    kind: FindingKind
    message: str
    table: str | None = None
    document_id: int | None = None
    variant_id: int | None = None
    storage_uri: str | None = None
    repair: Repair | None = None
    key: str = ""
    value: str = ""
    repaired: bool = False
