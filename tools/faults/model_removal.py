"""The rules of the whole model that take blobs away, or elsewhere; which must go is found out by other means."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec import structs

from kvcatalog import storage
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.config import StorageConfig
from kvcatalog.digest import sha256_file
from kvcatalog.errors import PlanError
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.gc import plan_garbage
from kvcatalog.models import DocumentRecord
from kvcatalog.relayout import Plan as Belonging
from kvcatalog.relayout import Relayout, target_config
from kvcatalog.removal import Collection, Plan, Result
from kvcatalog.removal import trash as trash_of
from kvcatalog.retention import Retention, Rule
from kvcatalog.uris import file_path
from tools.faults.model_records import TYPES, RecordRules, keys
from tools.faults.workload import ELSEWHERE, content_fields, content_of, identity
from tools.faults.world import CONTENTS, DIGESTS, Document, Key

DAY_MICROS = 86_400_000_000


class RemovalRules(RecordRules):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[tuple[str, str]] = []

    @rule(apply=st.booleans())
    def collect_garbage(self, apply: bool) -> None:
        world = self.world
        expected, live = world.orphans(), world.live()
        freed = freed_bytes([live[uri] for uri in expected])
        with self.collection() as collection:
            plan = plan_garbage(world.catalog, collection.roots, orphan_ttl_days=0, now=now_micros() + DAY_MICROS)
            with plan:
                assert {item.location for item in plan.items()} == expected
                sizes = sum(live[uri].stat().st_size for uri in expected)
                assert structs.astuple(plan.totals) == (len(expected), sizes, freed)
                if apply:
                    results = list(collection.execute(plan.header.plan, plan.items()))
                    assert [result for result in results if result.kept is not None] == []
                elif expected:
                    self.plans.append((str(self.folder / plan.header.plan), plan.header.plan))
                    plan.save(self.plans[-1][0])
        assert live.keys() - world.live().keys() == (expected if apply else set())

    @precondition(lambda self: self.plans)
    @rule()
    def collect_as_planned_before(self) -> None:
        """Carry out an old plan: what came to be used or held since, or was stored again, stays."""
        world = self.world
        path, label = self.plans.pop(0)
        live, orphans = world.live(), world.orphans()
        try:
            plan = Plan.load(path, world.catalog.identity)
        except PlanError:  # it was made before a backup was restored
            assert int(world.catalog.identity.generation) > 0
            return
        with self.collection() as collection, plan:
            results = list(collection.execute(label, plan.items()))
        taken = {result.item.location for result in results if result.trash is not None}
        assert live.keys() - world.live().keys() == taken <= orphans
        for result in results:
            if result.kept is not None:
                uri = result.item.location
                assert uri not in orphans or self.has_reason(uri, result), result

    def has_reason(self, uri: str, result: Result) -> bool:
        """Tell whether a blob that nothing needs was rightly kept: it is another than was planned for."""
        is_like = from_micros(self.world.live()[uri].stat().st_mtime_ns // 1000) == result.item.modified_at
        return result.kept == ("taken" if is_like else "changed")

    @precondition(lambda self: self.world.trash())
    @rule(data=st.data(), whole=st.booleans())
    def restore_from_trash(self, data: st.DataObject, whole: bool) -> None:
        world = self.world
        before, live = world.trash(), world.live()
        chosen = data.draw(st.sampled_from(sorted(before, key=lambda each: (each[0], each[1].path))))
        wanted = chosen[0] if whole else chosen[1].uri
        label = chosen[0] if whole else max(label for label, place in before if place == chosen[1])
        expected = {place.uri for plan, place in before if plan == label and (whole or place == chosen[1])}
        with self.collection() as collection:
            results = list(trash_of.restore(collection, wanted))
        assert {each.location for each in results} == expected
        assert all((each.outcome == "restored") is (each.location not in live) for each in results)
        assert world.live().keys() - live.keys() == expected - live.keys()
        assert len(world.trash()) == len(before) - len(expected - live.keys())

    @precondition(lambda self: self.world.trash())
    @rule(data=st.data(), key=keys)
    def empty_trash(self, data: st.DataObject, key: Key) -> None:
        """Empty the trash while something has come to refer to one blob of it; that stays, and comes back."""
        world = self.world
        before, live = world.trash(), world.live()
        chosen = data.draw(st.sampled_from(sorted(before, key=lambda each: (each[0], each[1].path))))
        kept = {each for each in before if each[1] == chosen[1]}
        is_wanted = key not in world.documents and chosen[1].uri not in live
        if is_wanted:
            content = before[max(kept, key=lambda each: each[0])].read_bytes()
            number = next(number for number in range(CONTENTS) if content_of(number) == content)
            place = {"storage_uri": chosen[1].uri}
            world.catalog.register(**{**identity(key), **content_fields(number), **place})
            self.registered(key, number)
        going = set(before) - kept if is_wanted else set(before)
        freed = freed_bytes([before[each] for each in going])
        with self.collection() as collection:
            done = list(trash_of.empty(collection.roots, world.catalog, now=now_micros(), apply=True))
            assert world.trash().keys() == set(before) - going
            assert (sum(each.blobs for each in done), sum(each.bytes_freed for each in done)) == (len(going), freed)
            if is_wanted:
                list(trash_of.restore(collection, chosen[1].uri))

    @rule(
        days=st.sampled_from((0.5, 2.0)),
        where=st.sampled_from((Filter(), parse_filter(["artifact=a"]), parse_filter([f"type={TYPES[0]}"]))),
        copies=st.sampled_from((0, 0, 1)),
        since=st.sampled_from(("created", "last_seen")),
    )
    def retire(self, days: float, where: Filter, copies: int, since: Literal["created", "last_seen"]) -> None:
        """Retire what is older than some days by tomorrow."""
        world = self.world
        records = {record.id: record for record in world.catalog.iter_records(where)}
        may_go = {
            key
            for key, known in world.documents.items()
            if known.id in records and self.is_old(known, days, since) and not self.is_kept(key, known, records)
        }
        live, before = world.live(), world.referenced(world.documents[key].id for key in may_go)
        held = {uri for uri in live if world.is_held(uri)}
        stored = self.stored_contents()
        with self.collection() as collection:
            rule = Rule("rule", where, days, since, copies)
            run = Retention(collection, [rule], now=now_micros() + DAY_MICROS)
            with run.plan() as plan:
                gone = {
                    (each.artifact_id, each.source_url, each.resolver)
                    for each in (done.decision.record for done in run.records(plan) if done.outcome == "deleted")
                }
            list(run.blobs())
        assert gone <= may_go if copies else gone == may_go
        for key in gone:
            del world.documents[key]
        if copies:
            assert self.stored_contents() == stored
        else:
            assert live.keys() - world.live().keys() == (before & live.keys()) - world.referenced() - held

    def stored_contents(self) -> set[int]:
        """Return the contents of documents that are stored here."""
        live, records = self.world.live(), self.world.catalog.iter_records()
        return {DIGESTS[record.sha256 or ""] for record in records if record.storage_uri in live}

    def is_old(self, known: Document, days: float, since: str) -> bool:
        return known.age_days + 1 > days if since == "created" or not known.runs else days < 1

    def is_kept(self, key: Key, known: Document, records: dict[int, DocumentRecord]) -> bool:
        world, record = self.world, records[known.id]
        places = [each.storage_uri for each in world.catalog.get_variants(record.id)]
        return world.is_held(record.storage_uri, (key, known, record.storage_uri)) or any(map(world.is_held, places))

    @rule(
        to=st.sampled_from(("cas", "policy_path")), root=st.integers(0, 1), links=st.booleans(), jobs=st.integers(1, 2)
    )
    def relayout(self, to: Literal["cas", "policy_path"], root: int, links: bool, jobs: int) -> None:
        world = self.world
        config = StorageConfig(root_dir=world.roots[root], layout=world.config.layout, policy_links=False)
        wanted = target_config(config, to).model_copy(update={"policy_links": links and to == "cas"})
        live, before = world.live(), world.referenced()
        held = {uri for uri in live if world.is_held(uri)}
        target = storage.open_storage(wanted, world.catalog)
        with Collection(world.catalog, wanted) as collection:
            run = Relayout(collection, target, wanted, jobs=jobs)
            outcomes = Counter(each.outcome for each in run.move())
            list(run.blobs())
        assert outcomes.keys() <= {"moved", "dropped", "outside"}, outcomes
        after = world.referenced()
        assert live.keys() - world.live().keys() == (before & live.keys()) - after - held
        belongs = Belonging(world.catalog, wanted, uri_of=target.uri_of, path_of=target.path_of)
        for record, claims in belongs.documents(Filter(), up_to=world.last_id):
            # Where a part of a document stays, its links do.
            stays = {claim.storage_uri.startswith(ELSEWHERE) or claim.kind == "link" for claim in claims}
            assert stays <= {True}, (record, claims)
            # So do those that are all that is left of a variant.
            owned = {record.sha256, *(each.sha256 for each in world.catalog.get_variants(record.id))}
            left = {sha256_file(file_path(claim.storage_uri) or "")[0] for claim in claims if claim.kind == "link"}
            assert not left & owned or any(claim.kind != "link" for claim in claims), (record, claims)
        world.config = wanted


def freed_bytes(paths: list[Path]) -> int:
    """Return how many bytes are free once these names are gone."""
    names: defaultdict[int, list[os.stat_result]] = defaultdict(list)
    for path in paths:
        names[path.stat().st_ino].append(path.stat())
    return sum(stats[0].st_size for stats in names.values() if len(stats) == stats[0].st_nlink)
