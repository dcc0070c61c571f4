"""The command `config show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import CONTEXT_SETTINGS, Command

if TYPE_CHECKING:
    from kvcatalog.cli.invocation import Invocation


@click.group(context_settings=CONTEXT_SETTINGS)
def config() -> None:
    """Show the configuration in force."""


@config.command(cls=Command)
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
