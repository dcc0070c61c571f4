"""The layouts that the scope names, hard links instead of second copies, and what a folder of blobs must withstand."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvcatalog import (
    BlobNotFoundError,
    DigestMismatchError,
    InvalidValueError,
    RootUnreachableError,
    StorageFullError,
    StoragePermissionError,
    UnsafePathError,
)
from kvcatalog.blobs import LocalFile
from kvcatalog.fs_layout import FileBlobStore, Placement, cas_path, dedup_hardlink_or_copy, folders, policy_path
from tests.support import forked, need_root

DIGEST = hashlib.sha256(b"bytes").hexdigest()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cas(data: bytes) -> str:
    return os.path.relpath(cas_path("/r", digest(data)), "/r")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileBlobStore]:
    opened = FileBlobStore(tmp_path / "root")
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "download"
    path.write_bytes(b"bytes")
    return path


def put(store: FileBlobStore, path: str, data: bytes, tmp_path: Path, **wishes: object) -> str:
    """Store bytes from a new temporary file and return the state and how."""
    file = tmp_path / "put"
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    with LocalFile.open(file) as local:
        done = store.publish(local, path, sha256=digest(data), **wishes)  # type: ignore[arg-type]
    file.unlink()
    return f"{done.state} {done.how}"


def open_to_all(folder: Path) -> None:
    """Let another user reach a folder of this test run."""
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)


def content(store: FileBlobStore, path: str) -> bytes:
    with store.open(path) as stream:
        return stream.read()


def test_the_paths_that_the_scope_names() -> None:
    assert cas_path("data", "AB" + "cd" * 31) == "data/cas/sha256/ab/" + "cd" * 31
    assert policy_path("data/docs", artifact_id="doi:10.1/x", url_basename="a.pdf") == "data/docs/doi_10.1_x/a.pdf"
    with pytest.raises(InvalidValueError):
        cas_path("data", "../../etc")


def test_a_hard_link_where_one_is_to_be_had(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "below" / "final"
    assert dedup_hardlink_or_copy(str(source), str(target)) == Placement("linked")
    assert target.samefile(source)
    assert dedup_hardlink_or_copy(str(source), str(target)) == Placement("linked")


def test_a_move_without_hard_links(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "final"
    inode = source.stat().st_ino
    assert dedup_hardlink_or_copy(str(source), str(target), hardlink=False) == Placement("moved")
    assert not source.exists()
    assert target.stat().st_ino == inode


def test_another_device_gets_a_copy(source: Path, tmp_path: Path) -> None:
    with_links = Path("/dev/shm") / f"kvcatalog-{os.getpid()}"
    try:
        assert dedup_hardlink_or_copy(str(source), str(with_links)) == Placement("copied", "EXDEV")
        assert with_links.read_bytes() == b"bytes"
        assert source.exists()
        assert dedup_hardlink_or_copy(str(with_links), str(tmp_path / "back"), hardlink=False).action == "moved"
        assert not with_links.exists()
    finally:
        with_links.unlink(missing_ok=True)


def test_other_content_is_never_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "final"
    target.write_bytes(b"other")
    for hardlink in (True, False):
        with pytest.raises(FileExistsError):
            dedup_hardlink_or_copy(str(source), str(target), hardlink)
    assert (source.read_bytes(), target.read_bytes()) == (b"bytes", b"other")


def test_no_further_link_than_the_file_system_allows(source: Path, tmp_path: Path) -> None:
    """The 65,000th link of ext4 is simulated where the file system allows more."""
    linked = 1
    try:
        while linked < 65_000:
            os.link(source, tmp_path / f"link-{linked}")
            linked += 1
        os.link(source, tmp_path / "one-more")
    except OSError as error:
        assert error.errno == errno.EMLINK  # noqa: PT017 - the real thing
    else:
        pytest.skip("this file system has no limit of 65,000 links; tests/test_finalize.py simulates it")
    assert dedup_hardlink_or_copy(str(source), str(tmp_path / "final")) == Placement("copied", "EMLINK")


def test_a_second_content_leaves_the_first_alone(store: FileBlobStore, tmp_path: Path) -> None:
    assert put(store, "a/x.pdf", b"one", tmp_path) == "stored moved"
    assert put(store, "a/x.pdf", b"two", tmp_path) == "taken None"
    assert put(store, "a/x.pdf", b"one", tmp_path) == "present None"
    assert content(store, "a/x.pdf") == b"one"


def test_a_twin_is_linked_and_the_next_one_where_the_first_refuses(store: FileBlobStore, tmp_path: Path) -> None:
    put(store, "a/x", b"one", tmp_path)
    assert put(store, "b/x", b"one", tmp_path, twins=("gone/x", "a/x")) == "stored linked"
    assert os.path.samefile(tmp_path / "root/a/x", tmp_path / "root/b/x")
    assert put(store, "c/x", b"other", tmp_path, twins=("a/x",)) == "stored moved"


def test_a_twin_with_other_bytes_is_found_out_where_bytes_are_read(store: FileBlobStore, tmp_path: Path) -> None:
    put(store, "a/x", b"bad", tmp_path)
    assert put(store, "b/x", b"one", tmp_path, twins=("a/x",), read_back=True) == "stored moved"
    assert content(store, "b/x") == b"one"


def test_the_wrong_bytes_at_a_content_addressed_place_are_kept_aside(store: FileBlobStore, tmp_path: Path) -> None:
    place = tmp_path / "root" / cas(b"right")
    assert put(store, cas(b"right"), b"right", tmp_path, content_addressed=True) == "stored moved"
    assert stat.S_IMODE(place.stat().st_mode) & 0o222 == 0
    place.unlink()
    place.write_bytes(b"wrong")
    assert put(store, cas(b"right"), b"right", tmp_path, content_addressed=True) == "present None"  # sizes agree
    assert put(store, cas(b"right"), b"right", tmp_path, content_addressed=True, read_back=True) == "repaired copied"
    assert content(store, cas(b"right")) == b"right"
    kept = [blob.path for blob in store.walk(".kvcatalog/quarantine")]
    assert [content(store, path) for path in kept] == [b"wrong"]


def test_bytes_that_are_not_what_they_should_be_never_get_a_name(store: FileBlobStore, source: Path) -> None:
    for path in ("a/x", "/dev/shm"):
        with LocalFile.open(source) as file, pytest.raises((DigestMismatchError, UnsafePathError)):
            store.publish(file, path, sha256="0" * 64, read_back=True)
    assert list(store.walk()) == []


def test_somebody_elses_file_is_copied(store: FileBlobStore, source: Path, tmp_path: Path) -> None:
    os.link(source, tmp_path / "kept by its owner")
    with LocalFile.open(source) as file:
        assert store.publish(file, "a/x", sha256=None).how == "copied"
    assert not os.path.samefile(source, tmp_path / "root/a/x")


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT])
def test_a_file_system_without_hard_links_gets_copies(
    store: FileBlobStore, tmp_path: Path, refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a/x", b"one", tmp_path)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    assert put(store, "b/x", b"one", tmp_path, twins=("a/x",)) == "stored copied"
    assert put(store, "b/x", b"two", tmp_path) == "taken None"
    assert store.link("a/x", "c/x").refused == errno.errorcode[refusal]
    store.move("b/x", "d/x")
    assert content(store, "d/x") == b"one"
    assert list(store.walk(".kvcatalog")) == []


def test_a_file_system_without_nameless_files(
    store: FileBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", without)
    writer, file = store.staging_file()
    with file:
        with writer:
            writer.write(b"spooled")
        assert store.publish(file, "a/x", sha256=None).how == "copied"
    assert content(store, "a/x") == b"spooled"
    assert list(store.walk(".kvcatalog")) == []


@pytest.mark.parametrize("place", ["evil", "evil/x", "a/evil", "a/evil/x"])
def test_a_symbolic_link_in_the_root_leads_nowhere(
    store: FileBlobStore, source: Path, tmp_path: Path, place: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    (tmp_path / "root/a").mkdir()
    link = tmp_path / "root" / place.removesuffix("/x")
    link.symlink_to(outside if place.endswith("/x") else outside / "x")
    with LocalFile.open(source) as file:
        for wishes in ({}, {"content_addressed": True}):
            with pytest.raises(UnsafePathError):
                store.publish(file, place, sha256=None, **wishes)  # type: ignore[arg-type]
    for act in (store.open, store.stat, store.delete, lambda path: store.move(path, "b/x")):
        with pytest.raises(UnsafePathError):
            act(place)
    assert list(store.walk()) == []
    assert sorted(path.name for path in outside.iterdir()) == ["x"]
    assert (outside / "x").read_bytes() == b"secret"


def test_what_is_no_file_is_no_source(store: FileBlobStore, tmp_path: Path, source: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(source)
    for name in ("pipe", "link", "root"):
        with pytest.raises(InvalidValueError):
            LocalFile.open(tmp_path / name)


def test_names_that_are_no_unicode_come_and_go_as_uris(store: FileBlobStore, tmp_path: Path) -> None:
    name = os.fsdecode(b"a/\xff 100% #?.pdf")
    put(store, name, b"one", tmp_path)
    assert store.uri_of(name).endswith("/a/%FF%20100%25%20%23%3F.pdf")
    assert store.path_of(store.uri_of(name)) == name
    assert [blob.path for blob in store.walk()] == [name]
    for elsewhere in (store.uri, store.uri + "-b/x", "file:///etc/passwd", "s3://bucket/x", store.uri + "/../x"):
        assert store.path_of(elsewhere) is None


def test_a_root_that_is_replaced_or_gone_is_unreachable_and_never_empty(
    store: FileBlobStore, source: Path, tmp_path: Path
) -> None:
    put(store, "a/x", b"one", tmp_path)
    (tmp_path / "root").rename(tmp_path / "away")
    for again in (False, True):
        if again:
            (tmp_path / "root").mkdir()
        for act in (store.stat, store.open, store.delete, lambda _: list(store.walk())):
            with pytest.raises(RootUnreachableError):
                act("a/x")
        with LocalFile.open(source) as file, pytest.raises(RootUnreachableError):
            store.publish(file, "a/y", sha256=None)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_missing_blob(store: FileBlobStore) -> None:
    assert store.stat("a/x") is None
    assert not store.delete("a/x")
    for act in (lambda: store.open("a/x"), lambda: store.move("a/x", "b/x"), lambda: store.link("a/x", "b/x")):
        with pytest.raises(BlobNotFoundError):
            act()


def test_a_move_never_replaces(store: FileBlobStore, tmp_path: Path) -> None:
    put(store, "a/x", b"one", tmp_path)
    put(store, "b/x", b"two", tmp_path)
    with pytest.raises(InvalidValueError):
        store.move("a/x", "b/x")
    store.move("a/x", "c/d/x")
    assert (content(store, "b/x"), content(store, "c/d/x")) == (b"two", b"one")


def test_a_full_disk_leaves_nothing_behind(small_disk: Path, tmp_path: Path) -> None:
    store = FileBlobStore(small_disk / "root")
    store.prepare()
    put(store, "a/x", b"x" * 300_000, tmp_path)
    for _ in range(3):
        with pytest.raises(StorageFullError):
            put(store, "b/x", b"y" * 400_000, tmp_path)
    assert [blob.path for blob in store.walk()] == ["a/x"]
    assert put(store, "c/x", b"z" * 100_000, tmp_path) == "stored copied"
    store.close()


def test_a_folder_that_may_not_be_written_to(store: FileBlobStore, source: Path, tmp_path: Path) -> None:
    need_root()
    put(store, "a/x", b"one", tmp_path)
    file = LocalFile.open(source)

    def as_nobody() -> str:
        os.setuid(65534)
        try:
            store.publish(file, "a/y", sha256=None)
        except StoragePermissionError as error:
            return str(error)
        return "stored"

    open_to_all(tmp_path)
    assert "Permission denied" in forked(as_nobody)


def test_what_a_killed_process_left_in_the_staging_folder_is_swept(store: FileBlobStore, tmp_path: Path) -> None:
    root = folders.RootFolder(str(tmp_path / "root"))
    with root.staged_name() as (_, in_use, _):
        abandoned = tmp_path / "root/.kvcatalog/staging/abandoned"
        abandoned.write_bytes(b"half")
        store.sweep_staging()
        assert os.listdir(abandoned.parent) == [in_use]
    assert os.listdir(abandoned.parent) == []


def test_a_scan_of_a_folder_that_cannot_be_read_is_an_error(store: FileBlobStore, tmp_path: Path) -> None:
    need_root()
    put(store, "a/x", b"one", tmp_path)
    os.chmod(tmp_path / "root/a", 0)

    def scan() -> str:
        os.setuid(65534)
        try:
            list(store.walk())
        except StoragePermissionError:
            return "refused"
        return "looked like an empty root"

    open_to_all(tmp_path)
    assert forked(scan) == "refused"


def test_a_copy_on_a_tmpfs_shares_nothing_with_its_source(small_disk: Path, source: Path) -> None:
    store = FileBlobStore(small_disk / "root")
    store.prepare()
    with LocalFile.open(source) as file:
        done = store.publish(file, "a/x", sha256=None, twins=())
    assert (done.how, done.refused) == ("copied", "EXDEV")
    assert content(store, "a/x") == b"bytes"
    store.close()


def test_what_is_there_is_flushed_before_it_counts(
    store: FileBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stored it may have been killed, or may not have come to that yet."""
    put(store, "a/x", b"one", tmp_path)
    flushed: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    root = tmp_path / "root"
    assert put(store, "a/x", b"one", tmp_path) == "present None"
    assert {path.stat().st_ino for path in (root, root / "a", root / "a/x")} <= set(flushed)
    flushed.clear()
    assert put(store, "b/x", b"one", tmp_path, twins=("a/x",)) == "stored linked"
    assert (root / "a/x").stat().st_ino in flushed
