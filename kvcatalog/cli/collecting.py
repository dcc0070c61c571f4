"""The commands `gc`, `gc trash`, `gc restore` and `gc empty-trash`."""

from __future__ import annotations

import shlex
from collections import Counter, deque
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import CONTEXT_SETTINGS, FILE_NAME, Command, CommandWithCommands, refuse_options
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.progress import count_progress, gc_progress
from kvcatalog.cli.quantities import DAYS
from kvcatalog.cli.text import size_text
from kvcatalog.clock import now_micros, to_micros
from kvcatalog.gc import plan_garbage
from kvcatalog.removal import Collection, Plan, PlanItem, open_roots
from kvcatalog.removal.plans import Summing, Totals
from kvcatalog.removal.trash import blobs_in_trash, empty, plans_in_trash, restore
from kvcatalog.storage import refuse_among_blobs, root_uri

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from datetime import datetime

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.config import ContentDownloadConfig
    from kvcatalog.removal import OpenRoots, Result
    from kvcatalog.store.protocol import CatalogStore

_COLUMNS = ("outcome", "location", "bytes", "age_days", "reason", "former_owner")
_TRASH_COLUMNS = ("root", "plans", "blobs", "bytes", "bytes_freed", "kept")
_RESTORE_COLUMNS = ("outcome", "location", "bytes", "trash")
_PLAN_COLUMNS = ("plan", "taken_at", "blobs", "bytes", "root")
_BLOB_COLUMNS = ("plan", "location", "bytes", "trash")
_DAY_MICROS = 86_400_000_000


@click.group(cls=CommandWithCommands, context_settings=CONTEXT_SETTINGS)
@click.option(
    "--dry-run/--apply", default=True, help="Show what would go, or take it to the trash.  [default: dry run]"
)
@click.option(
    "--orphans",
    "ttl_days",
    type=DAYS,
    metavar="DAYS",
    help="Leave what is younger.  [default: catalog.orphan_ttl_days]",
)
@click.option(
    "--plan",
    "plan_path",
    type=FILE_NAME,
    metavar="FILE",
    help="Write the plan here; with --apply: the one to carry out.",
)
@click.option("--summary", is_flag=True, help="Print the totals as the result, and no blobs.")
@click.pass_context
def gc(
    context: click.Context, *, dry_run: bool, ttl_days: float | None, plan_path: str | None, summary: bool
) -> ExitStatus | None:
    """Take away blobs that no record, variant, conflict, link or hold refers to.

    Every known storage root is looked through, or the one that --root names. Nothing is touched without --apply; then
    blobs go to the trash in their root, which `gc trash` lists, and from there `gc restore` brings them back until `gc
    empty-trash` removes them. A blob stays while it is younger than DAYS, counted from its last change or the loss of
    its last record. A plan that was written with --plan is reviewed and then carried out with --plan and --apply: each
    blob is looked at again, and what has changed since or is used by now stays.

    The totals are told on standard error: bytes that go to the trash, and bytes that emptying it frees (none where a
    file has a further name).

    \b
    Example:
      kvcatalog gc
      kvcatalog gc --orphans 30 --plan orphans.jsonl
      kvcatalog gc --apply --plan orphans.jsonl
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return None
    invocation: Invocation = context.obj
    config = invocation.load_config()
    if plan_path is not None and dry_run:
        refuse_among_blobs("plan", plan_path)
    if plan_path is not None and not dry_run and ttl_days is not None:
        raise click.UsageError("--orphans belongs to making a plan, and --apply --plan carries one out")
    command = _Garbage(invocation, config, ttl_days=ttl_days, plan_path=plan_path, summary=summary)
    return command.plan() if dry_run else command.apply()


class _Garbage:
    """One call of `gc`."""

    def __init__(
        self,
        invocation: Invocation,
        config: ContentDownloadConfig,
        *,
        ttl_days: float | None,
        plan_path: str | None,
        summary: bool,
    ) -> None:
        self.invocation = invocation
        self.config = config
        self.ttl_days = config.catalog.orphan_ttl_days if ttl_days is None else ttl_days
        self.plan_path = plan_path
        self.summary = summary
        self.now = now_micros()

    def plan(self) -> ExitStatus:
        """Show, and save if that is wanted, what would go."""
        with self.invocation.open_catalog() as catalog, ExitStack() as stack:
            roots = stack.enter_context(open_roots(catalog, self.config.storage, only=_only(self.invocation)))
            plan = stack.enter_context(self._made(catalog, roots))
            if self.plan_path is not None:
                try:
                    plan.save(self.plan_path)
                except FileExistsError as error:
                    raise click.UsageError(f"--plan {self.plan_path}: is there already; give a new file") from error
            rows = (_row(item, "orphan", self.now) for item in plan.items())
            if not self.summary:
                self.invocation.output.rows(rows, _COLUMNS, identity="location")
            self._tell(plan.header.plan, plan.totals, Counter(), done=False)
        return ExitStatus.DONE

    def apply(self) -> ExitStatus:
        """Make a plan, or take the saved one, and carry it out."""
        with self.invocation.open_catalog(read_only=False, create=False, command="gc") as catalog, ExitStack() as stack:
            collection = stack.enter_context(Collection(catalog, self.config.storage, only=_only(self.invocation)))
            if self.plan_path is None:
                plan = stack.enter_context(self._made(catalog, collection.roots))
            else:
                plan = stack.enter_context(Plan.load(self.plan_path, catalog.identity))
            summing = stack.enter_context(Summing())
            kept: Counter[str] = Counter()
            rows = stack.enter_context(closing(self._carried_out(collection, plan, summing, kept)))
            try:
                if self.summary:
                    deque(rows, maxlen=0)
                else:
                    self.invocation.output.rows(rows, _COLUMNS, identity="location")
            except BaseException:
                self._tell(plan.header.plan, summing.totals(), kept, done=True)
                self._tell_how_to_go_on(summing.totals().blobs + kept.total(), plan.totals.blobs)
                raise
            self._tell(plan.header.plan, summing.totals(), kept, done=True)
        return ExitStatus.DONE

    def _made(self, catalog: CatalogStore, roots: OpenRoots) -> Plan:
        if not roots.stores:
            self.invocation.note("the catalog knows no storage root yet, so there is nothing to look through")
        expected = None if _only(self.invocation) else self._expected(catalog)
        with gc_progress(expected, is_wanted=self.invocation.verbosity >= 0) as progress:
            return plan_garbage(catalog, roots, orphan_ttl_days=self.ttl_days, now=self.now, progress=progress)

    def _expected(self, catalog: CatalogStore) -> int:
        """Return how many blobs there are, roughly: those that the catalog knows."""
        figures = catalog.stats()
        shared = figures.duplicate_documents if self.config.storage.layout == "cas" else 0
        return figures.documents + figures.variants - shared

    def _carried_out(
        self, collection: Collection, plan: Plan, summing: Summing, kept: Counter[str]
    ) -> Generator[dict[str, Any], None, None]:
        def count(result: Result) -> None:
            if result.kept is None:
                summing.add(result.item)
            else:
                kept[result.kept] += 1

        with count_progress("blobs looked at again", is_wanted=self.invocation.verbosity >= 0) as progress:
            results = collection.execute(plan.header.plan, plan.items(), told=count)
            for number, result in enumerate(results, 1):
                progress(number, plan.totals.blobs)
                outcome = "trashed" if result.kept is None else f"kept: {result.kept}"
                yield _row(result.item, outcome, self.now) | {"trash": result.trash}

    def _tell_how_to_go_on(self, done: int, planned: int) -> None:
        again = "kvcatalog gc --apply" + ("" if self.plan_path is None else f" --plan {shlex.quote(self.plan_path)}")
        self.invocation.note(f"stopped behind {done} of {planned} blobs; {again} goes on with the rest")

    def _tell(self, label: str, totals: Totals, kept: Counter[str], *, done: bool) -> None:
        if self.summary:
            facts = {"plan": label, "applied": done, **asdict(totals), "kept": sum(kept.values())}
            self.invocation.output.item(facts)
            return
        verb = "went" if done else "would go"
        blobs = f"{totals.blobs} blob{'s' * (totals.blobs != 1)}"
        text = f"{blobs}, {size_text(totals.bytes)}, {verb} to the trash; emptying it frees "
        self.invocation.note(text + size_text(totals.bytes_freed))
        if kept:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(kept.items()))
            self.invocation.note(f"kept: {reasons}")
        if done and totals.blobs:
            self.invocation.note(f"kvcatalog gc restore {label} brings them back")
        elif not done and totals.blobs:
            self.invocation.note("nothing was changed; --apply does it")


@gc.command(cls=Command, short_help="List what lies in the trash.")
@click.argument("plan", required=False, metavar="[PLAN]")
@click.pass_obj
def trash(invocation: Invocation, plan: str | None) -> None:
    """List the plans whose blobs lie in the trash of each storage root, or the blobs that PLAN took.

    `gc restore` brings a plan's blobs back, or one of them, until `gc empty-trash` removes them.

    \b
    Example:
      kvcatalog gc trash
      kvcatalog gc trash 20250301T120000Z-0c3501f0a2b3c
    """  # noqa: D301
    config = invocation.load_config().storage
    with invocation.open_catalog() as catalog, open_roots(catalog, config, only=_only(invocation)) as roots:
        if plan is None:
            invocation.output.rows(map(asdict, plans_in_trash(roots)), _PLAN_COLUMNS, identity="plan")
        else:
            invocation.output.rows(map(asdict, blobs_in_trash(roots, plan)), _BLOB_COLUMNS, identity="location")


@gc.command("restore", cls=Command, short_help="Bring back what went to the trash.")
@click.argument("wanted", type=FILE_NAME, required=False, metavar="PLAN|LOCATION")
@click.pass_obj
def restore_command(invocation: Invocation, wanted: str | None) -> ExitStatus:
    """Bring back what the plan PLAN took to the trash, or what lay at LOCATION, a path or a storage URI.

    `gc trash` lists plans and what they took. Nothing that lies there by now is replaced; what cannot come back stays
    in the trash, and what is there no more is told as missing; then the exit status is 1. What comes back counts as
    used just now.

    \b
    Example:
      kvcatalog gc restore 20250301T120000Z-0c3501f0a2b3c
      kvcatalog gc restore data/docs/work/paper.pdf
    """  # noqa: D301
    if wanted is None:
        raise click.UsageError("name a plan or a place; `kvcatalog gc trash` lists both")
    config = invocation.load_config().storage
    is_whole = True

    def rows(collection: Collection) -> Iterator[dict[str, Any]]:
        nonlocal is_whole
        for each in restore(collection, wanted):
            is_whole &= each.outcome == "restored"
            yield asdict(each)

    with (
        invocation.open_catalog(read_only=False, create=False, command="gc restore") as catalog,
        Collection(catalog, config, only=_only(invocation)) as collection,
    ):
        try:
            invocation.output.rows(rows(collection), _RESTORE_COLUMNS, identity="location")
        except KeyboardInterrupt:
            invocation.note("stopped; run it again for the rest")
            raise
    return ExitStatus.DONE if is_whole else ExitStatus.FINDINGS


@gc.command("empty-trash", cls=Command, short_help="Remove for good what lies in the trash.")
@click.option("--dry-run/--apply", default=True, help="Show what would go, or remove it.  [default: dry run]")
@click.option("--older-than", type=DAYS, metavar="DAYS", help="Only what was taken longer ago than this.")
@click.pass_obj
def empty_trash(invocation: Invocation, *, dry_run: bool, older_than: float | None) -> None:
    """Remove for good what lies in the trash of each storage root; without --apply nothing is touched.

    Prints for each root how many blobs and bytes go, and how many bytes that frees. What something refers to stays.

    \b
    Example:
      kvcatalog gc empty-trash
      kvcatalog gc empty-trash --older-than 30 --apply
    """  # noqa: D301
    config = invocation.load_config().storage
    now, only = now_micros(), _only(invocation)
    with ExitStack() as stack:
        if dry_run:
            catalog = stack.enter_context(invocation.open_catalog())
            roots = stack.enter_context(open_roots(catalog, config, only=only))
        else:
            catalog = stack.enter_context(
                invocation.open_catalog(read_only=False, create=False, command="gc empty-trash")
            )
            roots = stack.enter_context(Collection(catalog, config, only=only)).roots
        found = empty(roots, catalog, now=now, older_than_days=older_than, apply=not dry_run)
        try:
            invocation.output.rows(map(asdict, found), _TRASH_COLUMNS, identity=None)
        except KeyboardInterrupt:
            invocation.note("stopped; run it again for the rest")
            raise
    if dry_run:
        invocation.note("nothing was changed; --apply does it")


def _only(invocation: Invocation) -> str | None:
    """Return the URI of the root that --root names, None where every root is meant."""
    if "storage" not in invocation.overrides:
        return None
    return root_uri(invocation.load_config().storage)


def _row(item: PlanItem, outcome: str, now: int) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "location": item.location,
        "bytes": item.bytes,
        "age_days": _days(item.unused_since, now),
        "reason": item.reason,
        "former_owner": _owner(item),
        "modified_at": item.modified_at,
        "unused_since": item.unused_since,
        "links": item.links,
    }


def _days(moment: datetime, now: int) -> float:
    return round((now - to_micros(moment)) / _DAY_MICROS, 1)


def _owner(item: PlanItem) -> str | None:
    owner = item.former_owner
    if owner is None:
        return None
    name = owner.artifact_id or f"document {owner.document_id}"
    return name if owner.variant is None else f"{name} ({owner.variant})"
