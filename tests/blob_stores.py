"""What every blob store must do, as one class of tests; a module of tests inherits it and gives the fixtures.

- `store`: a fresh, empty store.
- `raw`: access to the same blobs that goes around the store.
- `large_bytes`: a size from which on the store takes its way for large files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvcatalog.blobs import BlobStore, LocalFile, Marker, Publication
from kvcatalog.clock import now_micros
from kvcatalog.digest import sha256_stream
from kvcatalog.errors import BlobNotFoundError, DigestMismatchError, InvalidValueError, UnsafePathError
from kvcatalog.layout import (
    MARKER_PATH,
    OURS,
    QUARANTINE_PATH,
    TRASH_PATH,
    cas_relative_path,
    policy_relative_path,
    set_aside_path,
)

THREADS = 16
MINUTE_MICROS = 60_000_000
MARKER = Marker("0b6f3c1e-6f0e-4f0e-9a53-000000000001", "the catalog", 3)

HOSTILE = ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0b", "\0"]
STRANGE = [
    "with space/and  two.pdf",
    "per%20cent/100%.pdf",
    "plus+and=&?#fragment.pdf",
    "ünïcödé/文献.pdf",
    "quote'\"<>\\back.pdf",
    "a:b;c,d@e!$(*)~[]{}|^`.pdf",
    "..hidden/...dots...",
    " leading and trailing ",
]

PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
PATHS = st.lists(PARTS.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=5).map("/".join)


class Raw(Protocol):
    """Access that goes around the store."""

    def put(self, path: str, data: bytes) -> None:
        """Make bytes lie at a path, whatever lay there."""
        ...

    def read(self, path: str) -> bytes: ...

    def paths(self) -> set[str]:
        """Return the paths of all blobs below the root, ours included."""
        ...


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cas(data: bytes) -> str:
    return cas_relative_path("sha256", hashlib.sha256(data).digest())


def publish(
    store: BlobStore, folder: Path, data: bytes, path: str, *, declared: str | None = None, **settings: Any
) -> Publication:
    """Publish bytes from a new file; the digest that is declared is theirs unless another is given."""
    name = folder / f"source-{digest(data)}"
    name.write_bytes(data)
    with LocalFile.open(name) as file:
        done = store.publish(file, path, sha256=declared or digest(data), **settings)
    assert name.read_bytes() == data
    return done


def together(work: Callable[[int], Publication]) -> list[str]:
    """Run `work` in threads that start at the same time, and return the states in order."""
    barrier = Barrier(THREADS)

    def one(number: int) -> str:
        barrier.wait()
        return work(number).state

    with ThreadPoolExecutor(THREADS) as threads:
        return sorted(threads.map(one, range(THREADS)))


class BlobStoreContract:
    """The tests."""

    def test_what_is_published_is_there(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        assert publish(store, tmp_path, b"content", "a/b.pdf").state == "stored"
        assert raw.paths() == {"a/b.pdf"}
        assert raw.read("a/b.pdf") == b"content"
        with store.open("a/b.pdf") as stream:
            assert stream.read(3) == b"con"
            assert stream.read() == b"tent"
        found = store.stat("a/b.pdf")
        assert found is not None
        assert (found.path, found.size) == ("a/b.pdf", 7)
        assert found.sha256 in {None, digest(b"content")}
        assert abs(found.modified - now_micros()) < MINUTE_MICROS

    @pytest.mark.parametrize("content_addressed", [False, True])
    @pytest.mark.parametrize("read_back", [False, True])
    def test_the_same_again_is_present(
        self, store: BlobStore, raw: Raw, tmp_path: Path, content_addressed: bool, read_back: bool
    ) -> None:
        path = cas(b"same") if content_addressed else "a/b"
        states = [
            publish(store, tmp_path, b"same", path, content_addressed=content_addressed, read_back=read_back).state
            for _ in range(3)
        ]
        assert states == ["stored", "present", "present"]
        assert raw.paths() == {path}
        assert raw.read(path) == b"same"

    @pytest.mark.parametrize("other", [b"other", b"longer than that"])
    @pytest.mark.parametrize("through_the_store", [False, True])
    def test_another_content_is_never_replaced(
        self, store: BlobStore, raw: Raw, tmp_path: Path, other: bytes, through_the_store: bool
    ) -> None:
        if through_the_store:
            publish(store, tmp_path, other, "a/b")
        else:
            raw.put("a/b", other)
        assert publish(store, tmp_path, b"right", "a/b") == Publication("taken")
        assert publish(store, tmp_path, b"right", "a/b", read_back=True) == Publication("taken")
        assert raw.paths() == {"a/b"}
        assert raw.read("a/b") == other

    def test_the_same_content_from_elsewhere_is_present(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        raw.put("a/b", b"right")
        assert publish(store, tmp_path, b"right", "a/b").state == "present"
        raw.put(cas(b"right"), b"right")
        assert publish(store, tmp_path, b"right", cas(b"right"), content_addressed=True).state == "present"

    @pytest.mark.parametrize("corrupt", [b"", b"right and more"])
    @pytest.mark.parametrize("read_back", [False, True])
    def test_a_corrupt_size_is_repaired(
        self, store: BlobStore, raw: Raw, tmp_path: Path, corrupt: bytes, read_back: bool
    ) -> None:
        raw.put(cas(b"right"), corrupt)
        done = publish(store, tmp_path, b"right", cas(b"right"), content_addressed=True, read_back=read_back)
        assert done.state == "repaired"
        assert done.quarantined is not None
        assert done.quarantined.startswith(QUARANTINE_PATH + "/")
        assert done.quarantined.endswith("/" + cas(b"right"))
        assert raw.paths() == {cas(b"right"), done.quarantined}
        assert raw.read(cas(b"right")) == b"right"
        assert raw.read(done.quarantined) == corrupt
        assert publish(store, tmp_path, b"right", cas(b"right"), content_addressed=True).state == "present"

    def test_corrupt_bytes_are_repaired_when_they_are_read(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        raw.put(cas(b"right"), b"wrong")
        done = publish(store, tmp_path, b"right", cas(b"right"), content_addressed=True, read_back=True)
        assert done.state == "repaired"
        assert done.quarantined is not None
        assert raw.read(cas(b"right")) == b"right"
        assert raw.read(done.quarantined) == b"wrong"

    @pytest.mark.parametrize("content_addressed", [False, True])
    def test_bytes_that_read_otherwise_do_not_stay(
        self, store: BlobStore, raw: Raw, tmp_path: Path, content_addressed: bool
    ) -> None:
        path = cas(b"right") if content_addressed else "a/b"
        with pytest.raises(DigestMismatchError) as caught:
            publish(
                store,
                tmp_path,
                b"wrong",
                path,
                declared=digest(b"right"),
                content_addressed=content_addressed,
                read_back=True,
            )
        assert (caught.value.expected, caught.value.found) == (digest(b"right"), digest(b"wrong"))
        assert store.stat(path) is None
        assert all(left.startswith(OURS + "/") for left in raw.paths())
        assert publish(store, tmp_path, b"right", path, content_addressed=content_addressed).state == "stored"

    def test_the_digest_need_not_be_known(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        (tmp_path / "first").write_bytes(b"first")
        (tmp_path / "other").write_bytes(b"other")
        with LocalFile.open(tmp_path / "first") as first, LocalFile.open(tmp_path / "other") as other:
            assert store.publish(first, "a/b", sha256=None).state == "stored"
            assert store.publish(first, "a/b", sha256=None).state == "present"
            assert store.publish(first, "a/b", sha256=digest(b"first")).state == "present"
            assert store.publish(other, "a/b", sha256=None).state == "taken"
            assert store.publish(first, "a/c", sha256=None, read_back=True).state == "stored"
        assert raw.read("a/b") == raw.read("a/c") == b"first"

    def test_an_empty_file_is_a_file(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        assert publish(store, tmp_path, b"", "a/empty", read_back=True).state == "stored"
        assert publish(store, tmp_path, b"", "a/empty").state == "present"
        assert publish(store, tmp_path, b"x", "a/empty").state == "taken"
        assert raw.read("a/empty") == b""
        with store.open("a/empty") as stream:
            assert stream.read() == b""

    def test_a_large_file_is_stored_whole(self, store: BlobStore, raw: Raw, tmp_path: Path, large_bytes: int) -> None:
        data = bytes(range(251)) * (large_bytes // 251 + 1)
        assert publish(store, tmp_path, data, "a/large", read_back=True).state == "stored"
        assert publish(store, tmp_path, data, "a/large").state == "present"
        assert publish(store, tmp_path, data[:-1] + b"!", "a/large").state == "taken"
        assert raw.read("a/large") == data
        store.move("a/large", "b/large")
        with store.open("b/large") as stream:
            assert sha256_stream(stream) == (digest(data), len(data))

    def test_threads_with_the_same_content_store_it_once(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"same")

        def work(_number: int) -> Publication:
            with LocalFile.open(tmp_path / "file") as file:
                return store.publish(file, cas(b"same"), sha256=digest(b"same"), content_addressed=True)

        assert together(work) == ["present"] * (THREADS - 1) + ["stored"]
        assert raw.paths() == {cas(b"same")}
        assert raw.read(cas(b"same")) == b"same"

    def test_threads_with_other_contents_never_replace_each_other(
        self, store: BlobStore, raw: Raw, tmp_path: Path
    ) -> None:
        winners: list[bytes] = []

        def work(number: int) -> Publication:
            data = b"content %02d" % number
            done = publish(store, tmp_path, data, "a/b")
            if done.state == "stored":
                winners.append(data)
            return done

        assert together(work) == ["stored"] + ["taken"] * (THREADS - 1)
        assert raw.paths() == {"a/b"}
        assert [raw.read("a/b")] == winners

    def test_a_staging_file_is_published(self, store: BlobStore, raw: Raw) -> None:
        stream, file = store.staging_file()
        with stream, file:
            stream.write(b"down" * 1000)
            stream.write(b"load")
            data = b"down" * 1000 + b"load"
            assert (file.size, file.read_sha256(), file.path) == (len(data), digest(data), None)
            assert store.publish(file, "a/b", sha256=digest(data), read_back=True).state == "stored"
        assert raw.paths() == {"a/b"}
        assert raw.read("a/b") == data

    def test_a_path_that_could_lead_elsewhere_is_refused(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        publish(store, tmp_path, b"kept", "a/b")
        calls: list[Callable[[str], object]] = [
            lambda path: publish(store, tmp_path, b"x", path),
            store.open,
            store.stat,
            store.delete,
            lambda path: store.move(path, "c"),
            lambda path: store.move("a/b", path),
            lambda path: store.link(path, "c"),
            lambda path: store.link("a/b", path),
            store.uri_of,
            store.local_path,
            lambda path: list(store.walk(path or "/")),  # without a folder everything is walked
        ]
        for path in HOSTILE:
            for call in calls:
                with pytest.raises(UnsafePathError):
                    call(path)
            assert store.path_of(f"{store.uri}/{path}") is None
        assert raw.paths() == {"a/b"}

    @pytest.mark.parametrize("path", STRANGE)
    def test_strange_names_go_round(self, store: BlobStore, raw: Raw, tmp_path: Path, path: str) -> None:
        assert publish(store, tmp_path, b"content", path).state == "stored"
        assert raw.paths() == {path}
        assert [blob.path for blob in store.walk()] == [path]
        assert store.path_of(store.uri_of(path)) == path
        with store.open(path) as stream:
            assert stream.read() == b"content"
        aside = set_aside_path(TRASH_PATH, "today", path)
        store.move(path, aside)
        assert raw.paths() == {aside}
        store.move(aside, path)
        assert store.delete(path)
        assert raw.paths() == set()

    @settings(
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(path=PATHS)
    def test_uris_and_paths_are_each_others_inverse(self, store: BlobStore, path: str) -> None:
        uri = store.uri_of(path)
        assert uri.startswith(store.uri + "/")
        assert store.path_of(uri) == path

    def test_uris_elsewhere_have_no_path_here(self, store: BlobStore) -> None:
        assert not store.uri.endswith("/")
        for uri in (
            store.uri,
            store.uri + "/",
            store.uri + "x/a",
            "https://example.org/a",
            "a/b",
            "",
            "s3://",
            "file:",
        ):
            assert store.path_of(uri) is None

    def test_what_was_cleaned_is_stored(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        path = policy_relative_path("doi:10.1234/../x y", "../ünï cödé.pdf")
        assert publish(store, tmp_path, b"content", path).state == "stored"
        assert raw.paths() == {path}

    def test_walk_yields_what_is_there_and_nothing_of_ours(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        assert list(store.walk()) == []
        sizes = {"a/1": 1, "a/b/2": 2, "ab/3": 3, "c": 4, f"d/{OURS}/5": 5, f"{OURS}x": 6, cas(b"x" * 7): 7}
        for path, size in sizes.items():
            publish(store, tmp_path, b"x" * size, path)
        store.write_marker(MARKER)
        kept = f"{QUARANTINE_PATH}/label/a/1"
        raw.put(kept, b"aside")
        assert {blob.path: blob.size for blob in store.walk()} == sizes
        assert all(abs(blob.modified - now_micros()) < MINUTE_MICROS for blob in store.walk())
        assert {blob.path for blob in store.walk("a")} == {"a/1", "a/b/2"}
        assert {blob.path for blob in store.walk("a/b")} == {"a/b/2"}
        assert {blob.path for blob in store.walk(QUARANTINE_PATH)} == {kept}
        assert list(store.walk("nothing")) == []

    def test_move_takes_a_blob_along_with_what_is_known_of_it(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        publish(store, tmp_path, b"content", "a/b")
        before = store.stat("a/b")
        store.move("a/b", "c/d/e")
        after = store.stat("c/d/e")
        assert before is not None
        assert after is not None
        assert (after.size, after.sha256) == (before.size, before.sha256)
        assert raw.paths() == {"c/d/e"}
        assert raw.read("c/d/e") == b"content"
        assert store.stat("a/b") is None

    def test_move_never_replaces(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        publish(store, tmp_path, b"one", "a")
        publish(store, tmp_path, b"two", "b")
        for target in ("a", "b"):
            with pytest.raises(InvalidValueError):
                store.move("a", target)
        assert (raw.read("a"), raw.read("b")) == (b"one", b"two")

    def test_what_is_not_there(self, store: BlobStore) -> None:
        assert store.stat("a/b") is None
        assert store.delete("a/b") is False
        with pytest.raises(BlobNotFoundError, match="a/b"):
            store.open("a/b")
        with pytest.raises(BlobNotFoundError, match="a/b"):
            store.move("a/b", "c")

    def test_delete_removes_one(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        publish(store, tmp_path, b"one", "a/one")
        publish(store, tmp_path, b"two", "a/two")
        assert store.delete("a/one") is True
        assert store.delete("a/one") is False
        assert raw.paths() == {"a/two"}

    def test_a_listing_tells_the_paths_of_a_walk(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        for number in range(5):
            publish(store, tmp_path, b"%d" % number, f"a{number % 2}/{number}.pdf")
        raw.put(f"{TRASH_PATH}/plan/a", b"x")
        assert sorted(path for path, _ in store.listing()) == sorted(blob.path for blob in store.walk())
        assert [path for path, _ in store.listing(TRASH_PATH)] == [f"{TRASH_PATH}/plan/a"]
        assert all(stat is None or (stat.path, stat.size) == (path, 1) for path, stat in store.listing())
        assert list(store.listing("nothing")) == []

    def test_the_folders_of_a_folder_are_named(self, store: BlobStore, raw: Raw) -> None:
        assert store.folders(TRASH_PATH) == []
        for path in ("b/c", "a/x/y", "a/z", "file"):
            raw.put(f"{TRASH_PATH}/{path}", b"x")
        assert store.folders(TRASH_PATH) == ["a", "b"]

    def test_a_root_in_a_root_is_known(self, store: BlobStore, raw: Raw) -> None:
        raw.put(f"inner/{MARKER_PATH}", b"{}")
        raw.put("outer/a", b"x")
        assert store.is_root("inner") is True
        assert store.is_root("outer") is False
        assert store.is_root("nothing") is False

    def test_many_are_moved_and_each_is_told_of(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        for name in ("a/1", "a/2", "b/1", "b/taken"):
            publish(store, tmp_path, name.encode(), name)
        moves = [("a/1", "t/a/1"), ("a/nothing", "t/a/3"), ("a/2", "b/taken"), ("b/1", "t/b/1"), ("no/1", "t/no/1")]
        assert store.move_many(moves) == ["moved", "missing", "taken", "moved", "missing"]
        assert raw.paths() == {"t/a/1", "a/2", "b/taken", "t/b/1"}
        assert raw.read("t/a/1") == b"a/1"
        assert raw.read("b/taken") == b"b/taken"
        assert store.move_many([]) == []
        with pytest.raises(UnsafePathError):
            store.move_many([("a/2", "../x")])

    def test_many_are_deleted_and_told_of(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        for name in ("a/1", "a/2", "b/1"):
            publish(store, tmp_path, name.encode(), name)
        removed = store.delete_many(["a/1", "a/nothing", "b/1", "no/1"])
        assert sorted((blob.path, blob.size) for blob in removed) == [("a/1", 3), ("b/1", 3)]
        assert raw.paths() == {"a/2"}
        store.prune("b")
        store.prune("a")
        assert raw.paths() == {"a/2"}

    def test_what_nobody_writes_is_not_written(self, store: BlobStore, tmp_path: Path) -> None:
        publish(store, tmp_path, b"content", "a/b")
        assert store.is_written("a/b") is False

    def test_the_first_marker_stands_until_it_is_replaced(self, store: BlobStore, raw: Raw) -> None:
        store.prepare()
        assert store.read_marker() is None
        assert store.write_marker(MARKER) == MARKER
        assert store.read_marker() == MARKER
        later = Marker(MARKER.uuid, MARKER.catalog, MARKER.generation + 1)
        assert store.write_marker(later) == MARKER
        assert store.read_marker() == MARKER
        assert store.write_marker(later, replace=True) == later
        assert store.read_marker() == later
        assert raw.paths() == {MARKER_PATH}

    def test_threads_that_make_a_root_get_one_marker(self, store: BlobStore) -> None:
        barrier = Barrier(THREADS)

        def work(number: int) -> Marker:
            barrier.wait()
            return store.write_marker(Marker(f"uuid {number}", "catalog", 1))

        with ThreadPoolExecutor(THREADS) as threads:
            markers = set(threads.map(work, range(THREADS)))
        assert markers == {store.read_marker()}

    def test_a_link_is_a_further_name_or_is_refused(self, store: BlobStore, raw: Raw, tmp_path: Path) -> None:
        publish(store, tmp_path, b"content", "a/b")
        done = store.link("a/b", "c/d")
        assert raw.paths() == ({"a/b"} if done.refused else {"a/b", "c/d"})
        with pytest.raises(BlobNotFoundError, match="nothing"):
            store.link("nothing", "c/e")

    def test_local_files_are_where_local_path_says(self, store: BlobStore, tmp_path: Path) -> None:
        publish(store, tmp_path, b"content", "a/b")
        place = store.local_path("a/b")
        assert place is None or Path(place).read_bytes() == b"content"

    def test_it_can_be_closed_twice(self, store: BlobStore) -> None:
        store.close()
        store.close()
        assert store.uri_of("a") == store.uri + "/a"


def local_file(folder: Path, data: bytes) -> LocalFile:
    """Return a new open file with these bytes."""
    name = folder / f"local-{digest(data)}"
    name.write_bytes(data)
    return LocalFile.open(name)
