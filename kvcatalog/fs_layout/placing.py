"""How a file comes to its place below a root: whole, durable, and without replacing other content."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from msgspec import Struct

from kvcatalog import layout
from kvcatalog.blobs import LocalFile, Publication, new_label
from kvcatalog.digest import sha256_stream
from kvcatalog.errors import BlobNotFoundError, DigestMismatchError, StorageFailedError
from kvcatalog.fs_layout.folders import READ, RootFolder, link_descriptor, regular_status, rename_exclusively

_TRIES_MAX = 100
_COPY_BYTES = 1 << 23
_READ_BITS = 0o444
_ALL_BITS = 0o777
_CANNOT_SHARE = frozenset((errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM))


class Order(Struct, frozen=True):
    """What is to be stored and where; the fields are those of `BlobStore.publish`."""

    file: LocalFile
    path: str
    sha256: str | None
    content_addressed: bool
    owned: bool
    read_back: bool
    twins: tuple[str, ...]

    @property
    def expected(self) -> str | None:
        """The digest that bytes are to be read for before they are shown, None if they are not."""
        return (self.sha256 or self.file.sha256()) if self.read_back else None

    @property
    def mode(self) -> int:
        """The permissions of the blob: those of the file, and a content-addressed one is only to be read."""
        return os.fstat(self.file.descriptor).st_mode & (_READ_BITS if self.content_addressed else _ALL_BITS)


def publish(root: RootFolder, order: Order) -> Publication:
    """Carry out an order; see BlobStore.publish."""
    place = os.path.join(root.path, order.path)
    for _ in range(_TRIES_MAX):
        # FileExistsError: somebody was quicker. FileNotFoundError: an empty folder was tidied away.
        with suppress(FileExistsError, FileNotFoundError), root.folder_of(order.path, create=True) as (folder, name):
            status = regular_status(folder, name, place)
            done = _place(root, order, folder, name) if status is None else _met(root, order, folder, name)
            if done.state != "taken":
                os.fsync(folder)
            return done
    raise StorageFailedError(f"{place}: its folder is removed again and again, or cannot be made")


def link(root: RootFolder, path: str, target: str) -> Publication:
    """Give a blob a further name; see BlobStore.link."""
    try:
        with root.folder_of(path) as (folder, name), LocalFile(os.open(name, READ, dir_fd=folder)) as blob:
            return _link_blob(root, blob, target)
    except FileNotFoundError as error:
        raise BlobNotFoundError(f"{os.path.join(root.path, path)}: there is no such blob") from error


def _link_blob(root: RootFolder, blob: LocalFile, target: str) -> Publication:
    with root.folder_of(target, create=True) as (folder, name):
        try:
            refused = link_descriptor(blob.descriptor, folder, name)
        except FileExistsError:
            status = regular_status(folder, name, os.path.join(root.path, target))
            own = os.fstat(blob.descriptor)
            if status is None or (status.st_dev, status.st_ino) != (own.st_dev, own.st_ino):
                return Publication("taken")
            os.fsync(folder)
            return Publication("present")
        os.fsync(folder)
        return Publication("stored", "linked") if refused is None else Publication("taken", refused=refused)


def _met(root: RootFolder, order: Order, folder: int, name: str) -> Publication:
    """Deal with what lies at the place already."""
    with LocalFile(os.open(name, READ, dir_fd=folder)) as there:
        if _is_same(order, there):
            os.fsync(there.descriptor)  # whoever stored it may not have flushed it yet
            with suppress(PermissionError):
                os.utime(name, dir_fd=folder, follow_symlinks=False)
            return Publication("present")
        is_ours = order.content_addressed or order.owned
        return _repair(root, order, folder, name, there) if is_ours else Publication("taken")


def _is_same(order: Order, there: LocalFile) -> bool:
    if there.size != order.file.size:
        return False
    is_same_file = os.path.sameopenfile(there.descriptor, order.file.descriptor)
    if (is_same_file or order.content_addressed) and not order.read_back:
        return True
    return there.read_sha256() == (order.sha256 or order.file.sha256())


def _repair(root: RootFolder, order: Order, folder: int, name: str, wrong: LocalFile) -> Publication:
    """Put the right bytes in the place of wrong ones, which go to quarantine; at no moment is nothing there."""
    aside = layout.set_aside_path(layout.QUARANTINE_PATH, new_label(), order.path)
    with root.staged_name() as (staging, staged, descriptor):
        _copy(order.file, descriptor, order.path, order.mode, order.expected)
        with root.folder_of(aside, create=True) as (quarantine, kept):
            if link_descriptor(wrong.descriptor, quarantine, kept) is not None:
                _copy_by_name(root, wrong, quarantine, kept, _READ_BITS)
            os.fsync(quarantine)
        os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=folder)
    return Publication("repaired", "copied", quarantined=aside)


def _place(root: RootFolder, order: Order, folder: int, name: str) -> Publication:
    """Give the bytes their name: a link to a twin, or else to the file itself, or else to a copy."""
    file, refused = order.file, None
    for twin in order.twins:
        refused = _link_twin(root, order, twin, folder, name)
        if refused is None:
            return Publication("stored", "linked")
    if file.linkable or os.fstat(file.descriptor).st_nlink <= 1:
        _check_digest(file.descriptor, order.path, order.expected)
        reason = _link_own(order, folder, name)
        if reason is None:
            return Publication("stored", "moved", refused)
        refused = refused or reason
    with LocalFile(root.nameless()) as copy:
        _copy(file, copy.descriptor, order.path, order.mode, order.expected)
        if link_descriptor(copy.descriptor, folder, name) is not None:
            _copy_by_name(root, copy, folder, name, order.mode)
    return Publication("stored", "copied", refused)


def _link_own(order: Order, folder: int, name: str) -> str | None:
    """Make the place a further name of the file itself; returns why that did not work."""
    descriptor = order.file.descriptor
    own = os.fstat(descriptor)
    if own.st_dev != os.fstat(folder).st_dev:
        return "EXDEV"
    if own.st_uid != os.geteuid():
        return "EPERM"  # its owner could change it for ever
    try:
        if stat.S_IMODE(own.st_mode) != order.mode:
            os.fchmod(descriptor, order.mode)
    except PermissionError:
        return "EPERM"
    os.fsync(descriptor)
    return link_descriptor(descriptor, folder, name)


def _link_twin(root: RootFolder, order: Order, twin: str, folder: int, name: str) -> str | None:
    """Link a blob with the same content; returns why that did not work."""
    with (
        suppress(FileNotFoundError),
        root.folder_of(twin) as (twin_folder, twin_name),
        LocalFile(os.open(twin_name, READ, dir_fd=twin_folder)) as there,
    ):
        if there.size != order.file.size:
            return "other size"
        if there.read_sha256() != (order.sha256 or order.file.sha256()):
            return "other content"  # it has rotted: what came just now is better
        os.fsync(there.descriptor)
        return link_descriptor(there.descriptor, folder, name)
    return "missing"


def _copy_by_name(root: RootFolder, file: LocalFile, folder: int, name: str, mode: int) -> None:
    """Copy a file where links do not work: a staged copy is renamed."""
    with root.staged_name() as (staging, staged, descriptor):
        _copy(file, descriptor, name, mode)
        rename_exclusively(staging, staged, folder, name)


def _copy(file: LocalFile, target: int, path: str, mode: int, expected: str | None = None) -> None:
    """Copy a file's bytes durably into a new one, sharing blocks where the file system can; DigestMismatchError."""
    offset, size = 0, file.size
    while offset < size:
        try:
            count = os.copy_file_range(file.descriptor, target, min(_COPY_BYTES, size - offset), offset, offset)
        except OSError as error:
            if error.errno not in _CANNOT_SHARE:
                raise
            count = os.pwrite(target, os.pread(file.descriptor, _COPY_BYTES, offset), offset)
        if not count:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        offset += count
    _check_digest(target, path, expected)
    os.fchmod(target, mode)
    os.fsync(target)


def _check_digest(descriptor: int, path: str, expected: str | None) -> None:
    """Read a file and compare its digest, if one is expected; DigestMismatchError."""
    if expected is not None:
        with open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as stream:
            found = sha256_stream(stream)[0]
        if found != expected:
            raise DigestMismatchError(path, expected, found)
