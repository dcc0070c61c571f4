"""Paths as file URIs and back, by rule alone: nothing here looks at a disk, so symbolic links are never followed.

A file URI is `file://` and the percent-encoded bytes of an absolute path, as `Path.as_uri` writes it; names that are
not valid UTF-8 keep their bytes.
"""

from __future__ import annotations

import os
import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = re.compile(r"file://(?:localhost)?(?=/)", re.IGNORECASE)
_UNRESERVED = b"/ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"


def has_scheme(text: str) -> bool:
    """Tell whether text is a URI with a scheme and `//` (`s3://bucket/key`), rather than a path."""
    return _SCHEME.match(text) is not None


def absolute_path(path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> str:
    """Return a path joined to `base` (default: the working directory), without `.`, `..` and doubled slashes.

    A NUL in the name passes; it is refused where the file is opened or the URI stored.
    """
    text = os.fspath(path)
    if not text.startswith("/"):
        text = os.path.join(base or "", text)
    if not text.startswith("/"):
        text = os.path.join(os.getcwd(), text)
    if "/." not in text and "//" not in text and not text.endswith("/"):
        return text
    normal = os.path.normpath(text)
    return normal[1:] if normal.startswith("//") else normal


def file_uri(path: str | os.PathLike[str]) -> str:
    """Return the file URI of a path, made absolute and normal as `absolute_path` does.

    UnicodeEncodeError for names that no file of this system can have.
    """
    return uri_of(absolute_path(path))


def uri_of(normal_path: str) -> str:
    """Return the file URI of what `absolute_path` returned; UnicodeEncodeError as `file_uri`."""
    if is_plain(normal_path):
        return "file://" + normal_path
    from urllib.parse import quote_from_bytes

    return "file://" + quote_from_bytes(os.fsencode(normal_path))


def is_plain(path: str) -> bool:
    """Tell whether a path stands in a URI as it is."""
    return path.isascii() and not path.encode().translate(None, _UNRESERVED)


def file_path(uri: str) -> str | None:
    """Return the path that a file URI names, or None for any other URI.

    The host must be empty or `localhost`. A raw `?` or `#` is taken as part of the name, since that is what writers of
    unescaped URIs mean.
    """
    local = _LOCAL.match(uri)
    if local is None:
        return None
    name = uri[local.end() :]
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return None
    if b"%" in encoded:
        from urllib.parse import unquote_to_bytes

        name = os.fsdecode(unquote_to_bytes(encoded))
    return None if "\0" in name else absolute_path(name)
