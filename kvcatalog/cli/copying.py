"""The command `copy`."""

from __future__ import annotations

from contextlib import ExitStack
from shlex import quote
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import FILE_NAME, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.progress import step_progress
from kvcatalog.copying import compare_catalogs, copy_catalog, plan_copy
from kvcatalog.errors import CatalogMissingError

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.copying import CopyReport

_COLUMNS = ("name", "rows", "copied", "missing", "extra", "examples")


@click.command(cls=Command)
@click.argument("source", type=FILE_NAME, metavar="FROM")
@click.argument("target", type=FILE_NAME, metavar="TO")
@click.option("--dry-run", is_flag=True, help="Only see what is to come, and whether TO can take it.")
@click.option("--compare", is_flag=True, help="Only hold what both say against each other.")
@click.pass_obj
def copy(invocation: Invocation, source: str, target: str, *, dry_run: bool, compare: bool) -> ExitStatus:
    """Copy the catalog FROM, with its ids, to TO, a folder or dynamodb://TABLE.

    A folder is created where there is none, a table by `kvcatalog init`.
    All comes along but announcements of running garbage collections, and is compared row by row in the end; the exit
    status is 1 if anything differs. A copy may be stopped and run again. TO has to be empty, or hold a part of FROM.
    Let nobody change FROM until TO takes its place: what was copied is not changed later.

    Blobs stay where they are, and the roots with FROM, until TO adopts them; then FROM stores nothing there any more.

    \b
    Example:
      kvcatalog copy state/catalog.lmdb state/second.lmdb --dry-run
      kvcatalog copy state/catalog.lmdb 'dynamodb://catalog?region=eu-central-1'
      kvcatalog copy dynamodb://catalog state/catalog.lmdb --compare
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if dry_run and compare:
        raise click.UsageError("--dry-run and --compare do not go together")
    with ExitStack() as stack:
        ours = stack.enter_context(invocation.open_catalog_at(source, read_only=True))
        progress = stack.enter_context(step_progress(is_wanted=invocation.verbosity >= 0))
        if compare:
            theirs = stack.enter_context(invocation.open_catalog_at(target, read_only=True))
            report = compare_catalogs(ours, theirs, progress=progress)
        elif dry_run:
            try:
                planned = stack.enter_context(invocation.open_catalog_at(target, read_only=True))
            except CatalogMissingError:
                planned = None
            report = plan_copy(ours, planned, progress=progress)
        else:
            theirs = stack.enter_context(invocation.open_catalog_at(target, read_only=False, command="copy"))
            report = copy_catalog(ours, theirs, progress=progress)
    return _shown(invocation, report, target, is_plan=dry_run)


def _shown(invocation: Invocation, report: CopyReport, target: str, *, is_plan: bool) -> ExitStatus:
    invocation.output.rows([asdict(table) for table in report.tables], _COLUMNS, identity=None)
    if is_plan:
        rows = sum(table.missing for table in report.tables)
        invocation.note(f"{rows} rows would be copied. Nothing was changed; leave --dry-run out to copy them.")
        return ExitStatus.DONE
    if not report.is_same:
        invocation.note("They differ: what is missing is in the first catalog only, what is extra in the second.")
        return ExitStatus.FINDINGS
    invocation.note("Both say the same.")
    if report.applied and report.roots:
        invocation.note(
            f"Adopt each storage root before use: kvcatalog --catalog {quote(target)} --root ROOT roots adopt --force"
        )
    return ExitStatus.DONE
