from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import closing
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from msgspec import structs
from urllib3.util import connection

from kvcatalog import StorageFullError, import_manifest, open_catalog
from kvcatalog.bootstrap import default_manifest_path, open_pipeline, open_services
from kvcatalog.config import ContentDownloadConfig
from kvcatalog.errors import (
    DigestMismatchError,
    InvalidValueError,
    NotFoundError,
    StorageFailedError,
    StoragePermissionError,
    UnsafePathError,
)
from kvcatalog.pipeline import Fetched, Item, Limits, Manifest, config_hash, running, transfer
from kvcatalog.uris import file_uri
from tests.support import wait_until
from tests.web import PDF, Web

LIMITS = Limits(
    connect_seconds=5,
    read_seconds=20,
    total_seconds=60,
    bytes_max=1_000_000,
    redirects_max=3,
    tries_max=2,
    backoff_seconds=0.01,
)
PATIENCE_SECONDS = 60
"""How long to wait for what comes at once where the machine has time; no test passes by waiting for so long."""

STORAGE: dict[str, str] = {}
"""Further settings of the storage."""

LINE_KEYS = {
    *("ts", "run_id", "artifact_id", "resolver", "url", "outcome", "ok", "reason", "path", "content_type"),
    *("bytes", "sha256", "html_paths", "config_hash", "dry_run"),
}

Fetch = Callable[..., list[Fetched]]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def fetch(tmp_path: Path, web: Web) -> Fetch:
    """Fetch paths of the server, each as an artifact of its own name."""

    def call(*paths: str, enabled: bool = True, folder: str = "", **settings: Any) -> list[Fetched]:
        items = [Item(path, f"{web.url}/{path}", "direct") for path in paths]
        with open_pipeline(config(tmp_path / folder, enabled=enabled), **{"limits": LIMITS, **settings}) as pipeline:
            return list(pipeline.run(items))

    return call


def config(folder: Path, *, enabled: bool = True) -> ContentDownloadConfig:
    sections = {
        "storage": {"root_dir": str(folder / "docs"), **STORAGE},
        "catalog": {"path": str(folder / "catalog.lmdb"), "enabled": enabled},
    }
    return ContentDownloadConfig.model_validate(sections)


def blobs(folder: Path) -> dict[str, bytes]:
    """Return the files below a storage root by name, without what is ours."""
    root = folder / "docs"
    paths = [path for path in root.rglob("*") if path.is_file() and ".kvcatalog" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def manifest_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("ascii").splitlines()]


class TestWhatIsStored:
    @pytest.mark.parametrize("path", ["same", "chunks", "closing", "gzip", "to//same"])
    def test_a_whole_document(self, tmp_path: Path, fetch: Fetch, path: str) -> None:
        (fetched,) = fetch(path, run_id="r1")
        assert (fetched.outcome, fetched.reason, fetched.bytes) == ("success", None, len(PDF))
        assert fetched.sha256 == hashlib.sha256(PDF).hexdigest()
        assert fetched.path is not None
        assert Path(fetched.path).read_bytes() == PDF
        assert fetched.storage_uri == file_uri(fetched.path)
        with open_catalog(tmp_path / "catalog.lmdb") as catalog:
            (record,) = catalog.get_by_artifact(path)
        assert record.id == fetched.record_id
        assert (record.source_url, record.resolver, record.run_id) == (fetched.item.url, "direct", "r1")
        assert (record.bytes, record.sha256, record.content_type) == (len(PDF), fetched.sha256, "application/pdf")
        assert record.storage_uri == fetched.storage_uri

    @pytest.mark.parametrize(
        ("path", "reason", "requests"),
        [
            ("status/404", "http-404", 1),
            ("status/410", "http-410", 1),
            ("status/206", "http-206", 1),
            ("status/503", "http-503", 2),
            ("empty", "empty", 1),
            ("cut", "cut", 2),
            ("cutchunks", "cut", 2),
            ("silent", "cut", 2),
            ("short", "size-mismatch", 2),
            ("long", "size-mismatch", 1),
            ("endless", "too-large", 1),
            ("huge", "too-large", 1),
            ("gzipbomb", "too-large", 1),
            ("gzipcut", "cut", 1),
            ("gzipnone", "encoding", 1),
            ("brotli", "encoding", 1),
            ("garbage", "bad-response", 1),
            ("badchunk", "bad-response", 1),
            ("badlength/-5", "bad-response", 1),
            ("badlength/abc", "bad-response", 1),
            ("badlength/1_0", "bad-response", 1),
            ("busy/9999", "http-429", 1),
            ("loop", "too-many-redirects", 4),
            ("to/file:///etc/passwd", "redirect-refused", 1),
            ("to/ftp://127.0.0.1/", "redirect-refused", 1),
        ],
    )
    def test_what_is_not_whole_leaves_nothing(
        self, tmp_path: Path, fetch: Fetch, web: Web, path: str, reason: str, requests: int
    ) -> None:
        (fetched,) = fetch(path)
        assert (fetched.outcome, fetched.reason, fetched.path, fetched.bytes) == ("error", reason, None, None)
        assert web.requests[f"/{path}"] == requests
        assert blobs(tmp_path) == {}
        with open_catalog(tmp_path / "catalog.lmdb") as catalog:
            assert catalog.stats().documents == 0

    @pytest.mark.parametrize("path", ["hang", "hangbody"])
    def test_a_server_that_falls_silent_is_asked_again_and_left(self, fetch: Fetch, web: Web, path: str) -> None:
        (fetched,) = fetch(path, limits=structs.replace(LIMITS, read_seconds=0.3))
        assert (fetched.outcome, fetched.reason) == ("error", "timeout")
        wait_until(lambda: web.requests[f"/{path}"] == 2)

    @pytest.mark.parametrize("path", ["drip", "driphead"])
    def test_a_server_that_drips_is_left(
        self, fetch: Fetch, web: Web, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        looks = count()
        monkeypatch.setattr(transfer, "monotonic", lambda: float(next(looks)))
        (fetched,) = fetch(path, limits=structs.replace(LIMITS, read_seconds=1000))
        assert (fetched.outcome, fetched.reason) == ("error", "timeout")
        wait_until(lambda: web.requests[f"/{path}"] == 1)

    def test_each_address_of_a_host_is_tried(self, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
        resolve(monkeypatch, "127.0.0.2", "127.0.0.1")
        (fetched,) = fetch_one(tmp_path, f"http://two.invalid:{web.url.rpartition(':')[2]}/same")
        assert (fetched.outcome, fetched.bytes) == ("success", len(PDF))
        assert "host: two.invalid:" in web.headers.lower()

    def test_all_addresses_of_a_host_have_one_deadline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        waits: list[float] = []

        def silent(address: tuple[str, int], timeout: float, **_: Any) -> None:
            nonlocal now
            assert address[1] == 80
            now += timeout
            waits.append(timeout)
            raise TimeoutError

        resolve(monkeypatch, *(f"192.0.2.{number}" for number in range(1, 100)))
        monkeypatch.setattr(transfer, "monotonic", lambda: now)
        monkeypatch.setattr(connection, "create_connection", silent)
        limits = structs.replace(LIMITS, connect_seconds=10, total_seconds=35)
        (fetched,) = fetch_one(tmp_path, "http://many.invalid/", limits=limits)
        assert (fetched.outcome, fetched.reason) == ("error", "timeout")
        assert waits == [10, 10, 10, 5]

    def test_a_host_without_an_address(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        resolve(monkeypatch)
        (fetched,) = fetch_one(tmp_path, "http://none.invalid/")
        assert (fetched.outcome, fetched.reason) == ("error", "connection")

    @pytest.mark.parametrize(
        "path", ["flaky/500", "flaky/429", "cutonce", "busy/0", "busy/Sun, 06 Nov 1994 08:49:37 GMT", "busy/soon"]
    )
    def test_another_try_may_succeed_and_begins_anew(self, tmp_path: Path, fetch: Fetch, web: Web, path: str) -> None:
        (fetched,) = fetch(path)
        assert (fetched.outcome, fetched.bytes) == ("success", len(PDF))
        assert list(blobs(tmp_path).values()) == [PDF]
        assert sum(web.requests.values()) == 2

    def test_a_document_as_large_as_it_may_be(self, fetch: Fetch) -> None:
        assert [fetched.reason for fetched in fetch("same", limits=structs.replace(LIMITS, bytes_max=len(PDF)))] == [
            None
        ]
        smaller = structs.replace(LIMITS, bytes_max=len(PDF) - 1)
        assert {fetched.reason for fetched in fetch("same/2", "chunks", "gzip", limits=smaller)} == {"too-large"}

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("ftp://example.org/a", "unsupported-scheme"),
            ("/etc/passwd", "unsupported-scheme"),
            ("http://", "invalid-url"),
            ("http://[::1", "invalid-url"),
            ("http://a b/", "invalid-url"),
            ("http://a\nb/", "invalid-url"),
            ("http://e.org/\0", "invalid-url"),
            ("http://e.org/\udc80", "invalid-url"),
            (f"http://{'a' * 70}.org/", "invalid-url"),
            ("", "invalid-url"),
            ("http://127.0.0.1:1/", "connection"),
        ],
    )
    def test_a_url_that_cannot_be_fetched(self, tmp_path: Path, url: str, reason: str) -> None:
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:
            (fetched,) = pipeline.run([Item("a", url, "direct")])
        assert (fetched.outcome, fetched.reason) == ("error", reason)
        (line,) = manifest_lines(tmp_path)
        assert line["url"] == url

    def test_a_server_without_tls(self, tmp_path: Path, web: Web) -> None:
        limits = structs.replace(LIMITS, total_seconds=0.3)
        (fetched,) = fetch_one(tmp_path, web.url.replace("http", "https", 1) + "/same", limits=limits)
        assert fetched.outcome == "error"

    def test_what_a_server_says_unasked(self, fetch: Fetch, web: Web) -> None:
        (fetched,) = fetch("unchanged")
        assert (fetched.outcome, fetched.reason) == ("skip", "not-modified")
        assert "accept-encoding: identity" in web.headers.lower()
        assert "user-agent: kvcatalog/" in web.headers.lower()

    @pytest.mark.parametrize("scheme", ["http://", ""])
    def test_a_proxy_is_asked_where_the_environment_names_one(
        self, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        resolve(monkeypatch)
        monkeypatch.setenv("no_proxy", "direct.invalid")
        monkeypatch.setenv("http_proxy", web.url.replace("http://", scheme))
        monkeypatch.setenv("https_proxy", web.url)
        urls = ["http://e.invalid/ok/1", "http://direct.invalid/ok/2", "https://e.invalid/ok/3"]
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:
            results = {fetched.item.url: fetched for fetched in pipeline.run([Item("a", url, "r") for url in urls])}
        assert [results[url].reason for url in urls] == [None, "connection", "proxy"]
        assert results[urls[0]].bytes == len(PDF) + len("/ok/1")

    def test_a_connection_serves_again_after_a_document(self, fetch: Fetch) -> None:
        outcomes = [fetched.outcome for fetched in fetch("ok/1", "status/404", "ok/2", "long", "ok/3", "ok/4", jobs=1)]
        assert outcomes == ["success", "error", "success", "error", "success", "success"]


class TestRuns:
    def test_a_second_run_fetches_what_is_missing(self, tmp_path: Path, fetch: Fetch, web: Web) -> None:
        assert {fetched.outcome for fetched in fetch("ok/1", "ok/2", "flaky/404", run_id="r1")} == {"success", "error"}
        again = {fetched.item.artifact_id: fetched for fetched in fetch("ok/1", "ok/2", "flaky/404", run_id="r2")}
        assert (again["ok/1"].outcome, again["ok/1"].reason) == ("skip", "have")
        assert again["flaky/404"].outcome == "success"
        assert web.requests == {"/ok/1": 1, "/ok/2": 1, "/flaky/404": 2}
        with open_catalog(tmp_path / "catalog.lmdb") as catalog:
            seen = {sighting.document_id for sighting in catalog.get_sightings(run_id="r2")}
            assert seen == {again["ok/1"].record_id, again["ok/2"].record_id}
            assert [record.artifact_id for record in catalog.get_by_run("r2")] == ["flaky/404"]

    def test_the_same_url_for_another_artifact_is_another_document(self, tmp_path: Path, web: Web) -> None:
        url = f"{web.url}/same"
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:
            results = list(pipeline.run([Item("a", url, "direct"), Item("b", url, "direct"), Item("a", url, "other")]))
        assert [fetched.outcome for fetched in results] == ["success"] * 3
        assert len({fetched.record_id for fetched in results}) == 3

    @pytest.mark.parametrize("where", ["policy_path", "cas"])
    def test_the_catalog_makes_no_difference(
        self, tmp_path: Path, fetch: Fetch, web: Web, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        monkeypatch.setitem(STORAGE, "layout", where)
        paths = ["ok/1", "ok/2.pdf", "same", "gzip", "unchanged", "status/404", "short", "endless", "flaky/500"]
        with_catalog = fetch(*paths, folder="on", run_id="r")
        web.requests.clear()
        without = fetch(*paths, folder="off", run_id="r", enabled=False)
        assert sorted(map(facts, with_catalog)) == sorted(map(facts, without))
        assert blobs(tmp_path / "on") == blobs(tmp_path / "off")
        assert len(blobs(tmp_path / "on")) == {"policy_path": 5, "cas": 3}[where]
        assert not (tmp_path / "off" / "catalog.lmdb").exists()
        assert {fetched.record_id for fetched in without} == {None}

    def test_a_rehearsal_asks_the_catalog_and_changes_nothing(self, tmp_path: Path, fetch: Fetch, web: Web) -> None:
        assert [fetched.reason for fetched in fetch("ok/1", rehearsal=True)] == ["dry-run"]
        assert list(tmp_path.iterdir()) == []
        fetch("ok/1")
        before = (tmp_path / "manifest.jsonl").read_bytes()
        rehearsed = {fetched.item.artifact_id: fetched.reason for fetched in fetch("ok/1", "ok/2", rehearsal=True)}
        assert rehearsed == {"ok/1": "have", "ok/2": "dry-run"}
        assert web.requests == {"/ok/1": 1}
        assert (tmp_path / "manifest.jsonl").read_bytes() == before
        with open_catalog(tmp_path / "catalog.lmdb") as catalog:
            assert catalog.stats().sightings == 0

    def test_items_are_read_as_they_are_needed(self, tmp_path: Path, web: Web) -> None:
        read = 0

        def items() -> Iterator[Item]:
            nonlocal read
            for read in range(1, 1000):
                yield Item("a", f"{web.url}/status/404/{read}", "direct")

        with open_pipeline(config(tmp_path), limits=LIMITS, jobs=2) as pipeline, closing(pipeline.run(items())) as run:
            next(run)
            assert read <= 5

    def test_many_threads_lose_nothing(self, tmp_path: Path, fetch: Fetch) -> None:
        paths = [f"ok/{number}" for number in range(60)]
        assert {fetched.item.artifact_id for fetched in fetch(*paths, jobs=16) if fetched.ok} == set(paths)
        assert len(blobs(tmp_path)) == 60
        assert {line["artifact_id"] for line in manifest_lines(tmp_path)} == set(paths)

    def test_what_is_done_at_once_is_told_in_the_order_of_the_items(
        self, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(running, "wait", lambda futures, **_: wait(futures))
        paths = [f"ok/{number}" for number in range(8)]
        assert [fetched.item.artifact_id for fetched in fetch(*paths)] == paths

    def test_what_is_under_way_is_left_when_a_run_ends(self, tmp_path: Path, web: Web) -> None:
        patient = Limits(read_seconds=10 * PATIENCE_SECONDS)
        items = [Item(path, f"{web.url}/{path}", "direct") for path in ("ok/1", "hangbody", "hang", "drip")]
        web.hanging.clear()
        with open_pipeline(config(tmp_path), limits=patient) as pipeline:
            run = pipeline.run(items)
            assert next(run).item.artifact_id == "ok/1"
            assert web.hanging.wait(PATIENCE_SECONDS)
            closer = Thread(target=run.close)
            closer.start()
            closer.join(PATIENCE_SECONDS)
            assert not closer.is_alive()
        assert len(blobs(tmp_path)) == 1
        assert [line["artifact_id"] for line in manifest_lines(tmp_path)] == ["ok/1"]

    def test_what_was_stored_when_an_interruption_came_is_told(
        self, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(futures: Any, **_: object) -> None:
            monkeypatch.setattr(running, "wait", wait)
            wait(futures)
            raise KeyboardInterrupt

        monkeypatch.setattr(running, "wait", interrupted)
        told: list[Fetched] = []
        items = [Item("a", f"{web.url}/ok/{number}", "direct") for number in range(3)]
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline, pytest.raises(KeyboardInterrupt):
            for fetched in pipeline.run(items):
                told.append(fetched)  # noqa: PERF402 - what came before the interruption counts
        assert [fetched.outcome for fetched in told] == ["success"] * 3

    def test_an_interruption_between_two_results_loses_none(
        self, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def all_done(futures: Any, **_: object) -> Any:
            return wait(futures)

        monkeypatch.setattr(running, "wait", all_done)
        items = [Item("a", f"{web.url}/ok/{number}", "direct") for number in range(3)]
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:
            run = pipeline.run(items)
            told = [next(run)]
            with pytest.raises(KeyboardInterrupt):
                told.append(run.throw(KeyboardInterrupt))
                for fetched in run:
                    told.append(fetched)  # noqa: PERF402 - as above
        assert {fetched.item.url for fetched in told} == {item.url for item in items}

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (InvalidValueError("path", "the key has 2000 bytes"), "invalid-value"),
            (NotFoundError("nothing there"), "gone"),
            (DigestMismatchError("there", "0" * 64, "1" * 64), "digest-mismatch"),
            (UnsafePathError("a link"), "unsafe-path"),
        ],
    )
    def test_what_refuses_one_item_leaves_the_others(
        self, tmp_path: Path, web: Web, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
    ) -> None:
        with open_pipeline(config(tmp_path), limits=LIMITS, jobs=1) as pipeline:
            finalize = pipeline._finalize

            def refusing(*arguments: Any, **key: Any) -> Any:
                if key["artifact_id"] == "bad":
                    raise error
                return finalize(*arguments, **key)

            pipeline._finalize = refusing
            results = list(pipeline.run([Item(name, f"{web.url}/same", "direct") for name in ("bad", "good")]))
        assert [(fetched.outcome, fetched.reason) for fetched in results] == [("error", reason), ("success", None)]
        assert [line["reason"] for line in manifest_lines(tmp_path)] == [reason, None]
        assert str(error) in caplog.text

    def test_a_setting_that_is_refused_ends_the_run(
        self, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(STORAGE, "backend", "s3")
        monkeypatch.setitem(STORAGE, "s3_bucket", "b")
        monkeypatch.setitem(STORAGE, "s3_endpoint_url", "no URL")
        with pytest.raises(InvalidValueError, match="s3_endpoint_url"):
            fetch_one(tmp_path, f"{web.url}/same")

    def test_a_document_that_is_deleted_meanwhile_is_fetched_again(
        self, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (first,) = fetch_one(tmp_path, f"{web.url}/same")
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:
            catalog = pipeline._catalog
            assert catalog is not None
            record_sighting = catalog.record_sighting

            def overtaken(document_id: int, *arguments: Any) -> Any:
                catalog.delete(document_id)
                return record_sighting(document_id, *arguments)

            monkeypatch.setattr(catalog, "record_sighting", overtaken)
            results = list(pipeline.run([first.item, Item("b", f"{web.url}/ok/b", "direct")]))
            assert {record.id for record in catalog.iter_records()} == {fetched.record_id for fetched in results}
        assert [fetched.outcome for fetched in results] == ["success", "success"]

    def test_a_storage_that_fails_ends_the_run(self, tmp_path: Path, web: Web) -> None:
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:

            def full(*_: object, **__: object) -> None:
                raise StorageFullError("no room")

            pipeline._finalize = full  # type: ignore[assignment]
            with pytest.raises(StorageFullError):
                list(pipeline.run([Item("a", f"{web.url}/same", "direct")]))

    def test_other_bytes_under_a_known_key_are_a_conflict(self, tmp_path: Path, web: Web) -> None:
        item = Item("a", f"{web.url}/same", "direct")
        with open_pipeline(config(tmp_path), limits=LIMITS) as pipeline:
            finalize = pipeline._finalize

            def overtaken(*arguments: Any, **key: Any) -> Any:
                assert pipeline._catalog is not None
                other = {name: key[name] for name in ("artifact_id", "source_url", "resolver")}
                pipeline._catalog.register(**other, bytes=1, sha256="0" * 64, storage_uri="s3://b/k")
                return finalize(*arguments, **key)

            pipeline._finalize = overtaken
            (fetched,) = pipeline.run([item])
        assert (fetched.ok, fetched.reason) == (True, "conflict")
        assert list(blobs(tmp_path).values()) == [PDF]
        (line,) = manifest_lines(tmp_path)
        assert (line["ok"], line["reason"]) == (True, "conflict")

    def test_a_run_must_have_a_name(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match="run"), open_pipeline(config(tmp_path), run_id="\0"):
            pass


class TestManifest:
    def test_each_download_has_its_line(self, tmp_path: Path, fetch: Fetch, web: Web) -> None:
        fetch("same", "status/404", run_id="r1")
        fetch("same", run_id="r2")
        by_name = {(line["run_id"], line["artifact_id"]): line for line in manifest_lines(tmp_path)}
        stored, failed, held = by_name["r1", "same"], by_name["r1", "status/404"], by_name["r2", "same"]
        assert stored.keys() == LINE_KEYS
        assert (stored["outcome"], stored["ok"], stored["reason"]) == ("success", True, None)
        assert (stored["bytes"], stored["sha256"]) == (len(PDF), hashlib.sha256(PDF).hexdigest())
        assert Path(stored["path"]).read_bytes() == PDF
        assert (stored["resolver"], stored["url"]) == ("direct", f"{web.url}/same")
        assert (failed["outcome"], failed["ok"], failed["reason"]) == ("error", False, "http-404")
        assert (held["outcome"], held["ok"], held["reason"]) == ("skip", False, "have")
        assert stored["config_hash"] == held["config_hash"]

    def test_it_can_be_imported(self, tmp_path: Path, fetch: Fetch) -> None:
        fetch("ok/1", "gzip", "status/404", "unchanged", run_id="r1")
        fetch("ok/1", run_id="r2")
        with open_catalog(tmp_path / "imported.lmdb") as copy, open_catalog(tmp_path / "catalog.lmdb") as catalog:
            report = import_manifest(tmp_path / "manifest.jsonl", copy)
            assert (report.understood, report.documents, report.failures) == (True, 2, 3)
            assert set(map(key_facts, copy.iter_records())) == set(map(key_facts, catalog.iter_records()))

    def test_a_blob_that_is_no_file_is_named_by_its_uri(self, tmp_path: Path) -> None:
        path = tmp_path / "manifest.jsonl"
        with Manifest(str(path), run_id="r", config_hash="x") as manifest:
            item = Item("a", "https://e.org/a", "direct")
            manifest.append(Fetched(item=item, outcome="success", storage_uri="s3://b/k", bytes=1))
        with open_catalog(tmp_path / "catalog.lmdb") as catalog:
            assert import_manifest(path, catalog).documents == 1
            assert [record.storage_uri for record in catalog.iter_records()] == ["s3://b/k"]

    def test_a_line_that_was_cut_takes_no_other_with_it(self, tmp_path: Path, fetch: Fetch) -> None:
        (tmp_path / "manifest.jsonl").write_text('{"url": "htt')
        fetch("ok/1")
        first, second = (tmp_path / "manifest.jsonl").read_text().splitlines()
        assert first == '{"url": "htt'
        assert json.loads(second)["artifact_id"] == "ok/1"

    @pytest.mark.parametrize("is_told", [False, True])
    def test_a_write_that_failed_takes_no_later_line_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
    ) -> None:
        path = tmp_path / "manifest.jsonl"
        write = os.write

        def full(descriptor: int, data: bytes) -> int:
            monkeypatch.setattr(os, "write", write)
            written = write(descriptor, data[:5])
            if is_told:
                raise OSError(errno.ENOSPC, "No space left on device")
            return written

        fetched = Fetched(
            item=Item("a", "https://e.org/a", "direct"), outcome="success", storage_uri="s3://b/k", bytes=1
        )
        with Manifest(str(path), run_id="r", config_hash="x") as manifest:
            manifest.append(fetched)
            monkeypatch.setattr(os, "write", full)
            with pytest.raises(StorageFullError, match=str(path)):
                manifest.append(fetched)
            manifest.append(fetched)
            manifest.append(fetched)
        lines = path.read_text().splitlines()
        assert lines[1] == lines[0][:5]
        assert [json.loads(line)["url"] for line in (lines[0], *lines[2:])] == ["https://e.org/a"] * 3
        with open_catalog(tmp_path / "catalog.lmdb") as catalog:
            assert import_manifest(path, catalog).documents == 3

    def test_errors_are_typed(self, tmp_path: Path) -> None:
        with pytest.raises(StorageFailedError):
            Manifest(str(tmp_path), run_id="r", config_hash="x")
        (tmp_path / "file").touch()
        with pytest.raises((StorageFailedError, StoragePermissionError)):
            Manifest(str(tmp_path / "file" / "manifest.jsonl"), run_id="r", config_hash="x")
        item = Item("a", "https://e.org/a", "direct")
        with (
            Manifest("/dev/full", run_id="r", config_hash="x") as manifest,
            pytest.raises(StorageFullError),
        ):
            manifest.append(Fetched(item=item, outcome="skip"))

    def test_it_lies_beside_the_catalog(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert default_manifest_path(ContentDownloadConfig()) == str(tmp_path / "state" / "manifest.jsonl")

    def test_the_hash_of_settings_depends_on_their_values_only(self) -> None:
        assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
        assert config_hash({"a": 1}) != config_hash({"a": 2})


class TestServices:
    def test_a_catalog_that_is_off_is_none(self, tmp_path: Path) -> None:
        with open_services(config(tmp_path, enabled=False)) as services:
            assert services.catalog is None

    def test_a_reader_makes_no_catalog(self, tmp_path: Path) -> None:
        with open_services(config(tmp_path), read_only=True) as services:
            assert services.catalog is None
        assert not (tmp_path / "catalog.lmdb").exists()


def fetch_one(folder: Path, url: str, *, limits: Limits = LIMITS) -> list[Fetched]:
    with open_pipeline(config(folder), limits=limits) as pipeline:
        return list(pipeline.run([Item("a", url, "direct")]))


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Give every host these addresses, which are their own; with none, no host is known."""
    genuine = socket.getaddrinfo

    def look_up(host: str, port: int, *arguments: Any, **settings: Any) -> Any:
        if not host.endswith(".invalid"):
            return genuine(host, port, *arguments, **settings)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def facts(fetched: Fetched) -> tuple[object, ...]:
    """Return what does not depend on the catalog or the folder."""
    name = fetched.path and fetched.path.partition("/docs/")[2]
    return fetched.item.url, fetched.outcome, str(fetched.reason), str(name), str(fetched.bytes), fetched.content_type


def key_facts(record: Any) -> tuple[object, ...]:
    names = "artifact_id source_url resolver content_type bytes sha256 storage_uri run_id"
    return tuple(getattr(record, name) for name in names.split())
