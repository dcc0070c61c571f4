"""The commands `hold add`, `hold list` and `hold release`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import CONTEXT_SETTINGS, Command
from kvcatalog.filters import parse_filter
from kvcatalog.holds import with_places
from kvcatalog.removal.held import protected

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.custody import Hold

_COLUMNS = ("id", "filters", "reason", "created_at")


@click.group(context_settings=CONTEXT_SETTINGS)
def hold() -> None:
    """Protect records and their blobs from being taken away."""


@hold.command(cls=Command, short_help="Hold what filters let through.")
@click.argument("filters", nargs=-1, required=True, metavar="FILTER...")
@click.option("--reason", required=True, metavar="TEXT", help="Why it must stay.")
@click.pass_obj
def add(invocation: Invocation, filters: tuple[str, ...], *, reason: str) -> None:
    """Hold what all FILTERs let through, now and later; `kvcatalog search --help` explains them.

    Held records are not taken away by age or size, and neither are their blobs. A hold with uri= also keeps the blobs
    at those places to which no record refers any more; a path stands for its storage URI. It is told how many records
    and blobs are protected now.

    \b
    Example:
      kvcatalog hold add 'artifact=doi:10.1234/*' --reason 'under litigation'
      kvcatalog hold add uri=data/docs/paper.pdf --reason 'in a report'
    """  # noqa: D301 - click's mark for lines that are not wrapped
    where = with_places(parse_filter(filters))
    with invocation.open_catalog(read_only=False, create=False, command="hold add") as catalog:
        made = catalog.add_hold(where, reason=reason)
        now = protected(catalog, where, lambda: invocation.load_config().storage)
    invocation.output.rows((_row(made) | asdict(now),), (*_COLUMNS, "records", "blobs"))
    if not now.records and not now.blobs:
        invocation.note(
            f"Hold {made.id} protects nothing now: no record is let through by {where}, and no blob lies there."
            f" `kvcatalog hold release {made.id}` ends it."
        )


@hold.command("list", cls=Command, short_help="List what is held, and why.")
@click.pass_obj
def show(invocation: Invocation) -> None:
    """List what is held, and why.

    \b
    Example:
      kvcatalog hold list
    """  # noqa: D301
    with invocation.open_catalog() as catalog:
        holds = catalog.holds()
    invocation.output.rows(map(_row, holds), _COLUMNS)


@hold.command(cls=Command, short_help="End a hold.")
@click.argument("hold_id", type=click.IntRange(min=1), metavar="ID")
@click.option("--reason", metavar="TEXT", help="Why it may go now; for the journal.")
@click.pass_obj
def release(invocation: Invocation, hold_id: int, *, reason: str | None) -> None:
    """End the hold ID; what it kept may then be taken away.

    \b
    Example:
      kvcatalog hold release 3 --reason 'settled'
    """  # noqa: D301
    with invocation.open_catalog(read_only=False, create=False, command="hold release") as catalog:
        released = catalog.release_hold(hold_id, reason=reason)
    invocation.output.rows((_row(released),), _COLUMNS)


def _row(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "filters": " ".join(hold.filters),
        "reason": hold.reason,
        "created_at": hold.created_at,
    }
