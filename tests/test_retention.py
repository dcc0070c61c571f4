"""Retention: which records go, by which rule, and what stays because of the others."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import clock
from kvcatalog.config import ContentDownloadConfig, RetentionConfig, RetentionRule
from kvcatalog.errors import ConfigError
from kvcatalog.filters import parse_filter
from kvcatalog.removal import Collection, open_roots, sorting
from kvcatalog.retention import Decision, Retention, Rule, Totals, applying, plan_retention, rules_of
from tests.gc_store import Place, tree
from tests.invariants import assert_consistent
from tools.faults.checking import dangling

NOW = clock.now_micros()
DAY = timedelta(days=1)


def days_ago(days: float) -> Any:
    return clock.from_micros(NOW) - days * DAY


@pytest.fixture(params=[{"layout": "cas"}, {}, {"hardlink_dedup": False}], ids=["cas", "links", "copies"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path, **request.param)
    yield opened
    assert dangling(opened.catalog, opened.store) == []
    assert_consistent(opened.catalog)
    opened.close()


def old(place: Place, content: bytes, artifact: str, days: float, **facts: Any) -> Any:
    """Store a document as if it had been registered some days ago."""
    record = place.stored(content, artifact, **facts)
    place.catalog.delete(record.id)
    key = {"artifact_id": artifact, "source_url": record.source_url, "resolver": record.resolver}
    return place.catalog.register(
        **key,
        bytes=record.bytes,
        sha256=record.sha256,
        content_type=record.content_type,
        storage_uri=record.storage_uri,
        run_id=facts.get("run_id"),
        created_at=days_ago(days),
    ).record


def decided(place: Place, *rules: Rule, **wishes: Any) -> tuple[dict[str, Decision], Totals]:
    with (
        open_roots(place.catalog, place.config) as roots,
        plan_retention(place.catalog, roots, rules, now=NOW, reviews=True, **wishes) as plan,
    ):
        return {each.record.artifact_id: each for each in plan.decisions()}, plan.totals


def going(place: Place, *rules: Rule, **wishes: Any) -> set[str]:
    return {name for name, each in decided(place, *rules, **wishes)[0].items() if each.goes}


def retire(place: Place, *rules: Rule, free: int | None = None, **wishes: Any) -> list[str]:
    """Carry out, and return the artifacts that went."""
    with Collection(place.catalog, place.config) as collection:
        run = Retention(collection, rules, now=NOW, free=free)
        with run.plan(**wishes) as plan:
            gone = [each.decision.record.artifact_id for each in run.records(plan) if each.outcome == "deleted"]
        assert all(result.kept is None for result in run.blobs())
    return gone


def blobs(place: Place) -> set[str]:
    return {path for path in tree(place.root) if not path.startswith(".kvcatalog/")}


def test_the_first_rule_that_lets_a_record_through_decides(place: Place) -> None:
    old(place, b"a" * 10, "html", 100, content_type="text/html; charset=utf-8")
    old(place, b"b" * 20, "pdf", 100, content_type="application/pdf")
    old(place, b"c" * 30, "young", 10, content_type="text/html")
    old(place, b"d" * 5000, "large", 100, content_type="application/pdf")
    old(place, b"e" * 50, "other", 100, resolver="other")
    rules = (
        Rule("pages", parse_filter(["type=text/html"]), 50),
        Rule("large", parse_filter(["bytes>1kB"]), 99),
        Rule("other", parse_filter(["resolver=other"]), 0),
        Rule("rest", days=200),
    )
    found, totals = decided(place, *rules)
    assert {name: (each.goes, each.rule) for name, each in found.items()} == {
        "html": (True, "pages"),
        "pdf": (False, "rest"),
        "young": (False, "pages"),
        "large": (True, "large"),
        "other": (False, "other"),
    }
    assert found["html"].reason == "created 100.0 days ago, more than the 50 of pages"
    assert found["young"].reason == "created 10.0 days ago; pages keeps 50 days"
    assert found["other"].reason == "other keeps it for ever"
    assert totals == Totals(5, 2, 2, 5010, 5010)
    assert going(place, *rules, where=parse_filter(["bytes>1kB"])) == {"large"}
    before = blobs(place)
    assert sorted(retire(place, *rules)) == ["html", "large"]
    assert len(before) - len(blobs(place)) == 2
    assert {record.artifact_id for record in place.catalog.iter_records()} == {"pdf", "young", "other"}
    reasons = [entry.reason for entry in place.catalog.journal() if entry.action == "delete"][-2:]
    assert reasons[0] == "retention: created 100.0 days ago, more than the 50 of pages"


def test_what_was_seen_again_is_as_young_as_that(place: Place) -> None:
    seen = old(place, b"a", "seen", 100)
    old(place, b"b", "unseen", 100)
    place.catalog.record_sighting(seen.id, "later", seen_at=days_ago(5))
    assert going(place, Rule("r", days=30, since="last_seen")) == {"unseen"}
    assert going(place, Rule("r", days=30)) == {"seen", "unseen"}
    found, _ = decided(place, Rule("r", days=30, since="last_seen"))
    assert found["seen"].reason == "last seen 5.0 days ago; r keeps 30 days"


def test_what_is_held_stays(place: Place) -> None:
    for name in ("a", "b", "c"):
        old(place, name.encode(), name, 100)
    place.catalog.add_hold(parse_filter(["artifact=a"]), reason="evidence")
    record = place.catalog.get_by_artifact("b")[0]
    variant = place.catalog.register_variant(
        document_id=record.id, variant="text", storage_uri=place.stray("b/text.txt"), bytes=5
    )
    place.catalog.add_hold(parse_filter([f"uri={variant.record.storage_uri}"]), reason="a report")
    found, _ = decided(place, Rule("r", days=30))
    assert {name: each.reason for name, each in found.items() if not each.goes} == {
        "a": "hold 1: evidence",
        "b": "hold 2: a report",
    }


def test_so_many_physical_copies_stay_counted_over_what_would_remain(place: Place) -> None:
    for number in range(4):
        old(place, b"same", f"old-{number}", 100 - number)
    old(place, b"alone", "alone", 100)
    physical = len({os.stat(place.root / path).st_ino for path in blobs(place)}) - 1
    for copies_min in (0, 1, 2, 9):
        found, _ = decided(place, Rule("r", days=30, min_copies=copies_min))
        kept = {name for name, each in found.items() if not each.goes}
        names = {f"old-{3 - number}" for number in range(min(physical, copies_min))}
        assert kept == names | ({"alone"} if copies_min else set())
        if kept:
            assert found["alone"].reason == f"its content would have fewer than {copies_min} physical copies"
    place.stored(b"same", "young")
    others = physical - (len({os.stat(place.root / path).st_ino for path in blobs(place)}) - 1 == physical)
    kept = {f"old-{number}" for number in range(4)} - going(place, Rule("r", days=30, min_copies=2))
    assert len(kept) == (0 if place.config.layout == "cas" else min(1, others))


def test_a_blob_that_is_not_there_is_no_copy(place: Place) -> None:
    first, second = old(place, b"same", "a", 100), old(place, b"same", "b", 90)
    path = place.store.path_of(second.storage_uri)
    assert path is not None
    (place.root / path).unlink()
    expected = set() if first.storage_uri == second.storage_uri else {"a"}
    assert {"a", "b"} - going(place, Rule("r", days=30, min_copies=1)) == expected
    place.catalog.delete(second.id)
    place.catalog.delete(first.id)


def test_without_a_digest_no_other_copy_is_known(place: Place) -> None:
    uri = place.stray("x/y.pdf")
    place.catalog.register(
        artifact_id="a", source_url="u", resolver="r", bytes=5, storage_uri=uri, created_at=days_ago(99)
    )
    assert going(place, Rule("r", days=30, min_copies=1)) == set()
    assert going(place, Rule("r", days=30)) == {"a"}


def test_a_variant_may_be_the_last_copy(place: Place) -> None:
    record = old(place, b"document", "a", 100)
    place.stored(b"text", "a", variant="text")
    copy = place.stored(b"document", "young")
    assert going(place, Rule("r", days=30, min_copies=1)) == (set())
    assert going(place, Rule("r", days=30)) == {"a"}
    assert copy.sha256 == record.sha256
    retire(place, Rule("r", days=30))
    assert place.catalog.stats().variants == 0
    assert len(blobs(place)) == 1


def test_the_oldest_go_until_enough_is_free(place: Place) -> None:
    for number in range(6):
        old(place, bytes([number]) * 100, f"a{number}", 100 - number)
    old(place, bytes([0]) * 100, "twin", 95.5)
    rules = (Rule("r", days=30),)
    found, totals = decided(place, *rules, free=250)
    # The content of a0 is free only with its twin, unless each has a copy of its own.
    is_shared = place.config.layout == "cas" or place.config.hardlink_dedup
    expected = {"a0", "a1", "a2", "a3"} if is_shared else {"a0", "a1", "a2"}
    assert {name for name, each in found.items() if each.goes} == expected
    assert totals.bytes_freed == 300
    assert found["a5"].reason == "250 bytes are free without it"
    assert decided(place, *rules, free=10_000)[1].going == 7
    assert set(retire(place, *rules, free=250)) == expected


def test_figures_of_the_plan_are_those_of_the_deed(place: Place) -> None:
    chosen = random.Random(5)
    for number in range(40):
        content = bytes([chosen.randrange(12)]) * chosen.randrange(1, 4)
        old(place, content, f"a{number}", chosen.choice((10, 50, 90)))
    _, totals = decided(place, Rule("r", days=30, min_copies=1), free=8)
    before = _files(place.root)
    with Collection(place.catalog, place.config) as collection:
        run = Retention(collection, (Rule("r", days=30, min_copies=1),), now=NOW, free=8)
        with run.plan() as plan:
            gone = sum(each.outcome == "deleted" for each in run.records(plan))
        taken = [result.item for result in run.blobs() if result.kept is None]
    assert (gone, len(taken), sum(item.bytes for item in taken)) == (totals.going, totals.blobs, totals.bytes)
    place.empty()
    assert sum(before.values()) - sum(_files(place.root).values()) == totals.bytes_freed
    assert gone > 0


def _files(root: Path) -> dict[int, int]:
    """Return the size of each file, whatever names it has."""
    return {(status := (root / path).stat()).st_ino: status.st_size for path in tree(root)}


def test_what_changed_since_the_plan_stays(place: Place) -> None:
    record = old(place, b"a", "changed", 100)
    old(place, b"b", "held", 100)
    old(place, b"c", "gone", 100)
    with Collection(place.catalog, place.config) as collection:
        run = Retention(collection, (Rule("r", days=30),), now=NOW)
        with run.plan() as plan:
            assert plan.totals.going == 3
            place.catalog.update(record.id, content_type="text/plain")
            place.catalog.add_hold(parse_filter(["artifact=held"]), reason="late")
            outcomes = {each.decision.record.artifact_id: each.outcome for each in run.records(plan)}
        list(run.blobs())
    # The plan gives records as they are now, so the change is seen; one that is held by now is kept.
    assert outcomes["held"] == "kept: held"
    assert outcomes["gone"] == "deleted"
    assert place.catalog.get_by_artifact("held") != []


def test_blobs_that_others_use_stay(place: Place) -> None:
    record = old(place, b"same", "old", 100)
    place.stored(b"same", "young")
    uri = place.stray("held/x.bin")
    place.catalog.update(record.id, bytes=5, sha256=None, storage_uri=uri)
    place.stored(b"same", "old")  # a conflict, whose blob goes with its document unless others have it
    before = blobs(place)
    assert retire(place, Rule("r", days=30)) == ["old"]
    assert "held/x.bin" in before - blobs(place)
    assert place.catalog.get_by_artifact("young") != []


def test_a_dry_run_changes_nothing(place: Place, tmp_path: Path) -> None:
    for number in range(3):
        old(place, bytes([number]), f"a{number}", 100)
    before = tree(tmp_path)
    decided(place, Rule("r", days=30, min_copies=1), free=1)
    after = tree(tmp_path)
    del before["catalog/lock.mdb"], after["catalog/lock.mdb"]
    assert after == before


def test_nothing_grows_in_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of three rows and batches of two give the same decisions."""
    for number in range(20):
        old(place, bytes([number % 7]) * 10, f"a{number}", 60 - number)
    rules = (Rule("r", days=45, min_copies=1),)
    expected = decided(place, *rules, free=20)
    monkeypatch.setattr(sorting, "_RUN_ROWS", 3)
    monkeypatch.setattr(applying, "_BATCH", 2)
    assert decided(place, *rules, free=20) == expected
    assert set(retire(place, *rules, free=20)) == {name for name, each in expected[0].items() if each.goes}


def test_rules_come_from_the_configuration() -> None:
    section = RetentionConfig(
        min_copies=2,
        rules=(
            RetentionRule(name="pages", filters=("type=text/html",), days=9, since="last_seen"),
            RetentionRule(name="large", filters=("bytes>1GB",), days=100_000, min_copies=0),
        ),
    )
    rules = rules_of(ContentDownloadConfig(retention=section))
    assert [(rule.name, rule.days, rule.since, rule.min_copies) for rule in rules] == [
        ("pages", 9, "last_seen", 2),
        ("large", 100_000, "created", 0),
        ("retention_days", 0, "created", 2),
    ]
    assert rules_of(ContentDownloadConfig(), days=3)[-1] == Rule("--days", days=3)
    wrong = RetentionConfig(rules=(RetentionRule(name="x", filters=("colour=red",)),))
    with pytest.raises(ConfigError, match=r"retention\.rules\.0\.filters: .*colour"):
        rules_of(ContentDownloadConfig(retention=wrong))
