"""The command `retention`."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.cli import quantities
from kvcatalog.cli.command import Command
from kvcatalog.cli.text import size_text
from kvcatalog.clock import now_micros, to_micros
from kvcatalog.filters import parse_filter
from kvcatalog.removal import Collection, open_roots
from kvcatalog.removal.plans import Summing
from kvcatalog.removal.plans import Totals as BlobTotals
from kvcatalog.retention import Retention, plan_retention, rules_of
from kvcatalog.retention.applying import UNDERTAKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.filters import Filter
    from kvcatalog.retention import Decision, RetentionPlan, Rule, Totals

_COLUMNS = ("outcome", "id", "artifact_id", "content_type", "bytes", "age_days", "rule", "reason")
_DAY_MICROS = 86_400_000_000


@click.command(cls=Command)
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--dry-run/--apply", default=True, help="Show what would go, or take it away.  [default: dry run]")
@click.option("--review", is_flag=True, help="Show what stays, and why, as well.")
@click.option(
    "--days",
    type=quantities.DAYS,
    metavar="N",
    help="Keep so long what no rule lets through; 0: for ever.  [default: catalog.retention_days]",
)
@click.option(
    "--free", type=quantities.size, metavar="SIZE", help="The oldest first, only until this is free: 10G, 500MB."
)
@click.option("--summary", is_flag=True, help="Print the totals as the result, and no records.")
@click.pass_obj
def retention(
    invocation: Invocation,
    filters: tuple[str, ...],
    *,
    dry_run: bool,
    review: bool,
    days: float | None,
    free: int | None,
    summary: bool,
) -> None:
    """Take away the records that are old enough, and the blobs that nothing else refers to.

    Each record is decided over by the first rule of the configuration whose filters let it through, at last by
    catalog.retention_days or --days. Holds keep a record, and of each content as many physical copies stay as
    `min_copies` demands, counted over what would remain. FILTERs choose which records are looked at; `kvcatalog search
    --help` explains them. Nothing is touched without --apply; then records go first, and their blobs to the trash, from
    where `gc restore` brings them back until `gc empty-trash`. A run that was cut off is finished by the next.

    \b
    Rules, in the configuration file:
      retention:
        min_copies: 1
        rules:
          - {name: web, filters: [type=text/html], days: 90, since: last_seen}
          - {name: large, filters: ["bytes>1GB"], days: 30, min_copies: 0}

    \b
    Example:
      kvcatalog retention --days 365 --review
      kvcatalog -c kvcatalog.yaml retention resolver=crossref --free 10G --apply
    """  # noqa: D301 - click's mark for lines that are not wrapped
    rules = rules_of(invocation.load_config(), days=days)
    command = _Retiring(invocation, rules, parse_filter(filters), free=free, reviews=review, summary=summary)
    if dry_run:
        command.show()
    else:
        command.apply()


class _Retiring:
    """One call of `retention`."""

    def __init__(
        self,
        invocation: Invocation,
        rules: tuple[Rule, ...],
        where: Filter,
        *,
        free: int | None,
        reviews: bool,
        summary: bool,
    ) -> None:
        self.invocation = invocation
        self.storage = invocation.load_config().storage
        self.rules = rules
        self.where = where
        self.free = free
        self.reviews = reviews and not summary
        self.summary = summary
        self.now = now_micros()
        if not any(rule.days for rule in rules):
            invocation.note("every rule keeps for ever: set catalog.retention_days or retention.rules, or give --days")

    def show(self) -> None:
        """Show what would go."""
        with self.invocation.open_catalog() as catalog, ExitStack() as stack:
            roots = stack.enter_context(open_roots(catalog, self.storage))
            plan = stack.enter_context(
                plan_retention(
                    catalog,
                    roots,
                    self.rules,
                    now=self.now,
                    where=self.where,
                    free=self.free,
                    reviews=self.reviews,
                )
            )
            self._print(self._row(each, "delete" if each.goes else "keep") for each in plan.decisions())
            totals = plan.totals
            blobs = BlobTotals(totals.blobs, totals.bytes, totals.bytes_freed)
            self._tell(totals, totals.going, blobs, applied=False)
            if self.free is not None and totals.bytes_freed < self.free:
                self.invocation.note(f"that is less than {size_text(self.free)}: no more may go by these rules")
            if UNDERTAKING.begun(catalog) is not None:
                self.invocation.note("an earlier run was cut off; --apply takes the blobs that it left, too")
            if totals.going:
                self.invocation.note("nothing was changed; --apply does it")

    def apply(self) -> None:
        """Take away what may go."""
        outcomes: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        with (
            self.invocation.open_catalog(read_only=False, create=False, command="retention") as catalog,
            Collection(catalog, self.storage) as collection,
            Summing() as summing,
        ):
            run = Retention(collection, self.rules, now=self.now, free=self.free)
            with run.plan(self.where, reviews=self.reviews) as plan:
                self._print(self._deleted(run, plan, outcomes))
                for result in run.blobs():
                    if result.kept is None:
                        summing.add(result.item)
                    else:
                        kept[result.kept] += 1
                self._tell(plan.totals, outcomes["deleted"], summing.totals(), applied=True)
        if kept:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(kept.items()))
            self.invocation.note(f"blobs kept: {reasons}")
        if summing.totals().blobs:
            self.invocation.note(f"kvcatalog gc restore {run.label} brings the blobs back")

    def _deleted(self, run: Retention, plan: RetentionPlan, outcomes: Counter[str]) -> Iterator[dict[str, Any]]:
        for each in run.records(plan):
            outcomes[each.outcome] += 1
            yield self._row(each.decision, each.outcome)

    def _print(self, rows: Iterator[dict[str, Any]]) -> None:
        if self.summary:
            for _ in rows:
                pass
        else:
            self.invocation.output.rows(rows, _COLUMNS)

    def _row(self, decision: Decision, outcome: str) -> dict[str, Any]:
        age = (self.now - to_micros(decision.since)) / _DAY_MICROS
        return {
            "outcome": outcome,
            **asdict(decision.record),
            "age_days": round(age, 1),
            "rule": decision.rule,
            "reason": decision.reason,
        }

    def _tell(self, totals: Totals, gone: int, blobs: BlobTotals, *, applied: bool) -> None:
        if self.summary:
            facts = {"applied": applied, "records": totals.records, "going": gone, **asdict(blobs)}
            self.invocation.output.item(facts)
            return
        verb = "went" if applied else "would go"
        records = f"{gone} of {totals.records} record{'s' * (totals.records != 1)}"
        size = f"{blobs.blobs} blob{'s' * (blobs.blobs != 1)}, {size_text(blobs.bytes)}"
        self.invocation.note(f"{records} {verb}, and {size}; emptying the trash frees {size_text(blobs.bytes_freed)}")
