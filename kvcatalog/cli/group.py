"""The group `kvcatalog`: its options, its commands by name, and how a run ends."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import click

from kvcatalog import __version__
from kvcatalog.cli import failure
from kvcatalog.cli.command import CONTEXT_SETTINGS
from kvcatalog.cli.exit_status import MEANINGS, ExitStatus
from kvcatalog.cli.invocation import Invocation
from kvcatalog.cli.output import FORMATS, Format
from kvcatalog.cli.text import VisibleStream, discard

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Place(NamedTuple):
    module: str
    attribute: str
    summary: str


_COMMANDS = {
    "show": _Place("lookup", "show", "Show records with variants, twins, conflicts, sightings."),
    "where": _Place("lookup", "where", "Print where the bytes of a document lie."),
    "have": _Place("lookup", "have", "Tell which URLs, artifacts, digests, files are there."),
    "why": _Place("reasons", "why", "Tell who refers to a blob and what happened to it."),
    "search": _Place("listing", "search", "List the records that filters let through."),
    "stats": _Place("listing", "stats", "Print the catalog's figures."),
    "dedup-report": _Place("listing", "dedup_report", "List contents that are there more than once."),
    "import-manifest": _Place("importing", "import_manifest", "Register what manifests of runs state."),
    "export-sql": _Place("sql", "export_sql", "Write the catalog for SQLite or PostgreSQL."),
    "import-sql": _Place("sql", "import_sql", "Import a catalog from SQLite, or an export."),
    "add": _Place("adding", "add", "Store local files and register them."),
    "fetch": _Place("fetching", "fetch", "Download URLs, store and register them."),
    "verify": _Place("verifying", "verify", "Read blobs and compare them with their records."),
    "doctor": _Place("doctoring", "doctor", "Tell what is wrong with catalog, roots and settings."),
    "audit": _Place("auditing", "audit", "Hold the catalog against itself and its blobs; repair."),
    "backup": _Place("backups", "backup", "Copy the catalog while it is used."),
    "restore": _Place("backups", "restore", "Make a new catalog of a backup."),
    "compact": _Place("backups", "compact", "Give free pages back."),
    "journal": _Place("history", "journal", "List what was done, or forget the oldest of it."),
    "gc": _Place("collecting", "gc", "Take away what nothing refers to, and bring it back."),
    "retention": _Place("retaining", "retention", "Take away records that are old enough, and their blobs."),
    "relayout": _Place("relaying", "relayout", "Move blobs to another layout, root or bucket."),
    "reconcile": _Place("reconciling", "reconcile", "Find moved blobs, adopt unknown ones, fetch lost ones."),
    "hold": _Place("holding", "hold", "Protect records and blobs from being taken away."),
    "roots": _Place("roots", "roots", "Show storage roots, or take one over."),
    "config": _Place("configuration", "config", "Show the configuration in force."),
}


class _LazyGroup(click.Group):
    """A group that imports a command's module when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(import_module(f"kvcatalog.cli.{place.module}"), place.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in _COMMANDS.items()])
        with formatter.section("Exit status"):
            formatter.write_dl([(str(int(status)), meaning) for status, meaning in MEANINGS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            raise failure.InterruptedByUserError from interruption
        except BrokenPipeError as error:
            raise _ReaderLeftError from error


class _ReaderLeftError(Exception):
    """Who read the results has had enough; raised in place of BrokenPipeError, which click answers with status 1."""


@click.group(cls=_LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.option("-c", "--config", "config_path", metavar="FILE", help="Configuration file, YAML or TOML.")
@click.option("--catalog", metavar="PATH_OR_URL", help="The catalog; wins over all other settings.")
@click.option("--root", metavar="DIR_OR_S3_URI", help="Where blobs are stored; wins like --catalog.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    help="How to print results; csv is exact, as the data has it.",
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json, for errors too.")
@click.option("-v", "--verbose", is_flag=True, help="More messages, and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.version_option(__version__, package_name="kvcatalog", message="%(prog)s %(version)s")
@click.pass_context
def group(
    context: click.Context,
    *,
    config_path: str | None,
    catalog: str | None,
    root: str | None,
    output_format: Format,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Answer for every stored document: where it is, whether it is there twice, what refers to it.

    \b
    Example:
      kvcatalog --catalog state/catalog.lmdb show doi:10.1234/abc
    """  # noqa: D301 - click's mark for lines that are not wrapped
    verbosity = verbose - quiet
    if verbosity:
        _adjust_logging(verbosity)
    context.obj = Invocation(
        config_path=config_path,
        catalog=catalog,
        root=root,
        output_format="json" if as_json else output_format,
        verbosity=verbosity,
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; results are written and flushed, errors reported."""
    _hold_standard_streams()
    messages = sys.stderr
    with contextlib.redirect_stderr(VisibleStream(messages)):
        status = _run(arguments)
    for stream in (sys.stdout, messages):
        try:
            stream.flush()
        except OSError:
            # Nobody can be told, or somebody was; the status still tells.
            discard(stream)
    return status


def _run(arguments: Sequence[str]) -> int:
    try:
        status = group.main(list(arguments), prog_name="kvcatalog", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, _ReaderLeftError):
        discard(sys.stdout)
        return ExitStatus.DONE
    except Exception as error:  # noqa: BLE001 - the one place where every error is told to the user
        verbose = "-v" in arguments or "--verbose" in arguments
        return failure.report(error, as_json=failure.wants_json(arguments), verbose=verbose)
    return int(status or ExitStatus.DONE)


def _hold_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are taken, so that no database file gets the place of a closed stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - standard error is the last of three
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _adjust_logging(verbosity: int) -> None:
    """Let the handler that logging falls back on show more than warnings, or less."""
    import logging

    level = logging.INFO if verbosity > 0 else logging.ERROR
    logging.getLogger("kvcatalog").setLevel(level)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(level)
