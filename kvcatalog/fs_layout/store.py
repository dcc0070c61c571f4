"""The blobs below one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import msgspec

from kvcatalog import layout, uris
from kvcatalog.blobs import BlobStat, LocalFile, Marker, MoveOutcome, Publication, translated
from kvcatalog.durable import write_whole
from kvcatalog.errors import BlobNotFoundError, InvalidValueError, RootUnreachableError, UnsafePathError
from kvcatalog.fs_layout import batches, placing, walking
from kvcatalog.fs_layout.folders import (
    READ,
    RootFolder,
    is_root,
    is_written,
    regular_status,
    rename_exclusively,
)

_MARKER_BYTES_MAX = 4096


class FileBlobStore:
    """A BlobStore in a folder; a relative one is made absolute here and now.

    The folder is held open from its first use on. Once another one has come to its place, every call raises
    RootUnreachableError, since what was found out about the old one holds no more.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = uris.absolute_path(root)
        self.uri = uris.uri_of(self.root).removesuffix("/")
        self._root = RootFolder(self.root)

    def uri_of(self, path: str) -> str:
        """See BlobStore."""
        if uris.is_plain(layout.checked_path(path)):
            return f"{self.uri}/{path}"
        return uris.uri_of(os.path.join(self.root, path))

    def path_of(self, uri: str) -> str | None:
        """See BlobStore."""
        local = uris.file_path(uri)
        start = self.root.removesuffix("/") + "/"
        if local is None or not local.startswith(start):
            return None
        path = local[len(start) :]
        # One that was not written in normal form (`a/../b`, `a//b`) lost slashes on the way.
        return path if path and uri.count("/") == self.uri_of(path).count("/") else None

    def local_path(self, path: str) -> str | None:
        """See BlobStore."""
        return os.path.join(self.root, layout.checked_path(path))

    def prepare(self) -> None:
        """See BlobStore."""
        self._root.make()

    def read_marker(self) -> Marker | None:
        """See BlobStore."""
        try:
            with translated(self.root):
                os.lstat(self.root)
        except FileNotFoundError:
            return None
        try:
            with self.open(layout.MARKER_PATH) as stream, translated(self.root):
                data = stream.read(_MARKER_BYTES_MAX)
        except BlobNotFoundError:
            return None
        except UnsafePathError as error:
            raise RootUnreachableError(f"{self.root}: its marker {layout.MARKER_PATH} is no plain file") from error
        try:
            facts = msgspec.json.decode(data)
            return Marker(str(facts["uuid"]), str(facts["catalog"]), int(facts["generation"]))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise RootUnreachableError(f"{self.root}: its marker {layout.MARKER_PATH} cannot be read") from error

    def write_marker(self, marker: Marker, *, replace: bool = False) -> Marker:
        """See BlobStore."""
        self.prepare()
        facts = {"uuid": marker.uuid, "catalog": marker.catalog, "generation": marker.generation}
        text = msgspec.json.format(msgspec.json.encode({"format": 1, **facts}), indent=1) + b"\n"
        with self._root.folder_of(layout.MARKER_PATH, create=True) as (folder, name):
            with self._root.staged_name() as (staging, staged, descriptor):
                write_whole(descriptor, text)
                os.fsync(descriptor)
                if replace:
                    os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=folder)
                else:
                    with suppress(FileExistsError):
                        rename_exclusively(staging, staged, folder, name)
            os.fsync(folder)
        return self.read_marker() or marker

    def staging_file(self) -> tuple[BinaryIO, LocalFile]:
        """See BlobStore."""
        descriptor = self._root.nameless()
        try:
            return os.fdopen(os.dup(descriptor), "wb", buffering=0), LocalFile(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

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
        content_type: str | None = None,  # noqa: ARG002 - a file has no place for it
    ) -> Publication:
        """See BlobStore."""
        return placing.publish(
            self._root, placing.Order(file, path, sha256, content_addressed, owned, read_back, tuple(twins))
        )

    def link(self, path: str, target: str) -> Publication:
        """See BlobStore."""
        return placing.link(self._root, path, target)

    def open(self, path: str) -> BinaryIO:
        """See BlobStore."""
        place = self.local_path(path) or path
        try:
            with self._root.folder_of(path) as (folder, name):
                regular_status(folder, name, place)
                return os.fdopen(os.open(name, READ, dir_fd=folder), "rb", buffering=0)
        except FileNotFoundError as error:
            raise BlobNotFoundError(f"{place}: there is no such blob") from error

    def stat(self, path: str) -> BlobStat | None:
        """See BlobStore."""
        try:
            with self._root.folder_of(path) as (folder, name):
                status = regular_status(folder, name, self.local_path(path) or path)
        except FileNotFoundError:
            return None
        return None if status is None else walking.blob_stat(path, status)

    def walk(self, folder: str = "") -> Iterator[BlobStat]:
        """See BlobStore."""
        if folder:
            layout.checked_path(folder)
        with suppress(FileNotFoundError), self._root.folder(folder) as top:
            yield from walking.walk(top, f"{folder}/" if folder else "")

    def listing(self, folder: str = "") -> Iterator[tuple[str, None]]:
        """See BlobStore; names cost a third of what looking at each file does."""
        if folder:
            layout.checked_path(folder)
        with suppress(FileNotFoundError), self._root.folder(folder) as top:
            yield from walking.listing(top, f"{folder}/" if folder else "")

    def folders(self, folder: str) -> list[str]:
        """See BlobStore."""
        try:
            with self._root.folder(layout.checked_path(folder)) as descriptor, os.scandir(descriptor) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def is_root(self, folder: str) -> bool:
        """See BlobStore."""
        try:
            with self._root.folder(layout.checked_path(folder)) as descriptor:
                return is_root(descriptor)
        except (FileNotFoundError, UnsafePathError):
            return False

    def is_written(self, path: str) -> bool:
        """See BlobStore; the kernel tells, where it may be asked for a lease."""
        try:
            with self._root.folder_of(path) as (folder, name), LocalFile(os.open(name, READ, dir_fd=folder)) as blob:
                return is_written(blob.descriptor)
        except FileNotFoundError:
            return False

    def move_many(self, moves: Sequence[tuple[str, str]]) -> list[MoveOutcome]:
        """See BlobStore; each folder is opened and flushed once."""
        return batches.move_many(self._root, moves)

    def delete_many(self, paths: Sequence[str]) -> list[BlobStat]:
        """See BlobStore; each folder is opened and flushed once."""
        return batches.delete_many(self._root, paths)

    def prune(self, folder: str) -> None:
        """See BlobStore."""
        above, _, name = layout.checked_path(folder).rpartition("/")
        with suppress(FileNotFoundError), self._root.folder(above) as descriptor:
            batches.prune(descriptor, name)

    def move(self, path: str, target: str) -> None:
        """See BlobStore."""
        place = self.local_path(path) or path
        try:
            with (
                self._root.folder_of(path) as (folder, name),
                self._root.folder_of(target, create=True) as (to, new_name),
            ):
                regular_status(folder, name, place)
                rename_exclusively(folder, name, to, new_name)
                os.fsync(to)
                os.fsync(folder)
        except FileExistsError as error:
            raise InvalidValueError("target", f"{self.local_path(target)} is taken") from error
        except FileNotFoundError as error:
            raise BlobNotFoundError(f"{place}: there is no such blob") from error

    def delete(self, path: str) -> bool:
        """See BlobStore."""
        try:
            with self._root.folder_of(path) as (folder, name):
                if regular_status(folder, name, self.local_path(path) or path) is None:
                    return False
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
        except FileNotFoundError:
            return False
        return True

    def sweep_staging(self) -> None:
        """Remove what processes left here that are no more."""
        self._root.sweep_staging()

    def close(self) -> None:
        """See BlobStore."""
        self._root.close()
