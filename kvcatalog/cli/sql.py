"""The commands `export-sql` and `import-sql`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO, get_args

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import CONTEXT_SETTINGS, FILE_NAME, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.output import Output
from kvcatalog.cli.progress import count_progress
from kvcatalog.filters import parse_filter
from kvcatalog.sql_export import ExportReport, Format, Progress, export_to_postgres
from kvcatalog.sql_export import export_sql as export_to
from kvcatalog.sql_import import SqlImportReport
from kvcatalog.sql_import import import_sql as import_from
from kvcatalog.sql_schema import tables

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation

_IMPORT_COLUMNS = tuple(name for name in SqlImportReport.__struct_fields__ if name != "refusals")


@click.command(context_settings=CONTEXT_SETTINGS)
@click.option("--format", "form", type=click.Choice(get_args(Format)), help="What to write.  [default: sqlite]")
@click.option(
    "-o",
    "--output",
    type=FILE_NAME,
    metavar="FILE",
    help="Where to; - for standard output, where text goes by default.",
)
@click.option("--dsn", metavar="DSN", help="Write into this PostgreSQL server: postgresql://host/database, service=….")
@click.option(
    "--filter", "filters", multiple=True, metavar="FILTER", help="Only what passes; as in search, repeatable."
)
@click.option("--since", metavar="POSITION", help="Only what was changed since an earlier export.")
@click.option("--table", type=click.Choice(tuple(tables())), help="The table that csv holds.  [default: documents]")
@click.option("--force", is_flag=True, help="Replace a file, or tables, that are there.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON; the group's --format knows more.")
@click.pass_obj
def export_sql(
    invocation: Invocation,
    *,
    as_json: bool,
    form: Format | None,
    output: str | None,
    dsn: str | None,
    filters: tuple[str, ...],
    since: str | None,
    table: str | None,
    force: bool,
) -> None:
    """Write the catalog, as it is at one moment, for SQLite or PostgreSQL.

    \b
    sqlite       a database file
    sqlite-dump  a script for sqlite3
    postgres     a script for psql, or with --dsn straight into a server
    csv          one table
    jsonl        every table, its name in each line

    Others may go on writing; what they replace is kept until the export ends. A file gets its name when it is whole.
    The report goes to standard error where the export goes to standard output; the group's --format applies to it. Its
    `position` is what --since takes: a script that brings the earlier export up to date, the file itself with
    sqlite, or the server. Give the same filters then. A catalog on DynamoDB has none.

    \b
    Example:
      kvcatalog export-sql -o catalog.sqlite
      kvcatalog export-sql --format postgres --filter resolver=crossref | psql db
      kvcatalog export-sql --dsn service=analysis --since 1f0c9a3e-1-12-4711-30
    """  # noqa: D301 - click's mark for lines that are not wrapped
    where = parse_filter(filters)
    if as_json:
        invocation.output_format = "json"
    if dsn is not None:
        if output is not None or form not in {None, "postgres"}:
            raise click.UsageError("--dsn goes with --format postgres only, and without -o")
        with (
            invocation.open_catalog() as catalog,
            count_progress("documents", is_wanted=invocation.verbosity >= 0) as follow,
        ):
            report = export_to_postgres(
                catalog, dsn, where=where, since=since, force=force, progress=lambda at: follow(*_figures(at))
            )
        _report(invocation, report, is_free=True)
        return
    form = form or "sqlite"
    if table is not None and form != "csv":
        raise click.UsageError("--table goes with --format csv only")
    target = _target(form, output)
    with (
        invocation.open_catalog() as catalog,
        count_progress("documents", is_wanted=invocation.verbosity >= 0) as follow,
    ):
        report = export_to(
            catalog,
            target,
            format=form,
            table=table or "documents",
            where=where,
            since=since,
            force=force,
            progress=lambda at: follow(*_figures(at)),
        )
    _report(invocation, report, is_free=isinstance(target, str))


def _target(form: Format, output: str | None) -> str | BinaryIO:
    if output not in {None, "-"}:
        return str(output)
    if form == "sqlite":
        raise click.UsageError("a database file needs a name: -o FILE")
    if sys.stdout.isatty():
        raise click.UsageError("what is stored may disturb a terminal: -o FILE, or send the output elsewhere")
    return sys.stdout.buffer


def _figures(progress: Progress) -> tuple[int, int]:
    return progress.documents, progress.documents_total


def _report(invocation: Invocation, report: ExportReport, *, is_free: bool) -> None:
    """Tell what was written, where standard output has not been taken."""
    if is_free:
        invocation.output.item(asdict(report))
    elif invocation.output_format in {"json", "jsonl"} and invocation.verbosity >= 0:
        Output(invocation.output_format, sys.stderr).item(asdict(report))
    else:
        position = "" if report.position is None else f"; position {report.position}"
        invocation.note(f"{report.documents} documents, {report.variants} variants{position}")


@click.command(cls=Command)
@click.argument("source", metavar="SOURCE", type=click.Path(exists=True, dir_okay=False))
@click.pass_obj
def import_sql(invocation: Invocation, source: str) -> ExitStatus:
    """Import a catalog that was kept in SQLite, or what export-sql wrote; a catalog is created where there is none.

    SOURCE is a database file with the tables documents and variants (it is only read), a dump for sqlite3 or psql,
    JSON lines, or CSV of documents. An empty catalog takes everything as it is: ids, times, sightings, conflicts,
    links, roots, journal. Into another one documents are registered, with new ids, and what belongs to them. An import
    may be stopped and run again. The exit status is 1 if a row could not be imported; the report tells why.

    \b
    Example:
      kvcatalog --catalog state/catalog.lmdb import-sql state/catalog.sqlite
    """  # noqa: D301
    with (
        invocation.open_catalog(read_only=False, command="import-sql") as catalog,
        count_progress("documents", is_wanted=invocation.verbosity >= 0) as follow,
    ):
        report = import_from(source, catalog, progress=lambda count: follow(count, None))
    row = asdict(report)
    row["refusals"] = [asdict(refusal) for refusal in report.refusals]
    if invocation.output.format == "table":
        shown = {"source", "format", "kept_ids", "documents", "refused"}
        row = {name: value for name, value in row.items() if value or name in shown}
    invocation.output.details((row,), _IMPORT_COLUMNS, identity=None)
    return ExitStatus.FINDINGS if report.refused else ExitStatus.DONE
