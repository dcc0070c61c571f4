"""A file system that may lose what was not flushed, rebuilt from the record that shim.c made.

What POSIX promises, and no more: the data of a file is durable once the file was flushed (or written synchronously),
the names in a folder once the folder was. What came after may be there or not, in any order for data; the names of one
folder come in theirs, as journals keep them.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct, field

_HEADER = struct.Struct("=BBHIQQQ")
_SECTORS = (512, 4096)
_SUBSETS = 6


class Event(Struct, frozen=True):
    """A line of the record; what `one` and `other` are depends on the kind: inodes, or the number of a step."""

    kind: str
    synchronous: bool
    one: int
    other: int
    offset: int
    name: str
    data: bytes


def events(log: Path) -> Iterator[Event]:
    """Yield what was recorded."""
    raw, place = log.read_bytes(), 0
    while place < len(raw):
        kind, synchronous, name_bytes, data_bytes, one, other, offset = _HEADER.unpack_from(raw, place)
        place += _HEADER.size
        name = raw[place : place + name_bytes].decode()
        place += name_bytes
        yield Event(chr(kind), bool(synchronous), one, other, offset, name, raw[place : place + data_bytes])
        place += data_bytes


class File(Struct, eq=False):
    data: bytearray = field(default_factory=bytearray)


class Folder(Struct, eq=False):
    names: dict[str, File | Folder] = field(default_factory=dict)


class Change(Struct, eq=False):
    """A change that is not durable yet; `of` is what has to be flushed for it."""

    of: File | Folder
    kind: str
    name: str = ""
    child: File | Folder | None = None
    source: Folder | None = None
    offset: int = 0
    data: bytes = b""


class Disk:
    """What is durable, and what is pending, in the order in which it came."""

    def __init__(self, top_inode: int) -> None:
        self.top = Folder()
        self.pending: list[Change] = []
        self._known: dict[int, File | Folder] = {top_inode: self.top}
        self._current: dict[int, dict[str, File | Folder]] = {id(self.top): {}}

    def take(self, event: Event) -> None:
        """Take a change, or a flush."""
        one = self._known.get(event.one)
        match event.kind:
            case "n":
                self._known[event.one] = File()
            case "c" | "m" | "l":
                child: File | Folder | None = self._known.get(event.other)
                if event.kind != "l" or child is None:
                    child = self._known[event.other] = Folder() if event.kind == "m" else File()
                    self._current[id(child)] = {}
                self._name(one, event.name, child)
            case "u":
                self._name(one, event.name, None)
            case "r":
                self._rename(one, self._known.get(event.other), event)
            case "w" | "t" if isinstance(one, File):
                self.pending.append(Change(one, event.kind, offset=event.offset, data=event.data))
                if event.synchronous:  # a write with O_DSYNC takes along what the file waits for
                    self.flush(one)
            case "s" if one is not None:
                self.flush(one)
            case _:
                raise AssertionError(f"unknown event {event}")

    def flush(self, of: File | Folder) -> None:
        """Make what pends of a file or a folder durable."""
        apply([change for change in self.pending if change.of is of])
        self.pending = [change for change in self.pending if change.of is not of]

    def crashes(self, chance: random.Random) -> Iterator[tuple[str, list[Change]]]:
        """Yield what of the pending changes may have been kept."""
        return chosen_crashes(self.pending, chance, self._subset)

    def _subset(self, chance: random.Random, share: float) -> list[Change]:
        """Choose some of the data, and of each folder's names some from the first on."""
        kept: dict[int, int] = {}
        for change in self.pending:
            if isinstance(change.of, Folder) and chance.random() < share:
                kept[id(change.of)] = kept.get(id(change.of), 0) + 1
        chosen = []
        for change in self.pending:
            if isinstance(change.of, Folder):
                kept[id(change.of)] = kept.get(id(change.of), 0) - 1
                if kept[id(change.of)] >= 0:
                    chosen.append(change)
            elif chance.random() < share:
                chosen.append(change)
        return chosen

    def write_out(self, kept: list[Change], folder: Path) -> None:
        """Write a state into a folder, in place of what is there."""
        copies: dict[int, File | Folder] = {}
        apply(kept, copies)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _write(self.top, folder, copies)

    def _name(self, folder: File | Folder | None, name: str, child: File | Folder | None) -> None:
        assert isinstance(folder, Folder)
        if child is None:
            self._current[id(folder)].pop(name, None)
        else:
            self._current[id(folder)][name] = child
        self.pending.append(Change(folder, "name", name, child))

    def _rename(self, source: File | Folder | None, target: File | Folder | None, event: Event) -> None:
        assert isinstance(source, Folder)
        assert isinstance(target, Folder)
        child = self._current[id(source)].pop(event.name)
        new_name = event.data.decode()
        self._current[id(target)][new_name] = child
        self.pending.append(Change(target, "rename", new_name, child, source, data=event.name.encode()))


def chosen_crashes(
    pending: list[Change], chance: random.Random, subset: Callable[[random.Random, float], list[Change]]
) -> Iterator[tuple[str, list[Change]]]:
    """Yield prefixes of what is pending, some with the write after them torn, and subsets."""
    for count in range(len(pending) + 1):
        yield "prefix", pending[:count]
        torn = pending[count] if count < len(pending) else None
        for sector in _SECTORS:
            if torn is not None and len(torn.data) > sector:
                cut = sector * chance.randrange(1, -(-len(torn.data) // sector))
                part = Change(torn.of, torn.kind, offset=torn.offset, data=torn.data[:cut])
                yield "torn", [*pending[:count], part]
    for _ in range(_SUBSETS if len(pending) > 1 else 0):
        yield "subset", subset(chance, chance.random())


def apply(changes: list[Change], copies: dict[int, File | Folder] | None = None) -> None:
    """Make changes: in place, or in copies that are put under the identities of what they are copies of."""
    for change in changes:
        target = _target(change.of, copies)
        if isinstance(target, Folder):
            if change.source is not None:
                source = _target(change.source, copies)
                assert isinstance(source, Folder)
                source.names.pop(change.data.decode(), None)
            if change.child is None:
                target.names.pop(change.name, None)
            else:
                target.names[change.name] = change.child
            continue
        if change.kind == "t":
            del target.data[change.offset :]
        target.data.extend(bytes(max(0, change.offset - len(target.data))))
        target.data[change.offset : change.offset + len(change.data)] = change.data


def _target(of: File | Folder, copies: dict[int, File | Folder] | None) -> File | Folder:
    if copies is None:
        return of
    if id(of) not in copies:
        copies[id(of)] = File(bytearray(of.data)) if isinstance(of, File) else Folder(dict(of.names))
    return copies[id(of)]


def _write(folder: Folder, place: Path, copies: dict[int, File | Folder]) -> None:
    now = copies.get(id(folder), folder)
    assert isinstance(now, Folder)
    for name, child in now.names.items():
        content = copies.get(id(child), child)
        if isinstance(content, File):
            (place / name).write_bytes(content.data)
        elif isinstance(child, Folder):
            (place / name).mkdir()
            _write(child, place / name, copies)
