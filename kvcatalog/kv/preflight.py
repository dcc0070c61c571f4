"""What is checked before the engine sees a file: it answers a cut file or an unbacked lock file with a fatal signal."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.durable import write_whole
from kvcatalog.errors import (
    CatalogUnavailableError,
    DatabaseDamagedError,
    NetworkFileSystemError,
)
from kvcatalog.kv import engine
from kvcatalog.kv.freelist import FreelistError, free_pages

if TYPE_CHECKING:
    from kvcatalog.kv.pages import Layout, Moment

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
MOUNTS_FILE = "/proc/self/mountinfo"

_MAGIC = 0xBEEFC0DE
_META_HEADER_BYTES = {engine.ENGINE_0_9: 16, engine.ENGINE_1_0: 24}
_PAGE_BYTES_RANGE = (512, 65536)

_META_BYTES = 256


class _Meta(Struct, frozen=True):
    page_bytes: int
    free_root: int
    last_page: int
    transaction: int
    free: bytes
    tables: bytes


_READER_SLOT_BYTES = 64
_LOCK_HEADER_BYTES = 4096

_NETWORK_TYPES = frozenset(
    (
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb3",
        "smbfs",
        "virtiofs",
    )
)


def refuse_network_file_system(path: engine.StrPath) -> None:
    """Raise NetworkFileSystemError where `path` (which must exist) lies on a mount of a network file system."""
    kind = _mount_type(os.path.realpath(path))
    if kind in _NETWORK_TYPES:
        raise NetworkFileSystemError(f"{path} lies on a file system of type {kind}")


def check_data_file(folder: engine.StrPath) -> int:
    """Return which engine wrote the data file, after making sure that mapping it cannot kill the process.

    It must be a regular file that belongs to us, to root or to its folder's owner, with a sound meta page, and behind
    its end no page but free ones. Raises DatabaseDamagedError or CatalogUnavailableError.
    """
    path = os.path.join(folder, DATA_FILE)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise engine.translate_os_error(error, path) from error
    try:
        _check_owner(path, os.fstat(descriptor), os.stat(folder))
        return _check_meta(path, descriptor)
    except OSError as error:
        raise engine.translate_os_error(error, path) from error
    finally:
        os.close(descriptor)


def moment_of(path: str, descriptor: int, commit: int | None = None) -> tuple[Layout, Moment] | None:
    """Return what a meta page of a data file says of a commit, the last one if none is given.

    None where later ones have taken its place.
    """
    from kvcatalog.kv.pages import Layout, Moment  # only an audit follows pages

    kind, metas = _metas(path, descriptor)
    for meta in sorted(metas, key=lambda meta: -meta.transaction):
        if commit in {None, meta.transaction}:
            layout = Layout(meta.page_bytes, _META_HEADER_BYTES[kind])
            return layout, Moment(meta.free, meta.tables, meta.last_page)
    return None


def prepare_lock_file(folder: engine.StrPath) -> None:
    """Make sure that every byte of the lock file is backed by the disk, since the engine writes it through a map.

    A new one is written whole and appears under its name at once, for whoever owns the data file. Raises
    StorageFullError if there is no room. Must not be called while this process has the environment open: closing any
    descriptor of the lock file drops the process's locks.
    """
    path = os.path.join(folder, LOCK_FILE)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        _create_lock_file(folder, path)
        return
    if not stat.S_ISREG(status.st_mode):
        raise CatalogUnavailableError(f"{path} is not a regular file")
    if status.st_blocks * 512 >= status.st_size:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise engine.translate_os_error(error, path) from error


def _create_lock_file(folder: engine.StrPath, path: str) -> None:
    try:
        with _new_file(folder) as (descriptor, link):
            _give_to_owner_of_data(folder, descriptor)
            write_whole(descriptor, bytes(_LOCK_HEADER_BYTES + _READER_SLOT_BYTES * engine.READERS_MAX))
            os.fsync(descriptor)
            with suppress(FileExistsError):  # another process was faster, and its file is as good
                os.link(link, path, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError as error:
        raise engine.translate_os_error(error, path) from error


@contextmanager
def _new_file(folder: engine.StrPath) -> Iterator[tuple[int, str]]:
    """Yield a new file and the path by which it can be linked; where it can have no name, nothing is left of it."""
    name = ""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o664)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
        name = os.path.join(folder, f".{LOCK_FILE}.{os.urandom(8).hex()}")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    try:
        yield descriptor, os.path.abspath(name) if name else f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
        if name:
            os.unlink(name)


def _give_to_owner_of_data(folder: engine.StrPath, descriptor: int) -> None:
    """Let root's first use of a catalog not shut out the user whose catalog it is."""
    try:
        status = os.stat(os.path.join(folder, DATA_FILE))
    except FileNotFoundError:
        return
    if os.geteuid() == 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _check_owner(path: str, status: os.stat_result, folder_status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseDamagedError(f"{path} is not a regular file")
    if status.st_uid not in {os.geteuid(), 0, folder_status.st_uid}:
        error = CatalogUnavailableError(
            f"{path} belongs to user {status.st_uid}, who does not own its folder, nor are you"
        )
        raise error.advising("Use it as that user, or see who put it there.")


def _check_meta(path: str, descriptor: int) -> int:
    """Hold what the newer meta page says against the file's size; return which engine wrote it.

    Other processes may commit meanwhile, so a file that seems cut is looked at again if its meta pages have changed.
    """
    while True:
        kind, meta = _newest_meta(path, descriptor)
        size = os.fstat(descriptor).st_size  # after the meta pages: they are written after what they speak of
        needed = (meta.last_page + 1) * meta.page_bytes
        if size >= needed or _all_free(descriptor, kind, meta, size // meta.page_bytes):
            return kind
        if _newest_meta(path, descriptor)[1].transaction == meta.transaction:
            raise DatabaseDamagedError(f"{path} was cut short: it has {size} bytes of {needed}")


def _newest_meta(path: str, descriptor: int) -> tuple[int, _Meta]:
    """Return which engine wrote a data file, and the newer one of its meta pages."""
    kind, metas = _metas(path, descriptor)
    return kind, max(metas, key=lambda meta: meta.transaction)


def _metas(path: str, descriptor: int) -> tuple[int, list[_Meta]]:
    """Read both meta pages as LMDB lays them out on 64-bit hosts.

    After the page header stand magic, version, map address and map size (4, 4, 8 and 8 bytes), two 48-byte database
    descriptions of which the first, of the free pages, begins with the page size and ends with the tree's root, the
    last page's number and the transaction's number (`struct MDB_meta` in mdb.c).
    """
    first = os.pread(descriptor, _META_BYTES, 0)
    for kind, header_bytes in _META_HEADER_BYTES.items():
        if len(first) < _META_BYTES or struct.unpack_from("<I", first, header_bytes)[0] != _MAGIC:
            continue
        page_bytes = struct.unpack_from("<I", first, header_bytes + 24)[0]
        lowest, highest = _PAGE_BYTES_RANGE
        if page_bytes & (page_bytes - 1) or not lowest <= page_bytes <= highest:
            raise DatabaseDamagedError(f"{path}: the first meta page gives a page size of {page_bytes}")
        second = os.pread(descriptor, page_bytes, page_bytes)
        if len(second) < page_bytes:
            raise DatabaseDamagedError(f"{path} is shorter than its two meta pages")
        metas = [
            _meta(page_bytes, meta[header_bytes + 24 :])
            for meta in (first, second)
            if struct.unpack_from("<I", meta, header_bytes)[0] == _MAGIC
        ]
        return kind, metas
    error = DatabaseDamagedError(f"{path} is no LMDB database: neither engine's meta page is there")
    raise error.advising("Check the path; if a catalog lay there, keep a copy of the file and restore a backup.")


def _meta(page_bytes: int, described: bytes) -> _Meta:
    free_root, last_page, transaction = struct.unpack_from("<40xQ48xQQ", described)
    return _Meta(page_bytes, free_root, last_page, transaction, described[:48], described[48:96])


def _all_free(descriptor: int, kind: int, meta: _Meta, first_page: int) -> bool:
    """Tell whether all pages from one to the last are free, so that nobody misses them."""
    missing = meta.last_page + 1 - first_page
    try:
        free = {
            page
            for page in free_pages(
                lambda start, count: os.pread(descriptor, count, start),
                meta.free_root,
                page_bytes=meta.page_bytes,
                header_bytes=_META_HEADER_BYTES[kind],
            )
            if first_page <= page <= meta.last_page
        }
    except (FreelistError, OSError, OverflowError):
        return False
    return len(free) == missing


def _mount_type(path: str) -> str:
    """Return the type of the file system at a resolved path, from proc(5)'s mountinfo; empty if that cannot be told."""
    best, kind = "", ""
    try:
        with open(MOUNTS_FILE, encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.read().split("\n")
    except OSError:
        return ""
    for line in filter(None, lines):
        before, _, after = line.partition(" - ")
        mount_point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, after.split(" ")[0]
    return kind
