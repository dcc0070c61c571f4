from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from kvcatalog.errors import CatalogUnavailableError, StoragePermissionError
from kvcatalog.kv import engine, preflight
from kvcatalog.kv.creation import create_environment
from kvcatalog.kv.environment import open_environment
from tests.killing import Meet, deaths, watch_all, watch_calls
from tests.support import (
    ROWS,
    SETS,
    TABLES,
    all_rows,
    child,
    findings,
    finished,
    forked,
    need_root,
    put_rows,
    said,
    tell,
)

FIRST_ROWS = ((ROWS, b"format", b"1"), (SETS, b"set", b"12345678"))

CREATE = """
import sys
from pathlib import Path
from kvcatalog.kv.creation import create_environment
from tests.support import *
def create():
    return create_environment(Path(sys.argv[1]), TABLES, [(ROWS, b"format", b"1"), (SETS, b"set", b"12345678")])
"""


def intact(folder: Path) -> None:
    environment = open_environment(folder, TABLES)
    assert all_rows(environment) == [(b"format", b"1")]
    assert all_rows(environment, SETS) == [(b"set", b"12345678")]
    put_rows(environment, [(b"more", b"1")])
    environment.close()
    assert findings(folder) == []


def create(folder: Path) -> bool:
    return create_environment(folder, TABLES, FIRST_ROWS)


def test_a_new_environment_has_its_tables_and_first_rows(engine_kind: int, folder: Path) -> None:
    assert create(folder) is True
    assert preflight.check_data_file(folder) == engine_kind
    intact(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == [preflight.DATA_FILE, preflight.LOCK_FILE]


def test_what_is_there_is_left_alone(engine_kind: int, folder: Path) -> None:
    create(folder)
    assert create_environment(folder, TABLES, [(ROWS, b"other", b"")], kind=1 - engine_kind) is False
    assert preflight.check_data_file(folder) == engine_kind
    intact(folder)


def test_missing_folders_above_are_made_and_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", noted)
    folder = tmp_path / "one" / "two" / "environment"
    assert create(folder)
    intact(folder)
    for above in (tmp_path, tmp_path / "one", tmp_path / "one" / "two"):
        assert str(above) in flushed


def test_an_empty_folder_may_be_there(engine_kind: int, folder: Path) -> None:
    folder.mkdir()
    assert create(folder)
    intact(folder)


def untouched(folder: Path, left: list[str]) -> None:
    assert sorted(path.name for path in folder.parent.iterdir()) == left


@pytest.mark.usefixtures("engine_kind")
def test_a_folder_with_something_in_it_is_in_the_way(folder: Path) -> None:
    folder.mkdir()
    (folder / "letter").write_text("dear")
    with pytest.raises(CatalogUnavailableError, match="in the way"):
        create(folder)
    assert (folder / "letter").read_text() == "dear"
    untouched(folder, [folder.name])


@pytest.mark.usefixtures("engine_kind")
def test_a_file_is_in_the_way(folder: Path) -> None:
    folder.write_text("dear")
    with pytest.raises(CatalogUnavailableError, match="in the way"):
        create(folder)
    assert folder.read_text() == "dear"
    untouched(folder, [folder.name])
    with pytest.raises(CatalogUnavailableError):
        create(folder / "below")


@pytest.mark.usefixtures("engine_kind")
def test_a_link_that_leads_nowhere_is_in_the_way(folder: Path) -> None:
    folder.symlink_to(folder.parent / "nowhere")
    with pytest.raises(CatalogUnavailableError, match="in the way"):
        create(folder)
    untouched(folder, [folder.name])


@pytest.mark.usefixtures("engine_kind")
def test_a_parent_that_may_not_be_written_is_a_matter_of_permission(folder: Path) -> None:
    need_root()
    for path in list(folder.parents)[:-2]:
        path.chmod(0o755)

    def as_somebody_else() -> list[str]:
        os.setresuid(65534, 65534, 65534)
        names = []
        for path in (folder, folder / "below" / "it"):
            try:
                create(path)
            except CatalogUnavailableError as error:
                names.append(type(error).__name__)
        return names

    assert forked(as_somebody_else) == [StoragePermissionError.__name__] * 2
    untouched(folder, [])


@pytest.mark.usefixtures("engine_kind")
def test_an_error_of_the_engine_leaves_nothing(folder: Path) -> None:
    with pytest.raises(CatalogUnavailableError):
        create_environment(folder, TABLES, [(ROWS, b"k" * 9000, b"")])
    untouched(folder, [])


def watch_creation(meet: Meet) -> None:
    watch_all(meet)
    watch_calls(os, "open", meet)
    watch_calls(engine, "create_raw", meet)
    watch_calls(engine, "open_table", meet)


@pytest.mark.usefixtures("engine_kind")
def test_killed_at_any_step_it_leaves_none_or_a_whole_one(folder: Path) -> None:
    place, steps, whole = folder.parent / "place", 0, 0
    path = place / folder.name

    def again() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()

    for death in deaths(lambda: create(path), again, watch_creation):
        steps += 1
        beside = {entry.name for entry in place.iterdir()} - {path.name}
        assert len(beside) <= 1, death
        exists = path.exists()
        whole += exists
        if exists:
            intact(path)
        assert create(path) is not exists, death
        if not exists:
            intact(path)
        untouched(path, [path.name])
    assert steps > 15
    assert 0 < whole < steps


def test_a_flush_that_fails_is_told_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "the disk says no")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(CatalogUnavailableError, match="the disk says no"):
        create_environment(folder / "in" / "new folders", TABLES, ())


def test_leftovers_of_other_catalogs_are_none_of_ours(folder: Path) -> None:
    strange = [f".{folder.name}x.0123.new", f"{folder.name}.0123.new", ".[e]nvironment.0123.new"]
    for name in strange:
        (folder.parent / name).mkdir()
    ours = folder.parent / f".{folder.name}.0123456789abcdef.new"
    (ours / "deep").mkdir(parents=True)
    assert create(folder)
    untouched(folder, sorted([*strange, folder.name]))


def test_a_name_with_wildcards_is_a_name(tmp_path: Path) -> None:
    (tmp_path / ".abc.0123.new").mkdir()
    assert create(tmp_path / "*")
    intact(tmp_path / "*")
    assert (tmp_path / ".abc.0123.new").exists()


@pytest.mark.usefixtures("engine_kind")
def test_of_many_creations_at_once_one_makes_it(folder: Path) -> None:
    waiting = CREATE + "print('ready', flush=True); sys.stdin.readline(); print(create())"
    processes = [child(waiting, folder) for _ in range(4)]
    for process in processes:
        said(process)
    for process in processes:
        tell(process, "go")
    answers = sorted(finished(process).strip() for process in processes)
    assert answers == ["False", "False", "False", "True"]
    intact(folder)
    untouched(folder, [folder.name])


def test_an_engine_of_choice(tmp_path: Path) -> None:
    for kind in (engine.ENGINE_0_9, engine.ENGINE_1_0):
        assert create_environment(tmp_path / str(kind), TABLES, FIRST_ROWS, kind=kind)
        assert preflight.check_data_file(tmp_path / str(kind)) == kind
