"""What the pipeline takes and what it says of each download."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Item(Struct, frozen=True):
    """What is to be fetched: a URL, the artifact that it belongs to, and the resolver that named it."""

    artifact_id: str
    url: str
    resolver: str


class Fetched(Struct, frozen=True, kw_only=True):
    """What became of an item.

    `success`: the bytes are stored, at `storage_uri` and, on this host, at `path`; the reason `conflict` says that the
    catalog holds other bytes under this key and kept these beside them. `skip`: nothing was stored, since it is there
    (`have`), has not changed (`not-modified`) or was only tried (`dry-run`). `error`: nothing was stored. `bytes` is
    the size, `sha256` lowercase hex where it was computed, `record_id` the id of the document where there is a catalog.
    """

    item: Item
    outcome: Literal["success", "skip", "error"]
    reason: str | None = None
    path: str | None = None
    storage_uri: str | None = None
    content_type: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    record_id: int | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the bytes were stored."""
        return self.outcome == "success"
