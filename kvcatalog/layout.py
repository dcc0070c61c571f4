"""Where a blob lies below its root: pure functions, the same for folders and for buckets.

- Content-addressed: `cas/<prefix>/<2 hex digits>/<62 hex digits>` of the SHA-256.
- Policy path: `<artifact>/<name>`, both cleaned, so that a person finds a file by its work.
- Ours: `.kvcatalog/`, with the root's marker and what is set aside; no cleaned name begins with a dot.

Cleaning is not reversible and other names may come out the same: whoever stores a second content goes on through
`distinct_paths`. A path is relative, with `/` between its parts, of which none is empty, `.` or `..`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from kvcatalog.errors import UnsafePathError
from kvcatalog.values import media_type

OURS = ".kvcatalog"
MARKER_PATH = f"{OURS}/root.json"
STAGING_PATH = f"{OURS}/staging"
QUARANTINE_PATH = f"{OURS}/quarantine"
TRASH_PATH = f"{OURS}/trash"

CAS = "cas"
_NAME_BYTES_MAX = 180
"""Leaves room in the 255 bytes of a file's name for what tells two contents apart."""

_SUFFIX_BYTES_MAX = 16
_CUT_DIGITS = 16
_DISTINCT_DIGITS = (8, 16, 64)

_SUFFIXES = {
    "application/epub+zip": ".epub",
    "application/gzip": ".gz",
    "application/json": ".json",
    "application/msword": ".doc",
    "application/pdf": ".pdf",
    "application/postscript": ".ps",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/xhtml+xml": ".xhtml",
    "application/xml": ".xml",
    "application/zip": ".zip",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/plain": ".txt",
    "text/xml": ".xml",
}


def cas_relative_path(cas_prefix: str, digest: bytes) -> str:
    """Return where below a root a content-addressed blob lies."""
    digits = digest.hex()
    return f"{CAS}/{cas_prefix}/{digits[:2]}/{digits[2:]}"


def policy_relative_path(artifact_id: str, url_basename: str) -> str:
    """Return where below a root a blob lies that people find by its work."""
    folder = _cleaned(artifact_id)
    if folder.lower() == CAS:
        folder = f"_{folder}"
    return f"{folder}/{_cleaned(url_basename, keeps_suffix=True)}"


def distinct_paths(path: str, sha256_hex: Callable[[], str]) -> Iterator[str]:
    """Yield the path itself, then those for a content that finds it taken, with more and more digits of its digest.

    The first of them is `stem~<8 digits>.ext`. The digest is asked for only where it is needed.
    """
    yield path
    stem, suffix = _split(path)
    for digits in _DISTINCT_DIGITS:
        yield f"{stem}~{sha256_hex()[:digits]}{suffix}"


def basename_of(source_url: str, *, content_type: str | None = None, variant: str | None = None) -> str:
    """Return the name that a download from a URL gets, not yet cleaned.

    It is the last part of the URL's path; where that has no suffix, the content type gives one. A variant stands
    before the suffix: `paper.text.txt`.
    """
    from urllib.parse import unquote, urlsplit

    try:
        path = unquote(urlsplit(source_url).path)
    except ValueError:  # brackets that are no address
        path = source_url
    name = path.rstrip("/").rpartition("/")[2] or "index"
    stem, suffix = _split(name)
    known = _SUFFIXES.get(media_type(content_type) or "", "")
    if variant is not None:
        return f"{stem}.{variant}{known or suffix}"
    return name if suffix else name + known


def set_aside_path(area: str, label: str, path: str) -> str:
    """Return where a blob goes that leaves its place: the area is QUARANTINE_PATH or TRASH_PATH."""
    return f"{area}/{_cleaned(label)}/{path}"


def checked_path(path: str) -> str:
    """Return a relative path; UnsafePathError if it could lead out of its root or holds what no name may hold."""
    if not is_path(path):
        raise UnsafePathError(f"{path!r} is no path below a root")
    return path


def is_path(path: str) -> bool:
    """Tell whether a path is one that `checked_path` lets pass."""
    framed = f"/{path}/"
    return not ("//" in framed or "/./" in framed or "/../" in framed or "\0" in path)


def _cleaned(text: str, *, keeps_suffix: bool = False) -> str:
    """Return text as one part of a path: letters, marks, digits and `.+=@,-`, anything else an underscore."""
    from unicodedata import category, normalize

    kept: list[str] = []
    for char in normalize("NFC", text):
        if category(char)[0] in "LMN" or char in ".+=@,-":
            kept.append(char)
        elif not kept or kept[-1] != "_":
            kept.append("_")
    name = "".join(kept)
    if name[:1] in {"", ".", "-"}:
        name = "_" + name.lstrip(".-")
    if len(name.encode()) <= _NAME_BYTES_MAX:
        return name
    stem, suffix = _split(name) if keeps_suffix else (name, "")
    from hashlib import sha256

    mark = "~" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_CUT_DIGITS]
    room = _NAME_BYTES_MAX - len(mark) - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + mark + suffix


def _split(path: str) -> tuple[str, str]:
    """Return a path in two: up to the suffix, and a suffix of reasonable length."""
    stem, suffix = os.path.splitext(path)
    return (path, "") if len(suffix.encode("utf-8", "surrogatepass")) > _SUFFIX_BYTES_MAX else (stem, suffix)
