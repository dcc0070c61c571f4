"""The command `verify`."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.identify import find
from kvcatalog.cli.progress import verify_progress
from kvcatalog.cli.quantities import duration, share, size
from kvcatalog.cli.text import discard, size_text
from kvcatalog.filters import Condition, parse_filter
from kvcatalog.verify import VerifyRun, verify_blobs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from datetime import timedelta

    from kvcatalog.checks import Verification
    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.models import DocumentRecord
    from kvcatalog.store.protocol import CatalogStore

_COLUMNS = ("result", "document_ids", "storage_uri", "detail", "quarantined", "advice")
_SILENT = frozenset(("ok", "not hashed", "stored checksum only", "size only"))


@click.command(cls=Command)
@click.argument("items", nargs=-1, metavar="[RECORD]...")
@click.option("--run", "run_id", metavar="RUN", help="What a run registered.")
@click.option("--filter", "filters", multiple=True, metavar="FILTER", help="As in `search`; may be given repeatedly.")
@click.option("--sample", type=share, metavar="P%", help="A share of the blobs, drawn anew each time.")
@click.option("--older-than", type=duration, metavar="TIME", help="Leave out what was checked since, such as 30d.")
@click.option("--max-time", type=duration, metavar="TIME", help="Begin nothing more after that, such as 1h.")
@click.option("--max-bytes", type=size, metavar="SIZE", help="Read no more than that, such as 50G.")
@click.option("-j", "--jobs", type=click.IntRange(1, 256), metavar="N", help="Threads; default: as many as cores.")
@click.option("--stat-only", is_flag=True, help="Read nothing: compare sizes, and on S3 stored checksums.")
@click.option("--quarantine", is_flag=True, help="Move corrupt blobs to the quarantine of their root.")
@click.option("--all", "lists_all", is_flag=True, help="List what is in order as well.")
@click.pass_obj
def verify(
    invocation: Invocation,
    items: tuple[str, ...],
    *,
    run_id: str | None,
    filters: tuple[str, ...],
    sample: float | None,
    older_than: timedelta | None,
    max_time: timedelta | None,
    max_bytes: int | None,
    jobs: int | None,
    stat_only: bool,
    quarantine: bool,
    lists_all: bool,
) -> ExitStatus:
    """Read blobs and compare them with their records; list those that are corrupt, missing or unreachable.

    RECORD is an id, a URL, an artifact id, or a digest or its first characters. Without a choice the queue is worked
    off: what was never checked, then the oldest check first. Checks are remembered while it runs, so it may be stopped
    at any time and goes on with what has waited longest. Variants are checked with their documents, and a blob with
    several records once.

    Results are ok, corrupt, missing (or a link or folder is in its place), unreachable (its root is not there or not
    ours; never a loss), and not hashed: the record has no digest. With --stat-only they are stored checksum only (the
    digest that S3 keeps beside the bytes) or size only; without it, bytes are read on S3 too. `advice` is the command
    that mends a blob. The exit status is 1 if something is corrupt or missing, else 4 if something is unreachable.

    \b
    Example:
      kvcatalog verify --max-time 1h
      kvcatalog verify --filter resolver=unpaywall --sample 5% --json
      kvcatalog verify doi:10.1234/abc --quarantine
    """  # noqa: D301
    if run_id == "":
        raise click.UsageError("--run is empty; --filter run= chooses what no run registered")
    if items and (run_id is not None or filters):
        raise click.UsageError("give RECORDs, or --run and --filter")
    if quarantine and stat_only:
        raise click.UsageError("--quarantine is for blobs that were read, and --stat-only reads none")
    conditions = [*filters, *([] if run_id is None else [f"run={_literal(run_id)}"])]
    with (
        invocation.open_catalog(read_only=False, create=False, command="verify") as catalog,
        verify_progress(_bytes_to_read(catalog, max_bytes, is_queue=not (items or conditions)), invocation) as progress,
    ):
        run = verify_blobs(
            catalog,
            _chosen(catalog, items, conditions),
            cfg_storage=lambda: invocation.load_config().storage,
            jobs=jobs,
            stat_only=stat_only,
            quarantine=quarantine,
            sample=1.0 if sample is None else sample,
            older_than=older_than,
            max_time=max_time,
            max_bytes=max_bytes,
            progress=progress,
        )
        try:
            with closing(_rows(catalog, run, lists_all=lists_all or bool(items))) as rows:
                _write(invocation, rows)
        finally:
            invocation.note(_summary(run))
            if run.counts["corrupt"] or run.counts["missing"]:
                invocation.note("`kvcatalog reconcile --refetch` tells what can be found or fetched; --apply mends it")
    if run.counts["corrupt"] or run.counts["missing"]:
        return ExitStatus.FINDINGS
    return ExitStatus.UNAVAILABLE if run.counts["unreachable"] else ExitStatus.DONE


def _chosen(
    catalog: CatalogStore, items: tuple[str, ...], conditions: list[str]
) -> list[DocumentRecord] | Iterator[DocumentRecord] | None:
    """Return the documents that were chosen, None for the queue; what is not there is said before anything is read."""
    if items:
        return list({record.id: record for item in items for record in find(catalog, item).records}.values())
    return catalog.iter_records(parse_filter(conditions)) if conditions else None


def _literal(run_id: str) -> str:
    """Return a run's name as a filter takes it: a star at its end is a star."""
    return str(Condition("run", "=", run_id)).removeprefix("run=")


def _bytes_to_read(catalog: CatalogStore, max_bytes: int | None, *, is_queue: bool) -> int | None:
    if not is_queue:
        return max_bytes
    stats = catalog.stats()
    total = stats.bytes + stats.variant_bytes - stats.duplicate_bytes
    return total if max_bytes is None else min(total, max_bytes)


def _rows(catalog: CatalogStore, run: VerifyRun, *, lists_all: bool) -> Generator[dict[str, Any]]:
    roots = tuple(f"{root.uri}/" for root in catalog.roots())
    for verification in run:
        if lists_all or verification.result not in _SILENT:
            row = asdict(verification) | {"document_ids": list(verification.document_ids)}
            yield row | {"advice": _advice(verification, roots)}


def _advice(verification: Verification, roots: tuple[str, ...]) -> str | None:
    """Return which command mends a blob, or tells more of it."""
    if verification.result in _SILENT:
        return None
    if verification.result == "unreachable":
        return "kvcatalog doctor"
    if not verification.storage_uri.startswith(roots):
        return "it lies outside the storage roots: put it back from a copy"
    ids = verification.document_ids
    which = Condition("id", "=", ids[0]) if len(ids) == 1 else Condition("uri", "=", verification.storage_uri)
    return f"kvcatalog reconcile {shlex.quote(str(which))} --refetch"


def _write(invocation: Invocation, rows: Iterator[dict[str, Any]]) -> None:
    try:
        invocation.output.rows(rows, _COLUMNS, identity="document_ids")
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads the results has had enough; what is left is checked all the same.
        discard(sys.stdout)
        for _ in rows:
            pass


def _summary(run: VerifyRun) -> str:
    counts = [f"{count} {result}" for result, count in sorted(run.counts.items())]
    read = f"; {size_text(run.bytes_read)} read" if run.bytes_read else ""
    ended = {"time": "; --max-time is over", "bytes": "; --max-bytes are read", None: ""}[run.stopped_by]
    return (", ".join(counts) or "nothing to check") + read + ended
