"""The command `dedup-report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import Command
from kvcatalog.cli.progress import step_progress
from kvcatalog.cli.text import size_text
from kvcatalog.dedup import DuplicateContent, ResolverShare
from kvcatalog.dedup import dedup_report as report_on

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation


@click.command(cls=Command)
@click.option(
    "--by", type=click.Choice(["digest", "resolver"]), default="digest", show_default=True, help="What to list."
)
@click.option("--variants", is_flag=True, help="Count variants as well as documents.")
@click.option("--min-count", type=click.IntRange(min=2), default=2, show_default=True, help="Records at least.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Digests at most; 0: all.")
@click.pass_obj
def dedup_report(
    invocation: Invocation, *, by: Literal["digest", "resolver"], variants: bool, min_count: int, limit: int
) -> None:
    """List the contents that several records carry, those first that would free most.

    `copy_count` tells how many copies there are: hard links and content-addressed blobs count once, each key of a
    bucket by itself. `saved_bytes` is what sharing saves already, `savable_bytes` what one copy for all would free;
    records whose file is not there (`unseen_count`) count for neither. With --by resolver these are the sums of what a
    resolver brought that was there already. `--format ids` prints the digests, or the resolvers.

    \b
    Example:
      kvcatalog dedup-report --min-count 3
      kvcatalog dedup-report --by resolver
      kvcatalog --format csv dedup-report --variants --limit 0
    """  # noqa: D301
    with (
        step_progress(is_wanted=invocation.verbosity >= 0) as progress,
        invocation.open_catalog() as catalog,
    ):
        report = report_on(
            catalog,
            variants=variants,
            min_count=min_count,
            limit=limit or None,
            progress=lambda done, total: progress("digests", done, total),
        )
    if by == "resolver":
        invocation.output.rows(map(asdict, report.resolvers), ResolverShare.__struct_fields__, identity="resolver")
    else:
        invocation.output.rows(map(asdict, report.contents), DuplicateContent.__struct_fields__, identity="sha256")
    digests = f"{report.content_count} digest{'s' * (report.content_count != 1)}"
    sums = f"{size_text(report.saved_bytes)} saved by sharing, {size_text(report.savable_bytes)} savable"
    unseen = f"; {report.unseen_count} of their files could not be seen" if report.unseen_count else ""
    invocation.note(f"{digests}, {sums}{unseen}")
