"""Which pages the engine counts as free, read from the file without the engine.

A transaction that takes pages at the end of the file and gives them back never writes them, so that a sound file may
end before its last page. A file that was cut ends there, too; what tells them apart is that every page behind the end
of a sound one is free.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

Read = Callable[[int, int], bytes]
"""Returns so many bytes from an offset of the file on; fewer at its end."""

_BRANCH = 1
_LEAF = 2
_BIG = 1
"""Of a node: its value lies on pages of its own."""

_NO_PAGE = (1 << 64) - 1


class FreelistError(Exception):
    """The list of free pages cannot be read."""


def free_pages(read: Read, root: int, *, page_bytes: int, header_bytes: int) -> Iterator[int]:
    """Yield the numbers of all free pages, in no order, from the tree whose root is the page `root`.

    The header of a page ends with flags and the bounds of its free space, two bytes each, of which the lower one gives
    the number of nodes. Two-byte offsets of the nodes follow. A node has a size or a page's number in its first four
    (six) bytes, then flags, the size of the key, and the key; the eight-byte keys here are numbers of transactions. A
    value is a count and that many page numbers. Engine 1.0 counts offsets from behind the header (`struct MDB_page`,
    `struct MDB_node` in mdb.c). Raises FreelistError for anything else.
    """
    try:
        yield from _pages(read, root, page_bytes, header_bytes, set())
    except struct.error as error:
        raise FreelistError("the list of free pages leads out of its pages") from error


def _pages(read: Read, number: int, page_bytes: int, header_bytes: int, seen: set[int]) -> Iterator[int]:
    if number == _NO_PAGE:
        return
    page = read(number * page_bytes, page_bytes)
    if len(page) < page_bytes or number in seen:
        raise FreelistError(f"page {number} of the list of free pages is missing or there twice")
    seen.add(number)
    base = header_bytes if header_bytes > 16 else 0  # noqa: PLR2004  the header of engine 0.9
    kind, lower = struct.unpack_from("<HH", page, header_bytes - 6)
    if kind not in {_BRANCH, _LEAF}:
        raise FreelistError(f"page {number} of the list of free pages is none")
    count = (lower + base - header_bytes) // 2
    for offset in struct.unpack_from(f"<{count}H", page, header_bytes):
        low, high, flags, key_bytes = struct.unpack_from("<HHHH", page, base + offset)
        if kind == _BRANCH:
            yield from _pages(read, low | high << 16 | flags << 32, page_bytes, header_bytes, seen)
            continue
        size, start = low | high << 16, base + offset + 8 + key_bytes
        value = page[start : start + size]
        if flags & _BIG:
            value = read(struct.unpack_from("<Q", page, start)[0] * page_bytes + header_bytes, size)
        (length,) = struct.unpack_from("<Q", value)
        if size != 8 * (length + 1):
            raise FreelistError(f"page {number} of the list of free pages holds something else")
        yield from struct.unpack_from(f"<{length}Q", value, 8)
