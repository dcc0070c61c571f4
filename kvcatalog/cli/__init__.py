"""The command line; `main` is the entry point of the `kvcatalog` program."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the program with the arguments of the process, and exit with a status of `kvcatalog.cli.exit_status`."""
    import sys

    try:
        from kvcatalog.cli.group import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        # It came before or after what `run` watches over.
        if sys.stderr is not None:
            sys.stderr.write("kvcatalog: interrupted\n")
        status = 130
    sys.exit(status)
