"""Finalizing into a bucket of a real server: what holds below a folder holds there."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import (
    CatalogConfig,
    DownloadOutcome,
    LmdbCatalog,
    RootOwnershipError,
    RootUnreachableError,
    StorageConfig,
    finalize_candidate_download,
    open_catalog,
)
from kvcatalog.blobs import BlobStore
from kvcatalog.clock import now_micros
from kvcatalog.gc import plan_garbage
from kvcatalog.layout import TRASH_PATH, set_aside_path
from kvcatalog.process_clients import new_session
from kvcatalog.removal import Collection
from kvcatalog.removal.trash import empty, restore
from kvcatalog.storage import forget_storage, open_storage
from tests.blob_stores import publish
from tests.invariants import assert_consistent
from tests.parallel import in_processes, in_threads
from tests.servers import server
from tools.faults.checking import dangling

FILES = 160
"""Downloads of the race; half of them are equal to others."""


@pytest.fixture(scope="module")
def access(request: pytest.FixtureRequest) -> Any:
    return server(request.config, "swift")


@pytest.fixture(params=["policy_path", "cas"])
def config(access: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[StorageConfig]:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["secret"])
    bucket = f"finalize-{uuid.uuid4()}"
    client = new_session().client("s3", "us-east-1", endpoint_url=access["endpoint"])
    client.create_bucket(Bucket=bucket)
    yield StorageConfig(
        backend="s3",
        layout=request.param,
        s3_bucket=bucket,
        s3_prefix="docs/",
        s3_endpoint_url=access["endpoint"],
        s3_region="us-east-1",
    )
    client.close()


class Finalizer:
    def __init__(self, folder: Path, config: StorageConfig) -> None:
        self.folder = folder
        self.config = config
        self.catalog: LmdbCatalog = open_catalog(folder / "catalog")

    def __call__(self, data: bytes, artifact_id: str = "a", **facts: Any) -> DownloadOutcome:
        path = self.folder / f"download-{uuid.uuid4()}"
        path.write_bytes(data)
        key = {"artifact_id": artifact_id, "source_url": "https://x.org/paper.pdf", "resolver": "r"}
        settings = {"catalog": self.catalog, "cfg_storage": self.config}
        return finalize_candidate_download(path, **{**key, **settings, **facts})

    def blobs(self) -> dict[str, bytes]:
        store = self.store()
        found = {}
        for blob in store.walk():
            with store.open(blob.path) as stream:
                found[blob.path] = stream.read()
        return found

    def store(self) -> BlobStore:
        return open_storage(self.config, self.catalog)

    def check(self) -> None:
        assert dangling(self.catalog, self.store()) == []
        assert_consistent(self.catalog)
        assert list(self.folder.glob("download-*")) == []


@pytest.fixture
def finalize(tmp_path: Path, config: StorageConfig) -> Iterator[Finalizer]:
    made = Finalizer(tmp_path, config)
    yield made
    forget_storage(made.store())
    made.catalog.close()


def test_download_rerun_conflict_and_equal_content(finalize: Finalizer) -> None:
    first = finalize(b"one")
    assert (first.ok, first.path, first.registration) == (True, None, "registered")
    assert first.storage_uri is not None
    assert first.storage_uri.startswith(f"s3://{finalize.config.s3_bucket}/docs/")
    assert finalize(b"one").registration == "existing"
    assert finalize(b"two").reason == "conflict"
    assert finalize(b"two", "b").registration == "registered"
    assert finalize(b"text", "b", variant="text", content_type="text/plain").registration == "registered"
    is_cas = finalize.config.layout == "cas"
    assert sorted(finalize.blobs().values()) == sorted([b"one", b"two", b"text", *([] if is_cas else [b"two"])])
    finalize.check()


def test_wrong_and_corrupt_bytes(finalize: Finalizer) -> None:
    wrong = finalize(b"wrong", sha256="0" * 64)
    assert (wrong.ok, wrong.reason) == (False, "digest-mismatch")
    assert finalize.blobs() == {}
    first = finalize(b"right")
    store = finalize.store()
    path = store.path_of(first.storage_uri or "")
    assert path is not None
    bucket = finalize.config.s3_bucket
    client = new_session().client("s3", "us-east-1", endpoint_url=finalize.config.s3_endpoint_url)
    client.put_object(Bucket=bucket, Key=f"docs/{path}", Body=b"wrong")
    client.close()
    again = finalize(b"right", cfg_catalog=CatalogConfig(verify_on_register=True))
    assert (again.registration, again.storage_uri) == ("existing", first.storage_uri)
    assert finalize.blobs() == {path: b"right"}
    finalize.check()


def test_another_catalog_and_a_missing_bucket_are_refused(finalize: Finalizer, tmp_path: Path) -> None:
    finalize(b"one")
    with open_catalog(tmp_path / "other") as other:
        with pytest.raises(RootOwnershipError):
            finalize(b"one", catalog=other)
        missing = finalize.config.model_copy(update={"s3_bucket": "not-there"})
        with pytest.raises(RootUnreachableError):
            finalize(b"one", cfg_storage=missing)
    assert finalize.catalog.stats().documents == 1


def test_many_threads_and_processes_store_each_content_once(finalize: Finalizer, tmp_path: Path) -> None:
    contents = [f"content {number * 3 // 4}".encode() for number in range(FILES)]
    finalize.store()

    def in_process(process: int) -> None:
        here = Finalizer(tmp_path, finalize.config)

        def in_thread(thread: int) -> None:
            for number in range(process * 16 + thread, FILES, 64):
                # Equal names for what is not equal: two artifacts share their name, and so their key in the bucket.
                assert here(contents[number], f"work:{number // 2}", resolver=str(number)).ok

        in_threads(16, in_thread)
        here.catalog.close()

    in_processes(4, in_process)
    assert finalize.catalog.stats().documents == FILES
    blobs = finalize.blobs()
    if finalize.config.layout == "cas":
        assert sorted(blobs.values()) == sorted(set(contents))
        assert blobs.keys() == {
            f"cas/sha256/{digest[:2]}/{digest[2:]}"
            for digest in (hashlib.sha256(content).hexdigest() for content in set(contents))
        }
    assert set(blobs.values()) == set(contents)
    finalize.check()


def orphaned(finalize: Finalizer, count: int) -> dict[str, bytes]:
    """Store blobs that lose their records, and one that keeps it, and return them all."""
    for number in range(count):
        record = finalize(b"orphan %d" % number, f"orphan {number}").record
        assert record is not None
        finalize.catalog.delete(record.id)
    finalize(b"kept", "kept")
    return finalize.blobs()


def test_garbage_goes_to_the_trash_and_comes_back(finalize: Finalizer) -> None:
    before = orphaned(finalize, 5)
    kept = {path: data for path, data in before.items() if data == b"kept"}
    later = now_micros() + 60_000_000  # the server's clock has seconds
    with Collection(finalize.catalog, finalize.config) as collection:
        with plan_garbage(finalize.catalog, collection.roots, orphan_ttl_days=0, now=later) as plan:
            assert (plan.totals.blobs, plan.totals.bytes, plan.totals.bytes_freed) == (5, 40, 40)
            results = list(collection.execute(plan.header.plan, plan.items()))
        assert [result.kept for result in results] == [None] * 5
        assert finalize.blobs() == kept
        finalize.check()
        assert {each.outcome for each in restore(collection, plan.header.plan)} == {"restored"}
        assert finalize.blobs() == before
        with plan_garbage(finalize.catalog, collection.roots, orphan_ttl_days=0, now=later) as again:
            assert len(list(collection.execute(again.header.plan, again.items()))) == 5
        (expected,) = empty(collection.roots, finalize.catalog, now=later, apply=False)
        (done,) = empty(collection.roots, finalize.catalog, now=later, apply=True)
    assert done == expected
    assert (done.blobs, done.bytes, done.bytes_freed) == (5, 40, 40)
    assert finalize.blobs() == kept
    assert finalize.store().folders(TRASH_PATH) == []
    assert finalize(b"orphan 1", "orphan 1").registration == "registered"
    finalize.check()


def test_a_copy_of_a_killed_collection_is_not_kept_twice(finalize: Finalizer) -> None:
    orphaned(finalize, 1)
    store = finalize.store()
    (path,) = (path for path, data in finalize.blobs().items() if data != b"kept")
    target = set_aside_path(TRASH_PATH, "plan", path)
    finalize.catalog.condemn([store.uri_of(path)], plan="plan")
    store.move(path, target)  # as far as the copy, that is
    publish(store, finalize.folder, b"orphan 0", path)
    with Collection(finalize.catalog, finalize.config):
        assert finalize.catalog.condemned() == []
    assert store.stat(target) is None
    assert store.stat(path) is not None
