"""S3BlobStore: one prefix of one bucket as a root for blobs.

Every object carries its SHA-256 in its metadata, as far as it is known when it is stored; what the server keeps is
compared with that after each upload. Writers of one host are kept apart by `host_lock`; a conditional request tells
where another host was quicker, if the server honours it.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import msgspec

from kvcatalog.blobs import BlobStat, LocalFile, Marker, MoveOutcome, Publication, new_label
from kvcatalog.clock import to_micros
from kvcatalog.digest import sha256_stream
from kvcatalog.errors import (
    BlobNotFoundError,
    DigestMismatchError,
    InvalidValueError,
    RootUnreachableError,
    StorageFailedError,
)
from kvcatalog.layout import MARKER_PATH, OURS, QUARANTINE_PATH, checked_path, set_aside_path
from kvcatalog.s3_layout import batches
from kvcatalog.s3_layout.connection import (
    translated,
)
from kvcatalog.s3_layout.host_lock import HostLocks
from kvcatalog.s3_layout.keys import checked_prefix, object_key, relative_path
from kvcatalog.s3_layout.objects import MULTIPART_BYTES, Objects, stored_digest
from kvcatalog.values import digest as checked_digest

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig

MARKER_BYTES_MAX = 64 << 10
RACES_MAX = 5
"""Times that another host may be quicker and have nothing to show for it."""


class S3BlobStore:
    """The blobs below a prefix of a bucket; see BlobStore for what each method promises.

    A missing bucket is never made, it is RootUnreachableError. There are no hard links, `twins` are ignored. The time
    of what was present is not renewed, since that would write it anew. `walk` knows no digests, as listings have none.
    An upload that a killed process leaves half done is invisible; a lifecycle rule of the bucket removes such parts.
    """

    uri: str

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        storage_class: str = "STANDARD",
        endpoint_url: str | None = None,
        region: str | None = None,
        multipart_bytes: int = MULTIPART_BYTES,
    ) -> None:
        self._bucket = bucket
        self._prefix = checked_prefix(prefix)
        self._locks = HostLocks(f"{(endpoint_url or '').rstrip('/')}\n{bucket}")
        self._objects = Objects(
            bucket,
            storage_class=storage_class,
            endpoint_url=endpoint_url,
            region=region,
            multipart_bytes=multipart_bytes,
        )
        self.uri = f"s3://{bucket}/{self._prefix}".rstrip("/")

    @classmethod
    def from_config(cls, config: StorageConfig) -> Self:
        """Return the store that a configuration describes; InvalidValueError if it names no bucket."""
        if config.s3_bucket is None:
            raise InvalidValueError("s3_bucket", "is needed for the backend s3")
        return cls(
            config.s3_bucket,
            config.s3_prefix,
            storage_class=config.s3_storage_class,
            endpoint_url=config.s3_endpoint_url,
            region=config.s3_region,
        )

    def uri_of(self, path: str) -> str:
        """Return `s3://bucket/key`, with the key as it is."""
        object_key(self._prefix, path)
        return f"{self.uri}/{path}"

    def path_of(self, uri: str) -> str | None:
        """Return the path that a storage URI names, None if it does not lie below this root."""
        start = f"s3://{self._bucket}/"
        return relative_path(self._prefix, uri[len(start) :]) if uri.startswith(start) else None

    def local_path(self, path: str) -> str | None:
        """Return None: these are no local files."""
        checked_path(path)
        return None

    def read_marker(self) -> Marker | None:
        """Return the root's marker, None if there is none; RootUnreachableError also if the bucket is missing."""
        try:
            with self.open(MARKER_PATH) as stream:
                return msgspec.json.decode(stream.read(MARKER_BYTES_MAX), type=Marker)
        except BlobNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise RootUnreachableError(f"{self.uri_of(MARKER_PATH)} is no marker of a root: {error}") from error

    def write_marker(self, marker: Marker, *, replace: bool = False) -> Marker:
        """Make this place a root, and return the marker that stands: one that is there stays, unless it is replaced."""
        key = self._key(MARKER_PATH)
        data = msgspec.json.encode({"format": 1, **msgspec.structs.asdict(marker)})
        with self._locks.held(key):
            found = None if replace else self.read_marker()
            if found is not None:
                return found
            written = self._objects.put(
                key, lambda: io.BytesIO(data), {"ContentType": "application/json"}, only_new=not replace
            )
            found = self.read_marker()
        if found is None or (written and found != marker):
            raise StorageFailedError(f"{self._objects.place(key)}: the server does not give back what it was given")
        return found

    def prepare(self) -> None:
        """Do nothing but ask for the bucket: RootUnreachableError if it is missing."""
        self._objects.require_bucket()

    def staging_file(self) -> tuple[BinaryIO, LocalFile]:
        """Return a new local file without a name, in the folder for temporary files; both must be closed."""
        folder = tempfile.gettempdir()
        with translated(folder):
            try:
                descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError:  # not every file system can
                descriptor, name = tempfile.mkstemp(dir=folder)
                os.unlink(name)
            return os.fdopen(os.dup(descriptor), "wb", buffering=0), LocalFile(descriptor)

    def publish(
        self,
        file: LocalFile,
        path: str,
        *,
        sha256: str | None,
        content_addressed: bool = False,
        owned: bool = False,
        read_back: bool = False,
        twins: Sequence[str] = (),  # noqa: ARG002  there are no hard links
        content_type: str | None = None,
    ) -> Publication:
        """Store a file's bytes under a path, in parts if it is large.

        Until it is read back, a new blob can be seen. A path that leaves no room for its place in quarantine is
        refused with InvalidValueError, as one that is too long itself.
        """
        key = self._key(path)
        self._key(self._aside(path))
        digest = checked_digest("sha256", sha256)
        if content_addressed and digest is None:
            digest = file.sha256()
        headers = self._objects.headers(digest, content_type)
        with self._locks.held(key):
            for attempt in range(RACES_MAX):
                found = self._objects.head(key)
                if found is None:
                    if self._objects.upload(key, file, headers, only_new=True):
                        self._confirm(path, file, digest, read_back=read_back)
                        return Publication("stored", how="uploaded")
                    time.sleep(0.05 * 2**attempt)  # it may still be on its way
                    continue
                if self._holds(path, found, file, digest, read=read_back):
                    return Publication("present")
                if not (content_addressed or owned):
                    return Publication("taken")
                aside = self._aside(path)
                self._objects.copy(key, self._key(aside), found)
                self._objects.upload(key, file, headers, only_new=False)
                self._confirm(path, file, digest, read_back=read_back)
                return Publication("repaired", how="uploaded", quarantined=aside)
        raise StorageFailedError(
            f"{self._objects.place(key)}: the server says that it is taken, and that there is nothing"
        )

    def link(self, path: str, target: str) -> Publication:
        """Do nothing: an object has one name; BlobNotFoundError if there is none."""
        self._key(target)
        if self.stat(path) is None:
            raise BlobNotFoundError(f"there is no blob at {self.uri_of(path)}")
        return Publication("taken", refused="a bucket has no hard links")

    def open(self, path: str) -> BinaryIO:
        """Open a blob for reading; StorageFailedError from a read if the bytes end before the blob does."""
        return self._objects.open(self._key(path))

    def stat(self, path: str) -> BlobStat | None:
        """Return what is known of a blob without reading it, None if there is none."""
        key = self._key(path)
        found = self._objects.head(key)
        if found is None:
            self._objects.require_bucket()
            return None
        return BlobStat(path, found["ContentLength"], to_micros(found["LastModified"]), sha256=stored_digest(found))

    def walk(self, folder: str = "") -> Iterator[BlobStat]:
        """Yield the blobs below a folder; keys that no path stands for (`a//b`, `a/`) are nothing of ours."""
        start = f"{self._key(folder)}/" if folder else self._prefix
        for entry in self._objects.listed(start):
            path = relative_path(self._prefix, entry["Key"])
            if path is not None and (folder or path.split("/", 1)[0] != OURS):
                yield BlobStat(path, entry["Size"], to_micros(entry["LastModified"]))

    def listing(self, folder: str = "") -> Iterator[tuple[str, BlobStat | None]]:
        """Yield what `walk` does, with its path."""
        return ((found.path, found) for found in self.walk(folder))

    def folders(self, folder: str) -> list[str]:
        """Return the next parts of the keys below a folder, sorted."""
        return self._objects.folders(f"{self._key(folder)}/")

    def is_root(self, folder: str) -> bool:
        """Tell whether a prefix below this root is a root of its own."""
        return self._objects.head(self._key(f"{folder}/{MARKER_PATH}")) is not None

    def is_written(self, path: str) -> bool:
        """Return False: an object is there when it is whole."""
        checked_path(path)
        return False

    def move_many(self, moves: Sequence[tuple[str, str]]) -> list[MoveOutcome]:
        """Do as `move` does for each, some at a time."""
        return batches.move_many(self, moves)

    def delete_many(self, paths: Sequence[str]) -> list[BlobStat]:
        """Remove blobs, some at a time, and return those that were there."""
        return batches.delete_many(self, paths)

    def prune(self, folder: str) -> None:
        """Do nothing: a bucket has no folders."""
        checked_path(folder)

    def move(self, path: str, target: str) -> None:
        """Copy a blob on the server with all that is kept beside it, then delete it under its old path."""
        source, destination = self._key(path), self._key(target)
        with self._locks.held(source, destination):
            found = self._objects.head(source)
            if found is None:
                self._objects.require_bucket()
                raise BlobNotFoundError(f"there is no blob at {self._objects.place(source)}")
            if self._objects.head(destination) is not None:
                raise InvalidValueError("target", f"there is a blob at {self._objects.place(destination)}")
            self._objects.copy(source, destination, found)
            self._objects.delete(source)

    def delete(self, path: str) -> bool:
        """Remove a blob; False if there was none."""
        key = self._key(path)
        with self._locks.held(key):
            if self._objects.head(key) is None:
                self._objects.require_bucket()
                return False
            self._objects.delete(key)
            return True

    def close(self) -> None:
        """Close this process's connections; a later call opens new ones."""
        self._objects.close()

    def _key(self, path: str) -> str:
        return object_key(self._prefix, path)

    def _aside(self, path: str) -> str:
        """Return a new place in quarantine."""
        return set_aside_path(QUARANTINE_PATH, new_label(), path)

    def _holds(self, path: str, found: dict[str, Any], file: LocalFile, digest: str | None, *, read: bool) -> bool:
        """Tell whether an object has the file's content: by size and stored digest, or else by reading it."""
        if found["ContentLength"] != file.size:
            return False
        wanted = digest or file.sha256()
        stored = None if read else stored_digest(found)
        return (stored or self._read_digest(path)) == wanted

    def _read_digest(self, path: str) -> str:
        with self.open(path) as stream:
            return sha256_stream(stream)[0]

    def _confirm(self, path: str, file: LocalFile, digest: str | None, *, read_back: bool) -> None:
        """Compare what the server keeps with what it was given; a blob that reads otherwise goes to quarantine."""
        key = self._key(path)
        if not read_back:
            self._objects.compare(key, self._objects.head(key), file.size, digest)
            return
        found, read = self._objects.read_whole(key)
        self._objects.compare(key, found, file.size, digest)
        wanted = digest or file.sha256()
        if found is not None and read != wanted:
            self._objects.copy(key, self._key(self._aside(path)), found)
            self._objects.delete(key)
            raise DigestMismatchError(self.uri_of(path), wanted, read)
