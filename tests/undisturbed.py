"""Work on a catalog and its root that is killed at every step and done again: its end is that of undisturbed work."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvcatalog import storage
from tests.gc_store import Place
from tests.invariants import assert_consistent
from tests.killing import Watch, deaths, steps_of
from tools.faults.checking import dangling
from tools.faults.copies import taken_for_originals

Work = Callable[[Path], object]


def state(folder: Path, opened: Callable[[Path], Place], *, roots: tuple[str, ...] = ("root",)) -> dict[str, Any]:
    """Return what lies below the roots, whatever plan took it, what is recorded, and what the journal tells."""
    files = Counter(
        (re.sub(r"\.kvcatalog/trash/[^/]+/", "trash/", str(path.relative_to(folder))), path.read_bytes())
        for root in roots
        for path in (folder / root).rglob("*")
        if path.is_file() and path.name != "root.json"
    )
    place = opened(folder)
    try:
        assert dangling(place.catalog, place.store) == []
        assert place.catalog.condemned() == []
        assert_consistent(place.catalog)
        return {"files": files, **recorded(place.catalog)}
    finally:
        place.close()


def recorded(catalog: Any) -> dict[str, Any]:
    """Return what a catalog holds, and what its journal tells."""
    told = Counter(
        (entry.action, entry.document_id, entry.changes.get("storage_uri", ("",))[0])
        for entry in catalog.journal()
        if entry.action not in {"begin", "finish", "root"}
    )
    records = [
        (record.id, record.storage_uri, record.sha256, *_hanging_on(catalog, record.id))
        for record in catalog.iter_records()
    ]
    return {"journal": told, "records": records}


def _hanging_on(catalog: Any, document_id: int) -> tuple[Any, ...]:
    return (
        [(each.variant, each.storage_uri, each.sha256) for each in catalog.get_variants(document_id)],
        [(each.sha256, each.storage_uri) for each in catalog.get_conflicts(document_id)],
        sorted(each.storage_uri for each in catalog.get_links(document_id)),
    )


@taken_for_originals()
def kill_everywhere(
    folder: Path,
    work: Work,
    seen: Callable[[], dict[str, Any]],
    *,
    begin: Callable[[], object] = lambda: None,
    watch: Watch | None = None,
) -> Counter[str]:
    """Kill the work at every step, do it again, and hold what is `seen` against undisturbed work; returns the steps.

    The folder is put back as it is now each time; hard links, inodes apart, and times stay. `begin` puts back what lies
    elsewhere.
    """
    template = folder.with_name(f"{folder.name}-template")
    folder.rename(template)

    def again() -> None:
        storage._open.clear()
        shutil.rmtree(folder, ignore_errors=True)
        copied: dict[int, str] = {}

        def copy(source: str, target: str) -> None:
            file = os.stat(source).st_ino
            if file in copied:
                os.link(copied[file], target)
            else:
                shutil.copy2(source, target)
                copied[file] = target

        shutil.copytree(template, folder, copy_function=copy)
        begin()

    again()
    steps = Counter(steps_of(lambda: work(folder), watch))
    expected = seen()
    for death in deaths(lambda: work(folder), again, watch):
        work(folder)
        storage._open.clear()
        assert seen() == expected, death
    return steps
