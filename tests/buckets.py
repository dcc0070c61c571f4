"""Buckets for tests, on moto or a double in this process and on OpenStack Swift, and a catalog whose root is one."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import storage
from kvcatalog.config import StorageConfig
from kvcatalog.process_clients import new_session
from tests.gc_store import Place
from tests.s3_double import Double, serving
from tests.servers import server

REGION = "us-east-1"


class FarPlace(Place):
    """A catalog in a folder, and a root in a bucket."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = StorageConfig(backend="s3", **settings)
        self.catalog = self.opened()
        self.store = storage.open_storage(self.config, self.catalog)

    def stray(self, path: str, content: bytes = b"stray", *, age_days: float = 0) -> str:
        """Store an object that no record ever knew, as somebody else would, and return its URI."""
        assert not age_days
        client = _client(self.config.s3_endpoint_url)
        client.put_object(Bucket=self.config.s3_bucket, Key=f"{self.config.s3_prefix}{path}", Body=io.BytesIO(content))
        client.close()
        return self.store.uri_of(path)

    def content(self, path: str) -> bytes:
        with self.store.open(path) as stream:
            return stream.read()

    def objects(self, folder: str = "") -> set[str]:
        """Return the paths below the root, those of trash and quarantine only where they are asked for."""
        return {blob.path for blob in self.store.walk(folder)}


def without_accounts(monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> None:
    """Keep away what this machine may know of real accounts."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def _client(endpoint: str | None) -> Any:
    return new_session().client("s3", REGION, endpoint_url=endpoint)


def _new_bucket(endpoint: str | None) -> dict[str, Any]:
    """Make a bucket of its own, and return the settings that name it."""
    name = f"tests-{uuid.uuid4()}"
    client = _client(endpoint)
    client.create_bucket(Bucket=name)
    client.close()
    return {"s3_bucket": name, "s3_endpoint_url": endpoint, "s3_region": REGION}


@pytest.fixture
def server_bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A bucket of Swift, or of Ceph where that is asked for."""
    access = server(request.config, "ceph" if os.environ.get("KVCATALOG_TEST_CEPH") else "swift")
    without_accounts(monkeypatch, access["key"], access["secret"])
    return _new_bucket(access["endpoint"])


@pytest.fixture(params=["moto", "swift"])
def any_bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    if request.param == "swift":
        access = server(request.config, "swift")
        without_accounts(monkeypatch, access["key"], access["secret"])
        yield _new_bucket(access["endpoint"])
        return
    from moto import mock_aws

    without_accounts(monkeypatch, "nobody", "nothing")
    with mock_aws():
        yield _new_bucket(None)
        storage._open.clear()


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """A server of buckets that misbehaves as the test says."""
    without_accounts(monkeypatch, "nobody", "nothing")
    with serving() as served:
        yield served
