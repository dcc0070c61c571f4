"""The command `relayout`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec.structs import asdict

from kvcatalog.blob_backends import store_of
from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.text import size_text
from kvcatalog.filters import parse_filter
from kvcatalog.relayout import Plan, Relayout, target_config
from kvcatalog.relayout.moving import UNDERTAKING
from kvcatalog.removal import Collection
from kvcatalog.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.config import StorageConfig
    from kvcatalog.filters import Filter

_COLUMNS = ("outcome", "document_id", "kind", "variant", "bytes", "storage_uri", "target", "detail")


@click.command(cls=Command)
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--to", type=click.Choice(["cas", "policy_path"]), help="The layout to come to.")
@click.option(
    "--to-root", metavar="DIR_OR_S3_URI", help="The root to come below.  [default: the one of --root or configuration]"
)
@click.option("--dry-run/--apply", default=True, help="Show what would move, or move it.  [default: dry run]")
@click.option("-j", "--jobs", type=click.IntRange(min=1, max=64), default=4, show_default=True, help="Blobs at once.")
@click.option("--summary", is_flag=True, help="Print the totals as the result, and no blobs.")
@click.pass_obj
def relayout(
    invocation: Invocation,
    filters: tuple[str, ...],
    *,
    to: Literal["cas", "policy_path"] | None,
    to_root: str | None,
    dry_run: bool,
    jobs: int,
    summary: bool,
) -> ExitStatus:
    """Move blobs to another layout, below another root or into a bucket, and let records refer to them there.

    What the documents refer to that all FILTERs let through moves, with their variants and conflicts; links go where
    their document has the content. `kvcatalog search --help` explains FILTERs. Each blob is read and compared with its
    record, stored, and read back; only then do records change, and what nothing refers to any more goes to the trash of
    its root. Others may go on meanwhile; new downloads follow storage.layout and the root that is configured. Nothing
    is touched without --apply. A run that was cut off is finished by the next. The exit status is 1 where something
    could not be moved: `changed`, `missing`, `corrupt`, or `outside` all roots.

    \b
    Example:
      kvcatalog relayout --to cas
      kvcatalog relayout --to cas --to-root s3://a/b 'created<2025-01-01' --apply
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if to is None:
        raise click.UsageError("say with --to whether blobs come to cas or to policy_path")
    config = target_config(invocation.storage_at(to_root), to)
    command = _Relaying(invocation, config, parse_filter(filters), jobs=jobs, summary=summary)
    return command.show() if dry_run else command.apply()


class _Relaying:
    """One call of `relayout`."""

    def __init__(
        self, invocation: Invocation, config: StorageConfig, where: Filter, *, jobs: int, summary: bool
    ) -> None:
        self.invocation = invocation
        self.config = config
        self.where = where
        self.jobs = jobs
        self.summary = summary
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def show(self) -> ExitStatus:
        """Show what would move; nothing is read but the catalog."""
        store = store_of(self.config)
        with self.invocation.open_catalog() as catalog:
            plan = Plan(catalog, self.config, uri_of=store.uri_of, path_of=store.path_of)
            self._print(self._planned(plan, catalog.stats().last_document_id))
            if UNDERTAKING.begun(catalog) is not None:
                self.invocation.note("an earlier run was cut off; --apply takes the blobs that it left, too")
        self._tell(applied=False, blobs=0)
        return ExitStatus.DONE

    def apply(self) -> ExitStatus:
        """Move it."""
        blobs: Counter[str] = Counter()
        with self.invocation.open_catalog(read_only=False, create=False, command="relayout") as catalog:
            target = open_storage(self.config, catalog)
            with Collection(catalog, self.config) as collection:
                run = Relayout(collection, target, self.config, jobs=self.jobs)
                self._print(self._moved(run))
                for result in run.blobs():
                    blobs["taken" if result.kept is None else result.kept] += 1
        self._tell(applied=True, blobs=blobs.pop("taken", 0))
        if blobs:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(blobs.items()))
            self.invocation.note(f"old blobs kept: {reasons}")
        is_whole = not self.counts.keys() - {"moved", "dropped"}
        return ExitStatus.DONE if is_whole else ExitStatus.FINDINGS

    def _planned(self, plan: Plan, last_id: int) -> Iterator[dict[str, Any]]:
        for record, claims in plan.documents(self.where, up_to=last_id):
            for claimed in claims:
                outcome = "drop" if claimed.kind == "link" else "move"
                self._count(outcome, claimed.bytes)
                yield {"outcome": outcome, **asdict(claimed), "target": plan.expected_target(record, claimed)}

    def _moved(self, run: Relayout) -> Iterator[dict[str, Any]]:
        for each in run.move(self.where):
            self._count(each.outcome, each.claimed.bytes if each.outcome == "moved" else 0)
            row = {"outcome": each.outcome, **asdict(each.claimed), "target": each.target}
            yield row | ({} if each.detail is None else {"detail": each.detail})

    def _count(self, outcome: str, size: int | None) -> None:
        self.counts[outcome] += 1
        self.bytes += size or 0

    def _print(self, rows: Iterator[dict[str, Any]]) -> None:
        if self.summary:
            for _ in rows:
                pass
        else:
            self.invocation.output.rows(rows, _COLUMNS, identity="storage_uri")

    def _tell(self, *, applied: bool, blobs: int) -> None:
        if self.summary:
            facts = {"applied": applied, "outcomes": dict(self.counts), "bytes": self.bytes, "trashed": blobs}
            self.invocation.output.item(facts)
            return
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.counts.items())) or "nothing to move"
        self.invocation.note(f"{counts}; {size_text(self.bytes)}")
        if applied:
            self.invocation.note(f"{blobs} old blob{'s' * (blobs != 1)} went to the trash")
        elif self.counts:
            self.invocation.note("nothing was changed; --apply does it")
