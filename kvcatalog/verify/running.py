"""Many checks at once: chosen blobs, or the queue, by several threads, remembered as they come.

What was checked is written down about every second, so a run that is killed loses little, and the next one goes on
with what has waited longest. A blob is read once in a run, however many records it has: a check that is not older than
the run is one of this run, or of another at the same time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from itertools import islice
from secrets import token_bytes
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kvcatalog import telemetry, values
from kvcatalog.checks import BlobCheck, StoredBlob, Verification
from kvcatalog.clock import Clock, from_micros, now_micros
from kvcatalog.errors import InvalidValueError
from kvcatalog.fixity import Places, check_of, verified
from kvcatalog.kv.keys import short_hash
from kvcatalog.models import DocumentRecord
from kvcatalog.verify.quarantine import put_aside

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig
    from kvcatalog.store.protocol import CatalogStore

_LOOKUP_BLOBS = 64
"""Blobs whose records are looked up together."""

_TASK_BLOBS = 32
_TASK_BYTES = 8 << 20
"""The most that a thread is given at once, so that small blobs cost little and large ones go one by one."""

_TASKS_AHEAD = 2
_REMEMBER_SECONDS = 1.0
_REMEMBER_BLOBS = 1000

Progress = Callable[["VerifyRun"], None]
_Checks = Future[list[Verification]]


class Limits(Struct, frozen=True):
    """When a run begins nothing more; what has begun is finished."""

    seconds: float | None = None
    bytes: int | None = None


class _StoppedError(Exception):
    """Ends the reading of a blob whose result nobody waits for any more."""


class VerifyRun:
    """One run: iterate over it once, which does the work and yields each result when it is known.

    `counts` tells how many blobs had each result so far, `bytes_read` what was read, `stopped_by` which limit ended it.
    What lies below a root that is not there or not ours is counted and told once, as the root. Whoever leaves the
    iterator early, or is interrupted, leaves what was checked remembered; what was begun is dropped.
    """

    def __init__(
        self,
        catalog: CatalogStore,
        documents: Iterable[DocumentRecord] | None,
        places: Places,
        *,
        jobs: int,
        stat_only: bool,
        quarantine: bool,
        fraction: float,
        older_than: timedelta | None,
        limits: Limits,
        progress: Progress | None,
        clock: Clock,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.bytes_read = 0
        self.stopped_by: Literal["time", "bytes"] | None = None
        self._catalog = catalog
        self._documents = documents
        self._places = places
        self._jobs = jobs
        self._stat_only = stat_only
        self._quarantine = quarantine
        self._fraction = fraction
        self._salt = token_bytes(8)
        self._limits = limits
        self._progress = progress
        self._clock = clock
        self._started = clock()
        self._before = from_micros(self._started) - (older_than or timedelta())
        self._begun_bytes = 0
        self._begun = monotonic()
        self._lock = Lock()
        self._stop = Event()
        self._under_way: set[str] = set()
        self._refused: set[str] = set()
        self._checks: list[BlobCheck] = []
        self._gone: list[str] = []
        self._remembered = monotonic()

    def __iter__(self) -> Iterator[Verification]:
        with telemetry.detached_span("kvcatalog.verify") as span:
            yield from self._results()
            if span is not None:
                span.set_attributes({"blobs": self.counts.total(), "bytes": self.bytes_read})

    def _results(self) -> Iterator[Verification]:
        waiting: list[_Checks] = []
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="verify")
        try:
            for task in self._tasks():
                if isinstance(task, Verification):
                    yield task
                    continue
                waiting.append(pool.submit(self._check_all, task))
                while len(waiting) >= self._jobs * _TASKS_AHEAD:
                    done, waiting = _parted(waiting)
                    yield from self._settled(done)
            while waiting:
                done, waiting = _parted(waiting)
                yield from self._settled(done)
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            for future in waiting:
                if not future.cancelled() and future.exception() is None:
                    self._note(future.result())
            self._remember()
            self._places.close()

    def _tasks(self) -> Iterator[list[StoredBlob] | Verification]:
        """Yield what a thread takes at once, and roots of which nothing can be said."""
        uris = self._uris()
        while batch := list(islice(uris, _LOOKUP_BLOBS)):
            wanted = []
            for uri in dict.fromkeys(batch):
                refused = self._places.refused_root(uri)
                if refused is None:
                    wanted.append(uri)
                else:
                    yield from self._told_once(*refused)
            with self._lock:
                wanted = [uri for uri in wanted if uri not in self._under_way]
            for task in self._portions(self._blobs(wanted)):
                self._under_way.update(blob.storage_uri for blob in task)
                yield task
                if self._is_over():
                    return
            if self._is_over():
                return

    def _uris(self) -> Iterator[str]:
        for uri in self._all_uris():
            if self._fraction >= 1 or int.from_bytes(short_hash(self._salt + uri.encode()), "big") < self._fraction * (
                1 << 64
            ):
                yield uri

    def _all_uris(self) -> Iterator[str]:
        if self._documents is None:
            yield from self._catalog.blobs_to_check(read_before=self._before)
            return
        for document in self._documents:
            yield document.storage_uri
            for variant in self._catalog.get_variants(document.id):
                yield variant.storage_uri

    def _blobs(self, uris: list[str]) -> Iterator[StoredBlob]:
        since = {"looked_before": self._before} if self._stat_only else {"read_before": self._before}
        for blob in self._catalog.blobs_at(uris, **since):
            if blob.claims:
                yield blob
            else:
                self._gone.append(blob.storage_uri)

    def _portions(self, blobs: Iterable[StoredBlob]) -> Iterator[list[StoredBlob]]:
        portion: list[StoredBlob] = []
        size = 0
        for blob in blobs:
            sizes = (claim.bytes for claim in blob.claims if claim.sha256 is not None)
            expected = 0 if self._stat_only else max(sizes, default=0)
            if portion and (size + expected > _TASK_BYTES or len(portion) == _TASK_BLOBS):
                yield portion
                portion, size = [], 0
            if self._limits.bytes is not None and 0 < self._begun_bytes > self._limits.bytes - expected:
                self.stopped_by = "bytes"
                break
            portion.append(blob)
            size += expected
            self._begun_bytes += expected
        if portion:
            yield portion

    def _is_over(self) -> bool:
        if self._limits.seconds is not None and monotonic() - self._begun >= self._limits.seconds:
            self.stopped_by = self.stopped_by or "time"
        return self.stopped_by is not None

    def _told_once(self, root: str, reason: str) -> Iterator[Verification]:
        self.counts["unreachable"] += 1
        if root not in self._refused:
            self._refused.add(root)
            yield Verification(root, "unreachable", reason, (), from_micros(self._now()))

    def _check_all(self, blobs: list[StoredBlob]) -> list[Verification]:
        results: list[Verification] = []
        for blob in blobs:
            if self._stop.is_set():
                break
            try:
                results.append(
                    verified(blob, self._places, now=self._now(), stat_only=self._stat_only, tick=self._tick)
                )
            except _StoppedError:
                break
        return results

    def _tick(self, count: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        with self._lock:
            self.bytes_read += count

    def _now(self) -> int:
        """Return the time, never one before the run began, even if the clock went back."""
        return max(self._clock(), self._started)

    def _settled(self, done: list[_Checks]) -> Iterator[Verification]:
        results = [result for future in done for result in future.result()]
        if self._quarantine:
            for number, result in enumerate(results):
                if result.result == "corrupt":
                    results[number] = put_aside(result, self._places, self._catalog)
        self._note(results)
        if monotonic() >= self._remembered + _REMEMBER_SECONDS or len(self._checks) >= _REMEMBER_BLOBS:
            self._remember()
        if self._progress is not None:
            self._progress(self)
        yield from results

    def _note(self, results: list[Verification]) -> None:
        for result in results:
            self.counts[result.result] += 1
            # What went to quarantine is remembered already, and what is unreachable keeps its turn.
            if result.result == "unreachable" or (result.result == "corrupt" and result.quarantined is not None):
                self._under_way.discard(result.storage_uri)
            else:
                self._checks.append(check_of(result, stat_only=self._stat_only))

    def _remember(self) -> None:
        self._remembered = monotonic()
        checks, self._checks = self._checks, []
        gone, self._gone = self._gone, []
        if checks or gone:
            self._catalog.record_checks(checks, gone=gone)
        self._under_way.difference_update(check.storage_uri for check in checks)


def _parted(waiting: list[_Checks]) -> tuple[list[_Checks], list[_Checks]]:
    """Wait a moment, and return what is done and what is not, each in the order in which it was begun."""
    done, _ = wait(waiting, _REMEMBER_SECONDS, FIRST_COMPLETED)
    return [future for future in waiting if future in done], [future for future in waiting if future not in done]


def verify_blobs(
    catalog: CatalogStore,
    documents: Iterable[DocumentRecord] | None = None,
    *,
    cfg_storage: StorageConfig | Callable[[], StorageConfig] | None = None,
    jobs: int | None = None,
    stat_only: bool = False,
    quarantine: bool = False,
    sample: float = 1.0,
    older_than: timedelta | None = None,
    max_time: timedelta | None = None,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    clock: Clock = now_micros,
) -> VerifyRun:
    """Return a run that checks the blobs of documents and their variants, or of the queue where none are given.

    The queue begins with what was never checked, then the oldest check comes first. `sample` is the share of blobs that
    is checked, above 0 up to 1, drawn anew each time. `older_than` leaves out blobs that were checked since. `max_time`
    and `max_bytes` end the run; it checks one blob at least. With `stat_only` nothing is read: sizes are compared, and
    on S3 the digest that is kept beside the bytes; that takes no turn in the queue. With `quarantine` corrupt blobs go
    to the quarantine of their root. `jobs` are threads, as many as cores by default. `cfg_storage`, or a function that
    returns it, says how to reach buckets. Needs a catalog that may be written. Raises InvalidValueError.
    """
    jobs = len(os.sched_getaffinity(0)) if jobs is None else values.positive("jobs", jobs)
    if not 0 < sample <= 1:
        raise InvalidValueError("sample", "must be above 0 and at most 1")
    if quarantine and stat_only:
        raise InvalidValueError("quarantine", "is for blobs that were read, and with stat_only none is")
    settings = cfg_storage if cfg_storage is None or callable(cfg_storage) else _constant(cfg_storage)
    return VerifyRun(
        catalog,
        documents,
        Places(catalog.identity, catalog.roots(), settings),
        jobs=jobs,
        stat_only=stat_only,
        quarantine=quarantine,
        fraction=sample,
        older_than=older_than,
        limits=Limits(None if max_time is None else max_time.total_seconds(), max_bytes),
        progress=progress,
        clock=clock,
    )


def _constant(config: StorageConfig) -> Callable[[], StorageConfig]:
    return lambda: config
