"""Where a blob lies in a bucket: the prefix of the root, then the same path as below a folder."""

from __future__ import annotations

from kvcatalog.errors import InvalidValueError, UnsafePathError
from kvcatalog.layout import cas_relative_path, checked_path, policy_relative_path

KEY_BYTES_MAX = 1024


def cas_key(prefix: str, cas_prefix: str, digest: bytes) -> str:
    """Return the key of a content-addressed blob."""
    return object_key(prefix, cas_relative_path(cas_prefix, digest))


def policy_key(prefix: str, artifact_id: str, url_basename: str) -> str:
    """Return the key of a blob that people find by its work."""
    return object_key(prefix, policy_relative_path(artifact_id, url_basename))


def checked_prefix(prefix: str) -> str:
    """Return a prefix with one slash at its end, or the empty one; InvalidValueError where no path could be."""
    bare = prefix.removesuffix("/")
    if not bare:
        return ""
    try:
        return checked_path(bare) + "/"
    except UnsafePathError as error:
        raise InvalidValueError("s3_prefix", str(error)) from error


def object_key(prefix: str, path: str) -> str:
    """Return the key of a path; UnsafePathError as `checked_path`, InvalidValueError if it is too long for a key."""
    key = checked_prefix(prefix) + checked_path(path)
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidValueError("path", f"{path!r} is not valid Unicode, which keys are") from error
    if size > KEY_BYTES_MAX:
        raise InvalidValueError("path", f"the key {key!r} has {size} bytes, a key has at most {KEY_BYTES_MAX}")
    return key


def relative_path(prefix: str, key: str) -> str | None:
    """Return the path that a key stands for, None if it is none that `object_key` makes."""
    start = checked_prefix(prefix)
    if not key.startswith(start):
        return None
    path = key[len(start) :]
    try:
        object_key(prefix, path)
    except (UnsafePathError, InvalidValueError):
        return None
    return path
