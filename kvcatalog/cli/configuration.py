"""The commands `config show` and `config check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import CONTEXT_SETTINGS, Command
from kvcatalog.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation


@click.group(context_settings=CONTEXT_SETTINGS)
def config() -> None:
    """Show the configuration in force, or check one."""


@config.command(cls=Command, is_measured=False)
@click.pass_obj
def show(invocation: Invocation) -> None:
    """Print every value in force and which source gave it: flag, environment, file or default.

    Variables are named after keys: KVCATALOG_CATALOG__PATH is catalog.path.

    \b
    Example:
      kvcatalog -c kvcatalog.yaml config show
    """  # noqa: D301
    from kvcatalog.config import explain_config

    entries = explain_config(invocation.config_path, invocation.overrides)
    invocation.output.rows(map(asdict, entries), ("key", "value", "origin"), identity=None)


@config.command(cls=Command, is_measured=False)
@click.pass_obj
def check(invocation: Invocation) -> ExitStatus:
    """List all that is wrong with the configuration: keys that there are not, values that are refused.

    The exit status is 2 if there is anything. Nothing is opened; `doctor` tells whether catalog and roots are there.

    \b
    Example:
      kvcatalog -c kvcatalog.yaml config check
    """  # noqa: D301
    from kvcatalog.config import check_config

    problems = check_config(invocation.config_path, invocation.overrides)
    invocation.output.rows(map(asdict, problems), ("key", "problem", "source"), identity=None)
    if problems:
        return ExitStatus.USAGE
    invocation.note("The configuration is in order.")
    return ExitStatus.DONE
