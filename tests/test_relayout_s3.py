"""From a folder to a bucket of a real server and back, while others register.

`KVCATALOG_TEST_RELAYOUT_FILES` says with how many files.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest

from kvcatalog.config import StorageConfig
from kvcatalog.storage import open_storage
from tests.gc_store import Place
from tests.invariants import assert_consistent
from tests.servers import server
from tests.test_relayout import contents, fill, live, places, relayout, results, while_others_register

FILES = int(os.environ.get("KVCATALOG_TEST_RELAYOUT_FILES", "8"))


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    access = server(request.config, "swift")
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["secret"])
    name = f"relayout-{uuid.uuid4()}"
    client = boto3.session.Session().client("s3", "us-east-1", endpoint_url=access["endpoint"])
    client.create_bucket(Bucket=name)
    client.close()
    return {"s3_bucket": name, "s3_endpoint_url": access["endpoint"], "s3_region": "us-east-1"}


def test_to_a_bucket_and_back_while_others_register(bucket: dict[str, Any], tmp_path: Path) -> None:
    place = Place(tmp_path / "place", **bucket)
    fill(place, FILES)
    before = contents(place)
    far = StorageConfig(backend="s3", **bucket)

    def work() -> None:
        for to, config in (("cas", None), ("cas", far), ("policy_path", far), ("policy_path", None)):
            moved = relayout(place, to, config, jobs=4)
            assert {each.outcome for each in moved} <= {"moved", "dropped"}
            assert len(moved) >= FILES
            assert contents(place) >= before

    while_others_register(place, work, pause=0.5)
    assert results(place, far).keys() == {"ok"}
    relayout(place, "cas", far, jobs=4)
    assert live(place.root) == set()
    assert all(uri.startswith("s3://") for uri in places(place))
    everything = results(place, far)
    assert everything.keys() == {"ok"}
    relayout(place, "policy_path", jobs=4)
    store = open_storage(far, place.catalog)
    assert list(store.walk()) == []
    assert results(place).keys() == {"ok"}
    assert contents(place) >= before
    assert_consistent(place.catalog)
    place.close()
