"""A disk of which every write and flush is recorded: a file of a file system of our own, with a loop device on it.

The file system (FUSE, served by a child of this process) has that one file. What the kernel writes to the loop device
comes here as writes to the file, and a flush of the device as a flush of the file, in the order in which the device
took them. `Disk` rebuilds from the record what a crash of the machine may have left on the device.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from tools.faults.disk import Change, Event, File, chosen_crashes
from tools.faults.surroundings import NoMountError, run

_BLOCK = 4096
_WRITE_BYTES_MAX = 1 << 17

_REQUEST = struct.Struct("<IIQQ16x")
_RANGE = struct.Struct("<8xQI20x")
_ATTRIBUTES = struct.Struct("<QQQ36xIIIIIII")
_RECORD = struct.Struct("=cQQ")


class _Code(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


_UNANSWERED = {_Code.FORGET, _Code.INTERRUPT, _Code.BATCH_FORGET}
_FILE = 2
"""The number of the file; that of the folder is 1."""
_NAME = b"disk\0"


class Recorder:
    """Notes what is written, flushed, begun and answered, whoever of several processes does it."""

    def __init__(self, log: Path) -> None:
        self._descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def note(self, kind: str, number: int = 0, data: bytes = b"") -> None:
        """Append to the record; `number` is where data was written, or that of a step."""
        os.writev(self._descriptor, [_RECORD.pack(kind.encode(), number, len(data)), data])

    def mark(self, number: int, *, begun: bool) -> None:
        """Note that a step begins, or that it was answered."""
        self.note("b" if begun else "e", number)


def events(log: Path) -> Iterator[Event]:
    """Yield what was recorded, in the form of `disk.events`."""
    raw, place = log.read_bytes(), 0
    while place < len(raw):
        kind, number, size = _RECORD.unpack_from(raw, place)
        place += _RECORD.size
        yield Event(
            kind.decode(), synchronous=False, one=0, other=0, offset=number, name="", data=raw[place : place + size]
        )
        place += size


@contextmanager
def recorded_device(folder: Path, size: int, log: Path) -> Iterator[str]:
    """Yield the path of a block device whose writes are recorded; NoMountError."""
    place = folder / "device"
    place.mkdir()
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        raise NoMountError(f"/dev/fuse: {error.strerror}") from error
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"faults", str(place).encode(), b"fuse", 0, options):
        os.close(descriptor)
        raise NoMountError(f"fuse: {os.strerror(ctypes.get_errno())}")
    server = os.fork()
    if not server:
        try:
            _Server(descriptor, bytearray(size), Recorder(log)).serve()
        finally:
            os._exit(0)
    os.close(descriptor)
    try:
        loop = run("losetup", "--find", "--show", str(place / "disk"))
        try:
            yield loop
        finally:
            run("losetup", "--detach", loop)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


class _Server:
    """Answers what the kernel asks of the file system (fuse(4), linux/fuse.h)."""

    def __init__(self, descriptor: int, image: bytearray, recorder: Recorder) -> None:
        self._descriptor = descriptor
        self._image = image
        self._recorder = recorder

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self._descriptor, _WRITE_BYTES_MAX + 2 * _BLOCK)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT}:
                    continue
                return  # it was unmounted
            _, code, unique, node = _REQUEST.unpack_from(request)
            if code in _UNANSWERED:
                continue
            answer = self._answer(code, node, request[40:])
            failure, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
            try:
                os.write(self._descriptor, struct.pack("<IiQ", 16 + len(data), failure, unique) + data)
            except OSError as error:
                if error.errno != errno.ENOENT:  # whoever asked was interrupted
                    return

    def _answer(self, code: int, node: int, body: bytes) -> bytes | int:
        """Return what answers a request, or the number of an error."""
        start, size = _RANGE.unpack_from(body) if len(body) >= _RANGE.size else (0, 0)
        answer: bytes | int = b""
        match code:
            case _Code.INIT:
                answer = struct.pack("<IIIIHHII36x", 7, 31, 0, 1 << 5, 0, 0, _WRITE_BYTES_MAX, 1)
            case _Code.LOOKUP if body == _NAME:
                answer = struct.pack("<QQQQII", _FILE, 0, 1 << 30, 1 << 30, 0, 0) + self._attributes(_FILE)
            case _Code.LOOKUP:
                answer = errno.ENOENT
            case _Code.GETATTR | _Code.SETATTR:
                answer = struct.pack("<QII", 1 << 30, 0, 0) + self._attributes(node)
            case _Code.OPEN | _Code.OPENDIR:
                answer = bytes(16)
            case _Code.READ:
                answer = bytes(self._image[start : start + size])
            case _Code.WRITE:
                self._recorder.note("w", start, body[40 : 40 + size])
                self._image[start : start + size] = body[40 : 40 + size]
                answer = struct.pack("<II", size, 0)
            case _Code.FSYNC:
                self._recorder.note("s")
            case _Code.RELEASE | _Code.FLUSH | _Code.RELEASEDIR | _Code.DESTROY:
                pass
            case _:
                answer = errno.ENOSYS
        return answer

    def _attributes(self, node: int) -> bytes:
        size = len(self._image) if node == _FILE else 0
        mode = stat.S_IFREG | 0o600 if node == _FILE else stat.S_IFDIR | 0o700
        return _ATTRIBUTES.pack(node, size, size // 512, mode, 1, 0, 0, 0, _BLOCK, 0)


class Disk:
    """What of a device is durable, and what is pending; a flush makes all of it durable."""

    def __init__(self, size: int) -> None:
        self.pending: list[Change] = []
        self._device = File(bytearray(size))
        self._written: set[int] = set()

    def take(self, event: Event) -> None:
        """Take a write, or a flush."""
        if event.kind == "w":
            self.pending.append(Change(self._device, "w", offset=event.offset, data=event.data))
        else:
            self.flush()

    def flush(self) -> None:
        """Make durable what is pending."""
        for change in self.pending:
            self._device.data[change.offset : change.offset + len(change.data)] = change.data
            self._written |= set(_blocks(change))
        self.pending = []

    def crashes(self, chance: random.Random) -> Iterator[tuple[str, list[Change]]]:
        """Yield what of the pending writes may have been kept."""
        return chosen_crashes(
            self.pending, chance, lambda chance, share: [each for each in self.pending if chance.random() < share]
        )

    def write_out(self, kept: list[Change], image: Path) -> None:
        """Write a state of the device into a file."""
        with image.open("wb") as file:
            file.truncate(len(self._device.data))
            for block in sorted(self._written):
                data = self._device.data[block * _BLOCK : (block + 1) * _BLOCK]
                if any(data):
                    os.pwrite(file.fileno(), data, block * _BLOCK)
            for change in kept:
                os.pwrite(file.fileno(), change.data, change.offset)


def _blocks(change: Change) -> range:
    return range(change.offset // _BLOCK, (change.offset + len(change.data) - 1) // _BLOCK + 1)
