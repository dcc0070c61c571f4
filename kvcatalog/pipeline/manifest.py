"""The manifest of a run: one line for each download, in the form that `import-manifest` reads as "outcome"."""

from __future__ import annotations

import errno
import json
import os
from hashlib import sha256
from typing import Self

from kvcatalog import clock
from kvcatalog.errors import CatalogUnavailableError, StorageFailedError, StorageFullError, StoragePermissionError
from kvcatalog.pipeline.fetched import Fetched

_ERRORS: dict[int | None, type[CatalogUnavailableError]] = {
    errno.ENOSPC: StorageFullError,
    errno.EDQUOT: StorageFullError,
    errno.EACCES: StoragePermissionError,
    errno.EPERM: StoragePermissionError,
    errno.EROFS: StoragePermissionError,
}


class Manifest:
    """A file to which any number of threads and processes append whole lines.

    The folder is made where there is none. Raises StorageFullError, StoragePermissionError or StorageFailedError.
    """

    def __init__(self, path: str, *, run_id: str, config_hash: str) -> None:
        self._path = path
        self._stated = {"run_id": run_id, "config_hash": config_hash, "dry_run": False, "html_paths": []}
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            # A run that lost its last line to a full disk must not take the first of this one with it.
            cut = _is_cut(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failure(error) from error
        if cut:
            self._write(b"\n")

    def append(self, fetched: Fetched) -> None:
        """Append what became of a download, in one write."""
        line = {
            "ts": clock.to_text(clock.from_micros(clock.now_micros())),
            "artifact_id": fetched.item.artifact_id,
            "resolver": fetched.item.resolver,
            "url": fetched.item.url,
            "outcome": fetched.outcome,
            "ok": fetched.ok,
            "reason": fetched.reason,
            "path": fetched.path,
            "content_type": fetched.content_type,
            "bytes": fetched.bytes,
            "sha256": fetched.sha256,
            **self._stated,
        }
        if fetched.path is None and fetched.storage_uri is not None:
            line["storage_uri"] = fetched.storage_uri
        self._write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file; what was appended is in the hands of the operating system."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise self._failure(error) from error
        if written < len(line):
            raise StorageFullError(f"{self._path}: only a part of a line could be written")

    def _failure(self, error: OSError) -> CatalogUnavailableError:
        return _ERRORS.get(error.errno, StorageFailedError)(f"{self._path}: {error.strerror}")


def config_hash(settings: object) -> str:
    """Return a digest of settings made of JSON's types, the same however their keys are ordered."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return "sha256:" + sha256(canonical.encode()).hexdigest()


def _is_cut(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:
        return False
