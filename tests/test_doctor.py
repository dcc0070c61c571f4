"""What disks and buckets can do is found out by trying, and what they cannot do is told with what to do about it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import ContentDownloadConfig, LmdbCatalog, StorageConfig, doctor, open_catalog
from kvcatalog.config import CatalogConfig
from kvcatalog.doctor import diagnose
from kvcatalog.fs_layout import probing
from kvcatalog.process_clients import new_session
from kvcatalog.storage import open_storage
from tests.s3_double import Answer, Request, serving
from tests.servers import server


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        yield opened


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContentDownloadConfig:
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 1)
    monkeypatch.setattr(doctor, "FREE_INODES_MIN", 0)
    return ContentDownloadConfig(
        storage=StorageConfig(root_dir=str(tmp_path / "root")), catalog=CatalogConfig(path=str(tmp_path / "catalog"))
    )


def states(config: ContentDownloadConfig, catalog: LmdbCatalog) -> dict[str, str]:
    """Return what is not in order."""
    found = list(diagnose(config, catalog))
    assert all(each.advice for each in found if each.state != "ok")
    return {each.check: each.state for each in found if each.state != "ok"}


def test_a_place_that_is_no_root_yet_is_noted_and_not_made(config: ContentDownloadConfig, catalog: LmdbCatalog) -> None:
    assert states(config, catalog) == {"configured root": "note"}
    assert not os.path.exists(config.storage.root_dir)


def test_a_root_that_can_all_is_in_order(config: ContentDownloadConfig, catalog: LmdbCatalog, tmp_path: Path) -> None:
    open_storage(config.storage, catalog)
    assert states(config, catalog) == {}
    (tmp_path / "other name").symlink_to(tmp_path / "root")
    other = StorageConfig(root_dir=str(tmp_path / "other name"))
    assert states(config.model_copy(update={"storage": other}), catalog) == {}


def test_a_full_disk_is_a_problem(
    config: ContentDownloadConfig, catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 1 << 62)
    assert states(config, catalog)["free space"] == "problem"


@pytest.mark.parametrize(("layout", "state"), [("policy_path", "problem"), ("cas", "note")])
def test_links_matter_where_they_are_wanted(
    config: ContentDownloadConfig, catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch, layout: str, state: str
) -> None:
    changed = config.model_copy(update={"storage": config.storage.model_copy(update={"layout": layout})})
    open_storage(changed.storage, catalog)
    monkeypatch.setattr(probing, "link_descriptor", lambda *_: "EPERM")
    assert states(changed, catalog) == {"hard links": state}
    assert os.listdir(Path(config.storage.root_dir, ".kvcatalog/staging")) == []


def test_a_rename_that_replaces_is_a_problem(
    config: ContentDownloadConfig, catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(config.storage, catalog)

    def rename(folder: int, name: str, target_folder: int, target: str) -> None:
        os.rename(name, target, src_dir_fd=folder, dst_dir_fd=target_folder)

    monkeypatch.setattr(probing, "rename_exclusively", rename)
    assert states(config, catalog) == {"exclusive renames": "problem"}
    assert os.listdir(Path(config.storage.root_dir, ".kvcatalog/staging")) == []


def test_a_disk_that_does_not_flush_is_a_problem(
    config: ContentDownloadConfig, catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(config.storage, catalog)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert set(states(config, catalog).values()) == {"problem"}


def test_a_root_of_another_catalog_is_not_touched(
    config: ContentDownloadConfig, catalog: LmdbCatalog, tmp_path: Path
) -> None:
    with open_catalog(tmp_path / "other") as other:
        open_storage(config.storage, other)
        uuids = {root.uuid for root in other.roots()}
        catalog.add_root(open_storage(config.storage, other).uri, uuid=uuids.pop())
    before = sorted(map(str, Path(config.storage.root_dir).rglob("*")))
    assert states(config, catalog) == {"is there and ours": "problem"}
    assert sorted(map(str, Path(config.storage.root_dir).rglob("*"))) == before


def test_a_bucket_of_a_real_server(
    config: ContentDownloadConfig,
    catalog: LmdbCatalog,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    access = server(request.config, "swift")
    storage = in_bucket(access["endpoint"], monkeypatch, access["key"], access["secret"])
    client = new_session().client("s3", "us-east-1", endpoint_url=access["endpoint"])
    client.create_bucket(Bucket=storage.s3_bucket)
    open_storage(storage, catalog)
    changed = config.model_copy(update={"storage": storage})
    assert states(changed, catalog).keys() <= {"conditional puts"}
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=storage.s3_bucket)["Contents"]]
    assert keys == ["docs/.kvcatalog/root.json"]
    client.delete_object(Bucket=storage.s3_bucket, Key=keys[0])
    client.delete_bucket(Bucket=storage.s3_bucket)
    assert states(changed, catalog) == {"is there and ours": "problem"}
    client.close()


def test_a_full_disk_says_nothing_of_what_it_can_do(
    config: ContentDownloadConfig, catalog: LmdbCatalog, small_disk: Path
) -> None:
    root = StorageConfig(root_dir=str(small_disk / "root"))
    open_storage(root, catalog)
    (small_disk / "root/.kvcatalog/staging").mkdir(exist_ok=True)
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    problems = {
        each.check: each.advice
        for each in diagnose(config.model_copy(update={"storage": root}), catalog)
        if each.state == "problem"
    }
    assert problems.keys() == {"free space", "may be written"}
    assert all("Free some space" in str(advice) for advice in problems.values())


@pytest.mark.parametrize("answer", ["ignored", "refused"])
def test_a_server_without_conditions_is_noted(
    config: ContentDownloadConfig, catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with serving() as double:
        storage = in_bucket(double.endpoint_url, monkeypatch, "key", "secret")

        def rule(request: Request) -> Answer | None:
            return Answer(501, "NotImplemented") if request.conditional and answer == "refused" else None

        double.rule = rule
        open_storage(storage, catalog)
        changed = config.model_copy(update={"storage": storage})
        assert states(changed, catalog) == {"conditional puts": "note"}
        assert [key for key in double.objects if "doctor" in key] == []


def in_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> Any:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    return StorageConfig(
        backend="s3", s3_bucket=f"doctor-{uuid.uuid4()}", s3_endpoint_url=endpoint, s3_region="us-east-1"
    )
