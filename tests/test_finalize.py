"""Storing a download and registering it: what becomes of the bytes, the record and the temporary file."""

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from kvcatalog import (
    BlobCondemnedError,
    CatalogConfig,
    CatalogLockedError,
    DocumentRecord,
    DownloadOutcome,
    HashingWriter,
    InvalidValueError,
    LmdbCatalog,
    NotFoundError,
    RootOwnershipError,
    RootUnreachableError,
    StorageConfig,
    StorageFullError,
    UnsafePathError,
    VariantRecord,
    adopt_root,
    finalize_candidate_download,
    open_catalog,
    telemetry,
)
from kvcatalog.digest import sha256_stream
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.schema import LINKS, CondemnedRow
from kvcatalog.storage import forget_storage, open_storage
from kvcatalog.store import upkeep
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.uris import file_path
from tests.support import need_root

LAYOUTS = ("policy_path", "cas")
KEY = {"artifact_id": "doi:10.1/a", "source_url": "https://x.org/paper.pdf", "resolver": "unpaywall"}


class Bench:
    """A catalog, a root, and a short way to finalize bytes."""

    def __init__(self, folder: Path, **storage: Any) -> None:
        self.folder = folder
        self.catalog: LmdbCatalog = open_catalog(folder / "catalog")
        self.config = StorageConfig(root_dir=str(folder / "root"), **storage)
        self.count = 0

    def file(self, data: bytes) -> Path:
        self.count += 1
        path = self.folder / f"download-{self.count}"
        path.write_bytes(data)
        return path

    def finalize(self, source: Any, **facts: Any) -> DownloadOutcome:
        if isinstance(source, bytes):
            source = self.file(source)
        settings = {"catalog": self.catalog, "cfg_storage": self.config, "content_type": "application/pdf"}
        return finalize_candidate_download(source, **{**KEY, **settings, **facts})

    def files(self) -> dict[str, bytes]:
        """What lies below the root, without what is ours."""
        store = FileBlobStore(self.config.root_dir)
        return {blob.path: (Path(store.root) / blob.path).read_bytes() for blob in store.walk()}

    def check(self) -> None:
        """Every record and variant has its bytes, and no temporary file is left."""
        for record in self.catalog.iter_records():
            found: list[DocumentRecord | VariantRecord] = [record, *self.catalog.get_variants(record.id)]
            for known in found:
                path = file_path(known.storage_uri)
                assert path is not None
                data = Path(path).read_bytes()
                assert (len(data), hashlib.sha256(data).hexdigest()) == (known.bytes, known.sha256)
        assert list(self.folder.glob("download-*")) == []
        staging = Path(self.config.root_dir, ".kvcatalog/staging")
        assert not staging.exists() or list(staging.iterdir()) == []


@pytest.fixture(params=LAYOUTS)
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(tmp_path, layout=request.param)
    yield made
    made.catalog.close()


@pytest.fixture
def by_name(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


def test_a_download_becomes_blob_and_record(bench: Bench) -> None:
    outcome = bench.finalize(b"one", run_id="r1")
    digest = hashlib.sha256(b"one").hexdigest()
    assert (outcome.ok, outcome.classification, outcome.registration) == (True, "success", "registered")
    assert outcome.meta == {"content_type": "application/pdf", "bytes": 3, "sha256": digest}
    assert outcome.record == bench.catalog.get(**KEY)
    assert outcome.record is not None
    assert outcome.record.storage_uri == outcome.storage_uri
    assert outcome.path is not None
    assert Path(outcome.path).read_bytes() == b"one"
    assert not outcome.dedup_hit
    assert [record.run_id for record in bench.catalog.get_by_run("r1")] == ["r1"]
    bench.check()


def test_the_same_again_changes_nothing(bench: Bench) -> None:
    first = bench.finalize(b"one")
    before = bench.files()
    again = bench.finalize(b"one")
    assert (again.registration, again.storage_uri, again.dedup_hit) == ("existing", first.storage_uri, False)
    assert again.record == first.record
    assert bench.files() == before
    bench.check()


def test_other_bytes_for_the_same_key_are_kept_and_reported(bench: Bench) -> None:
    first = bench.finalize(b"one")
    for count in (1, 2):
        other = bench.finalize(b"two", run_id="r2")
        assert (other.ok, other.reason, other.registration) == (True, "conflict", "conflict")
        assert other.record == first.record
        (conflict,) = bench.catalog.get_conflicts()
        assert (conflict.storage_uri, conflict.count) == (other.storage_uri, count)
    assert sorted(bench.files().values()) == [b"one", b"two"]
    bench.check()


@pytest.mark.parametrize(
    "facts", [{"artifact_id": "doi:10.1/b"}, {"resolver": "crossref"}, {"artifact_id": "doi:10.1_a"}]
)
def test_the_same_name_never_costs_other_bytes(bench: Bench, facts: dict[str, str]) -> None:
    bench.finalize(b"one")
    outcome = bench.finalize(b"two", **facts)
    assert outcome.registration == "registered"
    assert sorted(bench.files().values()) == [b"one", b"two"]
    bench.check()


def test_the_same_content_is_stored_once(bench: Bench) -> None:
    first = bench.finalize(b"one")
    second = bench.finalize(b"one", artifact_id="doi:10.1/b")
    assert second.dedup_hit
    assert (second.registration, second.link_refused) == ("registered", None)
    assert first.path is not None
    assert second.path is not None
    assert os.path.samefile(first.path, second.path)
    assert (first.path == second.path) == (bench.config.layout == "cas")
    bench.check()


def test_two_resolvers_that_bring_the_same_file_share_it(by_name: Bench) -> None:
    first = by_name.finalize(b"one")
    second = by_name.finalize(b"one", resolver="crossref")
    assert second.dedup_hit
    assert second.path == first.path
    assert len(by_name.files()) == 1


def test_without_hard_links_each_record_has_a_file_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, hardlink_dedup=False)
    first, second = bench.finalize(b"one"), bench.finalize(b"one", artifact_id="doi:10.1/b")
    assert first.path is not None
    assert second.path is not None
    assert not second.dedup_hit
    assert not os.path.samefile(first.path, second.path)
    bench.check()


def test_a_file_with_all_the_links_it_can_have_is_copied_and_the_copy_is_linked_next(
    by_name: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name.finalize(b"one", artifact_id="a0")
    real = os.link

    def link(source: str, target: str, **options: Any) -> None:
        if os.stat(source).st_nlink >= 3:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    outcomes = [by_name.finalize(b"one", artifact_id=f"a{number}") for number in range(1, 7)]
    assert [outcome.dedup_hit for outcome in outcomes] == [True, True, False, True, True, False]
    assert [outcome.link_refused for outcome in outcomes] == [None, None, "EMLINK", None, None, "EMLINK"]
    by_name.check()


def test_readable_names_beside_content_addresses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, layout="cas", policy_links=True)
    outcomes = [bench.finalize(b"one"), bench.finalize(b"two", resolver="b"), bench.finalize(b"one", artifact_id="c")]
    assert sorted(path for path in bench.files() if not path.startswith("cas/")) == [
        "c/paper.pdf",
        "doi_10.1_a/paper.pdf",
        f"doi_10.1_a/paper~{hashlib.sha256(b'two').hexdigest()[:8]}.pdf",
    ]
    for outcome in outcomes:
        assert outcome.path is not None
        assert "/cas/sha256/" in outcome.path
        assert os.stat(outcome.path).st_nlink > 1
    before = bench.files()
    bench.finalize(b"one")
    assert bench.files() == before
    bench.check()


def test_every_kind_of_source(bench: Bench) -> None:
    with HashingWriter(bench.folder / "download-x") as writer:
        writer.write(b"wri")
        writer.write(bytearray(b"tten"))
    assert bench.finalize(writer, artifact_id="a").meta["sha256"] == hashlib.sha256(b"written").hexdigest()
    assert bench.finalize(io.BytesIO(b"streamed"), artifact_id="b").meta["bytes"] == 8
    assert bench.finalize(str(bench.file(b"named")), artifact_id="c").meta["bytes"] == 5
    assert bench.finalize(b"", artifact_id="d").meta["bytes"] == 0
    bench.check()


def test_a_stream_that_breaks_leaves_nothing(bench: Bench) -> None:
    class Cut(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            if data := super().read(1):
                return data
            raise ConnectionResetError("cut")

    bench.finalize(b"one")
    before = bench.files()
    with pytest.raises(ConnectionResetError):
        bench.finalize(Cut(b"half"), artifact_id="b")
    assert bench.files() == before
    assert bench.catalog.stats().documents == 1
    bench.check()


def test_variants_are_stored_and_registered_beside_their_document(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        bench.finalize(io.BytesIO(b"text"), variant="text")
    document = bench.finalize(b"one").record
    assert document is not None
    outcome = bench.finalize(b"text", variant="text", content_type="text/plain")
    assert outcome.registration == "registered"
    assert bench.catalog.get_variants(document.id) == [outcome.record]
    assert bench.finalize(b"text", variant="text", content_type="text/plain").registration == "existing"
    assert bench.finalize(b"other", variant="text", content_type="text/plain").reason == "conflict"
    if bench.config.layout == "policy_path":
        assert sorted(bench.files())[:2] == ["doi_10.1_a/paper.pdf", "doi_10.1_a/paper.text.txt"]
    bench.check()


@pytest.mark.parametrize("kind", ["path", "stream", "writer"])
def test_bytes_with_another_digest_go_to_quarantine(bench: Bench, kind: str, metrics: InMemoryMetricReader) -> None:
    source: Any = bench.file(b"wrong")
    if kind == "stream":
        source.unlink()
        source = io.BytesIO(b"wrong")
    elif kind == "writer":
        source.unlink()
        with HashingWriter(source) as source:
            source.write(b"wrong")
    outcome = bench.finalize(source, sha256="0" * 64)
    assert (outcome.ok, outcome.classification, outcome.reason) == (False, "error", "digest-mismatch")
    assert (outcome.record, outcome.registration) == (None, None)
    assert outcome.path is not None
    assert "/.kvcatalog/quarantine/" in outcome.path
    assert Path(outcome.path).read_bytes() == b"wrong"
    assert bench.files() == {}
    assert bench.catalog.stats().documents == 0
    assert count(metrics, "contentdownload_verify_failures_total") == 1


def test_a_writer_whose_file_is_cut_goes_to_quarantine(bench: Bench) -> None:
    with HashingWriter(bench.folder / "download-x") as writer:
        writer.write(b"written")
    os.truncate(writer.path, 3)
    assert bench.finalize(writer).reason == "size-mismatch"
    assert bench.catalog.stats().documents == 0


def test_what_changes_after_it_was_hashed_is_found_where_bytes_are_read_back(bench: Bench) -> None:
    with HashingWriter(bench.folder / "download-x") as writer:
        writer.write(b"written")
    Path(writer.path).write_bytes(b"changed")
    outcome = bench.finalize(writer, cfg_catalog=CatalogConfig(verify_on_register=True))
    assert (outcome.ok, outcome.reason) == (False, "digest-mismatch")
    assert bench.files() == {}


def test_a_corrupt_blob_is_replaced_and_kept_aside(bench: Bench, metrics: InMemoryMetricReader) -> None:
    first = bench.finalize(b"right")
    assert first.path is not None
    Path(first.path).unlink()
    Path(first.path).write_bytes(b"rot")
    outcome = bench.finalize(b"right")
    assert (outcome.registration, outcome.path) == ("existing", first.path)
    assert Path(first.path).read_bytes() == b"right"
    kept = FileBlobStore(bench.config.root_dir).walk(".kvcatalog/quarantine")
    assert [Path(bench.config.root_dir, blob.path).read_bytes() for blob in kept] == [b"rot"]
    assert count(metrics, "contentdownload_verify_failures_total") == 1
    bench.check()


def test_a_missing_blob_comes_back_to_its_place(bench: Bench) -> None:
    first = bench.finalize(b"one")
    assert first.path is not None
    os.unlink(first.path)
    assert bench.finalize(b"one").path == first.path
    bench.check()


def test_a_content_that_lies_elsewhere_is_not_stored_again(bench: Bench, tmp_path: Path) -> None:
    first = bench.finalize(b"one")
    bench.config = bench.config.model_copy(update={"root_dir": str(tmp_path / "root-2")})
    again = bench.finalize(b"one")
    assert (again.path, again.registration) == (first.path, "existing")
    assert bench.files() == {}
    assert first.path is not None
    os.unlink(first.path)
    copy = bench.finalize(b"one")
    assert copy.path is not None
    assert copy.path.startswith(str(tmp_path / "root-2"))
    assert copy.record == first.record
    with bench.catalog._read() as transaction:
        assert len(list(transaction.items(LINKS))) == 1  # the catalog knows of the copy
    assert list(tmp_path.glob("download-*")) == []


def test_a_source_that_is_a_blob_already_is_not_removed(bench: Bench) -> None:
    outcome = bench.finalize(b"one")
    assert outcome.path is not None
    bench.finalize(outcome.path)
    bench.finalize(outcome.path, artifact_id="b")
    bench.check()


def test_without_digests_records_have_none(by_name: Bench) -> None:
    off = CatalogConfig(compute_sha256=False)
    outcome = by_name.finalize(b"one", cfg_catalog=off)
    assert outcome.record is not None
    assert outcome.record.sha256 is None
    assert by_name.finalize(b"one", cfg_catalog=off).registration == "existing"
    assert by_name.finalize(b"two", resolver="b", cfg_catalog=off).path != outcome.path
    enriched = by_name.finalize(b"one")
    assert (enriched.registration, enriched.path) == ("enriched", outcome.path)
    assert len(by_name.files()) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_and_outcomes_are_the_same_with_the_catalog_off(tmp_path: Path, layout: str) -> None:
    found = []
    for name, enabled in (("on", True), ("off", False), ("none", True)):
        folder = tmp_path / name
        folder.mkdir()
        bench = Bench(folder, layout=layout)
        extra = {"cfg_catalog": CatalogConfig(enabled=enabled)} | ({"catalog": None} if name == "none" else {})
        outcomes = [
            bench.finalize(b"one", **extra),
            bench.finalize(b"one", **extra),
            bench.finalize(b"two", **extra),
            bench.finalize(b"two", resolver="b", **extra),
            bench.finalize(b"one", artifact_id="b", **extra),
            bench.finalize(b"bad", sha256="0" * 64, **extra),
        ]
        told = [
            (
                outcome.ok,
                outcome.classification,
                None if not outcome.ok else os.path.relpath(outcome.path or "", folder),
            )
            for outcome in outcomes
        ]
        found.append((told, bench.files()))
        assert bench.catalog.stats().documents == (3 if name == "on" else 0)
        assert list(folder.glob("download-*")) == []
        if name != "on":
            assert not (folder / "root/.kvcatalog/root.json").exists()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "hostile", ["../../../etc", "/etc/passwd", "a/../../b", "\x1b[31m", "\u202eevil", "." * 300, "~root"]
)
def test_hostile_names_stay_below_the_root(bench: Bench, hostile: str) -> None:
    before = sorted(bench.folder.parent.iterdir())
    outcome = bench.finalize(b"one", artifact_id=hostile, source_url=f"https://x.org/{hostile}")
    assert outcome.path is not None
    assert os.path.realpath(outcome.path).startswith(bench.config.root_dir + "/")
    assert sorted(bench.folder.parent.iterdir()) == before
    assert outcome.record is not None
    assert bench.catalog.get_by_artifact(hostile) == [outcome.record]
    bench.check()


def test_a_planted_link_is_refused_and_the_source_kept(by_name: Bench, tmp_path: Path) -> None:
    by_name.finalize(b"one", artifact_id="b")
    (tmp_path / "outside").mkdir()
    (tmp_path / "root/doi_10.1_a").symlink_to(tmp_path / "outside")
    source = by_name.file(b"two")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        by_name.finalize(source)
    assert source.read_bytes() == b"two"
    assert list((tmp_path / "outside").iterdir()) == []
    assert by_name.catalog.get(**KEY) is None


@pytest.mark.parametrize(
    "facts", [{"artifact_id": ""}, {"source_url": "a\0b"}, {"resolver": "\ud800"}, {"sha256": "abc"}]
)
def test_values_that_cannot_be_stored_are_refused_before_anything_is(bench: Bench, facts: dict[str, str]) -> None:
    source = bench.file(b"one")
    with pytest.raises(InvalidValueError):
        bench.finalize(source, **facts)
    assert source.exists()
    assert not os.path.exists(bench.config.root_dir)


def test_sources_that_are_no_file(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bench.file(b"one"))
    with pytest.raises(NotFoundError):
        bench.finalize(tmp_path / "missing")
    for name in ("link", "catalog"):
        with pytest.raises(InvalidValueError):
            bench.finalize(tmp_path / name)


def test_a_root_that_goes_away_costs_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.finalize(b"one")
    os.rename(tmp_path / "root", tmp_path / "away")
    source = bench.file(b"two")
    for place in ("missing", "empty"):
        if place == "empty":
            (tmp_path / "root").mkdir()
        for _ in range(2):
            with pytest.raises(RootUnreachableError):
                bench.finalize(source, artifact_id="b")
    assert source.exists()
    assert bench.catalog.stats().documents == 1
    (tmp_path / "root").rmdir()
    os.rename(tmp_path / "away", tmp_path / "root")
    bench.finalize(source, artifact_id="b")
    bench.check()


def condemn(bench: Bench, path: str) -> None:
    row = CondemnedRow(1, path, "plan", 0)
    bench.catalog._writer.submit(lambda transaction: upkeep.put_condemned(transaction, row))


def relative(bench: Bench, outcome: DownloadOutcome) -> str:
    return os.path.relpath(outcome.path or "", bench.config.root_dir)


def test_a_condemned_place_is_not_registered(bench: Bench) -> None:
    bench.finalize(b"other", artifact_id="z")
    first = bench.finalize(b"one")
    assert first.record is not None
    bench.catalog.delete(first.record.id)
    condemn(bench, relative(bench, first))
    facts: dict[str, Any] = {**KEY, "bytes": 3, "storage_uri": first.storage_uri, "sha256": first.meta["sha256"]}
    with bench.catalog.lease(GC_LEASE):
        for _ in range(2):
            with pytest.raises(BlobCondemnedError):
                bench.catalog.register(**facts)
    # The lease is free: the announcement is of one who is no more. It goes, and who stores the bytes again is served.
    with pytest.raises(BlobCondemnedError):
        bench.catalog.register(**facts)
    assert bench.catalog.register(**facts).outcome == "registered"


def test_finalize_waits_for_a_collection_that_is_at_work_and_stores_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.finalize(b"one")
    assert first.record is not None
    assert first.path is not None
    bench.catalog.delete(first.record.id)
    path = relative(bench, first)
    condemn(bench, path)
    lease = bench.catalog.lease(GC_LEASE)
    lease.__enter__()
    waits = []

    def wait(seconds: float) -> None:
        """While finalize waits, the collection takes the blob and ends."""
        waits.append(seconds)
        if len(waits) == 3:
            os.unlink(first.path or "")
            bench.catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, 1, path))
            lease.__exit__(None, None, None)

    monkeypatch.setattr("kvcatalog.finalize.time.sleep", wait)
    assert bench.finalize(b"one").registration == "registered"
    assert len(waits) == 3
    bench.check()


def test_a_blob_that_goes_between_publishing_and_registering_is_stored_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The announcement has come and gone by the time of the registration; only the epoch tells."""
    first = bench.finalize(b"one")
    assert first.record is not None
    bench.catalog.delete(first.record.id)
    path = relative(bench, first)
    real = FileBlobStore.publish
    taken: list[str] = []

    def publish(store: FileBlobStore, *arguments: Any, **options: Any) -> Any:
        done = real(store, *arguments, **options)
        if not taken:
            taken.append(done.state)
            condemn(bench, path)
            store.move(path, f".kvcatalog/trash/plan/{path}")
            bench.catalog._writer.submit(lambda transaction: upkeep.clear_condemned(transaction, 1, path))
        return done

    monkeypatch.setattr(FileBlobStore, "publish", publish)
    assert bench.finalize(b"one").registration == "registered"
    assert taken == ["present"]
    bench.check()


def test_a_lease_is_one_process_s(bench: Bench) -> None:
    with bench.catalog.lease("a"), bench.catalog.lease("b"), pytest.raises(CatalogLockedError):
        bench.catalog.lease("a").__enter__()
    with bench.catalog.lease("a"):
        pass


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """What is counted during the test."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    monkeypatch.setattr(telemetry, "_made", None)
    return reader


def count(metrics: InMemoryMetricReader, name: str) -> int:
    data: Any = metrics.get_metrics_data()
    found = [
        point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]
    return sum(found)


def test_dedup_hits_count_by_resolver(bench: Bench, metrics: InMemoryMetricReader) -> None:
    for artifact_id in "abc":
        bench.finalize(b"one", artifact_id=artifact_id)
        bench.finalize(b"one", artifact_id=artifact_id)
    assert count(metrics, "contentdownload_dedup_hits_total") == 2


def test_a_moved_root_is_followed_once_it_is_adopted(bench: Bench, tmp_path: Path) -> None:
    bench.finalize(b"one")
    forget_storage(open_storage(bench.config, bench.catalog))
    os.rename(tmp_path / "root", tmp_path / "moved")
    bench.config = bench.config.model_copy(update={"root_dir": str(tmp_path / "moved")})
    with pytest.raises(RootOwnershipError):
        bench.finalize(bench.file(b"one"))
    adopt_root(bench.config, bench.catalog)
    assert bench.finalize(tmp_path / "download-2").registration == "existing"
    bench.check()


def at(outcome: DownloadOutcome) -> Path:
    assert outcome.path is not None
    return Path(outcome.path)


def test_a_place_that_fell_free_is_kept_for_its_record(by_name: Bench) -> None:
    first = by_name.finalize(b"one")
    at(first).unlink()
    other = by_name.finalize(b"two")
    assert (other.reason, at(other) != at(first)) == ("conflict", True)
    assert by_name.finalize(b"one").path == first.path
    assert (at(first).read_bytes(), at(other).read_bytes()) == (b"one", b"two")
    by_name.check()


def test_what_a_conflict_refers_to_is_not_moved_away_for_the_record(by_name: Bench) -> None:
    """Both were registered at one place, as by importing a manifest of a run that wrote over its own file."""
    first = by_name.finalize(b"one")
    at(first).write_bytes(b"longer")
    digest = hashlib.sha256(b"longer").hexdigest()
    facts: dict[str, Any] = {**KEY, "bytes": 6, "sha256": digest, "storage_uri": first.storage_uri}
    by_name.catalog.register(**facts)
    again = by_name.finalize(b"one")
    assert again.path != first.path
    assert (at(first).read_bytes(), at(again).read_bytes()) == (b"longer", b"one")


def test_rot_of_the_same_size_at_a_readable_place_is_found(by_name: Bench) -> None:
    first = by_name.finalize(b"one")
    at(first).write_bytes(b"0ne")
    assert by_name.finalize(b"one").path == first.path
    assert at(first).read_bytes() == b"one"
    by_name.check()


def test_a_rotted_twin_does_not_replace_good_bytes(by_name: Bench, metrics: InMemoryMetricReader) -> None:
    first = by_name.finalize(b"one")
    at(first).write_bytes(b"0ne")
    second = by_name.finalize(b"one", artifact_id="b")
    assert (at(second).read_bytes(), second.link_refused) == (b"one", "other content")
    assert count(metrics, "contentdownload_verify_failures_total") == 1


@pytest.mark.parametrize("hashed_later", [True, False])
def test_other_bytes_of_the_same_size_are_a_conflict_without_digests_too(by_name: Bench, hashed_later: bool) -> None:
    off = CatalogConfig(compute_sha256=False)
    first = by_name.finalize(b"one", cfg_catalog=off)
    other = by_name.finalize(b"two", cfg_catalog=CatalogConfig() if hashed_later else off)
    assert other.registration == "conflict"
    assert (at(first).read_bytes(), at(other).read_bytes()) == (b"one", b"two")
    assert other.record is not None
    assert (other.record.sha256, other.record.storage_uri) == (hashlib.sha256(b"one").hexdigest(), first.storage_uri)
    (conflict,) = by_name.catalog.get_conflicts()
    assert conflict.storage_uri == other.storage_uri
    by_name.check()


def test_a_file_elsewhere_that_has_changed_is_not_taken_for_the_content(by_name: Bench, tmp_path: Path) -> None:
    elsewhere = tmp_path / "imported.pdf"
    elsewhere.write_bytes(b"XXX")
    digest = hashlib.sha256(b"one").hexdigest()
    facts: dict[str, Any] = {**KEY, "bytes": 3, "sha256": digest, "storage_uri": elsewhere.as_uri()}
    by_name.catalog.register(**facts)
    outcome = by_name.finalize(b"one")
    assert outcome.path != str(elsewhere)
    assert at(outcome).read_bytes() == b"one"


def test_a_source_that_a_conflict_or_a_link_refers_to_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, layout="cas", policy_links=True)
    bench.finalize(b"one")
    readable = tmp_path / "root/doi_10.1_a/paper.pdf"
    bench.finalize(readable, artifact_id="b")
    assert readable.exists()
    bench = Bench(tmp_path)
    bench.finalize(b"two", resolver="c")
    conflict = bench.finalize(b"2", resolver="c")
    assert conflict.reason == "conflict"
    bench.finalize(at(conflict), artifact_id="d")
    assert at(conflict).exists()


def test_a_name_that_another_file_has_by_now_is_not_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bench.file(b"one")
    real = bench.catalog.register

    def register(**fields: Any) -> Any:
        source.unlink()
        source.write_bytes(b"the next download")
        return real(**fields)

    monkeypatch.setattr(bench.catalog, "register", register)
    bench.finalize(source)
    assert source.read_bytes() == b"the next download"


@pytest.mark.parametrize("kept", ["catalog/data.mdb", "catalog/lock.mdb", "root/.kvcatalog/root.json"])
def test_what_the_catalog_keeps_for_itself_is_no_source(bench: Bench, tmp_path: Path, kept: str) -> None:
    bench.finalize(b"one")
    before = (tmp_path / kept).read_bytes()
    with pytest.raises(InvalidValueError):
        bench.finalize(tmp_path / kept, artifact_id="b")
    assert (tmp_path / kept).read_bytes() == before


def test_a_blob_of_another_catalog_is_no_source(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    blob = at(other.finalize(b"one"))
    with pytest.raises(InvalidValueError, match="another catalog"):
        bench.finalize(blob)
    assert blob.exists()


def test_permissions_are_not_widened(bench: Bench, tmp_path: Path) -> None:
    suspicious = bench.file(b"one")
    suspicious.chmod(0o4755)
    assert at(bench.finalize(suspicious)).stat().st_mode & 0o7000 == 0
    private = tmp_path / "private"
    private.write_bytes(b"two")
    private.chmod(0o600)
    with private.open("rb") as stream:
        assert at(bench.finalize(stream, artifact_id="b")).stat().st_mode & 0o077 == 0


def test_somebody_elses_file_becomes_a_copy(bench: Bench) -> None:
    need_root()
    source = bench.file(b"one")
    os.chown(source, 65534, 65534)
    assert at(bench.finalize(source)).stat().st_uid == 0


def test_a_variant_is_a_twin_too(by_name: Bench) -> None:
    by_name.finalize(b"one")
    by_name.finalize(b"text", variant="text")
    assert by_name.finalize(b"text", artifact_id="b").dedup_hit


def test_storing_again_after_a_collection_is_no_dedup_hit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.catalog.register
    calls: list[int] = []

    def register(**fields: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise BlobCondemnedError("once more")
        return real(**fields)

    monkeypatch.setattr(bench.catalog, "register", register)
    assert not bench.finalize(b"one").dedup_hit
    assert len(calls) == 2


def test_a_file_that_grows_while_it_is_hashed_goes_to_quarantine(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bench.file(b"one")
    real = sha256_stream

    def growing(stream: Any) -> tuple[str, int]:
        found = real(stream)
        with source.open("ab") as more:
            more.write(b"more")
        return found

    monkeypatch.setattr("kvcatalog.blobs.sha256_stream", growing)
    assert bench.finalize(source, sha256=hashlib.sha256(b"one").hexdigest()).reason == "size-mismatch"
    assert bench.catalog.stats().documents == 0


def test_a_root_that_was_taken_over_is_not_written_to(bench: Bench, tmp_path: Path) -> None:
    bench.finalize(b"one")
    before = bench.files()
    with open_catalog(tmp_path / "other") as other:
        adopt_root(bench.config, other, force=True)
        with pytest.raises(RootOwnershipError):
            bench.finalize(b"two")
    assert bench.files() == before


def test_a_stream_onto_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.config = StorageConfig(root_dir=str(small_disk / "root"))
    with pytest.raises(StorageFullError):
        bench.finalize(io.BytesIO(b"x" * 600_000))
    assert bench.catalog.stats().documents == 0
    assert bench.files() == {}


def test_bytes_and_names_are_flushed_in_the_order_that_a_crash_asks_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before its name, its name before the record, the record before the source goes."""
    bench.finalize(b"zero", artifact_id="z")
    source = bench.file(b"one")
    steps: list[str] = []

    def told(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "fsync":
                status = os.fstat(arguments[0])
                steps.append("flush folder" if stat.S_ISDIR(status.st_mode) else "flush file")
            else:
                steps.append(name)
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", told("fsync", os.fsync))
    monkeypatch.setattr(os, "link", told("link", os.link))
    monkeypatch.setattr(os, "mkdir", told("mkdir", os.mkdir))
    monkeypatch.setattr(os, "unlink", told("unlink", os.unlink))
    monkeypatch.setattr(bench.catalog, "register", told("register", bench.catalog.register))
    bench.finalize(source)
    while "mkdir" in steps:  # every new folder is flushed into the one above before anything lies in it
        at_ = steps.index("mkdir")
        assert steps[at_ + 1] == "flush folder"
        del steps[: at_ + 1]
    assert [step for step, following in zip(steps, [*steps[1:], ""], strict=True) if step != following] == [
        "flush folder",
        "flush file",
        "link",
        "flush folder",
        "register",
        "unlink",
    ]
