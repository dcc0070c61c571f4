"""The command `completion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvcatalog.cli.command import CONTEXT_SETTINGS

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

SHELLS = ("bash", "zsh", "fish")


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and their values with the tab key.

    \b
    Example:
      eval "$(kvcatalog completion bash)"          # in ~/.bashrc
      eval "$(kvcatalog completion zsh)"           # in ~/.zshrc, behind compinit
      kvcatalog completion fish > ~/.config/fish/completions/kvcatalog.fish
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None  # noqa: S101 - click has all three
    click.echo(_script(completer(context.find_root().command, {}, "kvcatalog", "_KVCATALOG_COMPLETE")))


def _script(completer: ShellComplete) -> str:
    # What a subclass puts before it runs the shell to ask for its version, which may be another one than the user's.
    script = completer.source_template % completer.source_vars()
    # In fish a description, or a value, would end at its first comma.
    return script.replace('string split ","', 'string split --max 1 ","')
