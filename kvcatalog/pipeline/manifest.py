"""The manifest of a run: one line for each download, in the form that `import-manifest` reads as "outcome"."""

from __future__ import annotations

import json
import os
import stat
from hashlib import sha256
from threading import Lock
from typing import Self

from kvcatalog import clock
from kvcatalog.errors import CatalogError, InvalidValueError, StorageFullError, of_file
from kvcatalog.pipeline.fetched import Fetched

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC


class Manifest:
    """A file to which any number of threads and processes append whole lines.

    The folder is made where there is none. Raises InvalidValueError for what is there and is no manifest, and
    StorageFullError, StoragePermissionError or StorageFailedError.
    """

    def __init__(self, path: str, *, run_id: str, config_hash: str) -> None:
        self._path = path
        self._stated = {"run_id": run_id, "config_hash": config_hash, "dry_run": False, "html_paths": []}
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            # A run that lost its last line to a full disk must not take the first of this one with it.
            self._ends_in_part = _is_cut(path)
            self._descriptor = os.open(path, _APPEND, 0o666)
        except OSError as error:
            raise self._failure(error) from error
        self._lock = Lock()

    def append(self, fetched: Fetched) -> None:
        """Append what became of a download, in one write; after one that failed, on a line of its own."""
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
        with self._lock:
            data = b"\n" + line if self._ends_in_part else line
            # Until all of it is known to be there, an error may have left a part.
            self._ends_in_part = True
            try:
                written = os.write(self._descriptor, data)
            except OSError as error:
                raise self._failure(error) from error
            if written < len(data):
                raise StorageFullError(f"{self._path}: only a part of a line could be written")
            self._ends_in_part = False

    def _failure(self, error: OSError) -> CatalogError:
        return of_file(error, self._path)


def config_hash(settings: object) -> str:
    """Return a digest of settings made of JSON's types, the same however their keys are ordered."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return "sha256:" + sha256(canonical.encode()).hexdigest()


def _is_cut(path: str) -> bool:
    """Tell whether a manifest ends within a line; InvalidValueError if it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if stat.S_ISCHR(status.st_mode):  # a terminal, or nowhere
            return False
        is_plain = stat.S_ISREG(status.st_mode)
        if not is_plain or (status.st_size and file.read(1) != b"{"):
            raise InvalidValueError("manifest", f"{path} is there, and is no manifest")
        if not status.st_size:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
