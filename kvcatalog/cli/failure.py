"""How a command ends that cannot do what it was asked: one message on standard error, and the status that fits."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from kvcatalog.cli import signals
from kvcatalog.cli.exit_status import ExitStatus, status_of
from kvcatalog.cli.text import visible
from kvcatalog.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTIONS = (ExitStatus.INTERRUPTED, "interrupted"), (ExitStatus.TERMINATED, "terminated")
_MESSAGE_MAX = 1000
_VERBOSE_ADVICE = "Run `kvcatalog -v …` to see where it happened."


class InterruptedByUserError(Exception):
    """The user pressed Control-C, or somebody sent SIGTERM, while a command ran."""


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell from the arguments alone whether errors are to be JSON: they may be what cannot be parsed."""
    options = list(arguments)
    if "--" in options:
        del options[options.index("--") :]
    before = options[: options.index("export-sql")] if "export-sql" in options else options  # behind, it is a file's
    formats = [after for option, after in pairwise(before) if option == "--format"]
    formats += [option.removeprefix("--format=") for option in before]
    return "--json" in options or "json" in formats or "jsonl" in formats


def report(error: BaseException, *, as_json: bool, verbose: bool) -> ExitStatus:
    """Write what happened and what to do to standard error, and return the exit status."""
    status, message, advice = _describe(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
        sys.stderr.write(message + "\n")
        return status
    if verbose and not isinstance(error, (click.ClickException, click.Abort, InterruptedByUserError)):
        _write_traceback(error)
    if as_json:
        import json

        facts = {"type": type(error).__name__, "message": message, "advice": advice, "status": int(status)}
        lines = [json.dumps({"error": facts}).replace("\x7f", "\\u007f")]
    else:
        usage = error.ctx.get_usage().splitlines() if isinstance(error, click.UsageError) and error.ctx else []
        lines = [visible(_shortened(line)) for line in (*usage, f"kvcatalog: {message}", advice) if line]
    sys.stderr.write("\n".join(lines) + "\n")
    return status


def _describe(error: BaseException) -> tuple[ExitStatus, str, str | None]:
    match error:
        case CatalogError():
            return status_of(error), str(error), error.advice
        case click.UsageError():
            hint = f"`{error.ctx.command_path} --help` tells what it takes." if error.ctx else None
            message = error.format_message()
            # click puts the values to choose from on lines of their own.
            is_list = isinstance(error, click.MissingParameter)
            return ExitStatus.USAGE, " ".join(message.split()) if is_list else message, hint
        case click.ClickException():
            return ExitStatus.USAGE, error.format_message(), None
        case InterruptedByUserError() | click.Abort() | KeyboardInterrupt():
            return (*_INTERRUPTIONS[signals.was_terminated()], None)
        case OSError():
            return ExitStatus.UNAVAILABLE, str(error), _VERBOSE_ADVICE
        case _:
            message = f"unexpected {type(error).__name__}: {error}"
            return ExitStatus.UNAVAILABLE, message, _VERBOSE_ADVICE


def _shortened(text: str) -> str:
    """Return a text that does not fill the screen with a value of any length; JSON has the whole."""
    left_out = len(text) - _MESSAGE_MAX
    return (
        text if left_out <= 0 else f"{text[: _MESSAGE_MAX // 2]} [... {left_out} more ...] {text[-_MESSAGE_MAX // 2 :]}"
    )


def _write_traceback(error: BaseException) -> None:
    import traceback

    lines = "".join(traceback.format_exception(error)).splitlines()
    sys.stderr.write("".join(f"{visible(line)}\n" for line in lines))
