"""Progress of long commands: on standard error, and only where a person watches it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvcatalog.cli.text import visible

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from kvcatalog.migrate import Progress


@contextmanager
def import_progress(label: str, *, is_wanted: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Show a line that follows an import while the context lasts; yields None where nobody would see it."""
    if not is_wanted or not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TextColumn("{task.fields[lines]} lines", markup=False),
        progress.TimeRemainingColumn(),
    )
    # The program's own standard error lets no control sequence pass.
    console = Console(file=sys.__stderr__)
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(visible(label), total=None, lines=0)

        def follow(reached: Progress) -> None:
            bar.update(task, completed=reached.bytes_read, total=reached.bytes_total, lines=reached.lines)

        yield follow


@contextmanager
def gc_progress(*, is_wanted: bool) -> Iterator[Callable[[Counter[str]], None]]:
    """Show a line that follows a search for orphans while the context lasts; yields what takes the counts so far."""
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.completed} blobs seen, {task.fields[orphans]} orphans", markup=False),
        progress.TimeElapsedColumn(),
    )
    console = Console(file=sys.__stderr__)
    # Results go to standard output meanwhile, and must stay there.
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, orphans=0)

        def follow(counts: Counter[str]) -> None:
            bar.update(task, completed=counts["seen"], orphans=counts["orphans"])

        yield follow


@contextmanager
def fetch_progress(*, is_wanted: bool) -> Iterator[Callable[[Counter[str]], None]]:
    """Show a line that follows downloads while the context lasts; yields a function that takes the counts so far."""
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn(
            "{task.fields[success]} stored, {task.fields[skip]} passed over, {task.fields[error]} failed", markup=False
        ),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeElapsedColumn(),
    )
    console = Console(file=sys.__stderr__)
    # Results go to standard output meanwhile, and must stay there.
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, success=0, skip=0, error=0)

        def follow(counts: Counter[str]) -> None:
            bar.update(
                task, completed=counts["bytes"], success=counts["success"], skip=counts["skip"], error=counts["error"]
            )

        yield follow
