"""Where the bytes of a download come to lie: at the place of their layout, or where they lie already."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, Unpack

from msgspec import Struct

from kvcatalog import layout, telemetry
from kvcatalog.blobs import BlobStore, LocalFile, Publication
from kvcatalog.durable import flush_folder
from kvcatalog.errors import BlobCondemnedError, BlobNotFoundError, InvalidValueError, StorageFailedError
from kvcatalog.filters import Condition, Filter
from kvcatalog.models import DocumentRecord, VariantRecord
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.store.protocol import CatalogStore

_TWINS_MAX = 4
_TWINS_LOOKED_AT = 64

_log = logging.getLogger(__name__)


class Candidate(Struct, frozen=True):
    """What a download is called, checked."""

    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    run_id: str | None
    variant: str | None

    @property
    def path(self) -> str:
        """Where people find it."""
        name = layout.basename_of(self.source_url, content_type=self.content_type, variant=self.variant)
        return layout.policy_relative_path(self.artifact_id, name)


class _Wishes(TypedDict, total=False):
    content_addressed: bool
    owned: bool
    twins: tuple[str, ...]


class Placed(Struct, frozen=True):
    """A blob that is in its place, and further places of it."""

    local_path: str | None
    uri: str
    publication: Publication
    links: tuple[str, ...] = ()


class Placement:
    """One file on its way into a store; the catalog knows where other contents belong."""

    def __init__(
        self,
        store: BlobStore,
        config: StorageConfig,
        catalog: CatalogStore | None,
        *,
        candidate: Candidate,
        file: LocalFile,
        reads_back: bool,
    ) -> None:
        self.store = store
        self.config = config
        self.catalog = catalog
        self.candidate = candidate
        self.file = file
        self.reads_back = reads_back
        self.has_stored = False

    @property
    def size(self) -> int:
        """The number of bytes that the digest is of."""
        return self.file.size if self.file.known_size is None else self.file.known_size

    def elsewhere(self, same: DocumentRecord | VariantRecord | None) -> Placed | None:
        """Return the known place of the content if that is a file outside this root, and it is there, durably."""
        path = None if same is None else file_path(same.storage_uri)
        if same is None or path is None or self.store.path_of(same.storage_uri) is not None:
            return None
        with suppress(OSError, InvalidValueError), LocalFile.open(path) as there:
            if there.size == self.size and there.read_sha256() == same.sha256:
                os.fsync(there.descriptor)
                flush_folder(os.path.dirname(path))
                return Placed(path, same.storage_uri, Publication("present"))
        return None

    def place(self, sha256: str | None, same: DocumentRecord | VariantRecord | None) -> Placed:
        """Bring the bytes to their place, in which they may lie already."""
        place = None if same is None else self._own_place(same)
        if self.config.layout == "cas":
            path = layout.cas_relative_path(self.config.cas_prefix, bytes.fromhex(sha256 or self.file.sha256()))
            if place in {None, path}:
                publication = self._publish(path, sha256, content_addressed=True)
                return self._placed(path, publication, self._link(path) if self.config.policy_links else ())
        if place is not None:
            return self._placed(place, self._publish(place, sha256, owned=True))
        twins = self._twins(sha256)
        for path in layout.distinct_paths(self.candidate.path, self.file.sha256):
            if self._is_claimed(path):
                continue
            publication = self._publish(path, sha256, twins=tuple(twin for twin in twins if twin != path))
            if publication.state != "taken":
                return self._placed(path, publication)
        raise StorageFailedError(f"{self.store.uri_of(self.candidate.path)}: other content lies at every name for it")

    def _placed(self, path: str, publication: Publication, links: tuple[str, ...] = ()) -> Placed:
        return Placed(self.store.local_path(path), self.store.uri_of(path), publication, links)

    def _own_place(self, known: DocumentRecord | VariantRecord) -> str | None:
        """Return the path at which a known content lies below this root, if it is no other content's as well."""
        path = self.store.path_of(known.storage_uri)
        return None if path is None or self._contents_of(known.storage_uri) - {known.sha256} else path

    def _is_claimed(self, path: str) -> bool:
        """Tell whether another content belongs at a path, whether it is there or not."""
        contents = self._contents_of(self.store.uri_of(path))
        return bool(contents) and contents != {self.file.sha256()}

    def _contents_of(self, uri: str) -> set[str]:
        """Return the digests that the catalog expects at a place."""
        if self.catalog is None:
            return set()
        return {each.sha256 for each in self.catalog.references(uri) if each.sha256 is not None}

    def _publish(self, path: str, sha256: str | None, **wishes: Unpack[_Wishes]) -> Publication:
        publication = self.store.publish(
            self.file,
            path,
            sha256=sha256,
            read_back=self.reads_back or self._is_doubtful(path),
            content_type=self.candidate.content_type,
            **wishes,
        )
        self.has_stored = self.has_stored or publication.how in {"moved", "copied", "uploaded"}
        if publication.quarantined is not None:
            telemetry.verify_failed()
            _log.warning(
                "%s held other bytes than its record says; they are at %s now",
                self.store.uri_of(path),
                self.store.uri_of(publication.quarantined),
            )
        if publication.refused in {"other content", "other size"}:
            telemetry.verify_failed()
            _log.warning("%s: a blob that should be equal is not; the right bytes were stored", self.store.uri_of(path))
        elif publication.refused is not None:
            _log.info("%s: copied, not linked: %s", self.store.uri_of(path), publication.refused)
        return publication

    def _is_doubtful(self, path: str) -> bool:
        """Tell whether the last check found anything but the right bytes at a place, so that a size is no proof."""
        check = None if self.catalog is None else self.catalog.last_check(self.store.uri_of(path))
        return check is not None and check.result in {"corrupt", "missing"}

    def _twins(self, sha256: str | None) -> tuple[str, ...]:
        """Return where the same content lies below this root, the latest first: the oldest may be full of links."""
        if sha256 is None or self.catalog is None or not self.config.hardlink_dedup:
            return ()
        same = Filter((Condition("sha256", "=", sha256),))
        page = self.catalog.search(same, sort="id", reverse=True, limit=_TWINS_LOOKED_AT)
        uris = [record.storage_uri for record in page.records]
        uris += [variant.storage_uri for variant in self.catalog.get_variants_by_sha256(sha256)[-_TWINS_MAX:]]
        paths = (self.store.path_of(uri) for uri in dict.fromkeys(uris))
        return tuple(islice((path for path in paths if path is not None), _TWINS_MAX))

    def _link(self, path: str) -> tuple[str, ...]:
        """Give a content-addressed blob a readable name as well, where links are to be had, and return its URI."""
        for name in layout.distinct_paths(self.candidate.path, self.file.sha256):
            try:
                linked = self.store.link(path, name)
            except BlobNotFoundError as error:
                raise BlobCondemnedError(f"{self.store.uri_of(path)}: taken away since it was stored") from error
            if linked.refused is not None:
                _log.info("%s: has no readable name: %s", self.store.uri_of(path), linked.refused)
                break
            if linked.state != "taken":
                return (self.store.uri_of(name),)
        return ()
