"""The commands `backup`, `restore` and `compact`."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.backup import backup as make_backup
from kvcatalog.backup import restore as restore_backup
from kvcatalog.cli.command import FILE_NAME, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.progress import step_progress
from kvcatalog.cli.text import size_text
from kvcatalog.compact import compact as compact_catalog

if TYPE_CHECKING:
    from kvcatalog.backup import BackupManifest
    from kvcatalog.cli.invocation import Invocation


@click.command(cls=Command)
@click.argument("destination", type=FILE_NAME, metavar="DEST")
@click.pass_obj
def backup(invocation: Invocation, destination: str) -> ExitStatus:
    """Copy the catalog, as it is at one moment, to the new folder DEST; others may go on using it.

    The copy is checked before it gets its name. It can be looked at like a catalog (`--catalog DEST show …`), and a
    catalog is made of it with `restore`; blobs are not copied. The exit status is 1 if the catalog is not in order:
    `audit` tells what is wrong.

    DEST must be a new folder each time, and none is ever removed.

    \b
    Example:
      kvcatalog backup /backups/catalog-2025-03-01
      kvcatalog backup "/backups/$(date +%F)"
    """  # noqa: D301 - click's mark for lines that are not wrapped
    path = invocation.catalog_path()
    with step_progress(is_wanted=invocation.verbosity >= 0) as progress:
        report = make_backup(path, destination, progress=progress)
    invocation.output.item({"path": report.path, **_facts(report.manifest)})
    if report.manifest.findings:
        invocation.note("The catalog is not in order, and so is the backup: `kvcatalog audit` tells what is wrong.")
        return ExitStatus.FINDINGS
    return ExitStatus.DONE


@click.command(cls=Command)
@click.argument("source", type=FILE_NAME, metavar="SRC")
@click.option(
    "--to",
    "target",
    type=FILE_NAME,
    metavar="PATH",
    help="Where the new catalog is to be; default: where --catalog says.",
)
@click.option("--dry-run/--apply", default=True, help="Check the backup only, which is the default, or restore it.")
@click.pass_obj
def restore(invocation: Invocation, source: str, *, target: str | None, dry_run: bool) -> None:
    """Make a new catalog of the backup in the folder SRC; nothing is ever written over.

    The new catalog takes no storage root for its own before `roots adopt`, so it writes and removes nothing there: what
    was stored since the backup is not known to it.

    \b
    Example:
      kvcatalog restore /backups/2025-03-01 --to state/restored.lmdb
      kvcatalog restore /backups/2025-03-01 --to state/restored.lmdb --apply
    """  # noqa: D301
    path = invocation.catalog_path() if target is None else target
    with step_progress(is_wanted=invocation.verbosity >= 0) as progress:
        report = restore_backup(
            source,
            path,
            apply=not dry_run,
            command="restore",
            progress=lambda done, total: progress("restore" if not dry_run else "check", done, total),
        )
    row: dict[str, Any] = {"path": report.path, "applied": report.applied, **_facts(report.manifest)}
    row["new_generation"] = None if report.identity is None else report.identity.generation
    row["roots"] = [asdict(root) for root in report.roots]
    invocation.output.item(row)
    if dry_run:
        invocation.note("The backup is whole. Nothing was changed; add --apply to restore it.")
    elif report.roots:
        invocation.note(
            f"Adopt each storage root before use: kvcatalog --catalog {quote(report.path)} --root ROOT roots adopt"
        )


@click.command(cls=Command)
@click.pass_obj
def compact(invocation: Invocation) -> None:
    """Give the free pages of the catalog's file back to the file system.

    Nobody may have the catalog open (exit status 5), and who opens it meanwhile waits. It needs as much free room as
    the new file. `stats` tells how much of the file is used.

    \b
    Example:
      kvcatalog compact
    """  # noqa: D301
    with step_progress(is_wanted=invocation.verbosity >= 0) as progress:
        done = compact_catalog(invocation.catalog_path(instead="DynamoDB itself gives room back."), progress=progress)
    invocation.output.item(asdict(done) | {"freed_bytes": done.bytes_before - done.bytes_after})
    invocation.note(f"{size_text(max(0, done.bytes_before - done.bytes_after))} given back")


def _facts(manifest: BackupManifest) -> dict[str, Any]:
    return asdict(manifest)
