"""The command `import-manifest`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO
from zoneinfo import ZoneInfo

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import FILE_NAME, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.progress import import_progress
from kvcatalog.cli.text import discard
from kvcatalog.errors import CatalogMissingError
from kvcatalog.migrate import ImportReport, Progress
from kvcatalog.migrate import import_manifest as import_into
from kvcatalog.store import open_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.store.protocol import CatalogStore

_NESTED = ("segments", "passed_over", "reasons", "notes")
_COLUMNS = ("manifest", *(name for name in ImportReport.__struct_fields__ if name not in _NESTED))


def _zone(context: click.Context, option: click.Parameter, value: str) -> ZoneInfo:
    try:
        return ZoneInfo(value)
    except (ValueError, OSError, LookupError):
        raise click.BadParameter(f"{value!r} is not a time zone such as Europe/Berlin", context, option) from None


@click.command(cls=Command)
@click.argument("manifests", nargs=-1, required=True, type=FILE_NAME, metavar="MANIFEST...")
@click.option("--compute-sha256", is_flag=True, help="Read files whose line states no digest, several at once.")
@click.option("--dry-run", is_flag=True, help="Report what would be done, and do nothing.")
@click.option("--base-dir", type=FILE_NAME, metavar="DIR", help="Where relative paths are looked up first.")
@click.option("--require-files", is_flag=True, help="Leave out documents whose file is missing.")
@click.option(
    "--timezone", metavar="ZONE", callback=_zone, default="UTC", show_default=True, help="Zone of times without one."
)
@click.option("--rejects", type=FILE_NAME, metavar="FILE", help="Keep lines that are not understood, in a new file.")
@click.option("--resolver-default", default="unknown", show_default=True, help="Resolver where a line has none.")
@click.pass_obj
def import_manifest(
    invocation: Invocation,
    manifests: tuple[str, ...],
    *,
    compute_sha256: bool,
    dry_run: bool,
    base_dir: str | None,
    require_files: bool,
    timezone: ZoneInfo,
    rejects: str | None,
    resolver_default: str,
) -> ExitStatus:
    """Register what MANIFESTs of runs state; a catalog is created where there is none.

    A MANIFEST is JSON lines of any generation, plain, .gz or .zst, or `-`; manifest.jsonl stands for its rotated
    segments too. Where the lines are lost, manifest.sqlite3, last.csv and index.json serve. A folder stands for all
    runs below it, each read once, from the first of these that is there. An import may be stopped and run again. The
    exit status is 1 if a line was not understood.

    \b
    Example:
      kvcatalog import-manifest --dry-run runs/manifest.jsonl
      kvcatalog import-manifest --base-dir /data --rejects bad.jsonl runs/
      kvcatalog import-manifest --compute-sha256 runs/2025-03-01/manifest.sqlite3
    """  # noqa: D301
    understood = True
    with ExitStack() as stack:
        rejected = stack.enter_context(_new_file(rejects)) if rejects else None
        try:
            catalog = stack.enter_context(_opened(invocation, dry_run=dry_run))
        except BaseException:
            if rejects:
                Path(rejects).unlink()
            raise

        def rows() -> Iterator[dict[str, Any]]:
            nonlocal understood
            for manifest in manifests:
                with (
                    _telling_where_it_stopped(invocation, manifest) as watch,
                    import_progress(manifest, is_wanted=invocation.verbosity >= 0) as show,
                ):
                    report = import_into(
                        manifest,
                        catalog,
                        compute_sha256=compute_sha256,
                        dry_run=dry_run,
                        base_dir=base_dir,
                        require_files=require_files,
                        timezone=timezone,
                        default_resolver=resolver_default,
                        rejects=rejected,
                        progress=lambda reached: (watch(reached), show(reached)),
                    )
                understood &= report.understood
                row = _row(manifest, report)
                yield _telling(row) if invocation.output.format == "table" else row

        reports = rows()
        try:
            invocation.output.details(reports, _COLUMNS, identity=None)
            sys.stdout.flush()
        except BrokenPipeError:
            # Who reads the reports has had enough; what is left is imported all the same.
            discard(sys.stdout)
            for _ in reports:
                pass
    return ExitStatus.DONE if understood else ExitStatus.FINDINGS


def _new_file(path: str) -> BinaryIO:
    try:
        return Path(path).open("xb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.UsageError(f"--rejects {path}: {reason}; give a new file") from error


@contextmanager
def _opened(invocation: Invocation, *, dry_run: bool) -> Iterator[CatalogStore]:
    """Open the catalog to write, or for a dry run to read; where there is none yet, an empty one takes its place."""
    with ExitStack() as stack:
        try:
            catalog = invocation.open_catalog(read_only=dry_run, command="import-manifest")
        except CatalogMissingError:
            if not dry_run:
                raise
            folder = stack.enter_context(TemporaryDirectory())
            catalog = open_catalog(str(Path(folder, "catalog.lmdb")))
        yield stack.enter_context(catalog)


@contextmanager
def _telling_where_it_stopped(invocation: Invocation, manifest: str) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that takes how far an import is, which is told if the user interrupts it."""
    last = Progress(0, 0, None)

    def watch(reached: Progress) -> None:
        nonlocal last
        last = reached

    try:
        yield watch
    except KeyboardInterrupt:
        share = f" ({last.bytes_read / last.bytes_total:.0%})" if last.bytes_total else ""
        hashed = f" and {last.hashed_files} files" if last.hashed_files else ""
        reached = f"{last.lines} lines{share}{hashed}"
        invocation.note(f"{manifest}: stopped behind {reached}; what was registered stays, run it again for the rest")
        raise


def _telling(row: dict[str, Any]) -> dict[str, Any]:
    """Return a report for people: without what was not asked for or did not happen, `lines` and `documents` apart."""
    return {name: value for name, value in row.items() if value or name in {"lines", "documents", "understood"}}


def _row(manifest: str, report: ImportReport) -> dict[str, Any]:
    row = {"manifest": manifest, **asdict(report)}
    row["segments"], row["passed_over"] = list(report.segments), list(report.passed_over)
    row["reasons"] = [asdict(reason) for reason in report.reasons]
    row["notes"] = [{"reason": note.reason, "count": note.count, "lines": list(note.lines)} for note in report.notes]
    return row
