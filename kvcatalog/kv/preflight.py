"""What is checked before the engine sees a file: it answers a cut file or an unbacked lock file with a fatal signal."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import struct
from pathlib import Path

from kvcatalog.errors import (
    CatalogUnavailableError,
    DatabaseDamagedError,
    NetworkFileSystemError,
    StorageFullError,
)
from kvcatalog.kv import engine

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"

_MAGIC = 0xBEEFC0DE
_META_HEADER_BYTES = {engine.ENGINE_0_9: 16, engine.ENGINE_1_0: 24}
_PAGE_BYTES_RANGE = (512, 65536)

_META_BYTES = 256

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


def refuse_network_file_system(path: Path) -> None:
    """Raise NetworkFileSystemError where `path` (which must exist) lies on a mount of a network file system."""
    kind = _mount_type(path.resolve())
    if kind in _NETWORK_TYPES:
        raise NetworkFileSystemError(f"{path} lies on a file system of type {kind}")


def check_data_file(folder: Path) -> int:
    """Return which engine wrote the data file, after making sure that mapping it cannot kill the process.

    It must be a regular file that belongs to us, to root or to its folder's owner, with a sound meta page and as long
    as that page says. Raises DatabaseDamagedError or CatalogUnavailableError.
    """
    path = folder / DATA_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CatalogUnavailableError(f"{path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        _check_owner(path, status, folder.stat())
        return _check_meta(path, descriptor, status.st_size)
    finally:
        os.close(descriptor)


def prepare_lock_file(folder: Path) -> None:
    """Make sure that every byte of the lock file is backed by the disk, since the engine writes it through a map.

    A new one is written whole and appears under its name at once, for whoever owns the data file. Raises
    StorageFullError if there is no room. Must not be called while this process has the environment open: closing any
    descriptor of the lock file drops the process's locks.
    """
    path = folder / LOCK_FILE
    try:
        status = path.lstat()
    except FileNotFoundError:
        _create_lock_file(folder, path)
        return
    if not stat.S_ISREG(status.st_mode):
        raise CatalogUnavailableError(f"{path} is not a regular file")
    if status.st_blocks * 512 >= status.st_size:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, status.st_size)
    except OSError as error:
        raise StorageFullError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _create_lock_file(folder: Path, path: Path) -> None:
    temporary = folder / f".{LOCK_FILE}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
        try:
            _give_to_owner_of_data(folder, descriptor)
            os.write(descriptor, bytes(_LOCK_HEADER_BYTES + _READER_SLOT_BYTES * engine.READERS_MAX))
            os.fsync(descriptor)
            os.link(temporary, path)
        except FileExistsError:
            return  # another process was faster, and its file is as good
        finally:
            os.close(descriptor)
            temporary.unlink()
    except OSError as error:
        kind = StorageFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else CatalogUnavailableError
        raise kind(f"{path}: {error.strerror}") from error


def _give_to_owner_of_data(folder: Path, descriptor: int) -> None:
    """Let root's first use of a catalog not shut out the user whose catalog it is."""
    try:
        status = (folder / DATA_FILE).stat()
    except FileNotFoundError:
        return
    if os.geteuid() == 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _check_owner(path: Path, status: os.stat_result, folder_status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseDamagedError(f"{path} is not a regular file")
    if status.st_uid not in {os.geteuid(), 0, folder_status.st_uid}:
        raise CatalogUnavailableError(f"{path} belongs to user {status.st_uid}, who owns neither the folder nor you")


def _check_meta(path: Path, descriptor: int, size: int) -> int:
    """Read both meta pages as LMDB lays them out on 64-bit hosts and hold the newer one against the file's size.

    After the page header stand magic, version, map address and map size (4, 4, 8 and 8 bytes), two 48-byte database
    descriptions of which the first begins with the page size, the last page's number and the transaction's number
    (`struct MDB_meta` in mdb.c).
    """
    first = os.pread(descriptor, _META_BYTES, 0)
    for kind, header_bytes in _META_HEADER_BYTES.items():
        if len(first) < _META_BYTES or struct.unpack_from("<I", first, header_bytes)[0] != _MAGIC:
            continue
        page_bytes = struct.unpack_from("<I", first, header_bytes + 24)[0]
        lowest, highest = _PAGE_BYTES_RANGE
        if page_bytes & (page_bytes - 1) or not lowest <= page_bytes <= highest:
            raise DatabaseDamagedError(f"{path}: the first meta page gives a page size of {page_bytes}")
        second = os.pread(descriptor, _META_BYTES, page_bytes)
        if size < 2 * page_bytes or len(second) < _META_BYTES:
            raise DatabaseDamagedError(f"{path} is shorter than its two meta pages")
        states = [
            struct.unpack_from("<QQ", meta, header_bytes + 120)
            for meta in (first, second)
            if struct.unpack_from("<I", meta, header_bytes)[0] == _MAGIC
        ]
        last_page, _ = max(states, key=lambda state: state[1])
        needed = (last_page + 1) * page_bytes
        if size < needed:
            raise DatabaseDamagedError(f"{path} was cut short: it has {size} bytes of {needed}")
        return kind
    raise DatabaseDamagedError(f"{path} is no LMDB database: neither engine's meta page is there")


def _mount_type(path: Path) -> str:
    """Return the type of the file system at a resolved path, from proc(5)'s mountinfo; empty if that cannot be told."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount_point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        inside = str(path) == mount_point or str(path).startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, after.split(" ")[0]
    return kind
