"""The command `init`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation


@click.command(cls=Command)
@click.option(
    "--recovery/--no-recovery",
    default=True,
    help="Of a DynamoDB table: point-in-time recovery of the last 35 days. On by default.",
)
@click.pass_obj
def init(invocation: Invocation, *, recovery: bool) -> ExitStatus:
    """Make a catalog where there is none: a folder, or a table of DynamoDB that several hosts share.

    The table is billed on demand; opening never makes one, so a slip of the pen costs nothing. What is there already
    stays as it is. Credentials, and the region unless the URL has it, are found as boto3 finds them.

    \b
    Example:
      kvcatalog init
      kvcatalog --catalog 'dynamodb://catalog?region=eu-central-1' init
    """  # noqa: D301
    from kvcatalog.store import init_catalog

    created = init_catalog(invocation.catalog_target(), recovery=recovery)
    for note in created.notes:
        invocation.note(note[0].upper() + note[1:] + ".")
    identity = created.identity
    invocation.output.item(
        {
            "catalog": created.place,
            "uuid": identity.uuid,
            "generation": identity.generation,
            "created_at": identity.created_at,
            "made": created.was_made,
        }
    )
    return ExitStatus.DONE
