"""A glance at a blob: whether a local file is where a record says."""

from __future__ import annotations

import os
import stat
from typing import Literal

from kvcatalog.uris import file_path

BlobState = Literal["present", "missing", "other size", "unreachable"]


def blob_state(storage_uri: str, size: int) -> BlobState | None:
    """Return what a look at the file's size tells, None where the URI names no local file."""
    path = file_path(storage_uri)
    if path is None:
        return None
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError:
        return "unreachable"
    if not stat.S_ISREG(status.st_mode):
        return "missing"
    return "present" if status.st_size == size else "other size"
