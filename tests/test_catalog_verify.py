"""Blobs are read and compared with their records: what is found, what is remembered, and what is never done."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvcatalog import (
    BlobCheck,
    BlobCondemnedError,
    DocumentRecord,
    InvalidValueError,
    LmdbCatalog,
    NotFoundError,
    StorageConfig,
    Verification,
    adopt_root,
    finalize_candidate_download,
    fixity,
    open_catalog,
    telemetry,
    verify_blobs,
)
from kvcatalog.blobs import BlobStore
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.process_clients import new_session
from kvcatalog.storage import forget_storage, open_storage
from kvcatalog.store import reading
from kvcatalog.uris import file_path, file_uri
from kvcatalog.verify import quarantine, running
from tests.invariants import assert_consistent
from tests.parallel import in_processes
from tests.servers import server
from tests.support import child, said

DAY = timedelta(days=1)


class Store:
    """A catalog with one root, and a way around both."""

    def __init__(self, catalog: LmdbCatalog, config: StorageConfig, client: Any = None) -> None:
        self.catalog = catalog
        self.config = config
        self._client = client

    @property
    def blobs(self) -> BlobStore:
        return open_storage(self.config, self.catalog)

    def add(self, data: bytes, artifact: str, **fields: Any) -> Any:
        source = Path(f"{self.catalog.path}-source-{uuid.uuid4()}")
        source.write_bytes(data)
        done = finalize_candidate_download(
            str(source),
            artifact_id=artifact,
            source_url=f"https://example.org/{artifact}.pdf",
            resolver="r",
            catalog=self.catalog,
            cfg_storage=self.config,
            **fields,
        )
        assert done.ok
        assert done.record is not None
        return done.record

    def overwrite(self, uri: str, data: bytes) -> None:
        """Change bytes behind everybody's back; an object store keeps its own note of them."""
        path = file_path(uri)
        if path is not None:
            os.chmod(path, 0o644)
            Path(path).write_bytes(data)
            return
        at = self._at(uri)
        kept = self._client.head_object(**at)["Metadata"]
        self._client.put_object(**at, Body=data, Metadata=kept)

    def remove(self, uri: str) -> None:
        path = file_path(uri)
        if path is not None:
            os.unlink(path)
        else:
            self._client.delete_object(**self._at(uri))

    def content(self, uri: str) -> bytes | None:
        path = self.blobs.path_of(uri)
        assert path is not None
        if self.blobs.stat(path) is None:
            return None
        with self.blobs.open(path) as stream:
            return stream.read()

    def results(self, documents: list[DocumentRecord] | None = None, **options: Any) -> dict[str, str]:
        found = verify_blobs(self.catalog, documents, cfg_storage=self.config, **options)
        return {each.storage_uri: each.result for each in found}

    def one(self, record: DocumentRecord, **options: Any) -> Verification:
        (found,) = verify_blobs(self.catalog, [record], cfg_storage=self.config, **options)
        return found

    def _at(self, uri: str) -> dict[str, str]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return {"Bucket": bucket, "Key": key}


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    access = server(request.config, "swift")
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["secret"])
    client = new_session().client("s3", "us-east-1", endpoint_url=access["endpoint"])
    yield client
    client.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        yield opened
        assert_consistent(opened)


@pytest.fixture
def disk(tmp_path: Path, catalog: LmdbCatalog) -> Store:
    return Store(catalog, StorageConfig(root_dir=str(tmp_path / "root")))


@pytest.fixture
def bucket(catalog: LmdbCatalog, client: Any) -> Store:
    name = f"verify-{uuid.uuid4()}"
    client.create_bucket(Bucket=name)
    config = StorageConfig(
        backend="s3",
        s3_bucket=name,
        s3_prefix="docs/",
        s3_endpoint_url=client.meta.endpoint_url,
        s3_region="us-east-1",
    )
    return Store(catalog, config, client)


@pytest.fixture(params=["policy_path", "cas", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, catalog: LmdbCatalog) -> Store:
    if request.param == "s3":
        found: Store = request.getfixturevalue("bucket")
        return found
    return Store(catalog, StorageConfig(root_dir=str(tmp_path / "root"), layout=request.param))


def tree(root: str | Path) -> dict[str, tuple[str, int, int]]:
    """Return every file below a folder with its digest, mode and time."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            status = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (digest, status.st_mode, status.st_mtime_ns)
    return found


class TestResults:
    def test_what_is_found_is_told_and_remembered(self, store: Store) -> None:
        records = {name: store.add(name.encode() * 100, name) for name in ("good", "changed", "cut", "gone")}
        store.overwrite(records["changed"].storage_uri, b"changeD" * 100)
        store.overwrite(records["cut"].storage_uri, b"cut")
        store.remove(records["gone"].storage_uri)
        before = from_micros(now_micros())
        wanted = {"good": "ok", "changed": "corrupt", "cut": "corrupt", "gone": "missing"}
        assert store.results() == {records[name].storage_uri: result for name, result in wanted.items()}
        for name, result in wanted.items():
            check = store.catalog.last_check(records[name].storage_uri)
            assert check is not None
            assert (check.result, check.quarantined) == (result, None)
            assert check.read_at is not None
            assert before <= check.read_at == check.checked_at

    def test_variants_are_checked_with_and_without_a_choice(self, store: Store) -> None:
        record = store.add(b"document", "a")
        variant = store.add(b"another form", "a", variant="text")
        store.overwrite(variant.storage_uri, b"another fork")
        wanted = {record.storage_uri: "ok", variant.storage_uri: "corrupt"}
        assert store.results() == wanted
        assert store.results([record]) == wanted

    def test_a_record_without_digest_is_not_hashed_unless_its_size_is_wrong(self, store: Store) -> None:
        blob = store.add(b"bytes", "a")
        other = store.add(b"other bytes", "b")
        for record, size in ((blob, 5), (other, 6)):
            store.catalog.update(record.id, bytes=size, sha256=None, storage_uri=record.storage_uri)
        assert store.results() == {blob.storage_uri: "not hashed", other.storage_uri: "corrupt"}

    def test_a_glance_reads_nothing_and_says_so(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        same_size, cut, gone = (store.add(name * 9, name.decode()) for name in (b"a", b"b", b"c"))
        store.overwrite(same_size.storage_uri, b"x" * 9)
        store.overwrite(cut.storage_uri, b"x")
        store.remove(gone.storage_uri)
        monkeypatch.setattr(fixity, "_hashed", None)
        unread = "stored checksum only" if store.config.backend == "s3" else "size only"
        wanted = {same_size.storage_uri: unread, cut.storage_uri: "corrupt", gone.storage_uri: "missing"}
        assert store.results(stat_only=True) == wanted

    def test_another_stored_checksum_is_corrupt(self, bucket: Store, client: Any) -> None:
        record = bucket.add(b"bytes", "a")
        wrong = hashlib.sha256(b"others").hexdigest()
        at = bucket._at(record.storage_uri)
        client.put_object(**at, Body=b"bytes", Metadata={"sha256": wrong})
        assert bucket.one(record, stat_only=True).result == "corrupt"
        assert bucket.one(record).result == "ok"

    def test_the_worst_that_a_place_is_expected_to_hold_is_told_of_those_who_expect_it(self, disk: Store) -> None:
        record = disk.add(b"bytes", "a")
        fields: dict[str, Any] = {"source_url": "u", "resolver": "r", "storage_uri": record.storage_uri}
        other = disk.catalog.register(artifact_id="b", bytes=5, sha256="0" * 64, **fields).record
        found = disk.one(record)
        assert (found.result, found.document_ids) == ("corrupt", (other.id,))
        assert disk.catalog.verify(record.id)
        assert disk.catalog.verify(other.id).result == "corrupt"
        assert disk.catalog.last_check(record.storage_uri).result == "corrupt"  # type: ignore[union-attr]

    def test_one_record_is_verified_by_the_catalog_itself(self, store: Store) -> None:
        record = store.add(b"bytes", "a")
        found = store.catalog.verify(record.id, cfg_storage=store.config)
        assert found
        assert (found.result, found.sha256, found.bytes_read) == ("ok", record.sha256, 5)
        store.overwrite(record.storage_uri, b"Bytes")
        found = store.catalog.verify(record.id, cfg_storage=store.config)
        assert not found
        assert found.detail is not None
        assert hashlib.sha256(b"Bytes").hexdigest() in found.detail
        check = store.catalog.last_check(record.storage_uri)
        assert check == BlobCheck(record.storage_uri, "corrupt", found.checked_at, found.checked_at)
        with pytest.raises(NotFoundError):
            store.catalog.verify(record.id + 1)
        with open_catalog(store.catalog.path, read_only=True) as reader:
            assert reader.verify(record.id, cfg_storage=store.config).result == "corrupt"

    def test_failures_and_durations_are_measured(self, disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        failures: list[int] = []
        seconds: list[float] = []
        monkeypatch.setattr(telemetry, "verify_failed", lambda: failures.append(1))
        monkeypatch.setattr(telemetry, "verified", seconds.append)
        good, changed, gone = (disk.add(name, name.decode()) for name in (b"a", b"b", b"c"))
        disk.overwrite(changed.storage_uri, b"x")
        disk.remove(gone.storage_uri)
        disk.results()
        disk.catalog.verify(good.id)
        disk.catalog.verify(changed.id)
        assert (len(failures), len(seconds)) == (3, 5)
        assert min(seconds) > 0


class TestNothingIsSaidToBeLost:
    def test_a_root_that_is_not_there_is_unreachable(self, disk: Store) -> None:
        records = [disk.add(name, name.decode()) for name in (b"a", b"b")]
        forget_storage(disk.blobs)
        root = Path(disk.config.root_dir)
        for place in ("missing", "empty"):
            os.rename(root, f"{root}-away")
            if place == "empty":
                root.mkdir()
            run_ = verify_blobs(disk.catalog, quarantine=True)
            (told,) = run_
            assert (told.result, told.storage_uri, run_.counts) == ("unreachable", file_uri(root), {"unreachable": 2})
            assert disk.catalog.verify(records[0].id).result == "unreachable"
            assert all(disk.catalog.last_check(record.storage_uri) is None for record in records)
            assert not root.exists() or os.listdir(root) == []
            if place == "empty":
                root.rmdir()
            os.rename(f"{root}-away", root)
        assert set(disk.results().values()) == {"ok"}

    def test_a_bucket_that_is_not_there_is_unreachable(self, bucket: Store, client: Any) -> None:
        record = bucket.add(b"a", "a")
        for key in (".kvcatalog/root.json", "a/a.pdf"):
            client.delete_object(Bucket=bucket.config.s3_bucket, Key=f"docs/{key}")
        assert set(bucket.results().values()) == {"unreachable"}
        client.delete_bucket(Bucket=bucket.config.s3_bucket)
        assert set(bucket.results().values()) == {"unreachable"}
        assert bucket.catalog.last_check(record.storage_uri) is None

    def test_a_root_of_another_catalog_is_left_alone(self, disk: Store, tmp_path: Path) -> None:
        record = disk.add(b"a", "a")
        disk.overwrite(record.storage_uri, b"b")
        forget_storage(disk.blobs)
        with open_catalog(tmp_path / "other") as other:
            adopt_root(disk.config, other, force=True)
        before = tree(disk.config.root_dir)
        assert set(disk.results(quarantine=True).values()) == {"unreachable"}
        assert tree(disk.config.root_dir) == before

    @pytest.mark.parametrize("how", ["moved", "emptied"])
    def test_a_root_that_goes_while_it_is_read_loses_nothing(
        self, disk: Store, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        for number in range(50):
            disk.add(b"%d" % number, f"a{number}")
        forget_storage(disk.blobs)
        hashed = fixity._hashed

        def then_gone(*arguments: Any) -> tuple[str, int]:
            if how == "moved":
                os.rename(disk.config.root_dir, disk.config.root_dir + "-away")
            else:
                for name in os.listdir(disk.config.root_dir):
                    shutil.rmtree(Path(disk.config.root_dir, name))
            return hashed(*arguments)

        monkeypatch.setattr(fixity, "_hashed", then_gone)
        run_ = verify_blobs(disk.catalog, jobs=1, quarantine=True)
        assert {each.result for each in run_} == {"ok", "unreachable"}
        assert run_.counts == {"ok": 1, "unreachable": 49}

    def test_a_file_outside_all_roots_is_missing_only_beside_others(self, catalog: LmdbCatalog, tmp_path: Path) -> None:
        folder = tmp_path / "mount" / "docs"
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"a")
        fields: dict[str, Any] = {
            "source_url": "u",
            "resolver": "r",
            "bytes": 1,
            "sha256": hashlib.sha256(b"a").hexdigest(),
        }
        for name in "ab":
            catalog.register(artifact_id=name, storage_uri=(folder / name).as_uri(), **fields)
        catalog.register(artifact_id="c", storage_uri="https://example.org/a", **fields)
        expected = ["ok", "missing", "unreachable"]
        assert [each.result for each in verify_blobs(catalog, catalog.iter_records(), quarantine=True)] == expected
        (folder / "a").unlink()
        assert {each.result for each in verify_blobs(catalog)} == {"unreachable"}
        shutil.rmtree(tmp_path / "mount")
        assert {each.result for each in verify_blobs(catalog)} == {"unreachable"}

    def test_where_something_else_is_in_its_place_a_blob_is_missing_and_nothing_is_read(self, disk: Store) -> None:
        record = disk.add(b"a", "a")
        path = Path(file_path(record.storage_uri) or "")
        path.unlink()
        path.symlink_to("/etc/passwd")
        found = disk.one(record, quarantine=True)
        assert (found.result, found.bytes_read, found.sha256) == ("missing", 0, None)
        assert path.is_symlink()
        path.unlink()
        path.mkdir()
        assert disk.one(record, quarantine=True).result == "missing"
        (Path(disk.config.root_dir) / ".kvcatalog" / "root.json").unlink()
        assert disk.one(record).result == "unreachable"

    @pytest.mark.parametrize("options", [{}, {"stat_only": True}, {"sample": 0.5}])
    def test_nothing_below_the_root_changes(self, disk: Store, options: dict[str, Any]) -> None:
        for number in range(20):
            record = disk.add(b"%d" % number, f"a{number}")
            if number % 3 == 0:
                disk.overwrite(record.storage_uri, b"wrong")
            if number % 3 == 1:
                disk.remove(record.storage_uri)
        before = tree(disk.config.root_dir)
        disk.results(**options)
        assert tree(disk.config.root_dir) == before


class TestTurns:
    def test_what_was_never_checked_comes_first_and_then_the_oldest_check(self, disk: Store) -> None:
        records = [disk.add(b"%d" % number, f"a{number}") for number in range(6)]
        uris = [record.storage_uri for record in records]
        for day, number in enumerate((4, 1, 5)):
            at = datetime(2025, 1, 1, tzinfo=UTC) + day * DAY
            disk.catalog.record_checks([BlobCheck(uris[number], "ok", at, at)])
        assert list(disk.results(jobs=1)) == [uris[number] for number in (0, 2, 3, 4, 1, 5)]
        assert disk.results(older_than=DAY) == {}
        assert len(disk.results()) == 6

    def test_a_glance_takes_no_turn_and_stands_for_no_reading(self, disk: Store) -> None:
        first, second = disk.add(b"a", "a"), disk.add(b"b", "b")
        disk.results([second])
        read = disk.catalog.last_check(second.storage_uri)
        disk.results(stat_only=True)
        glanced = disk.catalog.last_check(second.storage_uri)
        assert read is not None
        assert glanced is not None
        assert (glanced.result, glanced.read_at) == ("ok", read.read_at)
        assert glanced.checked_at > read.checked_at
        never = disk.catalog.last_check(first.storage_uri)
        assert never is not None
        assert (never.result, never.read_at) == ("size only", None)
        assert list(disk.results(jobs=1)) == [first.storage_uri, second.storage_uri]

    def test_limits_end_a_run_and_the_next_goes_on(self, disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(running, "_TASK_BLOBS", 1)
        uris = [disk.add(b"%d" % number * 1000, f"a{number}").storage_uri for number in range(6)]
        run_ = verify_blobs(disk.catalog, max_bytes=2500)
        assert {each.storage_uri for each in run_} == set(uris[:2])
        assert (run_.stopped_by, run_.bytes_read) == ("bytes", 2000)
        assert disk.results(max_bytes=1) == {uris[2]: "ok"}
        run_ = verify_blobs(disk.catalog, max_time=timedelta())
        assert [each.storage_uri for each in run_] == [uris[3]]
        assert run_.stopped_by == "time"

    def test_a_sample_is_a_share_and_another_each_time(self, disk: Store) -> None:
        for number in range(200):
            disk.catalog.register(
                artifact_id=str(number), source_url="u", resolver="r", bytes=1, storage_uri=f"file:///nowhere/{number}"
            )
        samples = [frozenset(disk.results(sample=0.5)) for _ in range(3)]
        assert all(50 < len(sample) < 150 for sample in samples)
        assert len(set(samples)) == 3

    def test_a_blob_of_several_records_is_read_once(self, disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        cas = Store(disk.catalog, disk.config.model_copy(update={"layout": "cas"}))
        for number in range(100):
            cas.add(b"shared", f"a{number}")
        linked = [disk.add(b"linked", f"b{number}") for number in range(3)]
        read: list[int] = []
        hashed = fixity._hashed

        def counted(*arguments: Any) -> tuple[str, int]:
            read.append(1)
            return hashed(*arguments)

        monkeypatch.setattr(fixity, "_hashed", counted)
        for documents in (None, list(disk.catalog.iter_records())):
            run_ = verify_blobs(disk.catalog, documents, jobs=1)
            found = {each.storage_uri: each for each in run_}
            assert len(found) == 4
            (shared,) = (each for uri, each in found.items() if "/cas/" in uri)
            assert len(shared.document_ids) == 100
            assert run_.counts == {"ok": 4}
            assert len(read) == 2
            read.clear()
        disk.overwrite(linked[0].storage_uri, b"Linked")
        assert Counter(disk.results().values()) == {"corrupt": 3, "ok": 1}

    def test_a_clock_that_goes_back_ends_all_the_same(self, disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(5):
            disk.add(b"%d" % number, f"a{number}")
        disk.results()
        monkeypatch.setattr(reading, "STEP_ROWS", 1)
        for name in ("_LOOKUP_BLOBS", "_TASK_BLOBS", "_TASKS_AHEAD", "_REMEMBER_BLOBS"):
            monkeypatch.setattr(running, name, 1)
        now = now_micros() + 10**9
        ticks = iter(range(10**6))
        run_ = verify_blobs(disk.catalog, jobs=1, clock=lambda: now - next(ticks))
        assert [each.result for each in run_] == ["ok"] * 5

    def test_what_nothing_refers_to_any_more_is_forgotten(self, disk: Store) -> None:
        record = disk.add(b"a", "a")
        disk.results()
        disk.catalog.delete(record.id)
        assert disk.results() == {}
        assert disk.catalog.last_check(record.storage_uri) is None

    def test_a_place_keeps_its_check_when_its_root_becomes_known(self, catalog: LmdbCatalog, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "x").write_bytes(b"a")
        uri = (tmp_path / "root" / "x").as_uri()
        digest = hashlib.sha256(b"a").hexdigest()
        catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, sha256=digest, storage_uri=uri)
        list(verify_blobs(catalog))
        before = catalog.last_check(uri)
        store = Store(catalog, StorageConfig(root_dir=str(tmp_path / "root")))
        assert store.blobs.uri + "/x" == uri
        assert catalog.last_check(uri) == before
        assert store.results() == {uri: "ok"}
        assert catalog.last_check(uri) != before

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 7), st.sampled_from(["add", "read", "glance", "delete"]), st.integers(-50, 10**15)
            ),
            max_size=25,
        )
    )
    def test_the_queue_agrees_with_a_model(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, int]]
    ) -> None:
        """The order is by what was never checked, by id, and then by time of reading."""
        ids: dict[int, int] = {}
        checked: dict[int, int] = {}
        with open_catalog(tmp_path_factory.mktemp("queue") / "catalog") as catalog:
            for number, action, at in steps:
                uri = f"file:///x/{number}"
                if action == "add" and number not in ids:
                    fields: dict[str, Any] = {
                        "artifact_id": str(number),
                        "source_url": "u",
                        "resolver": "r",
                        "storage_uri": uri,
                    }
                    ids[number] = catalog.register(bytes=1, **fields).record.id
                elif action == "delete" and number in ids:
                    catalog.delete(ids.pop(number))
                elif action == "read":
                    catalog.record_checks([BlobCheck(uri, "ok", from_micros(at), from_micros(at))])
                    checked[number] = at
                elif action == "glance":
                    catalog.record_checks([BlobCheck(uri, "size only", from_micros(at), None)])
                    checked.setdefault(number, 0)
            never = sorted((each for each in ids if each not in checked), key=ids.__getitem__)
            oldest = sorted((at, number) for number, at in checked.items())
            for before in (10**15 + 1, 0, 10):
                expected = never + [number for at, number in oldest if at < before]
                found = catalog.blobs_to_check(read_before=from_micros(before))
                assert [int(uri.rpartition("/")[2]) for uri in found] == expected
            assert_consistent(catalog)


class TestQuarantine:
    def test_corrupt_bytes_are_moved_told_and_later_missing(self, store: Store) -> None:
        good, bad = store.add(b"good", "a"), store.add(b"right", "b")
        store.overwrite(bad.storage_uri, b"wrong")
        found = {
            each.storage_uri: each for each in verify_blobs(store.catalog, cfg_storage=store.config, quarantine=True)
        }
        assert found[good.storage_uri].quarantined is None
        place = found[bad.storage_uri].quarantined
        assert found[bad.storage_uri].result == "corrupt"
        assert place is not None
        assert place.startswith(f"{store.blobs.uri}/.kvcatalog/quarantine/")
        assert (store.content(place), store.content(bad.storage_uri)) == (b"wrong", None)
        assert store.catalog.get_by_id(bad.id) == bad
        later = store.one(bad, quarantine=True)
        assert (later.result, later.quarantined) == ("missing", place)
        check = store.catalog.last_check(bad.storage_uri)
        assert check is not None
        assert (check.result, check.quarantined) == ("missing", place)
        (entry,) = [entry for entry in store.catalog.journal(document_id=bad.id) if entry.action == "quarantine"]
        assert entry.changes == {"storage_uri": (bad.storage_uri, place)}
        assert store.add(b"right", "b").storage_uri == bad.storage_uri  # whoever downloads it again repairs it
        again = store.one(bad)
        assert (again.result, again.quarantined) == ("ok", None)

    @pytest.mark.parametrize("last", ["begin", "move", "read"])
    def test_a_quarantine_that_was_cut_off_is_completed(
        self, disk: Store, monkeypatch: pytest.MonkeyPatch, last: str
    ) -> None:
        record = disk.add(b"right", "a")
        disk.overwrite(record.storage_uri, b"wrong")

        class CutOffError(BaseException):
            pass

        def cut(*_: Any, **__: Any) -> Any:
            raise CutOffError

        with monkeypatch.context() as patch:
            if last == "begin":
                patch.setattr(FileBlobStore, "move", cut)
            elif last == "move":
                patch.setattr(quarantine, "_reads_as", cut)  # otherwise it ends where the end is written down
            patch.setattr(LmdbCatalog, "end_quarantine", cut)
            with pytest.raises(CutOffError):
                disk.results(quarantine=True)
        assert not [entry for entry in disk.catalog.journal() if entry.action == "quarantine"]
        disk.results(quarantine=True)
        disk.results(quarantine=True)
        (entry,) = [entry for entry in disk.catalog.journal() if entry.action == "quarantine"]
        place = entry.changes["storage_uri"][1]
        found = disk.one(record)
        assert (found.result, found.quarantined) == ("missing", place)
        assert disk.content(str(place)) == b"wrong"
        disk.add(b"right", "a")
        assert disk.one(record).result == "ok"

    def test_who_interrupts_a_quarantine_knows_where_the_bytes_are(
        self, disk: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = disk.add(b"right", "a")
        disk.overwrite(record.storage_uri, b"wrong")
        move = FileBlobStore.move

        def interrupted(*arguments: Any) -> None:
            move(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(FileBlobStore, "move", interrupted)
            with pytest.raises(KeyboardInterrupt):
                disk.results(quarantine=True)
        found = disk.one(record)
        assert (found.result, disk.content(str(found.quarantined))) == ("missing", b"wrong")
        (entry,) = [entry for entry in disk.catalog.journal() if entry.action == "quarantine"]
        assert entry.changes == {"storage_uri": (record.storage_uri, found.quarantined)}

    def test_bytes_that_were_repaired_meanwhile_go_back(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        record = store.add(b"right", "a")
        store.overwrite(record.storage_uri, b"wrong")
        begin = LmdbCatalog.begin_quarantine

        def repaired_first(catalog: LmdbCatalog, check: BlobCheck) -> None:
            store.overwrite(record.storage_uri, b"right")
            begin(catalog, check)

        monkeypatch.setattr(LmdbCatalog, "begin_quarantine", repaired_first)
        found = store.one(record, quarantine=True)
        assert (found.result, found.quarantined) == ("corrupt", None)
        assert store.content(record.storage_uri) == b"right"
        assert store.one(record).result == "ok"
        assert not [entry for entry in store.catalog.journal() if entry.action == "quarantine"]

    def test_who_stores_the_blob_meanwhile_stores_it_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        record = store.add(b"right", "a")
        store.overwrite(record.storage_uri, b"wrong")
        epoch = store.catalog.blob_epoch()
        fields: dict[str, Any] = {"source_url": "u", "resolver": "r", "bytes": 5, "sha256": record.sha256}
        fields["storage_uri"] = record.storage_uri
        reads_as = quarantine._reads_as
        refused: list[str] = []

        def register(*arguments: Any) -> bool:
            try:
                store.catalog.register(artifact_id="during", **fields)
            except BlobCondemnedError:
                refused.append("during")
            return reads_as(*arguments)

        monkeypatch.setattr(quarantine, "_reads_as", register)
        assert store.one(record, quarantine=True).quarantined is not None
        with pytest.raises(BlobCondemnedError):
            store.catalog.register(artifact_id="after", blob_epoch=epoch, **fields)
        assert refused == ["during"]
        store.catalog.register(artifact_id="later", **fields)

    def test_what_somebody_expects_there_stays(self, disk: Store) -> None:
        record = disk.add(b"bytes", "a")
        fields: dict[str, Any] = {"source_url": "u", "resolver": "r", "storage_uri": record.storage_uri, "bytes": 5}
        disk.catalog.register(artifact_id="b", sha256="0" * 64, **fields)
        disk.catalog.update(record.id, bytes=5, sha256="1" * 64, storage_uri=record.storage_uri)
        disk.catalog.register(artifact_id="a", sha256=record.sha256, **{**fields, "source_url": record.source_url})
        found = disk.one(record, quarantine=True)
        assert (found.result, found.quarantined) == ("corrupt", None)
        assert found.detail is not None
        assert "another record expects" in found.detail
        assert disk.content(record.storage_uri) == b"bytes"

    def test_a_blob_of_another_size_without_digest_stays(self, disk: Store) -> None:
        record = disk.add(b"bytes", "a")
        disk.catalog.update(record.id, bytes=6, sha256=None, storage_uri=record.storage_uri)
        assert disk.one(record, quarantine=True).quarantined is None
        assert disk.content(record.storage_uri) == b"bytes"

    def test_a_file_outside_all_roots_stays(self, catalog: LmdbCatalog, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"x")
        uri = (tmp_path / "x").as_uri()
        catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, sha256="0" * 64, storage_uri=uri)
        (found,) = verify_blobs(catalog, quarantine=True)
        assert (found.result, found.quarantined) == ("corrupt", None)
        assert (tmp_path / "x").read_bytes() == b"x"

    def test_garbage_collection_at_work_keeps_bytes_in_place(
        self, disk: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = disk.add(b"right", "a")
        disk.overwrite(record.storage_uri, b"wrong")
        monkeypatch.setattr(quarantine, "_LEASE_WAIT_SECONDS", 0)
        with disk.catalog.lease("gc"):
            found = disk.one(record, quarantine=True)
        assert found.quarantined is None
        assert "another process is at work" in str(found.detail)
        assert disk.one(record, quarantine=True).quarantined is not None

    def test_nothing_can_be_moved_that_was_not_read(self, disk: Store) -> None:
        with pytest.raises(InvalidValueError, match="stat_only"):
            verify_blobs(disk.catalog, stat_only=True, quarantine=True)


VERIFY = """
import sys, time
from kvcatalog import open_catalog, verify_blobs
from kvcatalog.verify import running
running._REMEMBER_BLOBS = 1
with open_catalog(sys.argv[1]) as catalog:
    for count, found in enumerate(verify_blobs(catalog, jobs=1), 1):
        print(found.result, flush=True)
        if count == int(sys.argv[2]):
            sys.stdin.readline()
"""


class TestInterruption:
    def test_a_killed_run_has_remembered_and_the_next_goes_on(self, disk: Store) -> None:
        records = [disk.add(b"%d" % number, f"a{number}") for number in range(200)]
        for record in records[::7]:
            disk.overwrite(record.storage_uri, b"wrong")
        process = child(VERIFY, disk.catalog.path, 40)
        for _ in range(40):
            said(process)
        process.kill()
        process.communicate()
        uris = [record.storage_uri for record in records]
        remembered = {uri for uri in uris if disk.catalog.last_check(uri) is not None}
        assert len(remembered) >= 30
        run_ = verify_blobs(disk.catalog, jobs=1)
        order = [each.storage_uri for each in run_]
        assert order[: len(uris) - len(remembered)] == [uri for uri in uris if uri not in remembered]
        for number, uri in enumerate(uris):
            check = disk.catalog.last_check(uri)
            assert check is not None
            assert check.result == ("corrupt" if number % 7 == 0 else "ok")

    def test_who_leaves_early_has_what_was_checked_remembered(self, disk: Store) -> None:
        uris = [disk.add(b"%d" % number, f"a{number}").storage_uri for number in range(300)]
        found: list[str] = []

        def leave() -> None:
            for each in verify_blobs(disk.catalog):
                found.append(each.storage_uri)
                if len(found) == 50:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            leave()
        remembered = {uri for uri in uris if disk.catalog.last_check(uri) is not None}
        assert set(found) <= remembered
        assert len(remembered) < 300

    def test_reading_a_large_blob_is_given_up(self, disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        small, large = disk.add(b"a", "a"), disk.add(b"b" * (64 << 20), "b")
        stop = running.VerifyRun._tick
        ticks: list[int] = []

        def tick(run_: running.VerifyRun, count: int) -> None:
            ticks.append(count)
            time.sleep(0.01)
            stop(run_, count)

        monkeypatch.setattr(running.VerifyRun, "_tick", tick)
        for found in verify_blobs(disk.catalog):
            assert found.storage_uri == small.storage_uri
            break
        assert sum(ticks) < 64 << 20
        assert disk.catalog.last_check(large.storage_uri) is None

    def test_two_runs_at_once_do_no_harm(self, disk: Store) -> None:
        for number in range(200):
            record = disk.add(b"%d" % number * 1000, f"a{number}")
            if number % 50 == 0:
                disk.overwrite(record.storage_uri, b"wrong")
        path = disk.catalog.path

        def verify(_: int) -> Counter[str]:
            with open_catalog(path) as catalog:  # the forked child's own
                run_ = verify_blobs(catalog, quarantine=True)
                assert {each.result for each in run_} <= {"ok", "corrupt", "missing"}
                return run_.counts

        counts = in_processes(3, verify)
        assert all(each["ok"] <= 196 for each in counts)
        for _ in range(2):
            assert len([entry for entry in disk.catalog.journal() if entry.action == "quarantine"]) == 4
            assert Counter(disk.results().values()) == {"ok": 196, "missing": 4}
