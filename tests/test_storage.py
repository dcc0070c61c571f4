"""Whose root a folder is, and that a place which is not what it was is never written to."""

import os
from pathlib import Path

import pytest

from kvcatalog import (
    ConfigError,
    LmdbCatalog,
    RootOwnershipError,
    RootUnreachableError,
    StorageConfig,
    StoragePermissionError,
    UnsafePathError,
    adopt_root,
    finalize_candidate_download,
    open_catalog,
)
from kvcatalog.blobs import LocalFile, Marker
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.storage import forget_storage, open_storage
from tests.support import child, finished, forked, need_root


@pytest.fixture
def config(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root_dir=str(tmp_path / "root"))


@pytest.fixture
def catalog(tmp_path: Path) -> LmdbCatalog:
    return open_catalog(tmp_path / "catalog")


def opened_anew(config: StorageConfig, catalog: LmdbCatalog) -> FileBlobStore:
    """Open a root as a new process would."""
    store = open_storage(config, catalog)
    forget_storage(store)
    again = open_storage(config, catalog)
    assert again is not store
    assert isinstance(again, FileBlobStore)
    return again


def test_a_new_place_becomes_a_root_that_says_whose_it_is(config: StorageConfig, catalog: LmdbCatalog) -> None:
    store = open_storage(config, catalog)
    marker = store.read_marker()
    assert marker is not None
    assert (marker.catalog, marker.generation) == (catalog.identity.uuid, catalog.identity.generation)
    assert [(root.uri, root.uuid) for root in catalog.roots()] == [(store.uri, marker.uuid)]
    assert open_storage(config, catalog) is store
    assert opened_anew(config, catalog).read_marker() == marker
    assert len(catalog.roots()) == 1


def test_without_a_catalog_nothing_of_ours_is_there(config: StorageConfig) -> None:
    assert open_storage(config).read_marker() is None
    assert os.listdir(config.root_dir) == []


def test_a_known_root_without_its_marker_is_unreachable(config: StorageConfig, catalog: LmdbCatalog) -> None:
    """A mount that is gone leaves an empty folder, or none."""
    forget_storage(open_storage(config, catalog))
    os.rename(config.root_dir, config.root_dir + "-away")
    for place in ("missing", "empty"):
        if place == "empty":
            os.mkdir(config.root_dir)
        with pytest.raises(RootUnreachableError, match="marker"):
            open_storage(config, catalog)
        assert not os.path.isdir(config.root_dir) or os.listdir(config.root_dir) == []
    os.rmdir(config.root_dir)
    os.rename(config.root_dir + "-away", config.root_dir)
    open_storage(config, catalog)


def test_a_marker_that_cannot_be_read_is_no_missing_one(config: StorageConfig, catalog: LmdbCatalog) -> None:
    forget_storage(open_storage(config, catalog))
    (Path(config.root_dir) / ".kvcatalog/root.json").write_text('{"uuid": "a"')
    with pytest.raises(RootUnreachableError, match="cannot be read"):
        open_storage(config, catalog)


def test_a_root_of_another_catalog_is_refused_until_it_is_adopted(
    config: StorageConfig, catalog: LmdbCatalog, tmp_path: Path
) -> None:
    uuid = open_storage(config, catalog).read_marker()
    with open_catalog(tmp_path / "other") as other:
        with pytest.raises(RootOwnershipError, match="another catalog"):
            open_storage(config, other)
        assert other.roots() == []
        with pytest.raises(RootOwnershipError, match="--force"):
            adopt_root(config, other)
        adopted = adopt_root(config, other, force=True)
        assert uuid is not None
        assert adopted.uuid == uuid.uuid
        open_storage(config, other)
    with pytest.raises(RootOwnershipError):
        open_storage(config, catalog)


def test_another_generation_is_refused_until_it_adopts(config: StorageConfig, catalog: LmdbCatalog) -> None:
    store = open_storage(config, catalog)
    marker = store.read_marker()
    assert marker is not None
    store.write_marker(Marker(marker.uuid, marker.catalog, marker.generation + 1), replace=True)
    forget_storage(store)
    with pytest.raises(RootOwnershipError, match="generation 2"):
        open_storage(config, catalog)
    adopt_root(config, catalog)
    open_storage(config, catalog)


def test_a_root_that_was_moved_is_the_same_root(config: StorageConfig, catalog: LmdbCatalog) -> None:
    store = open_storage(config, catalog)
    os.rename(config.root_dir, config.root_dir + "-moved")
    there = config.model_copy(update={"root_dir": config.root_dir + "-moved"})
    with pytest.raises(RootOwnershipError, match="moved"):
        open_storage(there, catalog)
    adopt_root(there, catalog)
    moved = open_storage(there, catalog)
    assert [(root.id, root.uri) for root in catalog.roots()] == [(1, moved.uri)]
    assert moved.uri != store.uri


def test_a_copy_of_a_root_is_refused_while_both_are_there(config: StorageConfig, catalog: LmdbCatalog) -> None:
    store = open_storage(config, catalog)
    copy = FileBlobStore(config.root_dir + "-copy")
    marker = store.read_marker()
    assert marker is not None
    copy.write_marker(marker)
    with pytest.raises(RootOwnershipError, match="copy"):
        open_storage(config.model_copy(update={"root_dir": copy.root}), catalog)
    assert [root.uri for root in catalog.roots()] == [store.uri]


def test_another_name_of_the_same_folder_is_the_root_under_its_known_name(
    config: StorageConfig, catalog: LmdbCatalog, tmp_path: Path
) -> None:
    store = open_storage(config, catalog)
    (tmp_path / "alias").symlink_to(config.root_dir)
    alias = open_storage(config.model_copy(update={"root_dir": str(tmp_path / "alias")}), catalog)
    assert alias.uri == store.uri


def test_a_relative_root_is_made_absolute_where_it_is_opened(
    catalog: LmdbCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    config = StorageConfig(root_dir="docs")
    monkeypatch.chdir(tmp_path / "here")
    store = open_storage(config, catalog)
    monkeypatch.chdir("/")
    assert store.uri == (tmp_path / "here/docs").as_uri()
    assert store.stat("a/x") is None


def test_many_processes_that_make_a_root_at_once_agree_on_it(tmp_path: Path) -> None:
    open_catalog(tmp_path / "catalog").close()
    script = """
from kvcatalog import StorageConfig, open_catalog
from kvcatalog.storage import open_storage
with open_catalog(sys.argv[1]) as catalog:
    sys.stdin.readline()
    for number in range(20):
        print(open_storage(StorageConfig(root_dir=f"{sys.argv[2]}/{number}"), catalog).read_marker().uuid)
"""
    processes = [child(script, tmp_path / "catalog", tmp_path / "roots") for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert len({finished(process) for process in processes}) == 1
    with open_catalog(tmp_path / "catalog") as catalog:
        assert len(catalog.roots()) == 20


def test_a_root_inside_a_root_of_another_catalog_is_refused(
    config: StorageConfig, catalog: LmdbCatalog, tmp_path: Path
) -> None:
    open_storage(config, catalog)
    inner = config.model_copy(update={"root_dir": f"{config.root_dir}/a/b"})
    with open_catalog(tmp_path / "other") as other, pytest.raises(RootOwnershipError, match="inside"):
        open_storage(inner, other)
    assert os.listdir(config.root_dir) == [".kvcatalog"]


def test_a_root_below_a_root_is_nothing_of_the_outer_one(
    config: StorageConfig, catalog: LmdbCatalog, tmp_path: Path
) -> None:
    inner = open_storage(config.model_copy(update={"root_dir": f"{config.root_dir}/inner"}), catalog)
    outer = open_storage(config, catalog)
    (tmp_path / "file").write_bytes(b"one")
    with LocalFile.open(tmp_path / "file") as file:
        inner.publish(file, "a/x", sha256=None)
        with pytest.raises(UnsafePathError, match="root of its own"):
            outer.publish(file, "inner/x", sha256=None)
    assert [blob.path for blob in inner.walk()] == ["a/x"]
    assert list(outer.walk()) == []


@pytest.mark.parametrize("place", ["catalog", "catalog/docs", "", "root/.kvcatalog/staging"])
def test_a_place_that_is_kept_for_something_else_is_no_root(
    config: StorageConfig, catalog: LmdbCatalog, tmp_path: Path, place: str
) -> None:
    open_storage(config, catalog)
    with pytest.raises(ConfigError):
        open_storage(config.model_copy(update={"root_dir": str(tmp_path / place)}), catalog)


def test_a_marker_that_cannot_be_read_is_written_anew_by_adoption(config: StorageConfig, catalog: LmdbCatalog) -> None:
    before = open_storage(config, catalog).read_marker()
    (Path(config.root_dir) / ".kvcatalog/root.json").write_text("{")
    with pytest.raises(RootUnreachableError):
        open_storage(config, catalog)
    adopt_root(config, catalog)
    assert open_storage(config, catalog).read_marker() == before


def test_an_adoption_that_is_refused_changes_no_marker(config: StorageConfig, catalog: LmdbCatalog) -> None:
    store = open_storage(config, catalog)
    marker = Marker("another root", "another catalog", 1)
    store.write_marker(marker, replace=True)
    with pytest.raises(RootOwnershipError, match="adopt that one"):
        adopt_root(config, catalog, force=True)
    assert store.read_marker() == marker


def test_an_empty_folder_is_not_adopted_for_a_root_with_blobs(
    config: StorageConfig, catalog: LmdbCatalog, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"one")
    finalize_candidate_download(
        tmp_path / "file", artifact_id="a", source_url="u", resolver="r", catalog=catalog, cfg_storage=config
    )
    os.rename(config.root_dir, config.root_dir + "-away")
    os.mkdir(config.root_dir)
    with pytest.raises(RootUnreachableError, match="none of 1"):
        adopt_root(config, catalog)
    assert os.listdir(config.root_dir) == []
    adopt_root(config, catalog, force=True)


def test_a_folder_that_nobody_may_look_into_is_no_missing_root(config: StorageConfig, tmp_path: Path) -> None:
    need_root()
    (tmp_path / "closed").mkdir(0o700)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)

    def ask() -> str:
        os.setuid(65534)
        try:
            FileBlobStore(tmp_path / "closed/root").read_marker()
        except StoragePermissionError:
            return "refused"
        return "no root"

    assert forked(ask) == "refused"
