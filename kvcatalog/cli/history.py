"""The command `journal`: what was done to stored things, and how the oldest of it is forgotten."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from kvcatalog.cli.command import Command
from kvcatalog.cli.quantities import duration
from kvcatalog.clock import from_micros, now_micros
from kvcatalog.errors import InvalidValueError
from kvcatalog.filters import parse_moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.models import JournalEntry
    from kvcatalog.store.protocol import CatalogStore

_COLUMNS = ("sequence", "at", "action", "document_id", "command", "reason", "changes")


def _since(context: click.Context, option: click.Parameter, value: str | None) -> int | datetime | None:
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    try:
        return from_micros(parse_moment("--since", value))
    except InvalidValueError as error:
        raise click.BadParameter(f"no sequence number, and {error.reason}", context, option) from None


@click.command(cls=Command)
@click.option(
    "--since", metavar="SEQ|TIME", callback=_since, help="Only what came behind a sequence number, or from a time on."
)
@click.option(
    "--document", "document_id", type=click.IntRange(min=1), metavar="ID", help="Only what befell a document."
)
@click.option("--prune", is_flag=True, help="Forget the oldest entries; needs --older-than.")
@click.option("--older-than", metavar="AGE", type=duration, help="What is forgotten: 12h, 90d, 52w.")
@click.option("--dry-run/--apply", default=True, help="Count what would be forgotten, the default, or forget it.")
@click.pass_obj
def journal(
    invocation: Invocation,
    *,
    since: int | datetime | None,
    document_id: int | None,
    prune: bool,
    older_than: timedelta | None,
    dry_run: bool,
) -> None:
    """List what was done to stored things, by which command, and why; plain registrations are not among it.

    With --since SEQ the list is complete, or the exit status is 3 where some of it was pruned. --prune forgets entries
    for good, up to the first that is not old enough; what lies behind a sequence number before that can then not be
    exported any more.

    \b
    Example:
      kvcatalog journal --since 2025-03-01
      kvcatalog journal --document 17 --json
      kvcatalog journal --prune --older-than 365d --apply
    """  # noqa: D301
    if prune:
        if older_than is None or since is not None or document_id is not None:
            raise click.UsageError("--prune takes --older-than AGE and neither --since nor --document")
        _prune(invocation, older_than, dry_run=dry_run)
        return
    if older_than is not None or not dry_run:
        raise click.UsageError("--older-than and --apply belong to --prune")
    with invocation.open_catalog() as catalog:
        entries = _entries(catalog, since, document_id)
        invocation.output.rows(map(entry_row, entries), _COLUMNS, identity="sequence")
        first = catalog.journal_start()
    if first > 1 and not isinstance(since, int):
        invocation.note(f"Entries before {first} were pruned.")


def _entries(catalog: CatalogStore, since: int | datetime | None, document_id: int | None) -> Iterator[JournalEntry]:
    if isinstance(since, int):
        return catalog.journal(after=since, document_id=document_id, complete=True)
    entries = catalog.journal(document_id=document_id)
    if since is None:
        return entries
    # The clock may have gone backwards, so every entry is looked at.
    return (entry for entry in entries if entry.at >= since)


def entry_row(entry: JournalEntry) -> dict[str, Any]:
    """Return an entry of the journal as every command shows it."""
    return {
        "sequence": entry.sequence,
        "at": entry.at,
        "action": entry.action,
        "command": entry.command,
        "document_id": entry.document_id,
        "variant_id": entry.variant_id,
        "reason": entry.reason,
        "changes": entry.changes,
    }


def _prune(invocation: Invocation, age: timedelta, *, dry_run: bool) -> None:
    before = _before(age)
    with invocation.open_catalog(read_only=dry_run, command="journal") as catalog:
        done = catalog.prune_journal(before, dry_run=dry_run)
        start = catalog.journal_start()
    invocation.output.item(
        {
            "applied": not dry_run,
            "before": before,
            "entries": done.entries,
            "last_sequence": done.last_sequence,
            "last_at": done.last_at,
            "journal_start": start,
        }
    )
    if dry_run and done.entries:
        invocation.note("Nothing was changed; add --apply to forget them.")


def _before(age: timedelta) -> datetime:
    try:
        return from_micros(now_micros()) - age
    except OverflowError:
        raise click.UsageError("--older-than reaches back before the year 1") from None
