"""The blob store in a folder does what every blob store does; what is its own is in test_dedup_and_layout."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import blobs
from kvcatalog.blobs import LocalFile, Marker
from kvcatalog.errors import StorageFailedError
from kvcatalog.fs_layout import FileBlobStore
from tests.blob_stores import BlobStoreContract


class RawFolder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, path: str, data: bytes) -> None:
        place = self._root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(data)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def paths(self) -> set[str]:
        return {str(path.relative_to(self._root)) for path in self._root.rglob("*") if path.is_file()}


class TestFolder(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[FileBlobStore]:
        opened = FileBlobStore(tmp_path / "root")
        opened.prepare()
        yield opened
        opened.close()

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawFolder:
        return RawFolder(tmp_path / "root")

    @pytest.fixture
    def large_bytes(self) -> int:
        return 20 << 20


MARKER = Marker("root", "catalog", 1)


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EIO, "the disk says no")


def test_a_marker_is_whole_though_the_disk_takes_it_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    store = FileBlobStore(tmp_path / "root")
    assert store.write_marker(MARKER) == store.read_marker() == MARKER


def test_a_staged_file_that_cannot_be_removed_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileBlobStore(tmp_path / "root")
    store.write_marker(MARKER)
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StorageFailedError):
        store.write_marker(MARKER)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_read_is_a_failure_of_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"bytes")
    with LocalFile.open(tmp_path / "source") as file:
        monkeypatch.setattr(blobs, "sha256_stream", refuse)
        for read in (file.sha256, file.read_sha256):
            with pytest.raises(StorageFailedError, match="source"):
                read()
