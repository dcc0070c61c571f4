"""Processes of several threads each that register, update, delete and look up at once, and what they remember of it."""

from __future__ import annotations

import random
import time
from pathlib import Path

from kvcatalog import DocumentRecord, LmdbCatalog, open_catalog
from kvcatalog.models import RegistrationFields
from tests.invariants import assert_consistent
from tests.parallel import in_processes, in_threads
from tests.support import HANG_SECONDS

PROCESSES = 8
THREADS = 4
SECONDS = 3

SHARED = 50


class Worker:
    """One thread's work on keys of its own, with what it remembers of them, and on keys that all share."""

    def __init__(self, catalog: LmdbCatalog, name: str) -> None:
        self.catalog = catalog
        self.name = name
        self.remembered: dict[str, DocumentRecord] = {}
        self.random = random.Random(name)

    def work(self) -> dict[str, DocumentRecord]:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            self.random.choice((self.register, self.register, self.meet, self.update, self.delete, self.look))()
        return self.remembered

    def register(self) -> None:
        artifact_id = f"{self.name}:{self.random.randrange(200)}"
        digest = f"{self.random.randrange(30):064x}"
        fields: RegistrationFields = {
            "artifact_id": artifact_id,
            "source_url": "u",
            "resolver": self.name[:1],
            "bytes": 7,
            "sha256": digest,
            "storage_uri": f"file:///data/{artifact_id}",
            "run_id": self.name,
        }
        if self.random.random() < 0.5:
            done = self.catalog.register(**fields)
        else:
            done = self.catalog.register_async(**fields).result(HANG_SECONDS)
        known = self.remembered.setdefault(artifact_id, done.record)
        assert done.record == known

    def meet(self) -> None:
        """Register what others register too: whoever comes first, all get the same record."""
        artifact_id = f"shared:{self.random.randrange(SHARED)}"
        fields: RegistrationFields = {
            "artifact_id": artifact_id,
            "source_url": "u",
            "resolver": "s",
            "bytes": 1,
            "storage_uri": "file:///shared",
        }
        first, again = (self.catalog.register(**fields).record for _ in range(2))
        assert first == again == self.remembered.setdefault(artifact_id, first)

    def update(self) -> None:
        if own := self.own():
            changed = self.catalog.update(own.id, content_type=f"text/{self.random.randrange(5)}")
            self.remembered[own.artifact_id] = changed

    def delete(self) -> None:
        if own := self.own():
            assert self.catalog.delete(own.id) == self.remembered.pop(own.artifact_id)

    def look(self) -> None:
        if own := self.own():
            assert self.catalog.get_by_id(own.id) == own
            assert self.catalog.get_by_artifact(own.artifact_id) == [own]
            assert own.sha256 is not None
            assert own in self.catalog.get_by_sha256(own.sha256)

    def own(self) -> DocumentRecord | None:
        own = [record for artifact_id, record in self.remembered.items() if artifact_id.startswith(self.name)]
        return self.random.choice(own) if own else None


def test_what_all_remember_is_what_is_there(tmp_path: Path) -> None:
    open_catalog(tmp_path / "catalog").close()

    def in_process(process: int) -> dict[str, DocumentRecord]:
        with open_catalog(tmp_path / "catalog") as catalog:
            workers = [Worker(catalog, f"{process}.{thread}") for thread in range(THREADS)]
            remembered = in_threads(THREADS, lambda thread: workers[thread].work())
        return {artifact_id: record for part in remembered for artifact_id, record in part.items()}

    expected: dict[str, DocumentRecord] = {}
    for remembered in in_processes(PROCESSES, in_process):
        for artifact_id, record in remembered.items():
            assert expected.setdefault(artifact_id, record) == record
    with open_catalog(tmp_path / "catalog") as catalog:
        assert {record.artifact_id: record for record in catalog.iter_records()} == expected
        assert_consistent(catalog)
    assert len(expected) > PROCESSES
