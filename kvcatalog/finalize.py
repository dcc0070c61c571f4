"""The end of a download: its bytes are stored under their layout, and a record of them is made, in one safe step.

The order is what makes it safe: the blob is durable before its record, and the temporary file is kept until the record
is. Killed in between, a call is simply made again: it finds what is there, and nothing is stored twice.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from kvcatalog import layout, telemetry, values
from kvcatalog.blobs import LocalFile, new_label, read_digest
from kvcatalog.errors import (
    BlobCondemnedError,
    CatalogError,
    DigestMismatchError,
    NotFoundError,
    RootUnreachableError,
)
from kvcatalog.models import DocumentRecord, Outcome, Registration, VariantRecord, VariantRegistration
from kvcatalog.placement import Candidate, Placed, Placement
from kvcatalog.sources import Source, local_file, remove_source
from kvcatalog.storage import forget_storage, open_storage
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.config import CatalogConfig, StorageConfig
    from kvcatalog.store.protocol import CatalogStore

_WAIT_SECONDS_FIRST = 0.002
_WAIT_SECONDS_MAX = 0.25

_log = logging.getLogger(__name__)


class DownloadOutcome(Struct, frozen=True):
    """What became of a download.

    `ok` with the classification `success`: the bytes lie at `storage_uri` (`path` on this host's disk, None elsewhere),
    and `record` is what the catalog has under the key, None if it is off. `registration` tells what the registration
    did; after `conflict` the record is still the old content, and the new one is kept beside it. `dedup_hit`: no bytes
    were stored, since the same content was there. `meta` holds content_type, bytes and sha256 of what came.

    Not `ok` with `error`: what came has not the digest or size that it should have (`reason`), it lies in quarantine at
    `storage_uri`, and nothing was registered. `link_refused` says why bytes were copied where a hard link was wanted.
    """

    ok: bool
    classification: Literal["success", "error"]
    path: str | None
    storage_uri: str | None
    record: DocumentRecord | VariantRecord | None
    dedup_hit: bool
    meta: dict[str, str | int | None]
    reason: Literal["conflict", "digest-mismatch", "size-mismatch"] | None = None
    registration: Outcome | None = None
    link_refused: str | None = None


def finalize_candidate_download(
    source: Source,
    *,
    artifact_id: str,
    source_url: str,
    resolver: str,
    content_type: str | None = None,
    run_id: str | None = None,
    variant: str | None = None,
    sha256: str | None = None,
    catalog: CatalogStore | None = None,
    cfg_storage: StorageConfig | None = None,
    cfg_catalog: CatalogConfig | None = None,
) -> DownloadOutcome:
    """Store a download and register it; on return blob and record are durable and a temporary file is gone.

    `source` is the path of a temporary file, a closed HashingWriter, or a binary stream, which is read to its end. A
    file on the root's own device becomes the blob, without a copy; it must not be written to any more. `sha256` is the
    digest that it should have. A `variant` is another form of the document under the key, which must be registered.
    Without a catalog, or with `enabled` off, the file is stored by its layout and nothing more is done.

    Safe from many threads and processes at once. Raises InvalidValueError for bad values and for a source that is no
    regular file, NotFoundError for a variant without a document, UnsafePathError where a symbolic link lies in the way,
    RootUnreachableError, RootOwnershipError, and the errors of storage and catalog; the source is then still there.
    """
    from kvcatalog.config import CatalogConfig, StorageConfig

    cfg_catalog = cfg_catalog or CatalogConfig()
    candidate = Candidate(
        artifact_id=values.required_text("artifact_id", artifact_id),
        source_url=values.required_text("source_url", source_url),
        resolver=values.required_text("resolver", resolver),
        content_type=values.optional_text("content_type", content_type),
        run_id=values.optional_text("run_id", run_id),
        variant=values.optional_text("variant", variant),
    )
    declared = values.digest("sha256", sha256)
    active = catalog if cfg_catalog.enabled else None
    config = cfg_storage or StorageConfig()
    with telemetry.span("kvcatalog.finalize", resolver=candidate.resolver):
        store = open_storage(config, active)
        try:
            is_wanted = active is not None and cfg_catalog.compute_sha256
            hashing = config.layout == "cas" or declared is not None or is_wanted
            with local_file(source, store, active, hashing=hashing) as file:
                reads_back = active is not None and cfg_catalog.verify_on_register
                work = _Finalizing(
                    Placement(store, config, active, candidate=candidate, file=file, reads_back=reads_back)
                )
                sha256 = file.sha256() if hashing or reads_back else None
                if file.known_size not in {None, file.size}:
                    outcome = work.set_aside("size-mismatch")
                elif declared not in {None, sha256}:
                    outcome = work.set_aside("digest-mismatch")
                else:
                    outcome = work.finished(sha256)
                remove_source(file, active, outcome.path)
        except RootUnreachableError:
            forget_storage(store)
            raise
    return outcome


class _Finalizing:
    """One call: what it works on, and its steps."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.store = placement.store
        self.catalog = placement.catalog
        self.candidate = placement.candidate
        self.file = placement.file
        self.was_refused = False

    def finished(self, sha256: str | None) -> DownloadOutcome:
        """Store and register, again as long as garbage collection gets in between."""
        wait = _WAIT_SECONDS_FIRST
        while True:
            try:
                return self._attempt(sha256)
            except DigestMismatchError:
                return self.set_aside("digest-mismatch")
            except BlobCondemnedError:
                self.was_refused = True
                time.sleep(wait)
                wait = min(2 * wait, _WAIT_SECONDS_MAX)

    def _attempt(self, sha256: str | None) -> DownloadOutcome:
        if self.catalog is None:
            return self._outcome(self.placement.place(sha256, None), sha256, None)
        epoch = self.catalog.blob_epoch(recent=not self.was_refused)
        document = self._document(self.catalog)
        known = self._known(self.catalog, document)
        if known is not None and known.sha256 is None and known.bytes == self.placement.size:
            known, sha256 = self._told_apart(self.catalog, known, sha256)
        same = known if known is not None and known.sha256 in {sha256, self.file.known_sha256} - {None} else None
        stored = self.placement.elsewhere(same) or self.placement.place(sha256, same)
        if same is not None and stored.uri != same.storage_uri:
            stored = structs.replace(stored, links=(*stored.links, stored.uri))  # the record has a further copy now
        registration = self._register(self.catalog, document, stored, sha256, epoch)
        return self._outcome(stored, sha256, registration)

    def _document(self, catalog: CatalogStore) -> DocumentRecord | None:
        facts = self.candidate
        document = catalog.get(artifact_id=facts.artifact_id, source_url=facts.source_url, resolver=facts.resolver)
        if document is None and facts.variant is not None:
            error = NotFoundError(f"there is no document of which {facts.variant!r} could be a variant")
            raise error.advising("Store the document first, under the same artifact, URL and resolver.")
        return document

    def _known(self, catalog: CatalogStore, document: DocumentRecord | None) -> DocumentRecord | VariantRecord | None:
        """Return what the catalog has under the key."""
        if document is None or self.candidate.variant is None:
            return document
        variants = catalog.get_variants(document.id)
        return next((each for each in variants if each.variant == self.candidate.variant), None)

    def _told_apart(
        self, catalog: CatalogStore, known: DocumentRecord | VariantRecord, sha256: str | None
    ) -> tuple[DocumentRecord | VariantRecord, str | None]:
        """Compare with a content of the same size that has no digest yet, if its bytes can be read.

        Where it is another content, its record gets the digest, so that the two are a conflict and neither is lost.
        """
        try:
            digest = self._read_digest(known.storage_uri)
        except (CatalogError, OSError):
            return known, sha256
        with_digest = structs.replace(known, sha256=digest)
        if digest == self.file.sha256():
            return with_digest, sha256
        self._register_known(catalog, with_digest)
        return with_digest, self.file.sha256()

    def _read_digest(self, uri: str) -> str:
        path = self.store.path_of(uri)
        if path is not None:
            return read_digest(self.store, path)[0]
        with LocalFile.open(file_path(uri) or "") as file:
            return file.read_sha256()

    def _register(
        self,
        catalog: CatalogStore,
        document: DocumentRecord | None,
        stored: Placed,
        sha256: str | None,
        epoch: int,
    ) -> Registration | VariantRegistration:
        facts = self.candidate
        if document is not None and facts.variant is not None:
            return catalog.register_variant(
                document_id=document.id,
                variant=facts.variant,
                storage_uri=stored.uri,
                bytes=self.placement.size,
                content_type=facts.content_type,
                sha256=sha256,
                blob_epoch=epoch,
                links=stored.links,
            )
        return catalog.register(
            artifact_id=facts.artifact_id,
            source_url=facts.source_url,
            resolver=facts.resolver,
            content_type=facts.content_type,
            bytes=self.placement.size,
            sha256=sha256,
            storage_uri=stored.uri,
            run_id=facts.run_id,
            blob_epoch=epoch,
            links=stored.links,
        )

    def _register_known(self, catalog: CatalogStore, known: DocumentRecord | VariantRecord) -> None:
        """Add the digest that a known record was found to have."""
        if isinstance(known, VariantRecord):
            catalog.register_variant(
                document_id=known.document_id,
                variant=known.variant,
                storage_uri=known.storage_uri,
                bytes=known.bytes,
                sha256=known.sha256,
            )
        else:
            catalog.register(
                artifact_id=known.artifact_id,
                source_url=known.source_url,
                resolver=known.resolver,
                storage_uri=known.storage_uri,
                bytes=known.bytes,
                sha256=known.sha256,
            )

    def _outcome(
        self, stored: Placed, sha256: str | None, registration: Registration | VariantRegistration | None
    ) -> DownloadOutcome:
        publication = stored.publication
        is_new = registration is not None and registration.outcome != "existing"
        dedup_hit = is_new and not self.placement.has_stored
        if dedup_hit:
            telemetry.dedup_hit(self.candidate.resolver)
        return DownloadOutcome(
            ok=True,
            classification="success",
            path=stored.local_path,
            storage_uri=stored.uri,
            record=None if registration is None else registration.record,
            dedup_hit=dedup_hit,
            meta=self._meta(sha256),
            reason="conflict" if registration is not None and registration.outcome == "conflict" else None,
            registration=None if registration is None else registration.outcome,
            link_refused=publication.refused,
        )

    def set_aside(self, reason: Literal["digest-mismatch", "size-mismatch"]) -> DownloadOutcome:
        """Put what is not what it should be into quarantine."""
        path = layout.set_aside_path(layout.QUARANTINE_PATH, new_label(), self.candidate.path)
        self.store.publish(self.file, path, sha256=None)
        telemetry.verify_failed()
        uri = self.store.uri_of(path)
        _log.warning("%s: %s; what came lies at %s", self.candidate.source_url, reason, uri)
        return DownloadOutcome(
            ok=False,
            classification="error",
            path=self.store.local_path(path),
            storage_uri=uri,
            record=None,
            dedup_hit=False,
            meta=self._meta(self.file.read_sha256()),
            reason=reason,
        )

    def _meta(self, sha256: str | None) -> dict[str, str | int | None]:
        return {"content_type": self.candidate.content_type, "bytes": self.placement.size, "sha256": sha256}
