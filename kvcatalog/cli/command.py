"""The class of every command: the options for a format stand after its name too, and what it does is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvcatalog.cli.invocation import Invocation
from kvcatalog.cli.output import FORMATS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Type = click.ParamType[str]
else:
    _Type = click.ParamType

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
FORMAT_HELP = f"{', '.join(FORMATS).replace('csv', 'csv (exact)')}."


class _FileName(_Type):
    """The name of a file or folder, which a shell completes; whether it is there is for those to say who open it.

    An empty one, such as an unset variable gives, would stand for the working directory, and is refused.
    """

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's
        if not value:
            self.fail("is empty", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


FILE_NAME = _FileName()


class Command(click.Command):
    """A command with `--format` and `--json`; it sends telemetry if that is configured, and `is_measured`."""

    def __init__(self, *arguments: Any, is_measured: bool = True, **settings: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*arguments, **settings)
        self._is_measured = is_measured
        self.params += _format_options()

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        invocation = ctx.find_object(Invocation)
        if invocation is None or not self._is_measured:
            return super().invoke(ctx)
        with invocation.telemetry(ctx.command_path):
            return super().invoke(ctx)


class CommandWithCommands(click.Group):
    """A command with `--format` and `--json` that also has commands of its own, to which its options do not belong."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401 - passed on to click as they are
        settings |= {"invoke_without_command": True, "subcommand_metavar": "[COMMAND [ARGS]...]"}
        super().__init__(*arguments, **settings)
        self.params += _format_options()

    def invoke(self, ctx: click.Context) -> object:
        """Run the command, or the one that is named."""
        invocation = ctx.find_object(Invocation)
        if invocation is None:
            return super().invoke(ctx)
        with invocation.telemetry(ctx.command_path):
            return super().invoke(ctx)


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
            metavar="FORMAT",
            expose_value=False,
            callback=_choose_format,
            help=FORMAT_HELP,
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
