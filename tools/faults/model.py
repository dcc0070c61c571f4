"""The whole library in any order against a plain dict: records, blobs, trash, copies, and readers meanwhile.

A Hypothesis state machine on real folders. Whatever is called, all is held against the model and against what lies on
the disk after each step (`world`), and what takes blobs away against what must go, found out by other means.
"""

from __future__ import annotations

import io
import shutil
import time
import traceback
from copy import deepcopy
from pathlib import Path
from typing import Literal

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from kvcatalog import finalize_candidate_download, open_catalog, storage
from kvcatalog.audit import audit_blobs
from kvcatalog.backup import backup, restore
from kvcatalog.compact import compact
from kvcatalog.errors import RootOwnershipError, RootUnreachableError
from kvcatalog.reconcile import Adoption, Reconciling
from kvcatalog.verify import verify_blobs
from tools.faults.model_records import KEYS
from tools.faults.model_removal import RemovalRules
from tools.faults.planting import plant
from tools.faults.report import Report
from tools.faults.workload import ELSEWHERE, content_of, identity
from tools.faults.world import CONTENTS, Documents, Snapshot, Walk, recorded

HEAVY_MAX = 3
"""Copies and compactions in one example; they start processes."""


class WholeMachine(RemovalRules):
    """All rules together: those here look, lose and find, read meanwhile, copy, and open anew."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[Path, Documents, dict[int, tuple[str, str]], int]] = []
        self.heavy = 0

    @initialize(layout=st.sampled_from(("cas", "policy_path")), orphans=st.integers(0, 2))
    def begin(self, layout: Literal["cas", "policy_path"], orphans: int) -> None:
        """Begin with documents, a variant, a conflict, and things in the trash or about to come there."""
        self.world.config = self.world.config.model_copy(update={"layout": layout})
        for number, key in enumerate(KEYS):
            self.finalize(key=key, content=number, run=None, stream=False, reads_back=False)
        self.finalize(key=KEYS[0], content=1, run="run 1", stream=True, reads_back=True)
        self.finalize_variant(key=KEYS[1], name="html", content=5)
        for number, key in enumerate(KEYS[-orphans:] if orphans else ()):
            self.world.catalog.delete(self.world.documents.pop(key).id)
            if not number:
                self.collect_garbage(apply=True)

    @rule()
    def look(self) -> None:
        """Read every blob, and audit rows and roots."""
        results = list(verify_blobs(self.world.catalog, cfg_storage=self.world.config, jobs=1))
        here = [each for each in results if not each.storage_uri.startswith(ELSEWHERE)]
        assert {each.result for each in here} <= {"ok"}, here
        assert {each.storage_uri for each in here} == self.verified_places()
        assert list(self.world.catalog.audit()) == []
        orphans = {uri for uri in self.world.live() if uri not in self.world.referenced()}
        found = list(audit_blobs(self.world.catalog, self.world.config))
        assert {(each.kind, each.storage_uri) for each in found} == {("blob unknown", uri) for uri in orphans}

    def verified_places(self) -> set[str]:
        records = list(self.world.catalog.iter_records())
        places = {record.storage_uri for record in records}
        places |= {each.storage_uri for record in records for each in self.world.catalog.get_variants(record.id)}
        return {uri for uri in places if not uri.startswith(ELSEWHERE)}

    @rule(data=st.data())
    def let_bits_rot(self, data: st.DataObject) -> None:
        """Change a byte of a blob: of all its names that are recorded verify tells, until it is as it was."""
        world = self.world
        places, live = self.verified_places(), world.live()
        if not places:
            return
        rotten = live[data.draw(st.sampled_from(sorted(places)))]
        content, inode = rotten.read_bytes(), rotten.stat().st_ino
        for changed in (content[:-1] + b"?", content):
            rotten.chmod(0o644)
            with rotten.open("r+b") as file:
                file.write(changed)
            results = verify_blobs(world.catalog, cfg_storage=world.config, jobs=1)
            corrupt = {each.storage_uri for each in results if each.result == "corrupt"}
            expected = {uri for uri in places if live[uri].stat().st_ino == inode} if changed != content else set()
            assert corrupt == expected

    @rule(data=st.data(), adopts=st.booleans())
    def reconcile(self, data: st.DataObject, adopts: bool) -> None:
        """Let a blob lie where nobody knows it, and find it again; adopt what nobody refers to."""
        world = self.world
        live, of_others = world.live(), self.world.referenced() - self.verified_places()
        lost = sorted(self.verified_places() - of_others - self.linked())
        if lost:
            path = live[data.draw(st.sampled_from(lost))]
            path.chmod(0o644)
            root = next(root for root in world.roots if path.is_relative_to(root))
            Path(root, "found").mkdir(exist_ok=True)
            path.rename(Path(root, "found", f"{self.steps}.bin"))
        orphans = world.orphans()
        with self.collection() as collection:
            run = Reconciling(
                world.catalog, collection.roots, adopt=lambda _uri, _path: Adoption("adopted") if adopts else None
            )
            steps = list(run.apply(collection))
        assert {step.outcome for step in steps} <= {"done", "planned"}, steps
        assert not [step for step in steps if step.action in {"lost", "refetch"}]
        used = {step.storage_uri for step in steps if step.action == "rebind"}
        for step in steps:
            if step.action == "adopt":
                content = world.live()[step.storage_uri].read_bytes()
                number = next(number for number in range(CONTENTS) if content_of(number) == content)
                self.registered(("adopted", step.storage_uri, "local"), number)
                assert step.document_id == world.documents["adopted", step.storage_uri, "local"].id
        assert {step.storage_uri for step in steps if step.action in {"adopt", "unknown"}} == orphans - used

    def linked(self) -> set[str]:
        catalog = self.world.catalog
        conflicts = {each.storage_uri for each in catalog.get_conflicts()}
        return conflicts | {x.storage_uri for each in catalog.iter_records() for x in catalog.get_links(each.id)}

    @rule()
    def hold_a_snapshot(self) -> None:
        """Begin one, or hold the one that was begun against what was recorded then."""
        if self.snapshots:
            self.snapshots.pop().end()
        else:
            self.snapshots.append(Snapshot(self.world))

    @rule(count=st.integers(0, 4))
    def walk(self, count: int) -> None:
        """Begin to read all records, or go on."""
        if not self.walks:
            self.walks.append(Walk(self.world))
        elif not self.walks[0].go(count):
            self.walks.pop()

    @rule()
    def reopen(self) -> None:
        self.let_go()
        self.world.catalog = self.world.opened()

    @precondition(lambda self: self.heavy < HEAVY_MAX)
    @rule()
    def compact(self) -> None:
        self.heavy += 1
        self.let_go()
        compact(self.world.path)
        self.world.catalog = self.world.opened()

    @precondition(lambda self: self.heavy < HEAVY_MAX)
    @rule()
    def back_up(self) -> None:
        self.heavy += 1
        world = self.world
        target = self.folder / f"backup {self.steps}"
        assert backup(world.path, target).manifest.documents == len(world.documents)
        self.copies.append((target, deepcopy(world.documents), dict(world.holds), world.last_id))

    @precondition(lambda self: self.copies and self.heavy < HEAVY_MAX)
    @rule(data=st.data(), goes_on=st.booleans())
    def restore_backup(self, data: st.DataObject, goes_on: bool) -> None:
        self.heavy += 1
        copy, documents, holds, last_id = data.draw(st.sampled_from(self.copies))
        target = self.folder / f"restored {self.steps}"
        restore(copy, target, apply=True)
        with open_catalog(target, read_only=True) as catalog:
            assert recorded(catalog) == documents
        if goes_on:
            self.go_on_with(target, deepcopy(documents), dict(holds), last_id)
        else:
            shutil.rmtree(target)

    def go_on_with(self, path: Path, documents: Documents, holds: dict[int, tuple[str, str]], last_id: int) -> None:
        """Take a restored catalog for the catalog: it gets the roots, and the former loses them."""
        world, former = self.world, self.world.path
        self.let_go()
        world.path, world.documents, world.holds, world.last_id = path, documents, holds, last_id
        world.catalog = world.opened()
        self.is_refused(world.path)
        for root in world.roots:
            config = world.config.model_copy(update={"root_dir": root})
            try:
                storage.adopt_root(config, world.catalog)
            except RootUnreachableError:  # none of some blobs of the backup is there any more
                storage.adopt_root(config, world.catalog, force=True)
        self.is_refused(former)
        shutil.rmtree(former)
        live = world.live()
        missing = {uri for uri in world.referenced() if uri not in live and not uri.startswith(ELSEWHERE)}
        told = {each.storage_uri for each in audit_blobs(world.catalog, world.config) if each.kind == "blob missing"}
        links = {uri for uri in self.linked() if uri in missing}
        assert told <= missing <= told | links  # of links the audit says nothing
        for key, known in list(world.documents.items()):
            if world.referenced([known.id]) & missing:
                world.catalog.delete(known.id)
                del world.documents[key]

    def is_refused(self, path: Path) -> None:
        """See that a catalog which does not own the roots may not write there."""
        storage._open.clear()
        with open_catalog(path) as catalog, pytest.raises(RootOwnershipError):
            finalize_candidate_download(
                io.BytesIO(b"refused"), **identity(KEYS[0]), catalog=catalog, cfg_storage=self.world.config
            )
        storage._open.clear()
        if path == self.world.path:
            self.world.catalog = self.world.opened()


def run(examples: int, *, steps: int = 50, seed: int = 0, mistake: str = "") -> Report:
    """Try a number of examples, or until something is wrong."""
    started = time.monotonic()
    report = Report("model")
    plant(mistake)

    class Counted(WholeMachine):
        def teardown(self) -> None:
            report.cases += 1
            report.checked += self.steps
            super().teardown()

    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(Counted), settings=chosen)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        report.wrong(
            f"seed {seed}",
            ["".join(traceback.format_tb(error.__traceback__)[-3:] + traceback.format_exception_only(error))],
        )
    report.seconds = time.monotonic() - started
    return report
