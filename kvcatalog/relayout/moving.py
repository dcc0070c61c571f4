"""Blobs are read, compared with what is recorded, and stored where they belong; then records refer to that place.

The order is that of every registration: the blob is durable before anything refers to it, and the old one goes, by the
way of garbage collection, once nothing does. So it may be killed anywhere and run again, while others go on.
"""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from collections.abc import Collection as Collected
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kvcatalog import layout
from kvcatalog.blobs import BlobStore, LocalFile
from kvcatalog.custody import Relocation
from kvcatalog.errors import BlobNotFoundError, CatalogError, DigestMismatchError, NotFoundError, UnsafePathError
from kvcatalog.filters import Condition, Filter
from kvcatalog.relayout.claims import Claimed, Plan
from kvcatalog.removal.leftovers import Undertaking

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.models import DocumentRecord, VariantRecord
    from kvcatalog.removal.executing import Collection, Result

UNDERTAKING = Undertaking("relayout", "relocate")

BATCH_DOCUMENTS = 200
"""Documents whose blobs are stored before what refers to them is changed, in one transaction."""

_TRIES = 5
_TWINS_MAX = 4
_KNOWN_MAX = 10_000
_COPY_BYTES = 1 << 20

MoveOutcome = Literal["moved", "dropped", "changed", "missing", "corrupt", "outside"]


class Moved(Struct, frozen=True):
    """What became of something that refers to a blob.

    `moved`: it refers to `target` now. `dropped`: a link whose content lies where its document refers to. `changed`: it
    is not what it was. `missing`, `corrupt`: the blob is not there, or has other bytes than recorded. `outside`: it
    lies below no storage root, where nothing of ours moves. All but the first two stay as they were.
    """

    claimed: Claimed
    outcome: MoveOutcome
    target: str | None = None
    detail: str | None = None


_REASONS: dict[type[CatalogError], MoveOutcome] = {
    NotFoundError: "outside",
    BlobNotFoundError: "missing",
    UnsafePathError: "missing",
    DigestMismatchError: "corrupt",
}

_Document = tuple["DocumentRecord", list[Claimed]]


class _Ready(Struct):
    """What was found of a claim: either it is ready to be changed, or it stays."""

    claimed: Claimed
    relocation: Relocation | None = None
    stays: Moved | None = None


class Relayout:
    """One run under the lease of a collection: `move` to its end, then `blobs`.

    `target` is the store of the root that `config` names, whose layout is the one to come to.
    """

    def __init__(self, collection: Collection, target: BlobStore, config: StorageConfig, *, jobs: int = 4) -> None:
        self._collection = collection
        self._catalog = collection.catalog
        self._target = target
        self._config = config
        self._jobs = jobs
        self._plan = Plan(self._catalog, config, uri_of=target.uri_of, path_of=target.path_of)
        self._known: OrderedDict[str, str] = OrderedDict()

    def move(self, where: Filter | None = None) -> Iterator[Moved]:
        """Move what the documents refer to that a filter lets through, and yield what became of each, by document id.

        What appears is durable. Documents that are registered meanwhile stay where they are.
        """
        documents = self._plan.documents(where or Filter(), up_to=self._catalog.stats().last_document_id)
        waiting = ((record, claims) for record, claims in documents if claims or self._lacks_link(record))
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._jobs)) if self._jobs > 1 else None
            while batch := list(islice(waiting, BATCH_DOCUMENTS)):
                UNDERTAKING.begin(self._catalog)
                yield from self._moved(batch, pool)

    def blobs(self) -> Iterator[Result]:
        """Take the blobs to the trash that this run, or one that was cut off, left without a reference."""
        began = UNDERTAKING.begun(self._catalog)
        if began is None:
            return
        with UNDERTAKING.leftovers(self._collection, began) as plan:
            yield from self._collection.execute(plan.header.plan, plan.items())
        UNDERTAKING.finish(self._catalog)

    def _moved(self, batch: list[_Document], pool: ThreadPoolExecutor | None) -> list[Moved]:
        """Move a batch; what is told to be stored again, since its target may be gone, is."""
        done: dict[Claimed, Moved] = {}
        for _ in range(_TRIES):
            epoch = self._catalog.blob_epoch()
            stored = [*(pool.map if pool else map)(partial(self._stored, epoch), batch)]
            ready = [each for document in stored for each in document]
            wanted = [each for each in ready if each.relocation is not None]
            outcomes = self._catalog.relocate(
                [each.relocation for each in wanted if each.relocation is not None],
                reason=UNDERTAKING.reason(f"to {self._config.layout} below {self._target.uri}"),
            )
            again: set[int] = set()
            for each, outcome in zip(wanted, outcomes, strict=True):
                target = None if each.relocation is None else each.relocation.target
                if outcome == "condemned":
                    again.add(each.claimed.document_id)
                gone = each.claimed.kind == "link" and target is None
                done[each.claimed] = Moved(
                    each.claimed, ("dropped" if gone else "moved") if outcome == "moved" else "changed", target
                )
            done |= {each.claimed: each.stays for each in ready if each.stays is not None}
            self._link_readably(batch)
            batch = [(record, claims) for record, claims in batch if record.id in again]
            if not batch:
                break
        return list(done.values())

    def _stored(self, epoch: int, document: _Document) -> list[_Ready]:
        """Store what a document refers to where it belongs."""
        record, claims = document
        ready = [self._one_stored(record, each, epoch) for each in claims if each.kind != "link"]
        links = [each for each in claims if each.kind == "link"]
        if links:
            covered = {each.relocation.sha256 for each in ready if each.relocation is not None}
            owners: list[DocumentRecord | VariantRecord] = [record, *self._catalog.get_variants(record.id)]
            settled = [each for each in owners if each.sha256 not in covered]
            covered |= {each.sha256 for each in settled if each.sha256 is not None and self._is_right(each)}
            # A document that could not be moved keeps its links: they may be all that is left of it.
            keeps = any(each.stays is not None for each in ready)
            ready += [self._one_stored(record, each, epoch, covered) for each in links if not keeps]
        return ready

    def _one_stored(
        self, record: DocumentRecord, claimed: Claimed, epoch: int, covered: Collected[str] = frozenset()
    ) -> _Ready:
        """Store a blob where it belongs, unless it is not what is recorded, or a link to what is `covered` anyway."""
        try:
            with self._opened(claimed.storage_uri) as file:
                sha256, size = file.sha256(), file.size
                wrong = _difference(claimed, size, sha256)
                path = None if wrong or sha256 in covered else self._published(record, claimed, file, sha256)
        except tuple(_REASONS) as error:
            return _stays(claimed, _REASONS[type(error)], str(error))
        if wrong is not None:
            return _stays(claimed, "corrupt", wrong)
        uri = None if path is None else self._target.uri_of(path)
        if uri is None and sha256 not in covered:
            return _stays(claimed, "changed", "other content lies at every name for it")
        if uri == claimed.storage_uri and claimed.kind in {"conflict", "link"}:
            return _Ready(claimed)  # without a digest it could not be told that it lies well
        relocation = Relocation(
            claimed.kind, claimed.document_id, claimed.storage_uri, uri, size, sha256, epoch, claimed.variant
        )
        return _Ready(claimed, relocation)

    def _is_right(self, owner: DocumentRecord | VariantRecord) -> bool:
        """Tell by reading whether what lies where it belongs already is what is recorded."""
        try:
            with self._opened(owner.storage_uri) as file:
                return file.sha256() == owner.sha256
        except (NotFoundError, UnsafePathError):
            return False

    def _published(self, record: DocumentRecord, claimed: Claimed, file: LocalFile, sha256: str) -> str | None:
        """Store a blob's bytes where they belong, read them back, and return the path; None if no name is left."""
        is_cas = self._config.layout == "cas"
        twins = () if is_cas else self._twins(sha256)
        for path in self._plan.paths(record, claimed, sha256):
            if not is_cas and not self._plan.is_free_for(path, sha256):
                continue
            publication = self._target.publish(
                file,
                path,
                sha256=sha256,
                content_addressed=is_cas,
                read_back=True,
                twins=tuple(twin for twin in twins if twin != path),
                content_type=record.content_type if claimed.variant is None else None,
            )
            if publication.state != "taken":
                self._known[sha256] = path
                if len(self._known) > _KNOWN_MAX:
                    self._known.popitem(last=False)
                return path
        return None

    def _twins(self, sha256: str) -> tuple[str, ...]:
        """Return where the same content lies below the target, to be linked."""
        if not self._config.hardlink_dedup:
            return ()
        same = Filter((Condition("sha256", "=", sha256),))
        records = self._catalog.search(same, sort="id", reverse=True, limit=_TWINS_MAX).records
        paths = (self._target.path_of(record.storage_uri) for record in records)
        known = self._known.get(sha256)
        return (*(() if known is None else (known,)), *(path for path in paths if path is not None))

    @contextmanager
    def _opened(self, storage_uri: str) -> Iterator[LocalFile]:
        """Open a blob's bytes as a local file; one of a bucket is copied first."""
        located = self._collection.roots.locate(storage_uri)
        if located is None:
            raise NotFoundError("it lies below no storage root")
        store, path = located
        with store.open(path) as stream:
            if store.local_path(path) is not None:
                is_linkable = self._config.layout == "cas" or self._config.hardlink_dedup
                with LocalFile(os.dup(stream.fileno()), linkable=is_linkable) as file:
                    yield file
                return
            writer, file = self._target.staging_file()
            with file, writer:
                shutil.copyfileobj(stream, writer, _COPY_BYTES)
                writer.flush()
                yield file

    def _lacks_link(self, record: DocumentRecord) -> bool:
        if not self._config.policy_links or record.sha256 is None:
            return False
        is_here = record.storage_uri == self._target.uri_of(self._plan.cas_path(record.sha256))
        return is_here and not any(
            self._target.path_of(link.storage_uri) is not None for link in self._catalog.get_links(record.id)
        )

    def _link_readably(self, batch: Sequence[_Document]) -> None:
        """Give content-addressed blobs readable names as well, where that is configured and links are to be had."""
        for former, _ in batch if self._config.policy_links else ():
            record = self._catalog.get_by_id(former.id)
            if record is None or not self._lacks_link(record) or record.sha256 is None:
                continue
            epoch = self._catalog.blob_epoch()
            sha256 = record.sha256
            for path in layout.distinct_paths(self._plan.readable_path(record, None), partial(str, sha256)):
                try:
                    linked = self._target.link(self._plan.cas_path(sha256), path)
                except BlobNotFoundError:
                    break
                if linked.refused is not None:
                    break
                if linked.state != "taken":
                    self._catalog.register(
                        artifact_id=record.artifact_id,
                        source_url=record.source_url,
                        resolver=record.resolver,
                        bytes=record.bytes,
                        sha256=sha256,
                        storage_uri=record.storage_uri,
                        run_id=record.run_id,
                        blob_epoch=epoch,
                        links=(self._target.uri_of(path),),
                    )
                    break


def _stays(claimed: Claimed, outcome: MoveOutcome, detail: str) -> _Ready:
    return _Ready(claimed, stays=Moved(claimed, outcome, None, detail))


def _difference(claimed: Claimed, size: int, sha256: str) -> str | None:
    """Return how bytes differ from what is recorded of them, None if they do not or nothing is."""
    if claimed.sha256 not in {None, sha256}:
        return f"the SHA-256 of its {size} bytes is {sha256}"
    return None if claimed.bytes in {None, size} else f"there are {size} bytes, not {claimed.bytes}"
