"""The command line; `main` is the entry point of the `kvcatalog` program."""

from __future__ import annotations

from typing import NoReturn

_ALLOCATIONS_PER_COLLECTION = 10_000


def main() -> NoReturn:
    """Run the program with the arguments of the process, and exit with a status of `kvcatalog.cli.exit_status`."""
    import gc
    import sys

    from kvcatalog.cli import signals

    # Modules stay, so looking for garbage among them again and again, and once more at the end, is time lost.
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION)

    try:
        signals.heed_termination()
        from kvcatalog.cli.group import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        # It came before or after what `run` watches over.
        if sys.stderr is not None:
            sys.stderr.write(f"kvcatalog: {'terminated' if signals.was_terminated() else 'interrupted'}\n")
        status = 143 if signals.was_terminated() else 130
    gc.freeze()
    sys.exit(status)
