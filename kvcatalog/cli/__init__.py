"""The command line; `main` is the entry point of the `kvcatalog` program."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the program with the arguments of the process, and exit with a status of `kvcatalog.cli.exit_status`."""
    import sys

    from kvcatalog.cli.group import run

    sys.exit(run(sys.argv[1:]))
