"""Order-preserving encodings of the parts of keys.

LMDB compares keys as unsigned bytes, shorter first when one is the start of the other, and takes 511 bytes at most.
"""

from __future__ import annotations

# hashlib gives out this very function, but importing it loads OpenSSL as well, at every start of the program.
from _blake2 import blake2b

import xxhash

KEY_BYTES_MAX = 511

DIGEST_BYTES = 16
"""128 bits of BLAKE2b: what identity hangs on is a cryptographic digest."""

_SIGN = 1 << 63


def unsigned(value: int) -> bytes:
    """Encode 0 to 2^64-1 in eight bytes, most significant first, so that byte order is the order of the numbers."""
    return value.to_bytes(8, "big")


def from_unsigned(key: bytes) -> int:
    """Decode what `unsigned` encoded."""
    return int.from_bytes(key, "big")


def signed(value: int) -> bytes:
    """Encode -2^63 to 2^63-1 in eight bytes; adding 2^63 moves the range to the unsigned one and keeps its order."""
    return (value + _SIGN).to_bytes(8, "big")


def text(value: str, bytes_max: int) -> bytes:
    """Encode text as UTF-8; above `bytes_max` bytes it is cut there and followed by a digest of the whole, in hex.

    The order of UTF-8 bytes is the order of code points, so order holds up to the cut. Two texts never share an
    encoding: neither below the cut (it is injective) nor above (the digest differs), and one below is shorter than any
    above. Of text without NUL the encoding has none either, so NUL may end it in a key: then no encoding is the start
    of another. The result has `bytes_max` + 32 bytes at most.
    """
    encoded = value.encode()
    if len(encoded) <= bytes_max:
        return encoded
    return encoded[:bytes_max] + digest(encoded).hex().encode()


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that stand for a sequence of byte strings; lengths go in, so none runs into another."""
    encoded = b""
    for part in parts:
        encoded += len(part).to_bytes(8, "big") + part
    return blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def short_hash(value: bytes) -> bytes:
    """Return eight bytes of xxh3, for indexes where a collision only costs a comparison."""
    return xxhash.xxh3_64_digest(value)


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the first key above all keys that begin with `prefix`; None if there is no such key.

    Every key with the prefix is below prefix+1 (counted up with carry, trailing 0xff dropped), and every key above
    them is not.
    """
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
