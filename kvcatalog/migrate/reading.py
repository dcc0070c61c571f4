"""A manifest as a stream of lines: its segments in order, decompressed, in bounded memory."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import zlib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kvcatalog.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE_BYTES_MAX = 16 << 20
"""A line longer than this is no line of a manifest; it is passed over without being held."""

_ZSTD_INPUT_BYTES = 1024
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SQLITE_MAGIC = b"SQLite format 3\0"
_COMPRESSED = {".gz": _GZIP_MAGIC, ".zst": _ZSTD_MAGIC, ".zstd": _ZSTD_MAGIC}
_BOM = b"\xef\xbb\xbf"
_SEGMENT = re.compile(r"\.(\d+)(\.gz|\.zst|\.zstd)?", re.ASCII)


def segments(manifest_path: Path) -> list[Path]:
    """Return the files of a manifest in the order in which they were written.

    For the bare name these are `NAME.0000`, `NAME.0001`, … and then NAME itself, each possibly compressed; where a
    segment lies there twice, the uncompressed one counts. Any other name stands for itself alone.
    """
    rotated: dict[tuple[int, str], Path] = {}
    try:
        names = sorted(os.listdir(manifest_path.parent))
    except OSError as error:
        raise ManifestError(f"cannot read the folder of {manifest_path}: {error.strerror}") from error
    for name in names:
        match = _SEGMENT.fullmatch(name, len(manifest_path.name)) if name.startswith(manifest_path.name) else None
        if match:
            rotated.setdefault((int(match[1]), match[1]), manifest_path.with_name(name))
    newest = [
        path
        for suffix in ("", *_COMPRESSED)
        if (path := manifest_path.with_name(manifest_path.name + suffix)).name in names
    ]
    found = [rotated[number] for number in sorted(rotated)] + newest[:1]
    # A name that no listing shows may still open: /dev/fd/63 from a shell's process substitution.
    return found or [manifest_path]


@contextmanager
def opened(path: Path | None) -> Iterator[tuple[io.BufferedReader[Any], Callable[[], int]]]:
    """Open a segment (None: standard input) for reading its decompressed bytes, and a function for its progress.

    The function returns how many bytes of the file itself were read so far. ManifestError for what cannot be read.
    """
    label = "standard input" if path is None else str(path)
    with ExitStack() as stack:
        try:
            raw = _standard_input() if path is None else stack.enter_context(path.open("rb", buffering=0))
            counted = _Counted(raw)
            plain = io.BufferedReader(counted, 1 << 18)
            with translated(label):
                head = plain.peek(16)
            yield _decompressed(plain, head, path.suffix if path else "", label), lambda: counted.count
        except OSError as error:
            raise ManifestError(f"cannot open {label}: {error.strerror or error}") from error


def lines(stream: io.BufferedReader[Any], label: str, overlong: Callable[[bytes], object]) -> Iterator[bytes | None]:
    """Yield each line with its line end; for one above LINE_BYTES_MAX None, after passing it to `overlong` in pieces.

    A byte order mark before the first line is left out. ManifestError where the stream breaks off.
    """
    with translated(label):
        if stream.peek(len(_BOM)).startswith(_BOM):
            stream.read(len(_BOM))
    while line := _readline(stream, LINE_BYTES_MAX, label):
        if len(line) < LINE_BYTES_MAX or line.endswith(b"\n"):
            yield line
        else:
            _pass_over(stream, line, label, overlong)
            yield None


def _readline(stream: io.BufferedReader[Any], limit: int, label: str) -> bytes:
    try:
        return stream.readline(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise _failure(label, error) from error


def _pass_over(stream: io.BufferedReader[Any], start: bytes, label: str, overlong: Callable[[bytes], object]) -> None:
    piece = start
    while piece:
        overlong(piece)
        if piece.endswith(b"\n"):
            return
        piece = _readline(stream, 1 << 20, label)
    overlong(b"\n")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise ManifestError("standard input is closed")
    return sys.stdin.buffer


def _decompressed(plain: io.BufferedReader[Any], head: bytes, suffix: str, label: str) -> io.BufferedReader[Any]:
    """Choose by the first bytes, which do not lie; a suffix that they contradict is an error."""
    claimed = _COMPRESSED.get(suffix)
    if claimed and not head.startswith(claimed):
        raise ManifestError(f"{label} is not the compressed file that its name says")
    if head.startswith(_GZIP_MAGIC):
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=plain)), 1 << 18)
    if head.startswith(_ZSTD_MAGIC):
        return io.BufferedReader(_ZstdReader(plain, label), 1 << 18)
    if head.startswith(_SQLITE_MAGIC):
        raise ManifestError(f"{label} is a database; give its file, unpacked")
    return plain


@contextmanager
def translated(label: str) -> Iterator[None]:
    """Turn what reading raises into ManifestError."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise _failure(label, error) from error


def _failure(label: str, error: Exception) -> ManifestError:
    return ManifestError(f"{label} is cut short" if isinstance(error, EOFError) else f"cannot read {label}: {error}")


class _Counted(io.RawIOBase):
    """Counts the bytes that are read through it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        count: int = self._raw.readinto(buffer) or 0  # type: ignore[attr-defined]
        self.count += count
        return count


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd frames, a small piece of input at a time, so that no input makes a large output at once."""

    def __init__(self, plain: io.BufferedReader[Any], label: str) -> None:
        self._plain = plain
        self._label = label
        self._new_frame, self._errors = _zstd()
        self._frame = self._new_frame()
        self._input = b""
        self._output = memoryview(b"")
        self._inside = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        while not self._output:
            piece = self._input or self._plain.read(_ZSTD_INPUT_BYTES)
            if not piece:
                if self._inside:
                    raise ManifestError(f"{self._label} is cut short")
                return 0
            self._decompress(piece)
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _decompress(self, piece: bytes) -> None:
        try:
            self._output = memoryview(self._frame.decompress(piece))
        except self._errors as error:
            raise ManifestError(f"{self._label} is damaged: {error}") from error
        self._inside = not self._frame.eof
        self._input = b""
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = self._new_frame()


def _zstd() -> tuple[Callable[[], Any], type[Exception]]:
    """Return what makes a decompressor for one frame, and the error that it raises."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        return zstd.ZstdDecompressor, zstd.ZstdError
    try:
        import zstandard
    except ImportError as error:
        raise ManifestError(
            "a zstd file needs Python 3.14 or the package zstandard: pip install 'kvcatalog[zstd]'"
        ) from error
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
