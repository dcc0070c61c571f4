"""The rules of the whole model that change what is recorded, and the state that all rules share."""

from __future__ import annotations

import io
import shutil
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from kvcatalog import finalize_candidate_download, storage
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.config import CatalogConfig
from kvcatalog.errors import NotFoundError
from kvcatalog.filters import parse_filter
from kvcatalog.models import RegistrationRequest, SightingRequest
from kvcatalog.removal import Collection
from tools.faults.workload import content_fields, content_of, identity
from tools.faults.world import CONTENTS, Document, Key, Snapshot, Walk, World

# Names that collide under the policy layout, and names that mean harm.
KEYS: tuple[Key, ...] = (
    ("a", "https://one.example/paper.pdf", "r"),
    ("a", "https://two.example/paper.pdf", "r"),
    ("b", "https://one.example/paper.pdf", "r"),
    ("../b\x1b[2J", "https://one.example/%2e%2e/paper.pdf?q=\u202e", "s"),
    ("文" * 150, "https://one.example/" + "x" * 700, "s"),
)
RUNS = ("run 1", "run 2")
TYPES = ("application/pdf", "text/plain; charset=utf-8")
DAY = timedelta(days=1)

keys = st.sampled_from(KEYS)
contents = st.integers(0, CONTENTS - 1)
names = st.sampled_from(("html", "text"))
runs = st.none() | st.sampled_from(RUNS)


class RecordRules(RuleBasedStateMachine):
    """Rules call the library, and change the model as it must be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.world = World(self.folder)
        self.snapshots: list[Snapshot] = []
        self.walks: list[Walk] = []
        self.steps = 0

    @invariant()
    def all_agrees(self) -> None:
        self.steps += 1
        self.world.check()
        present = {known.id for known in self.world.documents.values()}
        for walk in self.walks:
            walk.throughout &= present

    def collection(self) -> Collection:
        return Collection(self.world.catalog, self.world.config)

    def let_go(self) -> None:
        """End whatever reads, and close the catalog."""
        while self.walks:
            while self.walks[0].go(10):
                pass
            self.walks.pop()
        while self.snapshots:
            self.snapshots.pop().end()
        self.world.catalog.close()
        storage._open.clear()

    def teardown(self) -> None:
        with suppress(Exception):
            self.let_go()
        shutil.rmtree(self.folder)

    def known(self, data: st.DataObject) -> tuple[Key, Document]:
        key = data.draw(st.sampled_from(sorted(self.world.documents)), label="document")
        return key, self.world.documents[key]

    def registered(self, key: Key, content: int, run: str | None = None, age_days: int = 0) -> None:
        """Take note of what came under a key; what is there stays, and other content is a conflict."""
        world, old = self.world, self.world.documents.get(key)
        if old is None:
            world.last_id += 1
            world.documents[key] = Document(world.last_id, content, None, run, age_days)
            return
        new = old if old.content == content else structs.replace(old, conflicts=old.conflicts | {(None, content)})
        world.documents[key] = new.met(run)

    @rule(key=keys, content=contents, run=runs, stream=st.booleans(), reads_back=st.booleans())
    def finalize(self, key: Key, content: int, run: str | None, stream: bool, reads_back: bool) -> None:
        world = self.world
        source = self.folder / "download.part"
        source.write_bytes(content_of(content))
        outcome = finalize_candidate_download(
            io.BytesIO(content_of(content)) if stream else source,
            **identity(key),
            run_id=run,
            catalog=world.catalog,
            cfg_storage=world.config,
            cfg_catalog=CatalogConfig(verify_on_register=reads_back),
        )
        assert source.exists() is stream
        old = world.documents.get(key)
        expected = "registered" if old is None else "existing" if old.content == content else "conflict"
        assert (outcome.ok, outcome.registration) == (True, expected)
        assert Path(outcome.path or "").read_bytes() == content_of(content)
        self.registered(key, content, run)

    @rule(key=keys, name=names, content=contents)
    def finalize_variant(self, key: Key, name: str, content: int) -> None:
        world = self.world
        source = io.BytesIO(content_of(content))
        wishes: dict[str, Any] = {"catalog": world.catalog, "cfg_storage": world.config, "variant": name}
        if key not in world.documents:
            with pytest.raises(NotFoundError):
                finalize_candidate_download(source, **identity(key), **wishes)
            return
        assert finalize_candidate_download(source, **identity(key), **wishes).ok
        world.documents[key] = world.documents[key].with_variant(name, content)

    @rule(key=keys, content=contents, run=runs, age_days=st.sampled_from((0, 3)), replaces=st.booleans())
    def register(self, key: Key, content: int, run: str | None, age_days: int, replaces: bool) -> None:
        world, old = self.world, self.world.documents.get(key)
        created = from_micros(now_micros()) - age_days * DAY
        fields = {**identity(key), **content_fields(content), "run_id": run, "created_at": created}
        record = world.catalog.register(**fields, on_conflict="replace" if replaces else "keep").record
        self.registered(key, content, run, age_days)
        if replaces and old is not None and old.content != content:
            new = structs.replace(old, content=content, conflicts=old.conflicts - {(None, content)})
            world.documents[key] = new.met(run)
        assert record.id == world.documents[key].id

    @rule(wanted=st.lists(st.tuples(keys, contents, runs), max_size=5), futures=st.booleans())
    def register_many(self, wanted: list[tuple[Key, int, str | None]], futures: bool) -> None:
        requests = [{**identity(key), **content_fields(content), "run_id": run} for key, content, run in wanted]
        if futures:
            for future in [self.world.catalog.register_async(**request) for request in requests]:
                future.result()
        else:
            list(self.world.catalog.register_many(RegistrationRequest(**request) for request in requests))
        for key, content, run in wanted:
            self.registered(key, content, run)

    @precondition(lambda self: self.world.documents)
    @rule(data=st.data(), content_type=st.sampled_from(TYPES), content=st.none() | contents)
    def update(self, data: st.DataObject, content_type: str, content: int | None) -> None:
        key, old = self.known(data)
        changes: dict[str, Any] = {"content_type": content_type}
        new = structs.replace(old, content_type=content_type)
        if content is not None:
            changes |= content_fields(content)
            new = structs.replace(new, content=content, conflicts=old.conflicts - {(None, content)})
        self.world.catalog.update(old.id, **changes)
        self.world.documents[key] = new

    @precondition(lambda self: self.world.documents)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        key, known = self.known(data)
        self.world.catalog.delete(known.id)
        del self.world.documents[key]

    @precondition(lambda self: self.world.documents)
    @rule(data=st.data(), name=names, content=contents)
    def register_variant(self, data: st.DataObject, name: str, content: int) -> None:
        key, known = self.known(data)
        self.world.catalog.register_variant(document_id=known.id, variant=name, **content_fields(content))
        self.world.documents[key] = known.with_variant(name, content)

    @precondition(lambda self: any(each.variants for each in self.world.documents.values()))
    @rule(data=st.data())
    def delete_variant(self, data: st.DataObject) -> None:
        chosen = sorted((key, name) for key, each in self.world.documents.items() for name in each.variants)
        key, name = data.draw(st.sampled_from(chosen))
        known = self.world.documents[key]
        self.world.catalog.delete_variant(known.id, name)
        self.world.documents[key] = known.without_variant(name)

    @precondition(lambda self: self.world.documents)
    @rule(data=st.data(), run=st.sampled_from(RUNS))
    def record_sighting(self, data: st.DataObject, run: str) -> None:
        key, known = self.known(data)
        list(self.world.catalog.record_sightings([SightingRequest(known.id, run)]))
        self.world.documents[key] = known.met(run)

    @rule(data=st.data(), kind=st.sampled_from(("artifact", "uri", "uri", "type")))
    def hold(self, data: st.DataObject, kind: str) -> None:
        values = {"artifact": [KEYS[0][0], KEYS[2][0]], "uri": sorted(self.world.live()), "type": [TYPES[0]]}[kind]
        if values and len(self.world.holds) < 3:
            value = data.draw(st.sampled_from(values))
            held = self.world.catalog.add_hold(parse_filter([f"{kind}={value}"]), reason="because")
            self.world.holds[held.id] = (kind, value)

    @precondition(lambda self: self.world.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.world.holds)))
        self.world.catalog.release_hold(number)
        del self.world.holds[number]
