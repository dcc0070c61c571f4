"""The class of every command: the options that choose a format stand after its name as well as before it."""

from __future__ import annotations

from typing import Any

import click

from kvcatalog.cli.invocation import Invocation
from kvcatalog.cli.output import FORMATS

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class Command(click.Command):
    """A command with `--format` and `--json`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401 - passed on to click as they are
        super().__init__(*arguments, **settings)
        self.params += _format_options()


class CommandWithCommands(click.Group):
    """A command with `--format` and `--json` that also has commands of its own, to which its options do not belong."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401 - passed on to click as they are
        settings |= {"invoke_without_command": True, "subcommand_metavar": "[COMMAND [ARGS]...]"}
        super().__init__(*arguments, **settings)
        self.params += _format_options()


def refuse_options(context: click.Context) -> None:
    """Raise UsageError where options stand before the name of a command that does not take them."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.expose_value and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} does not belong before {context.invoked_subcommand}")


def _format_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--format", "chosen_format"],
            type=click.Choice(FORMATS),
            expose_value=False,
            callback=_choose_format,
            help="How to print results; csv is exact, as the data has it.",
        ),
        click.Option(
            ["--json", "json_shorthand"],
            is_flag=True,
            flag_value="json",
            expose_value=False,
            callback=_choose_format,
            help="Short for --format json.",
        ),
    ]


def _choose_format(context: click.Context, _option: click.Parameter, value: Any) -> None:  # noqa: ANN401 - click's
    if value:
        context.find_object(Invocation).output_format = value  # type: ignore[union-attr]
