"""The command `audit`."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.audit import audit_blobs, audit_catalog
from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.progress import step_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.checks import Finding
    from kvcatalog.cli.invocation import Invocation

_COLUMNS = ("kind", "table", "document_id", "variant_id", "storage_uri", "repaired", "message")


@click.command(cls=Command)
@click.option("--repair", is_flag=True, help="Derive anew what can be; each repair stands in the journal.")
@click.option("--blobs", is_flag=True, help="Also hold records against the blobs in the storage roots, and back.")
@click.option("--reason", metavar="TEXT", help="What the journal gives as reason for repairs.")
@click.pass_obj
def audit(invocation: Invocation, *, repair: bool, blobs: bool, reason: str | None) -> ExitStatus:
    """Hold every row of the catalog against those it derives from; the exit status is 1 if anything is wrong.

    Others may go on using the catalog. Indexes, counts and mirrors can be derived anew with --repair; records cannot,
    and are never touched. A damaged database file is told and left alone: restore a backup. With --blobs, blobs that
    are missing or have another size are told, and those that nothing refers to; a storage root that is not there is
    one finding, and none of its blobs is called lost. Bytes are not read: `verify` does that. In DynamoDB counts are
    kept beside the transactions, and --repair brings them up to date where a process died in between.

    \b
    Example:
      kvcatalog audit
      kvcatalog audit --repair --reason 'disk failed in March'
      kvcatalog --format jsonl audit --blobs
    """  # noqa: D301
    path = invocation.catalog_place()
    counts: Counter[bool] = Counter()

    def rows(findings: Iterator[Finding]) -> Iterator[dict[str, Any]]:
        for finding in findings:
            counts[finding.repaired] += 1
            yield asdict(finding)

    with step_progress(is_wanted=invocation.verbosity >= 0) as progress:
        findings = audit_catalog(
            path,
            repair=repair,
            reason=reason,
            command="audit",
            progress=lambda done, total: progress("audit", done, total),
        )
        found = chain(findings, _of_blobs(invocation)) if blobs else findings
        invocation.output.rows(rows(found), _COLUMNS, identity="document_id")
    if not counts.total():
        invocation.note("All is in order.")
        return ExitStatus.DONE
    repaired = f", {counts[True]} of them repaired" if repair else ""
    invocation.note(f"{counts.total()} finding{'s' * (counts.total() != 1)}{repaired}")
    return ExitStatus.FINDINGS


def _of_blobs(invocation: Invocation) -> Iterator[Finding]:
    config = invocation.load_config().storage
    with invocation.open_catalog() as catalog:
        yield from audit_blobs(catalog, config)
