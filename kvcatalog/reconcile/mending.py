"""What is to be done about records and blobs that have lost each other, step by step, and doing it.

Each step is whole by itself and is not found again once it is done, so a run may be killed anywhere and made again.
"""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

from msgspec import Struct, structs

from kvcatalog.blobs import read_digest
from kvcatalog.checks import BlobCheck
from kvcatalog.custody import BlobMove, Relocation
from kvcatalog.errors import BlobNotFoundError, StorageFailedError, UnsafePathError
from kvcatalog.filters import Filter
from kvcatalog.layout import CAS
from kvcatalog.reconcile.looking import Broken, Unknown, broken, unknown
from kvcatalog.removal.sorting import SortedRows

if TYPE_CHECKING:
    from kvcatalog.removal.executing import Collection
    from kvcatalog.removal.opened import OpenRoots
    from kvcatalog.store.protocol import CatalogStore

_COPY_BYTES = 1 << 20
_FETCHED = ("http://", "https://")

Action = Literal["rebind", "adopt", "refetch", "lost", "unknown"]
StepOutcome = Literal["planned", "done", "failed"]


class FetchError(Exception):
    """A URL did not give a whole document; the message says why."""


class Adoption(Struct, frozen=True):
    """Under which key an unknown blob is registered; `source_url` None means its storage URI."""

    artifact_id: str
    source_url: str | None = None
    resolver: str = "local"
    content_type: str | None = None
    run_id: str | None = None


Adopt = Callable[[str, str], Adoption | None]
"""Takes a blob's storage URI and its path below the root, and returns its key, None if it is to be left alone."""

Fetch = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens what a URL gives; raises FetchError, then or while it is read."""


class Step(Struct, frozen=True):
    """Something to be done, or that was.

    `rebind`: a record refers to `storage_uri`, where its content was found, and not to `former_uri` any more.
    `adopt`: an unknown blob gets a record. `refetch`: a blob is fetched from its source once more. `lost`: nothing can
    be done for a record; `unknown`: nothing is known of a blob. `failed` says why in `detail`; all is as it was.
    """

    action: Action
    storage_uri: str
    outcome: StepOutcome = "planned"
    document_id: int | None = None
    variant: str | None = None
    artifact_id: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    former_uri: str | None = None
    source_url: str | None = None
    detail: str | None = None


class _Digested(NamedTuple):
    """A blob that nothing refers to, and its digest, empty if it is not there any more."""

    sha256: str
    storage_uri: str


class Reconciling:
    """One run; `plan` changes nothing, `apply` does each step as it comes, under the lease of a collection."""

    def __init__(
        self,
        catalog: CatalogStore,
        roots: OpenRoots,
        *,
        adopt: Adopt = lambda _uri, _path: None,
        fetch: Fetch | None = None,
        where: Filter | None = None,
    ) -> None:
        self._catalog = catalog
        self._roots = roots
        self._adopt = adopt
        self._fetch = fetch
        self._where = where or Filter()

    def plan(self) -> Iterator[Step]:
        """Yield what is to be done, by size; blobs are read only where their size is one that is looked for."""
        with SortedRows(Broken) as lacking, SortedRows(Unknown) as found:
            for each in broken(self._catalog, self._roots, self._where):
                lacking.add(each)
            for blob in unknown(self._catalog, self._roots):
                found.add(blob)
            merged: Iterator[Broken | Unknown] = heapq.merge(lacking, found, key=lambda row: row[0])
            for _, group in groupby(merged, key=lambda row: row[0]):
                yield from self._together(group)

    def apply(self, collection: Collection) -> Iterator[Step]:
        """Do each step, and yield what came of it; `collection` is one of the same catalog, whose lease is held."""
        epoch = collection.catalog.blob_epoch()  # nobody takes blobs away meanwhile, so it holds for all
        does = {"rebind": self._rebind, "adopt": self._register, "refetch": self._fetch_again}
        for step in self.plan():
            do = does.get(step.action)
            yield step if do is None else do(step, epoch)

    def _together(self, rows: Iterator[Broken | Unknown]) -> Iterator[Step]:
        """Yield the steps for what has one size: first comes what is broken, by digest, then what is unknown."""
        with SortedRows(Broken) as lacking, SortedRows(_Digested) as digested:
            has_lacking = False
            for row in rows:
                if isinstance(row, Broken):
                    has_lacking = True
                    lacking.add(row)
                elif has_lacking:
                    digested.add(_Digested(self._digest(row.storage_uri) or "", row.storage_uri))
                else:
                    yield self._for_unknown(row.storage_uri)
            yield from self._matched(lacking, digested)

    def _matched(self, lacking: SortedRows[Broken], digested: SortedRows[_Digested]) -> Iterator[Step]:
        """Yield the steps for what is broken and what was read, both by digest; of equal blobs the first is taken."""
        left = iter(digested)
        found = next(left, None)
        for sha256, group in groupby(lacking, key=lambda each: each.sha256):
            while found is not None and found.sha256 < sha256:
                yield self._for_unknown(found.storage_uri)
                found = next(left, None)
            taken = found if found is not None and found.sha256 == sha256 else None
            for each in group:
                if taken is None:
                    yield self._without(each)
                else:
                    step = self._step("rebind", each)
                    yield structs.replace(step, storage_uri=taken.storage_uri, former_uri=each.storage_uri)
            if taken is not None:
                found = next(left, None)
        while found is not None:
            yield self._for_unknown(found.storage_uri)
            found = next(left, None)

    def _without(self, each: Broken) -> Step:
        """Return the step for what is found nowhere."""
        record = self._catalog.get_by_id(each.document_id)
        url = None if record is None or each.variant else record.source_url
        if self._fetch is None or url is None or not url.startswith(_FETCHED):
            return structs.replace(self._step("lost", each), detail=each.state)
        return structs.replace(self._step("refetch", each), source_url=url, detail=each.state)

    def _step(self, action: Action, each: Broken) -> Step:
        return Step(
            action,
            each.storage_uri,
            document_id=each.document_id,
            variant=each.variant or None,
            bytes=each.bytes,
            sha256=each.sha256,
        )

    def _for_unknown(self, uri: str) -> Step:
        located = self._roots.locate(uri)
        found = None if located is None else self._adopt(uri, located[1])
        if found is None:
            return Step("unknown", uri)
        return Step("adopt", uri, artifact_id=found.artifact_id, source_url=found.source_url or uri)

    def _rebind(self, step: Step, epoch: int) -> Step:
        relocation = Relocation(
            "variant" if step.variant else "document",
            step.document_id or 0,
            step.former_uri or "",
            step.storage_uri,
            step.bytes or 0,
            step.sha256 or "",
            epoch,
            step.variant,
        )
        (outcome,) = self._catalog.relocate([relocation], reason="reconcile: its content was found here")
        return _failed(step, outcome) if outcome != "moved" else structs.replace(step, outcome="done")

    def _register(self, step: Step, epoch: int) -> Step:
        located = self._roots.locate(step.storage_uri)
        facts = None if located is None else self._adopt(step.storage_uri, located[1])
        if located is None or facts is None:
            return _failed(step, "it is to be left alone")
        try:
            sha256, size = read_digest(*located)
        except (BlobNotFoundError, UnsafePathError, StorageFailedError) as error:
            return _failed(step, str(error))
        registration = self._catalog.register(
            artifact_id=facts.artifact_id,
            source_url=facts.source_url or step.storage_uri,
            resolver=facts.resolver,
            content_type=facts.content_type,
            bytes=size,
            sha256=sha256,
            storage_uri=step.storage_uri,
            run_id=facts.run_id,
            blob_epoch=epoch,
        )
        detail = None if registration.outcome == "registered" else registration.outcome
        return structs.replace(
            step, outcome="done", document_id=registration.record.id, bytes=size, sha256=sha256, detail=detail
        )

    def _fetch_again(self, step: Step, _epoch: int) -> Step:
        """Fetch a blob; it is stored only if it is what the record says, and what lay there goes to quarantine."""
        located = self._roots.locate(step.storage_uri)
        if self._fetch is None or located is None:
            return _failed(step, "it cannot be fetched")
        store, path = located
        writer, file = store.staging_file()
        with file, writer:
            try:
                with self._fetch(step.source_url or "") as body:
                    shutil.copyfileobj(body, writer, _COPY_BYTES)
            except FetchError as error:
                return _failed(step, str(error))
            writer.flush()
            if file.sha256() != step.sha256:
                return _failed(step, f"its source gives other bytes by now, with SHA-256 {file.sha256()}")
            record = self._catalog.get_by_id(step.document_id or 0)
            is_cas = path.startswith(f"{CAS}/")
            published = store.publish(
                file,
                path,
                sha256=step.sha256,
                content_addressed=is_cas,
                owned=not is_cas,
                read_back=True,
                content_type=None if record is None else record.content_type,
            )
        if published.state == "taken":
            return _failed(step, "other content lies there")
        check = self._catalog.last_check(step.storage_uri)
        if check is not None:  # what it said is over
            self._catalog.record_checks((BlobCheck(step.storage_uri, "ok", check.checked_at, None),))
        moved = BlobMove("refetch", step.storage_uri, step.storage_uri, step.bytes or 0, step.source_url)
        self._catalog.record_moves((moved,))
        return structs.replace(step, outcome="done")

    def _digest(self, uri: str) -> str | None:
        """Return the digest of a blob as it is read, None if it is not there any more."""
        located = self._roots.locate(uri)
        if located is None:
            return None
        try:
            return read_digest(*located)[0]
        except (BlobNotFoundError, UnsafePathError):
            return None


def _failed(step: Step, detail: str) -> Step:
    return structs.replace(step, outcome="failed", detail=detail)
