"""What refers to the blobs of a document, and where each belongs under a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kvcatalog import layout
from kvcatalog.filters import Filter

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.models import DocumentRecord
    from kvcatalog.store.protocol import CatalogStore


class Claimed(Struct, frozen=True):
    """A document, a variant, a conflict or a link, and the blob that it refers to; a link's content is not told."""

    kind: Literal["document", "variant", "conflict", "link"]
    document_id: int
    variant: str | None
    storage_uri: str
    bytes: int | None
    sha256: str | None


class Plan:
    """Where blobs belong, by a layout; `uri_of` and `path_of` are those of the store of the root to come below."""

    def __init__(
        self,
        catalog: CatalogStore,
        config: StorageConfig,
        *,
        uri_of: Callable[[str], str],
        path_of: Callable[[str], str | None],
    ) -> None:
        self.catalog = catalog
        self.config = config
        self._uri_of = uri_of
        self._path_of = path_of

    def documents(self, where: Filter, *, up_to: int) -> Iterator[tuple[DocumentRecord, list[Claimed]]]:
        """Yield the documents that a filter lets through, up to an id, with what does not lie where it belongs."""
        for record in self.catalog.iter_records(where):
            if record.id > up_to:
                return
            yield record, [claimed for claimed in self._claims(record) if not self.is_settled(record, claimed)]

    def is_settled(self, record: DocumentRecord, claimed: Claimed) -> bool:
        """Tell whether a blob lies where it belongs."""
        path = self._path_of(claimed.storage_uri)
        if path is None:
            return False
        if claimed.kind == "link":
            return self.config.policy_links and not path.startswith(f"{layout.CAS}/")
        return path in self.paths(record, claimed, claimed.sha256)

    def paths(self, record: DocumentRecord, claimed: Claimed, sha256: str | None) -> list[str]:
        """Return where a content belongs, the best place first; further places are for those that find it taken."""
        if self.config.layout == "cas":
            return [] if sha256 is None else [self.cas_path(sha256)]
        path = self.readable_path(record, claimed.variant)
        return [path] if sha256 is None else list(layout.distinct_paths(path, lambda: sha256))

    def cas_path(self, sha256: str) -> str:
        """Return the content-addressed place of a content."""
        return layout.cas_relative_path(self.config.cas_prefix, bytes.fromhex(sha256))

    def readable_path(self, record: DocumentRecord, variant: str | None) -> str:
        """Return where people find a document, or a variant of it."""
        name = layout.basename_of(record.source_url, content_type=record.content_type, variant=variant)
        return layout.policy_relative_path(record.artifact_id, name)

    def is_free_for(self, path: str, sha256: str) -> bool:
        """Tell whether the catalog expects no other content at a path."""
        contents = {each.sha256 for each in self.catalog.references(self._uri_of(path))} - {None}
        return not contents or contents == {sha256}

    def expected_target(self, record: DocumentRecord, claimed: Claimed) -> str | None:
        """Return where a blob would come to, as far as can be told without reading it; None for a link that goes."""
        if claimed.kind == "link":
            return None
        sha256 = claimed.sha256
        paths = self.paths(record, claimed, sha256)
        is_free = sha256 is None or self.config.layout == "cas"
        path = next((path for path in paths if is_free or self.is_free_for(path, sha256 or "")), None)
        return None if path is None else self._uri_of(path)

    def _claims(self, record: DocumentRecord) -> Iterator[Claimed]:
        yield Claimed("document", record.id, None, record.storage_uri, record.bytes, record.sha256)
        for variant in self.catalog.get_variants(record.id):
            yield Claimed("variant", record.id, variant.variant, variant.storage_uri, variant.bytes, variant.sha256)
        for conflict in self.catalog.get_conflicts(record.id):
            yield Claimed(
                "conflict", record.id, conflict.variant, conflict.storage_uri, conflict.bytes, conflict.sha256
            )
        for link in self.catalog.get_links(record.id):
            yield Claimed("link", record.id, None, link.storage_uri, None, None)


def target_config(config: StorageConfig, to: Literal["cas", "policy_path"]) -> StorageConfig:
    """Return a configuration with another layout."""
    has_links = config.policy_links and to == "cas" and config.backend == "fs"
    return config.model_copy(update={"layout": to, "policy_links": has_links})
