"""The commands `roots list` and `roots adopt`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import CONTEXT_SETTINGS, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.storage import adopt_root, root_state

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation

_COLUMNS = ("id", "state", "uri", "cas_prefix", "uuid")


@click.group(context_settings=CONTEXT_SETTINGS)
def roots() -> None:
    """Show the folders and buckets below which blobs lie, or take one over."""


@roots.command("list", cls=Command, short_help="List the storage roots and their states.")
@click.pass_obj
def show(invocation: Invocation) -> ExitStatus:
    """List the storage roots; the exit status is 1 if one is not there or not ours.

    \b
    Example:
      kvcatalog roots list
    """  # noqa: D301 - click's mark for lines that are not wrapped
    config = invocation.load_config().storage
    with invocation.open_catalog() as catalog:
        rows = [asdict(root) | {"state": root_state(root, config, catalog)} for root in catalog.roots()]
    invocation.output.rows(rows, _COLUMNS)
    return ExitStatus.DONE if all(row["state"] == "ok" for row in rows) else ExitStatus.FINDINGS


@roots.command(cls=Command, short_help="Make a root this catalog's, on purpose.")
@click.option("--force", is_flag=True, help="Adopt it even from another catalog, or with none of its blobs.")
@click.pass_obj
def adopt(invocation: Invocation, *, force: bool) -> None:
    """Make the root that --root or the configuration names this catalog's, whatever its marker says.

    For a root that was moved (its records follow it), a catalog that was restored from a backup, or a marker that was
    lost; or to take a root over from another catalog, which then writes and removes nothing there any more. Records
    stay as they are, also where their blobs are not there. Never adopt the empty folder below a mount that is gone.

    \b
    Example:
      kvcatalog --root /data/docs roots adopt
    """  # noqa: D301
    config = invocation.load_config().storage
    with invocation.open_catalog(read_only=False, create=False, command="roots adopt") as catalog:
        root = adopt_root(config, catalog, force=force)
        row = asdict(root) | {"state": root_state(root, config, catalog)}
    invocation.output.rows((row,), _COLUMNS)
