"""A retention is carried out: records go first, then the blobs that nothing else refers to.

It stands in the journal from its beginning to its end, so one that was killed is finished by the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kvcatalog.custody import Deletion
from kvcatalog.filters import Filter
from kvcatalog.holds import Holds
from kvcatalog.removal.leftovers import Undertaking
from kvcatalog.retention.planning import Decision, Rank, RetentionPlan, plan_retention

if TYPE_CHECKING:
    from kvcatalog.models import JournalEntry
    from kvcatalog.removal.executing import Collection, Result
    from kvcatalog.retention.rules import Rule

UNDERTAKING = Undertaking("retention", "delete")

_BATCH = 1000

RetiredOutcome = Literal["deleted", "kept", "kept: changed", "kept: held"]


class Retired(Struct, frozen=True):
    """What became of a record: `kept: …` where it is not what it was when the decision was made, or is held by now."""

    decision: Decision
    outcome: RetiredOutcome


class Retention:
    """One run under the lease of a collection: `plan`, then `records` to their end, then `blobs`.

    Where a run was cut off that was to free as many bytes, this one goes exactly as far as that would have.
    """

    def __init__(self, collection: Collection, rules: Sequence[Rule], *, now: int, free: int | None = None) -> None:
        self._collection = collection
        self._catalog = collection.catalog
        self._rules = rules
        self._now = now
        self._free = free
        self.label: str | None = None

    def plan(self, where: Filter | None = None, *, reviews: bool = False) -> RetentionPlan:
        """Decide; see `plan_retention`."""
        return plan_retention(
            self._catalog,
            self._collection.roots,
            self._rules,
            now=self._now,
            where=where,
            free=self._free,
            cut=_cut_of(UNDERTAKING.begun(self._catalog), self._free),
            reviews=reviews,
        )

    def records(self, plan: RetentionPlan) -> Iterator[Retired]:
        """Delete the records that are to go, and yield what became of each that was decided over, by id.

        A record is gone, durably, when it appears.
        """
        decisions = plan.decisions()
        while chunk := list(islice(decisions, _BATCH)):
            holds = Holds(self._catalog.holds())
            held = {each.record.id for each in chunk if each.goes and holds.of_record(each.record)}
            going = [each for each in chunk if each.goes and each.record.id not in held]
            if going:
                UNDERTAKING.begin(self._catalog, _note(plan))
            deletions = [
                Deletion(each.record.id, each.record.updated_at, UNDERTAKING.reason(each.reason)) for each in going
            ]
            deleted = {record.id for record in self._catalog.delete_many(deletions) if record is not None}
            for each in chunk:
                yield Retired(each, _outcome(each, deleted, held))

    def blobs(self) -> Iterator[Result]:
        """Take what this run, or one that was cut off, left without a reference to the trash; then it is finished.

        `label` is the name of the plan, by which it comes back.
        """
        began = UNDERTAKING.begun(self._catalog)
        if began is None:
            return
        with UNDERTAKING.leftovers(self._collection, began) as plan:
            self.label = plan.header.plan
            yield from self._collection.execute(plan.header.plan, plan.items())
        UNDERTAKING.finish(self._catalog)


def _outcome(decision: Decision, deleted: set[int], held: set[int]) -> RetiredOutcome:
    if not decision.goes:
        return "kept"
    if decision.record.id in held:
        return "kept: held"
    return "deleted" if decision.record.id in deleted else "kept: changed"


def _note(plan: RetentionPlan) -> str | None:
    return None if plan.free is None or plan.cut is None else f"free {plan.free} until {plan.cut[0]} {plan.cut[1]}"


def _cut_of(began: JournalEntry | None, free: int | None) -> Rank | None:
    """Return how far a run that was cut off was to go, if it was to free as many bytes."""
    match (began.reason or "" if began is not None else "").split():
        case ["free", size, "until", since, document_id] if free is not None and int(size) == free:
            return int(since), int(document_id)
        case _:
            return None
