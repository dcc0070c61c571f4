"""The blob store in a folder does what every blob store does; what is its own is in test_dedup_and_layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
