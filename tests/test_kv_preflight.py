from __future__ import annotations

import errno
import os
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kvcatalog.errors import (
    CatalogUnavailableError,
    DatabaseDamagedError,
    NetworkFileSystemError,
    StorageFullError,
    StoragePermissionError,
)
from kvcatalog.kv import engine, preflight
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.freelist import free_pages
from tests.support import (
    ROWS,
    TABLES,
    all_rows,
    child,
    findings,
    finished,
    forked,
    made,
    need_root,
    put_rows,
    run,
    said,
    tell,
)

PAGE = 4096


def churned(folder: Path, seed: int) -> Environment:
    """Return an environment whose transactions put much and delete much of it again at once."""
    environment = made(folder)
    chance = random.Random(seed)
    for _ in range(chance.randrange(2, 7)):
        with environment.write() as transaction:
            keys = [b"%06d" % chance.randrange(10**6) for _ in range(chance.randrange(1, 1500))]
            for key in keys:
                transaction.put(ROWS, key, b"v" * chance.choice([10, 300, 3000]))
            if chance.random() < 0.7:
                for key in chance.sample(keys, chance.randrange(len(keys)) + 1):
                    transaction.delete(ROWS, key)
    return environment


def test_sound_files_pass_though_they_end_before_their_last_page(engine_kind: int, tmp_path: Path) -> None:
    short = 0
    for seed in range(12):
        folder = tmp_path / str(seed)
        environment = churned(folder, seed)
        size, needed = environment.file_figures()
        short += size < needed
        rows = all_rows(environment)
        environment.close()
        assert findings(folder) == []
        assert preflight.check_data_file(folder) == engine_kind
        environment = open_environment(folder, TABLES)
        assert all_rows(environment) == rows
        put_rows(environment, [(b"more %d" % number, b"y" * 900) for number in range(100)])
        environment.close()
        assert findings(folder) == []
    assert short, "no file of these ends before its last page"


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_file_is_refused_wherever_it_was_cut(engine_kind: int, folder: Path, seed: int) -> None:
    environment = churned(folder, seed)
    rows = all_rows(environment)
    environment.close()
    whole = (folder / preflight.DATA_FILE).read_bytes()
    chance = random.Random(seed)
    lengths = {0, 1, 24, 255, 256, PAGE, PAGE + 1, 2 * PAGE - 1, 2 * PAGE, len(whole) // 2}
    lengths |= {chance.randrange(len(whole)) for _ in range(60)}
    lengths |= set(range(0, len(whole), max(PAGE, len(whole) // 40 // PAGE * PAGE)))
    for length in sorted(lengths):
        os.truncate(folder / preflight.DATA_FILE, length)
        try:
            preflight.check_data_file(folder)
        except DatabaseDamagedError:
            pass
        else:  # then nothing was cut off but free pages
            assert findings(folder) == []
        (folder / preflight.DATA_FILE).write_bytes(whole)
    assert preflight.check_data_file(folder) == engine_kind
    environment = open_environment(folder, TABLES)
    assert all_rows(environment) == rows
    environment.close()


def test_a_file_cut_within_its_rows_is_refused_and_nothing_dies(environment: Environment, folder: Path) -> None:
    put_rows(environment, [(b"%05d" % number, b"v" * 100) for number in range(2000)])
    environment.close()
    size = (folder / preflight.DATA_FILE).stat().st_size
    for length in range(PAGE, size, size // 20 // PAGE * PAGE):
        os.truncate(folder / preflight.DATA_FILE, size - length)
        with pytest.raises(DatabaseDamagedError, match=r"cut short|two meta pages"):
            open_environment(folder, TABLES)


def test_a_free_list_of_many_pages_is_read_whole(engine_kind: int, folder: Path) -> None:
    environment = made(folder)
    for turn in range(3):
        put_rows(environment, [(b"%05d" % number, bytes([turn]) * 3000) for number in range(4000)])
        with environment.write() as transaction:
            for number in range(turn, 4000, 2):
                transaction.delete(ROWS, b"%05d" % number)
    with environment.write() as transaction:
        for number in range(4000):
            transaction.delete(ROWS, b"%05d" % number)
    with environment.read() as transaction:
        used = sum(transaction.pages(table) for table in TABLES)
    environment.close()
    data = (folder / preflight.DATA_FILE).read_bytes()
    header = 16 if engine_kind == engine.ENGINE_0_9 else 24
    root, last = max(
        (struct.unpack_from("<Q48xQQ", data, meta + header + 64) for meta in (0, PAGE)), key=lambda meta: meta[2]
    )[:2]
    free = list(
        free_pages(lambda start, count: data[start : start + count], root, page_bytes=PAGE, header_bytes=header)
    )
    assert len(set(free)) == len(free) > 4000
    assert 2 <= min(free) <= max(free) <= last
    assert last + 1 - used - 60 < len(free) < last + 1 - used  # what is left holds the list itself


def test_a_free_list_that_leads_round_in_circles_is_no_free_list(environment: Environment, folder: Path) -> None:
    environment.close()
    data = folder / preflight.DATA_FILE
    header = 16 if preflight.check_data_file(folder) == engine.ENGINE_0_9 else 24
    page = bytearray(data.read_bytes()[: 2 * PAGE] + bytes(PAGE))
    for meta in (0, PAGE):
        struct.pack_into("<Q", page, meta + header + 64, 2)  # the root of the free pages
        struct.pack_into("<Q", page, meta + header + 120, 9)  # the last page
    base = 0 if header == 16 else header
    struct.pack_into("<HHH", page, 2 * PAGE + header - 6, 1, header - base + 4, 0)  # a branch of two nodes
    for slot in (0, 2):
        struct.pack_into("<H", page, 2 * PAGE + header + slot, 200)
    struct.pack_into("<HHHH", page, 2 * PAGE + base + 200, 2, 0, 0, 0)  # both lead to the page itself
    data.write_bytes(page)
    with pytest.raises(DatabaseDamagedError, match="cut short"):
        preflight.check_data_file(folder)


def test_commits_of_other_processes_do_not_look_like_a_cut_file(environment: Environment, folder: Path) -> None:
    writer = child(
        """
import sys
from pathlib import Path
from typing import Any
from tests.support import *
environment = open_environment(Path(sys.argv[1]), TABLES)
print("writing", flush=True)
for turn in range(400):
    put_rows(environment, [(b"%d %d" % (turn, number), b"v" * 2500) for number in range(40)])
print("done", flush=True)
sys.stdin.readline()
environment.close()
""",
        folder,
    )
    said(writer)
    kinds = set()
    for _ in range(3000):
        kinds.add(preflight.check_data_file(folder))
    assert len(kinds) == 1
    tell(writer, "go")
    finished(writer)
    assert len(all_rows(environment)) == 16_000


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "content",
    [b"", b"x", bytes(3 * PAGE), b"SQLite format 3\0" * 1000, random.Random(1).randbytes(5 * PAGE)],
    ids=["empty", "one byte", "zeros", "another database", "noise"],
)
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / preflight.DATA_FILE).write_bytes(content)
    with pytest.raises(DatabaseDamagedError):
        open_environment(other, TABLES)


@pytest.mark.parametrize("page_bytes", [0, 1, 3, 256, 4095, 131072, 2**32 - 1])
def test_an_impossible_page_size_is_refused(environment: Environment, folder: Path, page_bytes: int) -> None:
    environment.close()
    header = 16 if preflight.check_data_file(folder) == engine.ENGINE_0_9 else 24
    with (folder / preflight.DATA_FILE).open("r+b") as file:
        file.seek(header + 24)
        file.write(struct.pack("<I", page_bytes))
    with pytest.raises(DatabaseDamagedError, match="page size"):
        preflight.check_data_file(folder)


def test_only_a_regular_file_is_opened(environment: Environment, folder: Path, tmp_path: Path) -> None:
    environment.close()
    data = folder / preflight.DATA_FILE
    moved = data.rename(tmp_path / "moved")
    data.symlink_to(moved)
    with pytest.raises(CatalogUnavailableError):
        preflight.check_data_file(folder)
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(DatabaseDamagedError, match="not a regular file"):
        preflight.check_data_file(folder)
    data.unlink()
    data.mkdir()
    with pytest.raises(CatalogUnavailableError):
        preflight.check_data_file(folder)
    data.rmdir()
    with pytest.raises(CatalogUnavailableError):
        preflight.check_data_file(folder)


def test_only_a_regular_lock_file_is_used(environment: Environment, folder: Path, tmp_path: Path) -> None:
    environment.close()
    lock = folder / preflight.LOCK_FILE
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CatalogUnavailableError, match="not a regular file"):
        open_environment(folder, TABLES)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_of_a_stranger_is_refused(environment: Environment, folder: Path) -> None:
    environment.close()
    need_root()
    data = folder / preflight.DATA_FILE
    os.chown(data, 65534, -1)
    with pytest.raises(CatalogUnavailableError, match="belongs to user 65534"):
        preflight.check_data_file(folder)
    os.chown(folder, 65534, -1)  # a catalog of that user's, opened by root
    preflight.check_data_file(folder)


def test_a_lock_file_that_root_makes_serves_the_owner(environment: Environment, folder: Path) -> None:
    environment.close()
    need_root()
    os.chown(folder, 65534, 65534)
    os.chown(folder / preflight.DATA_FILE, 65534, 65534)
    (folder / preflight.DATA_FILE).chmod(0o640)
    (folder / preflight.LOCK_FILE).unlink()
    open_environment(folder, TABLES).close()
    status = (folder / preflight.LOCK_FILE).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o640)


def test_files_that_may_not_be_read_are_a_matter_of_permission(environment: Environment, tmp_path: Path) -> None:
    environment.close()
    need_root()
    folder = Path(environment.path)
    (folder / preflight.DATA_FILE).chmod(0o600)

    def as_somebody_else() -> str:
        os.setresuid(65534, 65534, 65534)
        try:
            open_environment(folder, TABLES, read_only=True)
        except CatalogUnavailableError as error:
            return type(error).__name__
        return "opened"

    for path in (tmp_path, *list(tmp_path.parents)[:-2]):
        path.chmod(path.stat().st_mode | 0o755)
    assert forked(as_somebody_else) == StoragePermissionError.__name__


def test_a_new_lock_file_is_backed_whole(tmp_path: Path) -> None:
    preflight.prepare_lock_file(tmp_path)
    status = (tmp_path / preflight.LOCK_FILE).stat()
    assert status.st_blocks * 512 >= status.st_size >= 64 * engine.READERS_MAX
    assert [path.name for path in tmp_path.iterdir()] == [preflight.LOCK_FILE]


def test_a_sparse_lock_file_is_backed_and_keeps_its_content(tmp_path: Path) -> None:
    lock = tmp_path / preflight.LOCK_FILE
    lock.write_bytes(b"something")
    os.truncate(lock, 100_000)
    preflight.prepare_lock_file(tmp_path)
    status = lock.stat()
    assert status.st_blocks * 512 >= status.st_size == 100_000
    assert lock.read_bytes() == b"something" + bytes(100_000 - 9)


def test_a_lock_file_that_another_process_makes_first_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link_late(source: str, target: str, **_: object) -> None:
        Path(target).write_bytes(b"theirs")
        assert Path(source).exists()
        raise FileExistsError(17, "File exists", target)

    monkeypatch.setattr("os.link", link_late)
    preflight.prepare_lock_file(tmp_path)
    assert (tmp_path / preflight.LOCK_FILE).read_bytes() == b"theirs"
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_left_of_a_lock_file_that_could_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.unlink", fail)
    preflight.prepare_lock_file(tmp_path)
    monkeypatch.setattr("os.link", fail)
    (tmp_path / preflight.LOCK_FILE).rename(tmp_path / "first")
    with pytest.raises(CatalogUnavailableError):
        preflight.prepare_lock_file(tmp_path)
    assert os.listdir(tmp_path) == ["first"]


def test_where_every_file_has_a_name_the_lock_file_loses_its_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def refuse(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return open_file(path, flags, *rest, **more)

    monkeypatch.setattr("os.open", refuse)
    preflight.prepare_lock_file(tmp_path)
    assert os.listdir(tmp_path) == [preflight.LOCK_FILE]
    assert (tmp_path / preflight.LOCK_FILE).stat().st_size > 60_000


def fill(disk: Path, left_bytes: int) -> None:
    room = os.statvfs(disk).f_bavail * PAGE - left_bytes
    (disk / "fill").write_bytes(bytes(room))


OPEN = """
import sys
from pathlib import Path
from typing import Any
from kvcatalog.errors import CatalogError
from tests.support import *
try:
    environment = open_environment(Path(sys.argv[1]), TABLES, read_only=sys.argv[2] == "True")
    print(len(all_rows(environment)))
except CatalogError as error:
    print(type(error).__name__)
"""


@pytest.mark.usefixtures("engine_kind")
@pytest.mark.parametrize("left_pages", [0, 1, 5])
@pytest.mark.parametrize("read_only", [True, False])
def test_no_room_for_the_lock_file_is_an_error_and_no_signal(
    small_disk: Path, left_pages: int, read_only: bool
) -> None:
    folder = small_disk / "environment"
    made(folder).close()
    lock = folder / preflight.LOCK_FILE
    lock.unlink()
    fill(small_disk, left_pages * PAGE)
    assert run(OPEN, folder, read_only).strip() == StorageFullError.__name__
    assert sorted(path.name for path in folder.iterdir()) == [preflight.DATA_FILE]
    with lock.open("wb") as file:  # as a copy leaves it that makes holes of zeros
        file.truncate(80_000)
    assert run(OPEN, folder, read_only).strip() == StorageFullError.__name__
    lock.unlink()
    (small_disk / "fill").unlink()
    assert run(OPEN, folder, read_only).strip() == "0"


def mounts(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogateescape", delete=False) as listing:
        listing.writelines(f"{line}\n" for line in lines)
    monkeypatch.setattr(preflight, "MOUNTS_FILE", listing.name)


ROOT = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "ceph", "lustre", "virtiofs"])
def test_network_file_systems_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    mounts(monkeypatch, ROOT, f"30 21 0:40 / {tmp_path} rw shared:9 master:1 - {kind} host:/export rw")
    with pytest.raises(NetworkFileSystemError, match=kind):
        preflight.refuse_network_file_system(tmp_path / "below" / "it")
    with pytest.raises(NetworkFileSystemError):
        preflight.refuse_network_file_system(tmp_path)
    preflight.refuse_network_file_system(tmp_path.parent / (tmp_path.name + "beside"))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("with space", "with\\040space"),
        ("tab\there", "tab\\011here"),
        ("new\nline", "new\\012line"),
        ("back\\slash", "back\\134slash"),
        ("literal \\040", "literal\\040\\134040"),
        ("zoë", "zoë"),
        ("form\x0cfeed and \u2028", "form\x0cfeed\\040and\\040\u2028"),
    ],
)
def test_names_of_mounts_are_unescaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, written: str
) -> None:
    mounts(monkeypatch, ROOT, f"30 21 0:40 / {tmp_path}/{written} rw - nfs host:/export rw")
    with pytest.raises(NetworkFileSystemError):
        preflight.refuse_network_file_system(tmp_path / name / "catalog")
    preflight.refuse_network_file_system(tmp_path / "another")


def test_the_innermost_and_last_mount_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    local = f"31 30 8:2 / {tmp_path}/local rw - ext4 /dev/sdb rw"
    remote = f"30 21 0:40 / {tmp_path} rw - nfs host:/export rw"
    mounts(monkeypatch, local, remote, ROOT)
    preflight.refuse_network_file_system(tmp_path / "local" / "catalog")
    mounts(monkeypatch, ROOT, f"22 21 8:3 / {tmp_path} rw - xfs /dev/sdc rw", remote)
    with pytest.raises(NetworkFileSystemError):
        preflight.refuse_network_file_system(tmp_path)
    mounts(monkeypatch, ROOT, remote, f"32 30 8:3 / {tmp_path} rw - xfs /dev/sdc rw")
    preflight.refuse_network_file_system(tmp_path)


def test_an_environment_on_a_network_file_system_is_not_opened(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, folder: Path
) -> None:
    environment.close()
    mounts(monkeypatch, f"30 21 0:40 / {folder} rw - nfs host:/export rw")
    with pytest.raises(NetworkFileSystemError):
        open_environment(folder, TABLES)
