"""The blob store in a bucket: on moto in this process, on OpenStack Swift, and on Ceph where it is asked for."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from hypothesis import given
from moto import mock_aws

from kvcatalog.blobs import Publication
from kvcatalog.config import StorageConfig
from kvcatalog.errors import (
    CatalogError,
    DigestMismatchError,
    InvalidValueError,
    RootUnreachableError,
    StorageFailedError,
    StorageFullError,
    StoragePermissionError,
)
from kvcatalog.s3_layout import KEY_BYTES_MAX, S3BlobStore, cas_key, connection, host_lock, policy_key
from kvcatalog.s3_layout.body import Body
from kvcatalog.s3_layout.connection import Connection
from kvcatalog.s3_layout.keys import object_key, relative_path
from tests.blob_stores import MARKER, PATHS, BlobStoreContract, cas, digest, local_file, publish
from tests.buckets import without_accounts
from tests.s3_double import Answer, Double, Request
from tests.servers import server
from tests.support import child, finished, forked
from tools.servers.processes import free_ports

BUCKET = "tests"
PART_BYTES_MIN = 5 << 20
"""What real servers take as the least size of a part."""


class Place(NamedTuple):
    """A bucket that is there, and a prefix that nobody else uses."""

    client: Any
    prefix: str
    endpoint_url: str | None

    def store(self, **settings: Any) -> S3BlobStore:
        bucket = settings.pop("bucket", BUCKET)
        multipart = settings.pop("multipart_bytes", PART_BYTES_MIN)
        return S3BlobStore(
            bucket,
            self.prefix,
            endpoint_url=self.endpoint_url,
            region="us-east-1",
            multipart_bytes=multipart,
            **settings,
        )

    def head(self, path: str) -> Any:
        return self.client.head_object(Bucket=BUCKET, Key=self.prefix + path)


class RawBucket:
    def __init__(self, place: Place) -> None:
        self._client = place.client
        self._prefix = place.prefix

    def put(self, path: str, data: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=self._prefix + path, Body=data)

    def read(self, path: str) -> bytes:
        with self._client.get_object(Bucket=BUCKET, Key=self._prefix + path)["Body"] as stream:
            return bytes(stream.read())

    def paths(self) -> set[str]:
        listed = self._client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        assert not listed["IsTruncated"]
        return {entry["Key"][len(self._prefix) :] for entry in listed.get("Contents", ())}


@cache
def bucket_client(endpoint_url: str | None, key: str, secret: str) -> Any:
    """Return a client of a server whose bucket is there."""
    client = boto3.session.Session(key, secret).client("s3", "us-east-1", endpoint_url=endpoint_url)
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # by another worker
        client.create_bucket(Bucket=BUCKET)
    return client


@cache
def connection_of(endpoint_url: str | None) -> Connection:
    """Return what all stores of a worker share, since it takes a tenth of a second to make a client."""
    return Connection(endpoint_url, "us-east-1")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Keep away what this machine may know of real accounts."""
    without_accounts(monkeypatch, "nobody", "nothing")
    return monkeypatch


def real(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch, name: str) -> Place:
    access = server(request.config, name)
    environment.setenv("AWS_ACCESS_KEY_ID", access["key"])
    environment.setenv("AWS_SECRET_ACCESS_KEY", access["secret"])
    client = bucket_client(access["endpoint"], access["key"], access["secret"])
    return Place(client, f"{uuid.uuid4()}/", access["endpoint"])


@pytest.fixture(scope="session")
def mocked() -> Iterator[None]:
    """Moto answers in place of AWS, and of nobody else."""
    with mock_aws():
        yield


@pytest.fixture
def moto(mocked: None, credentials: pytest.MonkeyPatch) -> Place:
    return Place(bucket_client(None, "nobody", "nothing"), f"{uuid.uuid4()}/", None)


@pytest.fixture
def swift(request: pytest.FixtureRequest, credentials: pytest.MonkeyPatch) -> Place:
    return real(request, credentials, "swift")


class S3Contract(BlobStoreContract):
    """What holds on every server, beside the contract."""

    @pytest.fixture
    def store(self, place: Place) -> S3BlobStore:
        opened = place.store()
        opened._objects._connection = connection_of(place.endpoint_url)
        return opened

    @pytest.fixture
    def raw(self, place: Place) -> RawBucket:
        return RawBucket(place)

    @pytest.fixture
    def large_bytes(self) -> int:
        return PART_BYTES_MIN + 1000

    def test_an_object_tells_its_digest_type_and_class(
        self, store: S3BlobStore, place: Place, tmp_path: Path, large_bytes: int
    ) -> None:
        for data in (b"", b"small", b"x" * large_bytes):
            path = cas(data)
            with local_file(tmp_path, data) as file:
                store.publish(
                    file, path, sha256=digest(data).upper(), content_addressed=True, content_type="application/pdf"
                )
            head = place.head(path)
            assert head["Metadata"] == {"sha256": digest(data)}
            assert head["ContentType"] == "application/pdf"
            found = store.stat(path)
            assert found is not None
            assert found.sha256 == digest(data)

    def test_a_missing_bucket_is_no_loss(self, place: Place, tmp_path: Path) -> None:
        store = place.store(bucket="nothing-here")
        calls: list[Callable[[], object]] = [
            store.prepare,
            store.read_marker,
            lambda: store.write_marker(MARKER),
            lambda: store.write_marker(MARKER, replace=True),
            lambda: store.stat("a"),
            lambda: store.open("a"),
            lambda: store.link("a", "b"),
            lambda: store.delete("a"),
            lambda: store.move("a", "b"),
            lambda: list(store.walk()),
            lambda: publish(store, tmp_path, b"content", "a"),
            lambda: publish(store, tmp_path, b"x" * PART_BYTES_MIN, "a"),
        ]
        for call in calls:
            with pytest.raises(RootUnreachableError, match="nothing-here"):
                call()
        store.close()

    def test_a_copy_in_parts_keeps_what_is_known(
        self, store: S3BlobStore, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kvcatalog.s3_layout.objects.COPY_BYTES_MAX", PART_BYTES_MIN)
        monkeypatch.setattr("kvcatalog.s3_layout.objects.COPY_PART_BYTES", PART_BYTES_MIN)
        data = b"0123456789" * (PART_BYTES_MIN // 10 + 1)
        with local_file(tmp_path, data) as file:
            store.publish(file, "a", sha256=digest(data), content_type="text/plain")
        store.move("a", "b")
        head = place.head("b")
        assert head["ETag"].endswith('-2"')
        assert (head["Metadata"], head["ContentType"]) == ({"sha256": digest(data)}, "text/plain")
        with store.open("b") as stream:
            assert stream.read() == data

    @pytest.mark.parametrize(
        "content_type", ["", "text/plain\r\nx-evil: 1", "naïve/type", "文/献", "x" * 300, "a\0b", " \t"]
    )
    def test_a_type_that_no_header_takes_is_left_out(
        self, store: S3BlobStore, place: Place, tmp_path: Path, content_type: str
    ) -> None:
        with local_file(tmp_path, b"content") as file:
            assert store.publish(file, "a", sha256=None, content_type=content_type).state == "stored"
        assert place.head("a")["ContentType"] == "application/octet-stream"

    def test_a_wrong_stored_digest_is_corruption(
        self, store: S3BlobStore, place: Place, raw: RawBucket, tmp_path: Path
    ) -> None:
        place.client.put_object(
            Bucket=BUCKET, Key=place.prefix + cas(b"right"), Body=b"wrong", Metadata={"sha256": digest(b"wrong")}
        )
        done = publish(store, tmp_path, b"right", cas(b"right"), content_addressed=True)
        assert done.state == "repaired"
        assert raw.read(cas(b"right")) == b"right"
        assert done.quarantined is not None
        found = store.stat(done.quarantined)
        assert found is not None
        assert found.sha256 == digest(b"wrong")

    def test_keys_that_are_no_paths_are_passed_over(self, store: S3BlobStore, raw: RawBucket, tmp_path: Path) -> None:
        publish(store, tmp_path, b"content", "a/b")
        raw.put("a//c", b"")
        raw.put("folder/", b"")
        assert [blob.path for blob in store.walk()] == ["a/b"]
        assert [blob.path for blob in store.walk("a")] == ["a/b"]

    def test_walk_goes_through_all_pages(
        self, store: S3BlobStore, raw: RawBucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kvcatalog.s3_layout.objects.PAGE_KEYS", 3)
        paths = {f"a/{number}" for number in range(10)}
        for path in paths:
            raw.put(path, b"")
        assert sorted(blob.path for blob in store.walk()) == sorted(paths)


class TestMoto(S3Contract):
    @pytest.fixture
    def place(self, moto: Place) -> Place:
        return moto

    def test_the_storage_class_stays_with_a_blob(self, place: Place, tmp_path: Path) -> None:
        store = place.store(storage_class="STANDARD_IA")
        publish(store, tmp_path, b"content", "a")
        publish(store, tmp_path, b"x" * PART_BYTES_MIN, "large")
        plain = place.store()
        plain.move("a", "b")
        assert place.head("b")["StorageClass"] == "STANDARD_IA"
        assert place.head("large")["StorageClass"] == "STANDARD_IA"


class TestSwift(S3Contract):
    @pytest.fixture
    def place(self, swift: Place) -> Place:
        return swift

    def test_a_wrong_secret_is_refused(self, place: Place, tmp_path: Path, credentials: pytest.MonkeyPatch) -> None:
        credentials.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        store = place.store()
        calls: list[Callable[[], object]] = [
            store.read_marker,
            lambda: store.stat("a"),
            lambda: store.open("a"),
            lambda: list(store.walk()),
            lambda: publish(store, tmp_path, b"content", "a"),
        ]
        for call in calls:
            with pytest.raises(StoragePermissionError, match=BUCKET):
                call()
        store.close()

    def test_processes_never_replace_each_others_content(self, place: Place, raw: RawBucket) -> None:
        script = """
import sys
from pathlib import Path
from kvcatalog.blobs import LocalFile
from kvcatalog.s3_layout import S3BlobStore
endpoint, prefix, name = sys.argv[1:]
store = S3BlobStore("tests", prefix, endpoint_url=endpoint, region="us-east-1")
store.read_marker()
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    stream, file = store.staging_file()
    with stream, file:
        stream.write(f"{name} {number}".encode())
        stream.flush()
        print(store.publish(file, f"a/{number}", sha256=file.read_sha256()).state)
"""
        children = [child(script, place.endpoint_url, place.prefix, name) for name in ("one", "two")]
        for each in children:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in children:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        states = [finished(each).split() for each in children]
        for number in range(20):
            assert sorted(said[number] for said in states) == ["stored", "taken"]
            winner = "one" if states[0][number] == "stored" else "two"
            assert raw.read(f"a/{number}") == f"{winner} {number}".encode()

    def test_a_forked_child_has_connections_of_its_own(
        self, store: S3BlobStore, raw: RawBucket, tmp_path: Path
    ) -> None:
        publish(store, tmp_path, b"parent", "a")
        mine = store._objects._client()

        def work() -> tuple[bool, str]:
            return store._objects._client() is mine, publish(store, tmp_path, b"child", "b").state

        assert forked(work) == (False, "stored")
        assert store._objects._client() is mine
        assert publish(store, tmp_path, b"parent", "a").state == "present"
        assert raw.paths() == {"a", "b"}


if os.environ.get("KVCATALOG_TEST_CEPH"):

    class TestCeph(S3Contract):
        """Needs root, and installs packages of Debian."""

        @pytest.fixture
        def place(self, request: pytest.FixtureRequest, credentials: pytest.MonkeyPatch) -> Place:
            return real(request, credentials, "ceph")


@pytest.fixture
def doubled(double: Double, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3BlobStore]:
    """A store on the double, that gives up early."""
    monkeypatch.setattr(connection, "ATTEMPTS", 1)
    opened = S3BlobStore(BUCKET, endpoint_url=double.endpoint_url, region="us-east-1")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "refusal", [Answer(501, "NotImplemented"), Answer(400, "InvalidArgument"), Answer(400, "NotImplemented")]
)
def test_a_server_without_conditional_requests_is_asked_once(
    double: Double, doubled: S3BlobStore, tmp_path: Path, refusal: Answer
) -> None:
    double.rule = lambda request: refusal if request.conditional else None
    for name in ("a", "b", "c"):
        assert publish(doubled, tmp_path, name.encode(), name).state == "stored"
    assert [request.key for request in double.requests if request.conditional] == ["a"]
    assert {key: body for key, (_, body) in double.objects.items()} == {"a": b"a", "b": b"b", "c": b"c"}


def test_a_refusal_for_another_reason_is_not_remembered(double: Double, doubled: S3BlobStore, tmp_path: Path) -> None:
    double.rule = lambda request: Answer(400, "InvalidArgument") if request.method == "PUT" else None
    with pytest.raises(StorageFailedError, match="InvalidArgument"):
        publish(doubled, tmp_path, b"a", "a")
    double.rule = lambda _request: None
    publish(doubled, tmp_path, b"b", "b")
    assert double.requests[-2] == Request("PUT", "b", conditional=True)


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize(("theirs", "state"), [(b"same", "present"), (b"other", "taken")])
def test_another_host_may_be_quicker(
    double: Double, doubled: S3BlobStore, tmp_path: Path, status: int, theirs: bytes, state: str
) -> None:
    def rule(request: Request) -> Answer | None:
        if not request.conditional:
            return None
        double.keep("a", theirs, digest(theirs))
        return Answer(status, "PreconditionFailed")

    double.rule = rule
    assert publish(doubled, tmp_path, b"same", "a") == Publication(state)  # type: ignore[arg-type]
    assert double.objects["a"][1] == theirs


def test_a_server_that_contradicts_itself_does_not_hold_us_for_ever(
    double: Double, doubled: S3BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvcatalog.s3_layout.store.RACES_MAX", 2)
    double.rule = lambda request: Answer(412, "PreconditionFailed") if request.conditional else None
    with pytest.raises(StorageFailedError, match="tests/a"):
        publish(doubled, tmp_path, b"same", "a")


@pytest.mark.parametrize("kept", [(b"short", digest(b"content")), (b"content", None), (b"content", digest(b"other"))])
def test_what_the_server_keeps_is_compared(
    double: Double, doubled: S3BlobStore, tmp_path: Path, kept: tuple[bytes, str | None]
) -> None:
    def rule(request: Request) -> Answer | None:
        if request.method != "PUT":
            return None
        double.keep("a", *kept)
        return Answer(200)

    double.rule = rule
    with pytest.raises(StorageFailedError, match="was given 7 bytes"):
        publish(doubled, tmp_path, b"content", "a")


def test_bytes_that_the_server_spoils_go_to_quarantine(double: Double, doubled: S3BlobStore, tmp_path: Path) -> None:
    def rule(request: Request) -> Answer | None:
        if request.method == "GET" and request.key == "a":
            double.keep("a", b"rotten!", digest(b"content"))
        return None

    double.rule = rule
    with pytest.raises(DigestMismatchError, match="s3://tests/a"):
        publish(doubled, tmp_path, b"content", "a", read_back=True)
    assert [body for _, body in double.objects.values()] == [b"rotten!"]
    assert [key for key in double.objects if key.startswith(".kvcatalog/quarantine/") and key.endswith("/a")]


@pytest.mark.parametrize("sent", [0, 1, 50_000, 99_999])
def test_a_response_that_is_cut_is_no_short_file(double: Double, doubled: S3BlobStore, sent: int) -> None:
    body = b"x" * 100_000
    double.rule = lambda _request: Answer(200, body=body, sent=sent)
    with doubled.open("a") as stream, pytest.raises(StorageFailedError, match="to come"):
        stream.read()
    with doubled.open("a") as stream, pytest.raises(StorageFailedError, match="to come"):
        while stream.read(1000):
            pass


def test_a_body_counts_what_comes() -> None:
    with Body(io.BytesIO(b"abc"), 3, "place") as body:
        assert body.readall() == b"abc"
    for size in (2, 4):
        with Body(io.BytesIO(b"abc"), size, "place") as body, pytest.raises(StorageFailedError, match="place"):
            body.readall()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(507, "InsufficientStorage"), StorageFullError),
        (Answer(403, "QuotaExceeded"), StorageFullError),
        (Answer(400, "EntityTooLarge"), StorageFullError),
        (Answer(413, "RequestEntityTooLarge"), StorageFullError),
        (Answer(403, "AccessDenied"), StoragePermissionError),
        (Answer(401, "Unauthorized"), StoragePermissionError),
        (Answer(404, "NoSuchBucket"), RootUnreachableError),
        (Answer(301, "PermanentRedirect"), RootUnreachableError),
        (Answer(500, "InternalError"), StorageFailedError),
        (Answer(503, "SlowDown"), StorageFailedError),
        (Answer(418, "Teapot"), StorageFailedError),
    ],
)
def test_errors_become_ours_and_name_the_place(
    double: Double, doubled: S3BlobStore, tmp_path: Path, answer: Answer, expected: type[CatalogError]
) -> None:
    double.rule = lambda request: None if request.method == "HEAD" else answer
    with pytest.raises(expected, match="s3://tests/a/b") as caught:
        publish(doubled, tmp_path, b"content", "a/b")
    assert type(caught.value) is expected
    assert caught.value.__cause__ is not None
    with pytest.raises(expected, match="s3://tests/a/b"):
        doubled.open("a/b")


def test_a_server_that_is_gone_is_said_to_be_soon(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    store = S3BlobStore(BUCKET, endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1")
    begin = time.perf_counter()
    with pytest.raises(RootUnreachableError, match="s3://tests/a"):
        publish(store, tmp_path, b"content", "a")
    assert time.perf_counter() - begin < 15
    store.close()


def test_without_credentials_nothing_is_asked(double: Double, credentials: pytest.MonkeyPatch) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3BlobStore(BUCKET, endpoint_url=double.endpoint_url, region="us-east-1")
    with pytest.raises(StoragePermissionError, match="s3://tests/a"):
        store.stat("a")
    assert double.requests == []
    store.close()


def test_a_missing_bucket_is_told_from_a_missing_key_though_a_head_has_no_words(
    double: Double, doubled: S3BlobStore
) -> None:
    assert doubled.stat("a") is None
    assert doubled.delete("a") is False
    double.rule = lambda _request: Answer(404, "NoSuchBucket")
    for call in (doubled.stat, doubled.delete, lambda path: doubled.move(path, "b")):
        with pytest.raises(RootUnreachableError, match="no bucket tests"):
            call("a")


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"uuid": 1, "catalog": "", "generation": 0}'])
def test_a_marker_that_cannot_be_read_makes_no_root(double: Double, doubled: S3BlobStore, content: bytes) -> None:
    double.keep(".kvcatalog/root.json", content)
    with pytest.raises(RootUnreachableError, match=r"root\.json"):
        doubled.read_marker()


def test_threads_share_one_client(doubled: S3BlobStore) -> None:
    with ThreadPoolExecutor(16) as threads:
        clients = list(threads.map(lambda _: doubled._objects._client(), range(16)))
    assert all(client is clients[0] for client in clients)


def test_an_endpoint_that_is_no_url_is_named() -> None:
    store = S3BlobStore(BUCKET, endpoint_url="nonsense", region="us-east-1")
    with pytest.raises(InvalidValueError, match="s3_endpoint_url"):
        store.stat("a")


def test_a_bucket_that_can_be_none_is_named(double: Double) -> None:
    store = S3BlobStore("no bucket/at all", endpoint_url=double.endpoint_url, region="us-east-1")
    with pytest.raises(InvalidValueError, match="no bucket"):
        store.stat("a")


def test_the_configuration_makes_the_store() -> None:
    config = StorageConfig(
        backend="s3", s3_bucket="bucket", s3_storage_class="GLACIER_IR", s3_endpoint_url="http://127.0.0.1:1"
    )
    store = S3BlobStore.from_config(config)
    assert store.uri == "s3://bucket/docs"
    assert store.uri_of("a/b c%20") == "s3://bucket/docs/a/b c%20"
    assert store._objects.headers(None, None)["StorageClass"] == "GLACIER_IR"
    with pytest.raises(InvalidValueError, match="s3_bucket"):
        S3BlobStore.from_config(StorageConfig())


@pytest.mark.parametrize(
    ("prefix", "uri"), [("", "s3://b"), ("docs", "s3://b/docs"), ("docs/", "s3://b/docs"), ("x/y/", "s3://b/x/y")]
)
def test_the_root_ends_without_a_slash(prefix: str, uri: str) -> None:
    store = S3BlobStore("b", prefix)
    assert store.uri == uri
    assert store.uri_of("a/b") == f"{uri}/a/b"
    assert store.path_of(f"{uri}/a/b") == "a/b"


@pytest.mark.parametrize("prefix", ["/docs", "a//b", "../a", "docs//", "."])
def test_a_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidValueError, match="s3_prefix"):
        S3BlobStore("b", prefix)


def test_the_layouts_are_the_same_as_below_a_folder() -> None:
    assert cas_key("docs/", "sha256", b"\xab" * 32) == "docs/cas/sha256/ab/" + "ab" * 31
    assert policy_key("docs", "doi:10.1/x", "a b.pdf") == "docs/doi_10.1_x/a_b.pdf"


@given(path=PATHS)
def test_keys_and_paths_are_each_others_inverse(path: str) -> None:
    for prefix in ("", "docs/", "a/b"):
        assert relative_path(prefix, object_key(prefix, path)) == path


def test_a_key_is_at_most_so_long() -> None:
    store = S3BlobStore("b", "docs/")
    longest = "é" * ((KEY_BYTES_MAX - len("docs/")) // 2)
    assert store.path_of(store.uri_of(longest)) == longest
    for path in (longest + "ab", "é" * KEY_BYTES_MAX):
        with pytest.raises(InvalidValueError, match="1024"):
            store.uri_of(path)
        assert store.path_of(f"{store.uri}/{path}") is None


def test_a_path_without_room_for_quarantine_is_refused_before_anything_is_asked(
    double: Double, doubled: S3BlobStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match="quarantine"):
        publish(doubled, tmp_path, b"content", "x" * 1000)
    assert double.requests == []


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="Unicode"):
        S3BlobStore("b").uri_of("a\udc80")


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_folder_for_locks_that_is_not_ours_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"kvcatalog-{os.geteuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.touch(0o600)
    else:
        folder.mkdir()
        folder.chmod(0o755)
    with pytest.raises(StoragePermissionError, match="kvcatalog-"), host_lock.HostLocks("scope").held("a"):
        pass


def test_a_lock_waits_for_its_key_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def pass_through(scope: str, *keys: str) -> None:
        with host_lock.HostLocks(scope).held(*keys):
            pass

    with ThreadPoolExecutor() as threads:
        with host_lock.HostLocks("scope").held("a", "b", "a"):
            waiting = [threads.submit(pass_through, "scope", "c", key) for key in ("a", "b")]
            threads.submit(pass_through, "scope", "d").result(timeout=10)
            threads.submit(pass_through, "other", "a").result(timeout=10)
            assert wait(waiting, timeout=0.3).done == set()
        assert wait(waiting, timeout=10).not_done == set()


def test_a_child_that_is_forked_meanwhile_holds_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reading, writing = os.pipe()
    with host_lock.HostLocks("scope").held("a"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
            process = os.fork()
        if not process:
            os.read(reading, 1)
            os._exit(0)
    script = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]; from kvcatalog.s3_layout.host_lock import HostLocks\n"
    )
    script += "with HostLocks('scope').held('a'): print('had')"
    try:
        assert child(script, tmp_path).communicate(timeout=20)[0] == "had\n"
    finally:
        os.write(writing, b"x")
        os.waitpid(process, 0)
        os.close(reading)
        os.close(writing)


def test_a_staging_file_works_where_none_can_be_made_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    stream, file = S3BlobStore("b").staging_file()
    with stream, file:
        stream.write(b"content")
        stream.flush()
        assert file.read_sha256() == digest(b"content")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, StorageFullError), (errno.EDQUOT, StorageFullError), (errno.EIO, StorageFailedError)],
)
def test_a_folder_for_temporary_files_that_takes_none_is_named(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: type[CatalogError]
) -> None:
    def refuse(*_arguments: Any, **_named: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(expected, match=tempfile.gettempdir()):
        S3BlobStore("b").staging_file()
