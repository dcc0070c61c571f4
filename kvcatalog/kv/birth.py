"""When a file was made, which tells it from its copies: no program can set that, and renaming keeps it."""

from __future__ import annotations

import os
import struct
from functools import cache
from typing import Any

_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_MASK = struct.Struct("=I")
_TIME, _TIME_OFFSET = struct.Struct("=qI"), 80
_SECOND_NANOS = 10**9


def birth_of(path: str | os.PathLike[str]) -> int | None:
    """Return when a file was made, in nanoseconds since the epoch; None where its file system does not remember.

    `os.stat` does not tell, so the C library is asked (statx(2)).
    """
    statx = _statx()
    if statx is None:
        return None
    import ctypes

    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, answer):
        return None
    (mask,) = _MASK.unpack_from(answer)
    seconds, nanos = _TIME.unpack_from(answer, _TIME_OFFSET)
    return (seconds * _SECOND_NANOS + nanos or None) if mask & _STATX_BTIME else None


@cache
def _statx() -> Any:  # noqa: ANN401 - a function of the C library
    import ctypes

    return getattr(ctypes.CDLL(None), "statx", None)
