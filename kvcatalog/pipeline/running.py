"""The pipeline: ask what is there, download what is not, store it, and say so in the manifest."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from threading import Event

from kvcatalog import clock, values
from kvcatalog.config import StorageConfig
from kvcatalog.errors import CatalogError, DigestMismatchError, InvalidValueError, NotFoundError, UnsafePathError
from kvcatalog.finalize import DownloadOutcome
from kvcatalog.pipeline.fetched import Fetched, Item
from kvcatalog.pipeline.http import Client, DownloadError, is_fetchable
from kvcatalog.pipeline.manifest import Manifest
from kvcatalog.pipeline.transfer import Limits, Transfer
from kvcatalog.store.protocol import CatalogStore

Finalize = Callable[..., DownloadOutcome]
"""`finalize_candidate_download`, with storage and catalog already given."""

_SKIPPED = frozenset(("have", "not-modified", "dry-run"))

# What finalize and the catalog raise for a single item.
_REFUSALS: tuple[tuple[type[CatalogError], str], ...] = (
    (UnsafePathError, "unsafe-path"),
    (DigestMismatchError, "digest-mismatch"),
    (NotFoundError, "gone"),
    (InvalidValueError, "invalid-value"),
)
_OF_EVERY_ITEM = frozenset((*StorageConfig.model_fields, "uri"))
"""Fields that an InvalidValueError names if it concerns the storage root, and so each item alike."""

_log = logging.getLogger(__name__)


class Pipeline:
    """Fetches items with `jobs` threads; what concerns a single item becomes its outcome and ends nothing else.

    Errors of the catalog or of the storage as a whole end the run: CatalogUnavailableError and its kinds, a damaged
    record, a setting that is refused. Without a catalog nothing is looked up or registered, and all else is the same.
    A rehearsal asks the catalog and stores nothing.
    """

    def __init__(
        self,
        finalize: Finalize,
        *,
        catalog: CatalogStore | None,
        manifest: Manifest | None,
        run_id: str,
        limits: Limits | None = None,
        jobs: int = 4,
        rehearsal: bool = False,
    ) -> None:
        self.run_id = values.required_text("run", run_id)
        self._finalize = finalize
        self._catalog = catalog
        self._manifest = manifest
        self._limits = limits or Limits()
        self._jobs = values.positive("jobs", jobs)
        self._rehearsal = rehearsal

    def run(self, items: Iterable[Item]) -> Generator[Fetched, None, None]:
        """Fetch items, which are read as they are needed, and yield what became of each, in the order of completion.

        What is found done at the same time comes in the order of the items; with one job, everything does.

        Closing the iterator, or an exception in it, stops the downloads under way: nothing of them is stored, and what
        was stored before stays. The same items can then be run again. Control-C does so too, and what was stored is
        still yielded before KeyboardInterrupt is raised.
        """
        stop = Event()
        untold: list[Future[Fetched]] = []
        with closing(Client(connections=self._jobs)) as client, ThreadPoolExecutor(self._jobs) as threads:
            try:
                for item in items:
                    untold.append(threads.submit(self._fetch, item, client, stop))
                    if len(untold) >= 2 * self._jobs:
                        yield from _completed(untold)
                while untold:
                    yield from _completed(untold)
            except KeyboardInterrupt:
                stop.set()
                yield from _ended(untold)
                raise
            finally:
                stop.set()
                for future in untold:
                    future.cancel()

    def _fetch(self, item: Item, client: Client, stop: Event) -> Fetched:
        fetched = self._fetched(item, client, stop)
        if self._manifest is not None and not self._rehearsal:
            self._manifest.append(fetched)
        return fetched

    def _fetched(self, item: Item, client: Client, stop: Event) -> Fetched:
        try:
            _check(item)
            if found := self._held(item):
                return found
            return self._downloaded(item, client, stop)
        except DownloadError as error:
            return _failed(item, error.reason)
        except tuple(kind for kind, _ in _REFUSALS) as error:
            return _refused(item, error)

    def _held(self, item: Item) -> Fetched | None:
        if self._catalog is not None:
            record = self._catalog.get(artifact_id=item.artifact_id, source_url=item.url, resolver=item.resolver)
            if record is not None and self._is_seen(record.id):
                return Fetched(item=item, outcome="skip", reason="have", record_id=record.id)
        return _failed(item, "dry-run") if self._rehearsal else None

    def _is_seen(self, document_id: int) -> bool:
        """Record that this run met a document; False if it was deleted since it was found, so that it is missing."""
        if self._catalog is not None and not self._rehearsal:
            try:
                self._catalog.record_sighting(document_id, self.run_id)
            except NotFoundError:
                return False
        return True

    def _downloaded(self, item: Item, client: Client, stop: Event) -> Fetched:
        transfer = Transfer(self._limits, stop)
        tries_left = self._limits.tries_max
        pause = self._limits.backoff_seconds
        while True:
            tries_left -= 1
            try:
                return self._stored(item, client, transfer)
            except DownloadError as error:
                if not error.passing or not tries_left:
                    raise
                seconds = pause if error.retry_after is None else error.retry_after
                if not transfer.wait(seconds):
                    raise
            pause *= 2

    def _stored(self, item: Item, client: Client, transfer: Transfer) -> Fetched:
        with client.get(item.url, transfer) as body:
            outcome = self._finalize(
                body,
                artifact_id=item.artifact_id,
                source_url=item.url,
                resolver=item.resolver,
                content_type=body.content_type,
                run_id=self.run_id,
            )
        if not outcome.ok:
            return _failed(item, outcome.reason or "error")
        size, digest = outcome.meta["bytes"], outcome.meta["sha256"]
        return Fetched(
            item=item,
            outcome="success",
            reason=outcome.reason,
            path=outcome.path,
            storage_uri=outcome.storage_uri,
            content_type=body.content_type,
            bytes=size if isinstance(size, int) else None,
            sha256=digest if isinstance(digest, str) else None,
            record_id=None if outcome.record is None else outcome.record.id,
        )


def new_run_id() -> str:
    """Return a name for a run: the present time and what tells it from another run at that time."""
    moment = clock.to_text(clock.from_micros(clock.now_micros()))
    return f"{moment[:19]}Z-{secrets.token_hex(3)}"


def _completed(untold: list[Future[Fetched]]) -> Iterator[Fetched]:
    """Wait until something is done, and yield what is; it stays among the untold up to the moment that it is told."""
    done, _ = wait(untold, return_when=FIRST_COMPLETED)
    for future in [future for future in untold if future in done]:
        fetched = future.result()
        untold.remove(future)
        yield fetched


def _ended(untold: list[Future[Fetched]]) -> list[Fetched]:
    """Wait for what cannot be stopped any more, and return what was done."""
    for future in untold:
        future.cancel()
    wait(untold)
    return [future.result() for future in untold if not future.cancelled() and future.exception() is None]


def _check(item: Item) -> None:
    for field, value in (("url", item.url), ("artifact-id", item.artifact_id), ("resolver", item.resolver)):
        try:
            values.required_text(field, value)
        except InvalidValueError as error:
            raise DownloadError(f"invalid-{field}") from error
    if not is_fetchable(item.url):
        raise DownloadError("unsupported-scheme")


def _refused(item: Item, error: CatalogError) -> Fetched:
    """Return what became of an item that was refused; the error again if it is not about this item alone."""
    if isinstance(error, InvalidValueError) and error.field in _OF_EVERY_ITEM:
        raise error
    _log.warning("%s: %s", item.url, error)
    return _failed(item, next(reason for kind, reason in _REFUSALS if isinstance(error, kind)))


def _failed(item: Item, reason: str) -> Fetched:
    return Fetched(item=item, outcome="skip" if reason in _SKIPPED else "error", reason=reason)
