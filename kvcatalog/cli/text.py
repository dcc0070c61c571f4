"""Text for people: nothing that a terminal would obey, and sizes that can be read."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TextIO

# C0, DEL and C1 controls; marks, embeddings, overrides and isolates that change the direction of writing; the line and
# paragraph separators; lone surrogates, which stand for bytes of arguments and file names that are not UTF-8; and what
# nobody sees: soft hyphens, spaces and joiners without width, byte order marks, annotations, tags. The two joiners that
# scripts are written with (U+200C, U+200D) stay.
_UNSAFE = (
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_TWO_DIGITS_MAX = 0xFF
_FOUR_DIGITS_MAX = 0xFFFF
_ROUNDED_UP = 999.5


def visible(text: str) -> str:
    r"""Return text on one line, with every character that a terminal may obey written out like `\x1b` or `\u202e`."""
    return text if text.isprintable() else re.sub(_UNSAFE, _escape, text)


def size_text(size: int) -> str:
    """Return a number of bytes with up to three digits and a decimal unit: `999 B`, `1.5 MB`, `12.3 GB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if amount < _ROUNDED_UP:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} EB"


def discard(stream: TextIO) -> None:
    """Let a stream lead nowhere, so that what is left in its buffer is not written when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= _TWO_DIGITS_MAX:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _FOUR_DIGITS_MAX else f"\\U{code:08x}"


class VisibleStream:
    """A text stream where everything but line ends is made visible, whoever writes: click, logging, warnings.

    It is for messages: where the stream behind takes none, they are lost and nothing else is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text and return its length."""
        with suppress(OSError):
            self._stream.write("\n".join(map(visible, text.split("\n"))))
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Tell whether the stream behind is a terminal."""
        return self._stream.isatty()
