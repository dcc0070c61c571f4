"""What lies at a place, read or looked at, and whether that is what is expected there.

Nothing is said to be lost unless its root is there and is the catalog's. Outside all roots no marker tells a mount that
is gone from a loss, so there a file is missing only if its folder is there and holds something.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

from msgspec import Struct, structs

from kvcatalog import telemetry
from kvcatalog.blob_backends import container_of, store_at
from kvcatalog.blobs import BlobStore, state_of, translated
from kvcatalog.checks import BlobCheck, CheckResult, Claim, StoredBlob, Verification
from kvcatalog.clock import from_micros
from kvcatalog.digest import new_hasher
from kvcatalog.errors import BlobNotFoundError, CatalogError, UnsafePathError
from kvcatalog.models import CatalogIdentity, Root
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig

READ_BYTES = 128 << 10
"""What one thread reads and hashes at a time; it stays in the processor's own cache."""

_STATE_SECONDS = 5.0
_LINKED_MAX = 10_000
_WORST_FIRST: tuple[CheckResult, ...] = (
    "unreachable",
    "missing",
    "corrupt",
    "not hashed",
    "size only",
    "stored checksum only",
    "ok",
)
_buffers = threading.local()

Tick = Callable[[int], None]
"""Called with the number of bytes after each part that was read; what it raises ends the reading."""


class Examination(Struct, frozen=True, gc=False):
    """What lies at a place; `sha256` is of the bytes as they were read, `stored_sha256` what the store keeps beside.

    `bytes_read` is 0 where the same file was read under another of its names.
    """

    state: Literal["there", "missing", "unreachable"]
    detail: str | None = None
    size: int = 0
    sha256: str | None = None
    stored_sha256: str | None = None
    bytes_read: int = 0


class Spot(NamedTuple):
    """A place below a root of the catalog."""

    store: BlobStore
    path: str


class Places:
    """Where blobs lie: the roots of a catalog, each checked before anything is said of it, and what lies outside.

    `settings` gives the configuration by which buckets are reached, and is asked for it when the first is met. Any
    thread may use it; close it at the end.
    """

    def __init__(
        self,
        identity: CatalogIdentity,
        roots: Iterable[Root],
        settings: Callable[[], StorageConfig] | None = None,
    ) -> None:
        self._identity = identity
        self._settings = settings
        # The longest first, so that a root inside another one wins.
        self._roots = [_OpenRoot(root) for root in sorted(roots, key=lambda root: len(root.uri), reverse=True)]
        self._containers: dict[str, BlobStore] = {}
        self._lock = threading.RLock()
        self._linked: OrderedDict[_FileState, str] = OrderedDict()

    def examine(self, uri: str, *, reads: bool, tick: Tick | None = None) -> Examination:
        """Look at a place, and read what lies there if `reads`; whatever stands in the way makes it unreachable.

        Below a root, a link, a folder or a device in the place of a blob is none of ours: nothing is read through it,
        and the blob is missing. Outside the roots links are followed.
        """
        try:
            root, path = self._root_of(uri)
            if root is None:
                return self._outside(uri, reads=reads, tick=tick)
            refusal = self._refusal(root)
            if refusal is not None:
                return Examination("unreachable", refusal)
            try:
                found = self._examined(self._store(root), path, reads=reads, tick=tick)
            except UnsafePathError as error:
                # Where the root is there and ours, no mount that is gone explains it: the blob is not in its place.
                found = Examination("missing", f"something else is in its place: {error}")
            if found.state == "missing":
                refusal = self._refusal(root, anew=True)
            return found if refusal is None else Examination("unreachable", refusal)
        except CatalogError as error:
            return Examination("unreachable", str(error))

    def refused_root(self, uri: str) -> tuple[str, str] | None:
        """Return the root that a place lies below and why nothing can be said of anything there, None if it can."""
        root, _ = self._root_of(uri)
        refusal = None if root is None else self._refusal(root)
        return None if root is None or refusal is None else (root.known.uri, refusal)

    def spot(self, uri: str) -> Spot | None:
        """Return a place below a root that is there and the catalog's by now, None for any other."""
        root, path = self._root_of(uri)
        if root is None or self._refusal(root, anew=True) is not None:
            return None
        return Spot(self._store(root), path)

    def close(self) -> None:
        """Let go of what was opened."""
        for store in (*(root.store for root in self._roots), *self._containers.values()):
            if store is not None:
                store.close()

    def _root_of(self, uri: str) -> tuple[_OpenRoot | None, str]:
        for root in self._roots:
            if uri.startswith(root.start):
                path = self._store(root).path_of(uri)
                if path is not None:
                    return root, path
        return None, ""

    def _store(self, root: _OpenRoot) -> BlobStore:
        with self._lock:
            if root.store is None:
                root.store = store_at(root.known.uri, self._config)
            return root.store

    def _config(self) -> StorageConfig:
        from kvcatalog.config import StorageConfig

        return StorageConfig() if self._settings is None else self._settings()

    def _refusal(self, root: _OpenRoot, *, anew: bool = False) -> str | None:
        """Return why a root is not to be judged, None if it is there and the catalog's; asked now and then."""
        with self._lock:
            now = monotonic()
            if anew or now >= root.checked + _STATE_SECONDS:
                root.checked = now
                root.refusal = self._asked(root)
            return root.refusal

    def _asked(self, root: _OpenRoot) -> str | None:
        try:
            state = state_of(self._store(root), root.known, self._identity)
        except CatalogError as error:
            return str(error)
        return None if state == "ok" else f"the root {root.known.uri} is {state}"

    def _outside(self, uri: str, *, reads: bool, tick: Tick | None) -> Examination:
        path = file_path(uri)
        if path is not None:
            return self._examined_file(path, reads=reads, tick=tick)
        container = container_of(uri)
        if container is None:
            return Examination("unreachable", "this is no place that can be read")
        with self._lock:
            store = self._containers.get(container)
            if store is None:
                store = self._containers[container] = store_at(container, self._config)
        return self._examined(store, uri[len(container) + 1 :], reads=reads, tick=tick)

    def _examined(self, store: BlobStore, path: str, *, reads: bool, tick: Tick | None) -> Examination:
        try:
            if reads:
                with store.open(path) as stream:
                    return self._read(stream, tick)
        except BlobNotFoundError:
            pass  # a bucket may be missing as well, which `stat` tells
        status = store.stat(path)
        if status is None:
            return Examination("missing", "there is no blob")
        return Examination("there", None, status.size, stored_sha256=status.sha256)

    def _examined_file(self, path: str, *, reads: bool, tick: Tick | None) -> Examination:
        try:
            with translated(path), open(path, "rb", buffering=0, opener=_opened) as stream:
                status = os.fstat(stream.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return Examination("missing", f"something else is in its place: {path} is no regular file")
                return self._read(stream, tick) if reads else Examination("there", None, status.st_size)
        except (FileNotFoundError, NotADirectoryError):
            if _holds_something(os.path.dirname(path)):
                return Examination("missing", "there is no file")
            return Examination("unreachable", "its folder, outside all roots, is empty or not there: it may be a mount")

    def _read(self, stream: BinaryIO, tick: Tick | None) -> Examination:
        """Read a blob; a file with several names is read once."""
        state = _state(stream)
        known = None if state is None else self._linked.get(state)
        if state is not None and known is not None:
            return Examination("there", None, state.size, known)
        digest, size = _hashed(stream, tick)
        if state is not None and _state(stream) == state:
            with self._lock:
                self._linked[state] = digest
                if len(self._linked) > _LINKED_MAX:
                    self._linked.popitem(last=False)
        return Examination("there", None, size, digest, bytes_read=size)


class _OpenRoot:
    """A root, opened on first use; `checked` is when its marker was read last, in seconds of the monotonic clock."""

    def __init__(self, known: Root) -> None:
        self.known = known
        self.start = known.uri if known.uri.endswith("/") else f"{known.uri}/"
        self.store: BlobStore | None = None
        self.checked = float("-inf")
        self.refusal: str | None = None


def verified(
    blob: StoredBlob, places: Places, *, now: int, stat_only: bool = False, tick: Tick | None = None
) -> Verification:
    """Check one blob against all that is expected of it; `now` is in microseconds. Failures and times are measured."""
    started = perf_counter()
    reads = not stat_only and any(claim.sha256 is not None for claim in blob.claims)
    found = places.examine(blob.storage_uri, reads=reads, tick=tick)
    result = judged(blob, found, now)
    if result.result == "missing" and blob.last_check is not None and blob.last_check.quarantined is not None:
        result = _with_quarantine(result, blob.last_check.quarantined, places)
    telemetry.verified(perf_counter() - started)
    if result.result in {"corrupt", "missing"}:
        telemetry.verify_failed()
    return result


def judged(blob: StoredBlob, found: Examination, now: int) -> Verification:
    """Return what an examination means for what is expected: the worst of its claims, and whom that concerns."""
    by_result: dict[CheckResult, list[tuple[Claim, str | None]]] = {}
    for claim in blob.claims:
        result, detail = _compared(claim, found)
        by_result.setdefault(result, []).append((claim, detail))
    worst = min(by_result, key=_WORST_FIRST.index)
    return Verification(
        blob.storage_uri,
        worst,
        by_result[worst][0][1],
        tuple(dict.fromkeys(claim.document_id for claim, _ in by_result[worst])),
        from_micros(now),
        found.bytes_read,
        found.sha256,
    )


def check_of(verification: Verification, *, stat_only: bool = False) -> BlobCheck:
    """Return what is to be remembered of a verification."""
    read_at = None if stat_only else verification.checked_at
    return BlobCheck(
        verification.storage_uri, verification.result, verification.checked_at, read_at, verification.quarantined
    )


def _compared(claim: Claim, found: Examination) -> tuple[CheckResult, str | None]:
    if found.state != "there":
        return found.state, found.detail
    if claim.sha256 is not None and found.sha256 is not None:
        same = claim.sha256 == found.sha256
        return ("ok", None) if same else ("corrupt", f"the SHA-256 of its {found.size} bytes is {found.sha256}")
    if claim.bytes != found.size:
        return "corrupt", f"there are {found.size} bytes, not {claim.bytes}"
    if claim.sha256 is None:
        return "not hashed", "the record has no digest; its size agrees"
    if found.stored_sha256 is None:
        return "size only", None
    same = claim.sha256 == found.stored_sha256
    return ("stored checksum only", None) if same else ("corrupt", f"the store says SHA-256 {found.stored_sha256}")


def _with_quarantine(result: Verification, uri: str, places: Places) -> Verification:
    with suppress(CatalogError):
        spot = places.spot(uri)
        if spot is not None and spot.store.stat(spot.path) is not None:
            return structs.replace(result, quarantined=uri, detail="its bytes were corrupt and are in quarantine")
    return result


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _holds_something(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        return next(entries, None) is not None
    return False


class _FileState(NamedTuple):
    """One file in one state, whatever name led to it."""

    device: int
    inode: int
    size: int
    changed: int


def _state(stream: BinaryIO) -> _FileState | None:
    """Return what tells a local file with several names from any other, and from itself before a change."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None  # a blob of a bucket
    if status.st_nlink == 1:
        return None
    return _FileState(status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)


def _hashed(stream: BinaryIO, tick: Tick | None) -> tuple[str, int]:
    buffer = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = bytearray(READ_BYTES)
    view = memoryview(buffer)
    hasher = new_hasher()
    size = 0
    with translated("reading"):
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            hasher.update(view[:count])
            size += count
            if tick is not None:
                tick(count)
    return hasher.hexdigest(), size
