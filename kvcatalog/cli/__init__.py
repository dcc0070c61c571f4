"""The command line; `main` is the entry point of the `kvcatalog` program."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the program with the arguments of the process, and exit with a status of `kvcatalog.cli.exit_status`."""
    import sys

    from kvcatalog.cli import signals

    try:
        signals.heed_termination()
        from kvcatalog.cli.group import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        # It came before or after what `run` watches over.
        if sys.stderr is not None:
            sys.stderr.write(f"kvcatalog: {'terminated' if signals.was_terminated() else 'interrupted'}\n")
        status = 143 if signals.was_terminated() else 130
    sys.exit(status)
