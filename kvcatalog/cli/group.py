"""The group `kvcatalog`: its options, its commands by name, and how a run ends."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from kvcatalog import __version__
from kvcatalog.cli import failure
from kvcatalog.cli.command import CONTEXT_SETTINGS, FILE_NAME, FORMAT_HELP
from kvcatalog.cli.exit_status import MEANINGS, ExitStatus
from kvcatalog.cli.invocation import Invocation
from kvcatalog.cli.output import FORMATS, Format
from kvcatalog.cli.text import VisibleStream, discard

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Place(Struct, frozen=True):
    module: str
    attribute: str
    summary: str


_FAMILIES: dict[str, dict[str, _Place]] = {
    "Ask": {
        "show": _Place("lookup", "show", "all about a document"),
        "where": _Place("lookup", "where", "where its bytes lie"),
        "have": _Place("lookup", "have", "is it there already"),
        "why": _Place("reasons", "why", "who refers to a blob"),
        "journal": _Place("history", "journal", "what was changed, why"),
        "search": _Place("listing", "search", "documents by filters"),
        "stats": _Place("listing", "stats", "the whole in figures"),
        "dedup-report": _Place("duplicates", "dedup_report", "what is there twice"),
    },
    "Bring in, take out": {
        "fetch": _Place("fetching", "fetch", "download and store"),
        "add": _Place("adding", "add", "store local files"),
        "import-manifest": _Place("importing", "import_manifest", "register what runs did"),
        "import-sql": _Place("sql", "import_sql", "a catalog from SQLite"),
        "reconcile": _Place("reconciling", "reconcile", "find, adopt, refetch"),
        "export-sql": _Place("sql", "export_sql", "to SQLite, Postgres, CSV"),
        "copy": _Place("copying", "copy", "all, to another catalog"),
    },
    "Keep in order": {
        "gc": _Place("collecting", "gc", "what nothing refers to"),
        "hold": _Place("holding", "hold", "what must stay"),
        "retention": _Place("retaining", "retention", "what is old enough"),
        "relayout": _Place("relaying", "relayout", "to another layout, root"),
    },
    "Keep intact": {
        "verify": _Place("verifying", "verify", "read and compare blobs"),
        "doctor": _Place("doctoring", "doctor", "what is set up wrong"),
        "audit": _Place("auditing", "audit", "check every row; repair"),
        "backup": _Place("backups", "backup", "copy the catalog in use"),
        "restore": _Place("backups", "restore", "a catalog of a backup"),
        "compact": _Place("backups", "compact", "give free pages back"),
    },
    "Set up": {
        "init": _Place("initializing", "init", "make a catalog"),
        "roots": _Place("roots", "roots", "where blobs are stored"),
        "config": _Place("configuration", "config", "settings in force"),
        "completion": _Place("completing", "completion", "for bash, zsh, fish"),
    },
}
"""The commands by what they are for; `--help` shows two on a line, so a summary has 23 characters at most."""

_COMMANDS = {name: place for family in _FAMILIES.values() for name, place in family.items()}
_NAME_WIDTHS = (15, 10)
SUMMARY_CHARACTERS_MAX = 23


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(error.message + hint, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        formatter.write("\n")
        for family, commands in _FAMILIES.items():
            formatter.write(f"{family}:\n")
            entries = list(commands.items())
            for pair in zip(entries[::2], [*entries[1::2], None], strict=False):
                cells = (
                    f"{entry[0]:{width}}  {entry[1].summary:{SUMMARY_CHARACTERS_MAX}}"
                    for width, entry in zip(_NAME_WIDTHS, pair, strict=True)
                    if entry is not None
                )
                formatter.write(f"  {'  '.join(cells)}".rstrip() + "\n")
        formatter.write("Exit status:\n")
        with formatter.indentation():
            formatter.write_text("; ".join(f"{int(status)} {meaning}" for status, meaning in MEANINGS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            raise failure.InterruptedByUserError from interruption
        except BrokenPipeError as error:
            raise _ReaderLeftError from error


class _ReaderLeftError(Exception):
    """Who read the results has had enough; raised in place of BrokenPipeError, which click answers with status 1."""


def _print_version(context: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    if not is_asked:
        return
    from kvcatalog.kv import engine
    from kvcatalog.schema import FORMAT_VERSION

    click.echo(f"kvcatalog {__version__}, catalog format {FORMAT_VERSION}, LMDB {engine.version()}")
    context.exit()


@click.group(cls=_LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.option("-c", "--config", "config_path", type=FILE_NAME, metavar="FILE", help="Configuration file, YAML or TOML.")
@click.option("--catalog", type=FILE_NAME, metavar="PATH_OR_URL", help="The catalog; wins over all other settings.")
@click.option("--root", type=FILE_NAME, metavar="DIR_OR_S3_URI", help="Where blobs are stored; wins like --catalog.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    metavar="FORMAT",
    help=FORMAT_HELP,
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json, for errors too.")
@click.option("-v", "--verbose", is_flag=True, help="More messages, and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version, of the engine too.",
)
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
    """Answer for stored documents: where are they, are they intact, twice.

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
