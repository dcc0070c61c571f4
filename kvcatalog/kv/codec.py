"""Values as bytes: a format byte, an xxh3 checksum, and a msgspec-encoded array.

The checksum covers the key as well, and is seeded with what the row is called, so a value that turns up under another
key or in another table is refused like a damaged one: a page that lies in the place of another is sound in itself. It
finds damage, not forgery: whoever can write the file can write a checksum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec
import xxhash

from kvcatalog.errors import CorruptRecordError, UnsupportedFormatError

Row = TypeVar("Row")

_HEADER_BYTES = 9

_checksum = xxhash.xxh3_64_digest
_encode = msgspec.msgpack.Encoder().encode


class Codec(Generic[Row]):
    """Turns rows of one type into values and back.

    `name` is what errors call the row, and part of the format; `layout` is the number of its layout, the first byte of
    each value.
    """

    __slots__ = ("_decode", "_layout", "_name", "_row_type", "_seed")

    def __init__(self, row_type: type[Row], name: str, *, layout: int = 1) -> None:
        self._row_type = row_type
        self._name = name
        self._layout = bytes([layout])
        self._seed = xxhash.xxh3_64_intdigest(name.encode())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - reached only while a slot is empty
        """Make the decoder when it is first asked for: a command meets few of the rows that there are."""
        if name != "_decode":
            raise AttributeError(name)
        self._decode = msgspec.msgpack.Decoder(self._row_type).decode
        return self._decode

    def encode(self, key: bytes, row: Row) -> bytes:
        """Return the value that stands for `row` under `key`."""
        payload = _encode(row)
        return self._layout + _checksum(self._layout + key + payload, self._seed) + payload

    def decode(self, key: bytes, value: bytes) -> Row:
        """Return the row of a value found under `key`.

        Raises CorruptRecordError for a value that is not, to the byte, what was encoded for that key, and
        UnsupportedFormatError for a sound value in a layout that this version does not know.
        """
        payload = value[_HEADER_BYTES:]
        layout = value[:1]
        if _checksum(layout + key + payload, self._seed) != value[1:_HEADER_BYTES]:
            raise CorruptRecordError(f"{self._name} under key {key.hex()} fails its checksum")
        if layout != self._layout:
            raise UnsupportedFormatError(f"{self._name} under key {key.hex()} has layout {layout.hex()}")
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:  # the latter two pass through it
            raise CorruptRecordError(f"{self._name} under key {key.hex()} is not what it should be: {error}") from error

    def decode_many(self, pairs: Iterable[tuple[bytes, bytes]]) -> list[Row]:
        """Return the rows of many keys and their values; raises as `decode` does."""
        layout, decode, checksum, seed = self._layout, self._decode, _checksum, self._seed
        return [
            # Whatever is not as usual is looked at again, by the method that says what is wrong.
            decode(payload)
            if checksum(layout + key + (payload := value[_HEADER_BYTES:]), seed) == value[1:_HEADER_BYTES]
            and value[0] == layout[0]
            else self.decode(key, value)
            for key, value in pairs
        ]
