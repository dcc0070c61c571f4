"""Every page that one snapshot reaches, held against where it lies, without the engine.

Engine 0.9 has no checksums of pages, and follows a number to whatever lies there. What can be told all the same: each
page knows its own number, kind and bounds, its keys lie between those of the pages above it, and it is reached once or
free. A page that was once right at the very place where it lies, as after a write that the disk lost, passes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from kvcatalog.kv.freelist import FreelistError, Read, free_pages

_FIRST = 2
"""Pages before it are the meta pages."""

_BRANCH, _LEAF, _OVERFLOW, _OF_VALUES = 1, 2, 4, 0x22
_BIG, _TREE = 1, 2
"""Of a node: its value lies on pages of its own; its value is the record of a tree, of a table or of a large set."""

_INTEGER_KEYS = 8
_NOT_SOUND = 0
_NO_PAGE = (1 << 64) - 1
_DEPTH_MAX = 32
_NODE_BYTES = 8
_FREE_LIST = "free pages"
_TABLES = "tables"

_TREE_RECORD = struct.Struct("<4xH34xQ")
"""Flags, and the number of the root page (`struct MDB_db` in mdb.c)."""

Wrong = tuple[str, str]
"""A table, `tables` for the list of them, or `free pages`, and what is wrong with a page of it."""


class Layout(NamedTuple):
    """How many bytes the pages of a file and their headers have."""

    page_bytes: int
    header_bytes: int


class Moment(NamedTuple):
    """What a meta page says: the records of the tree of free pages and of that of tables, and the last page."""

    free: bytes
    tables: bytes
    last_page: int


class _Tree(NamedTuple):
    """A tree, or what is below one of its branches, with the keys between which all below must lie."""

    name: str
    integers: bool
    depth: int
    low: bytes = b""
    high: bytes | None = None


def wrong_pages(read: Read, layout: Layout, moment: Moment) -> Iterator[Wrong]:
    """Yield what is wrong with the pages of a moment that is kept meanwhile; memory is a byte for each page."""
    return _Walk(read, layout, moment.last_page).wrong(moment)


class _Walk:
    def __init__(self, read: Read, layout: Layout, last_page: int) -> None:
        self._read = read
        self._page_bytes, self._header_bytes = layout
        self._base = self._header_bytes if self._header_bytes > 16 else 0  # noqa: PLR2004  the header of engine 0.9
        self._reached = bytearray(last_page + 1)

    def wrong(self, moment: Moment) -> Iterator[Wrong]:
        yield from self._tree(_FREE_LIST, moment.free)
        yield from self._tree(_TABLES, moment.tables)
        try:
            _, root = _TREE_RECORD.unpack(moment.free)
            free = free_pages(self._read, root, page_bytes=self._page_bytes, header_bytes=self._header_bytes)
            for number in free:
                if problem := self._claimed(number):
                    yield _FREE_LIST, problem
        except FreelistError as error:
            yield _FREE_LIST, str(error)

    def _claimed(self, number: int, count: int = 1) -> str:
        """Take note that pages are reached; returns what speaks against it."""
        for each in range(number, number + count):
            if not _FIRST <= each < len(self._reached):
                return f"page {each} lies outside of what is in use"
            if self._reached[each]:
                return f"page {each} is in use twice, or in use and free"
            self._reached[each] = 1
        return ""

    def _tree(self, name: str, record: bytes, depth: int = 0) -> Iterator[Wrong]:
        flags, root = _TREE_RECORD.unpack(record)
        if root != _NO_PAGE:
            yield from self._page(root, _Tree(name, name == _FREE_LIST or bool(flags & _INTEGER_KEYS), depth))

    def _page(self, number: int, tree: _Tree) -> Iterator[Wrong]:
        problem = self._claimed(number)
        page = b"" if problem else self._read(number * self._page_bytes, self._page_bytes)
        problem = problem or self._misplaced(number, page)
        kind, nodes, keys = (_NOT_SOUND, (), []) if problem else self._parts(page)
        if problem or kind == _NOT_SOUND or tree.depth > _DEPTH_MAX:
            yield tree.name, problem or f"page {number} has a kind or bounds that cannot be"
            return
        if tree.integers:
            keys = [key[::-1] for key in keys]  # the order of little-endian numbers
        if kind == _BRANCH:
            keys[0] = tree.low  # what stands there means nothing
        if not _are_between(keys, tree):
            yield tree.name, f"page {number} has keys that belong on other pages"
        elif kind == _BRANCH:
            for node, low, high in zip(nodes, keys, [*keys[1:], tree.high], strict=True):
                first, second, third = struct.unpack_from("<HHH", page, node)
                below = tree._replace(depth=tree.depth + 1, low=low, high=high)
                yield from self._page(first | second << 16 | third << 32, below)
        else:
            for node in nodes:
                if page[node + 4]:
                    yield from self._value(number, page, node, tree)

    def _misplaced(self, number: int, page: bytes) -> str:
        if len(page) < self._page_bytes:
            return f"page {number} lies behind the end of the file"
        (stated,) = struct.unpack_from("<Q", page)
        return "" if stated == number else f"where page {number} belongs lies page {stated}"

    def _parts(self, page: bytes) -> tuple[int, Sequence[int], list[bytes]]:
        """Return the kind of a page, where its nodes begin, and its keys: all of a branch, else the outermost."""
        header, base = self._header_bytes, self._base
        width, kind, lower, upper = struct.unpack_from("<HHHH", page, header - 8)
        count = (lower + base - header) // 2
        if kind == _OF_VALUES:
            if count < 1 or width < 1 or header + count * width > self._page_bytes:
                return _NOT_SOUND, (), []
            last = header + (count - 1) * width
            return kind, (), [page[header : header + width], page[last : last + width]]
        if kind not in {_BRANCH, _LEAF} or count < 1 or not lower <= upper <= self._page_bytes - base:
            return _NOT_SOUND, (), []
        nodes = [base + offset for offset in struct.unpack_from(f"<{count}H", page, header)]
        if min(nodes) < base + upper or max(nodes) > self._page_bytes - _NODE_BYTES:
            return _NOT_SOUND, (), []
        return kind, nodes, [_key(page, node) for node in (nodes if kind == _BRANCH else (nodes[0], nodes[-1]))]

    def _value(self, number: int, page: bytes, node: int, tree: _Tree) -> Iterator[Wrong]:
        """Follow a value that does not lie in its node."""
        low, high, flags, key_bytes = struct.unpack_from("<HHHH", page, node)
        place = node + _NODE_BYTES + key_bytes + (key_bytes % 2 if self._base else 0)
        if place + (_TREE_RECORD.size if flags & _TREE else 8) > self._page_bytes:
            yield tree.name, f"page {number} has a value that leads out of it"
        elif flags & _BIG:
            yield from self._big_value(struct.unpack_from("<Q", page, place)[0], low | high << 16, tree)
        elif flags & _TREE:
            name = _key(page, node).decode(errors="replace") if tree.name == _TABLES else tree.name
            yield from self._tree(name, page[place : place + _TREE_RECORD.size], tree.depth + 1)

    def _big_value(self, number: int, size: int, tree: _Tree) -> Iterator[Wrong]:
        header, needed = self._header_bytes, (self._header_bytes - 1 + size) // self._page_bytes + 1
        page = self._read(number * self._page_bytes, header) if number < len(self._reached) else b""
        if len(page) < header:
            yield tree.name, f"page {number} lies outside of what is in use"
            return
        (stated,), (kind, count) = struct.unpack_from("<Q", page), struct.unpack_from("<HI", page, header - 6)
        if stated != number:
            yield tree.name, f"where page {number} belongs lies page {stated}"
        elif kind != _OVERFLOW or count < needed:  # a shorter value may have taken the place of a longer one
            yield tree.name, f"page {number} has a kind or bounds that cannot be"
        elif problem := self._claimed(number, count):
            yield tree.name, problem


def _are_between(keys: list[bytes], tree: _Tree) -> bool:
    ascend = all(low <= high for low, high in pairwise([tree.low, *keys]))
    return ascend and (tree.high is None or keys[-1] < tree.high)


def _key(page: bytes, node: int) -> bytes:
    (size,) = struct.unpack_from("<H", page, node + 6)
    return page[node + _NODE_BYTES : node + _NODE_BYTES + size]
