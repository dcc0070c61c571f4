"""What every blob store can do: the one protocol of the folders and buckets in which blobs lie.

A store is one root. Paths are relative to it, as `kvcatalog.layout` makes them; a path that could lead elsewhere is
refused with UnsafePathError. Errors are ours: StorageFullError, StoragePermissionError, StorageFailedError and
RootUnreachableError stand for those of the operating system and of the object store.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Literal, Protocol, Self

from msgspec import Struct

from kvcatalog.clock import from_micros, now_micros
from kvcatalog.digest import sha256_stream
from kvcatalog.errors import (
    OS_ERRORS,
    CatalogError,
    InvalidValueError,
    RootUnreachableError,
    StorageFailedError,
    UnsafePathError,
)
from kvcatalog.models import CatalogIdentity, Root

_ERRORS: dict[int, type[CatalogError]] = OS_ERRORS | dict.fromkeys(
    (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ENODEV, errno.ESHUTDOWN),
    RootUnreachableError,
)
_ERRORS[errno.ELOOP] = UnsafePathError


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn errors of the operating system into ours; FileExistsError and FileNotFoundError pass, they are answers."""
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        kind = _ERRORS.get(error.errno or 0, StorageFailedError)
        raise kind(f"{place}: {error.strerror or error}") from error


class BlobStat(Struct, frozen=True, gc=False):
    """A stored blob: size in bytes, time of its last change (microseconds since 1970 UTC), further names (`links` > 1).

    `sha256` is the digest that the store itself keeps beside the bytes (object stores only); nobody has read them.
    `file` is what all names of one file have in common, None where a blob has one name only.
    """

    path: str
    size: int
    modified: int
    sha256: str | None = None
    links: int = 1
    file: int | None = None


MoveOutcome = Literal["moved", "missing", "taken", "unsafe", "other device"]
"""Of a blob to be moved: done; it is not there; another blob has the target; a link or a folder has its name, or it can
have none there; it lies on another file system than the target."""


class Marker(Struct, frozen=True):
    """What says whose root this is: its own UUID, the catalog that owns it, and that catalog's generation."""

    uuid: str
    catalog: str
    generation: int


class Publication(Struct, frozen=True):
    """What `publish` did.

    `stored`: the bytes are there now. `present`: the same content was there. `repaired`: other bytes lay at a
    place that is this content's; they went to `quarantined`, and the right ones are there now. `taken`: another content
    lies there, and nothing was done. `how` the bytes came there: `moved` means that the place is a further name of the
    file itself, `linked` one of a twin. `refused` says why a hard link was not to be had and the bytes were copied.
    """

    state: Literal["stored", "present", "repaired", "taken"]
    how: Literal["moved", "linked", "copied", "uploaded"] | None = None
    refused: str | None = None
    quarantined: str | None = None


class Capability(Struct, frozen=True):
    """What was found out by trying it on a root; `detail` says how, or why not."""

    name: Literal[
        "durable writes",
        "nameless files",
        "hard links",
        "exclusive renames",
        "objects",
        "kept metadata",
        "copies",
        "conditional puts",
    ]
    works: bool
    detail: str | None = None


class LocalFile:
    """A whole local file that is about to be stored, held open so that nothing else can take its place.

    `path` is None where it has no name, `known_sha256` where nobody has read it yet, and
    `known_size` where nobody has counted its bytes. A file that has further names is
    somebody's, who may change it, so it is copied unless it is said to be `linkable`. Use as a context manager, or
    close it.
    """

    def __init__(
        self, descriptor: int, path: str | None = None, sha256: str | None = None, *, linkable: bool = False
    ) -> None:
        self.descriptor = descriptor
        self.linkable = linkable
        self.path = path
        self.known_sha256 = sha256
        self.known_size: int | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], sha256: str | None = None, *, linkable: bool = False) -> Self:
        """Open a file by name; InvalidValueError if it is no regular file (a symbolic link is none), else OSError."""
        name = os.fspath(path)
        if not stat.S_ISREG(os.lstat(name).st_mode):
            raise InvalidValueError("source", f"{name!r} is no regular file")
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidValueError("source", f"{name!r} is no regular file")
        return cls(descriptor, name, sha256, linkable=linkable)

    @property
    def size(self) -> int:
        """The number of bytes that are there now."""
        return os.fstat(self.descriptor).st_size

    def sha256(self) -> str:
        """Return the digest in lowercase hex: the one that is known, or else from reading the bytes once."""
        if self.known_sha256 is None:
            self.known_sha256, self.known_size = self._read()
        return self.known_sha256

    def read_sha256(self) -> str:
        """Return the digest of the bytes as they are now."""
        return self._read()[0]

    def _read(self) -> tuple[str, int]:
        with translated(self.path or "an open file"), self.reader() as stream:
            return sha256_stream(stream)

    def reader(self) -> BinaryIO:
        """Open the bytes anew, with a position of its own."""
        return open(f"/proc/self/fd/{self.descriptor}", "rb", buffering=0)

    def close(self) -> None:
        """Let the file go; its name stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


RootState = Literal["ok", "unreachable", "of another catalog", "of another generation"]
"""`unreachable`: its folder, bucket or marker is not there, or another root is; nothing is said to be lost."""


def state_of(store: BlobStore, root: Root, identity: CatalogIdentity) -> RootState:
    """Tell from its marker whether a known root is there, and whose it is; raises errors but RootUnreachableError."""
    try:
        marker = store.read_marker()
    except RootUnreachableError:
        return "unreachable"
    if marker is None or marker.uuid != root.uuid:
        return "unreachable"
    if marker.catalog != identity.uuid:
        return "of another catalog"
    return "ok" if marker.generation == identity.generation else "of another generation"


def new_label() -> str:
    """Return a name for a folder of things that are set aside now, which is unique.

    It is the time in UTC, its microseconds in hexadecimal and something random, so names sort by age.
    """
    now = from_micros(now_micros())
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond:05x}{os.urandom(4).hex()}"


class BlobStore(Protocol):
    """One root and the blobs below it; any thread may use it."""

    uri: str
    """The root's storage URI, without a slash at its end."""

    def uri_of(self, path: str) -> str:
        """Return the storage URI of a path."""
        ...

    def path_of(self, uri: str) -> str | None:
        """Return the path that a storage URI names, None if it does not lie below this root."""
        ...

    def local_path(self, path: str) -> str | None:
        """Return the absolute path of a file on this host, None where blobs are no local files."""
        ...

    def read_marker(self) -> Marker | None:
        """Return the root's marker, None if there is none or no root; RootUnreachableError if it cannot be told."""
        ...

    def write_marker(self, marker: Marker, *, replace: bool = False) -> Marker:
        """Make this place a root, and return the marker that stands: one that is there stays, unless it is replaced.

        Durable on return; whoever else does the same at the same time gets the same marker.
        """
        ...

    def prepare(self) -> None:
        """Make the place where there is none, without a marker; a bucket is never made."""
        ...

    def staging_file(self) -> tuple[BinaryIO, LocalFile]:
        """Return a new local file for bytes that are to be stored here, and what `publish` takes once it is written.

        It has no name, so that a killed process leaves nothing behind, and no buffer: what was written is in the file.
        Both must be closed.
        """
        ...

    def publish(
        self,
        file: LocalFile,
        path: str,
        *,
        sha256: str | None,
        content_addressed: bool = False,
        owned: bool = False,
        read_back: bool = False,
        twins: Sequence[str] = (),
        content_type: str | None = None,
    ) -> Publication:
        """Store a file's bytes under a path; never shows a part of them and never replaces other content.

        The file itself keeps its name. What is there already is taken for the same content if its size agrees and the
        digest that the store keeps, or the bytes themselves: these are compared under a path that is not
        content-addressed, and with `read_back`. Other bytes are left alone, unless the path is content-addressed or
        `owned`, which says that a record keeps this very content there: then they go to quarantine. With `read_back`
        what is newly stored is read too, before anybody can take it for good where that is possible;
        DigestMismatchError tells that it is not `sha256`, and then it is not there. `twins` are paths of blobs with the
        same content: a hard link of the first that has it (it is read) and allows it is made, where the store knows
        links. Durable on return; the time of what was present is renewed where the store can do that.
        """
        ...

    def link(self, path: str, target: str) -> Publication:
        """Give a blob a further name, durably; `stored`, or `present` if it has that name, or `taken` if another has.

        Where links are not to be had, nothing is done, and `refused` says why. BlobNotFoundError.
        """
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a blob for reading from its first byte; BlobNotFoundError."""
        ...

    def stat(self, path: str) -> BlobStat | None:
        """Return what is known of a blob without reading it, None if there is none."""
        ...

    def walk(self, folder: str = "") -> Iterator[BlobStat]:
        """Yield the blobs below a folder, in no order; without a folder all but what is `layout.OURS`."""
        ...

    def listing(self, folder: str = "") -> Iterator[tuple[str, BlobStat | None]]:
        """Yield the paths that `walk` does, and what is known of each blob where that costs nothing."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, sorted; none if it is not there."""
        ...

    def is_root(self, folder: str) -> bool:
        """Tell whether a folder below this root is a root of its own; what lies there is not this one's."""
        ...

    def is_written(self, path: str) -> bool:
        """Tell whether some process of this host has a blob open to write to it, where that can be told."""
        ...

    def move_many(self, moves: Sequence[tuple[str, str]]) -> list[MoveOutcome]:
        """Do as `move` does for each (path, target), durably on return; raises nothing for a single one."""
        ...

    def delete_many(self, paths: Sequence[str]) -> list[BlobStat]:
        """Remove blobs, durably on return, and return those that were there, each as it was right before."""
        ...

    def prune(self, folder: str) -> None:
        """Remove empty folders below a folder and the folder itself, where the store knows folders."""
        ...

    def move(self, path: str, target: str) -> None:
        """Give a blob another path, durably; BlobNotFoundError, or InvalidValueError if the target is taken."""
        ...

    def delete(self, path: str) -> bool:
        """Remove a blob, durably; False if there was none."""
        ...

    def close(self) -> None:
        """Let go of what the store holds open."""
        ...


def read_digest(store: BlobStore, path: str) -> tuple[str, int]:
    """Return the SHA-256 of a blob as it is read, and its size in bytes; raises as `open` does, from reading too."""
    with translated(store.uri_of(path)), store.open(path) as stream:
        return sha256_stream(stream)
