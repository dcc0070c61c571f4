"""Who refers to a blob, what must stay, and what is taken away or moved, as immutable values."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct


class Reference(Struct, frozen=True, gc=False):
    """Something that refers to a stored blob; `sha256` is what it expects there, None where that is not known."""

    kind: Literal["document", "variant", "conflict", "link"]
    document_id: int
    sha256: str | None


class Condemned(Struct, frozen=True, gc=False):
    """An announcement of a plan: it is about to take away what lies at a storage URI."""

    storage_uri: str
    plan: str
    at: datetime


class BlobMove(Struct, frozen=True, gc=False):
    """What was done to a blob, or to a folder of the trash, for the journal; `target` is the URI where it lies now.

    `begin` and `finish` frame work that leaves blobs behind; its name is then the place.
    """

    action: Literal["trash", "restore", "empty-trash", "begin", "finish", "refetch"]
    storage_uri: str
    target: str | None
    bytes: int
    reason: str | None


class Deletion(Struct, frozen=True, gc=False):
    """A document that is to go, as it was when that was decided, and why, for the journal."""

    document_id: int
    updated_at: datetime
    reason: str | None = None


class Relocation(Struct, frozen=True, gc=False):
    """A blob has come to a further place, and something that refers to it is to refer to that one.

    `kind` says what: a document, its variant, its conflict (of the variant, if `variant` is given) or a link of it.
    `bytes` and `sha256` are what was found at both places. A link without a `target` is dropped. `blob_epoch` is what
    it was before the blob was stored at its target.
    """

    kind: Literal["document", "variant", "conflict", "link"]
    document_id: int
    storage_uri: str
    target: str | None
    bytes: int
    sha256: str
    blob_epoch: int
    variant: str | None = None


RelocationOutcome = Literal["moved", "changed", "condemned"]
"""It refers to the target now; it is not what it was, and stays; the target may be gone, and is to be stored again."""


class Hold(Struct, frozen=True, gc=False):
    """What must stay: all that `filters`, expressions that must all hold, let through."""

    id: int
    filters: tuple[str, ...]
    reason: str
    created_at: datetime
