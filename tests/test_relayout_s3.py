"""From a folder to a bucket of a real server and back, while others register.

`KVCATALOG_TEST_RELAYOUT_FILES` says with how many files; with `-s` the rate of each leg and the memory are told. With
`KVCATALOG_TEST_CEPH=1` the server is Ceph's, which is quicker.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from kvcatalog.config import StorageConfig
from kvcatalog.relayout import Moved
from kvcatalog.storage import open_storage
from tests.gc_store import Place
from tests.invariants import assert_consistent
from tests.test_relayout import contents, fill, live, places, relayout, results, while_others_register
from tools.bench.parts import memory_bytes
from tools.faults.checking import dangling

FILES = int(os.environ.get("KVCATALOG_TEST_RELAYOUT_FILES", "8"))


def leg(place: Place, to: str, config: StorageConfig | None = None) -> list[Moved]:
    """Move everything, and tell how quickly that went."""
    started = time.perf_counter()
    moved = relayout(place, to, config, jobs=4)
    seconds, memory = time.perf_counter() - started, memory_bytes("RssAnon") / 2**20
    where, rate = "bucket" if config is not None else "folder", len(moved) / seconds
    print(f"{len(moved)} to {to} in a {where}: {seconds:.0f} s, {rate:.0f}/s, {memory:.0f} MiB")  # noqa: T201 - for -s
    return moved


def test_to_a_bucket_and_back_while_others_register(server_bucket: dict[str, Any], tmp_path: Path) -> None:
    place = Place(tmp_path / "place", **server_bucket)
    fill(place, FILES)
    before = contents(place)
    far = StorageConfig(backend="s3", **server_bucket)

    def work() -> None:
        for to, config in (("cas", None), ("cas", far), ("policy_path", None)):
            moved = leg(place, to, config)
            assert {each.outcome for each in moved} <= {"moved", "dropped"}
            assert len(moved) >= FILES
            assert contents(place) >= before

    while_others_register(place, work, pause=0.5)
    found = results(place, far)
    assert found.keys() == {"ok"}
    assert found["ok"] >= FILES
    assert dangling(place.catalog, place.store) == []
    assert_consistent(place.catalog)
    place.close()


def test_nothing_stays_behind_on_either_side(server_bucket: dict[str, Any], tmp_path: Path) -> None:
    place = Place(tmp_path / "place", **server_bucket)
    fill(place)
    before, former = contents(place), live(place.root)
    far = StorageConfig(backend="s3", **server_bucket)
    leg(place, "policy_path", far)
    assert live(place.root) == set()
    leg(place, "cas", far)
    assert all(uri.startswith("s3://") and "/cas/" in uri for uri in places(place))
    assert results(place, far).keys() == {"ok"}
    leg(place, "policy_path")
    assert list(open_storage(far, place.catalog).walk()) == []
    assert live(place.root) == former - {"elsewhere/copy.pdf"}
    assert results(place).keys() == {"ok"}
    assert contents(place) == before
    place.close()
