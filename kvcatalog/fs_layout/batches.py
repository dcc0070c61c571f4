"""Many files moved or removed at once: a folder is opened and flushed once for all of its files."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from kvcatalog import layout
from kvcatalog.blobs import BlobStat, MoveOutcome
from kvcatalog.errors import UnsafePathError
from kvcatalog.fs_layout.folders import RootFolder, regular_status, rename_exclusively
from kvcatalog.fs_layout.walking import blob_stat

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def move_many(root: RootFolder, moves: Sequence[tuple[str, str]]) -> list[MoveOutcome]:
    """Give files other paths; see BlobStore.move_many."""
    outcomes: list[MoveOutcome] = ["missing"] * len(moves)
    groups: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    for number, (path, target) in enumerate(moves):
        folder, _, name = layout.checked_path(path).rpartition("/")
        to, _, new_name = layout.checked_path(target).rpartition("/")
        groups[folder, to].append((number, name, new_name))
    for (folder, to), names in groups.items():
        try:
            with root.folder(folder) as source, root.folder(to, create=True) as aim:
                for number, name, new_name in names:
                    outcomes[number] = _moved(source, name, aim, new_name)
                os.fsync(aim)
                os.fsync(source)
        except FileNotFoundError:
            continue
        except UnsafePathError:
            for number, _, _ in names:
                outcomes[number] = "unsafe"
    return outcomes


def _moved(source: int, name: str, aim: int, new_name: str) -> MoveOutcome:
    try:
        if regular_status(source, name, name) is None:
            return "missing"
        rename_exclusively(source, name, aim, new_name)
    except FileExistsError:
        return "taken"
    except FileNotFoundError:
        return "missing"
    except UnsafePathError:
        return "unsafe"
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return "other device"
    return "moved"


def delete_many(root: RootFolder, paths: Sequence[str]) -> list[BlobStat]:
    """Remove files; see BlobStore.delete_many."""
    removed: list[BlobStat] = []
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[layout.checked_path(path).rpartition("/")[0]].append(path)
    for folder, members in groups.items():
        with suppress(FileNotFoundError), root.folder(folder) as descriptor:
            for path in members:
                name = path.rpartition("/")[2]
                status = regular_status(descriptor, name, path)
                if status is not None:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=descriptor)
                        removed.append(blob_stat(path, status))
            os.fsync(descriptor)
    return removed


def prune(parent: int, name: str) -> None:
    """Remove a folder, and those below it, as far as they are empty."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except OSError:  # it is gone, or no folder
        return
    try:
        with os.scandir(folder) as entries:
            below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for each in below:
            prune(folder, each)
    finally:
        os.close(folder)
    with suppress(OSError):  # something lies in it
        os.rmdir(name, dir_fd=parent)
