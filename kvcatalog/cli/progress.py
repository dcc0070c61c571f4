"""Progress of long commands: on standard error, and only where a person watches it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvcatalog.cli.text import size_text, visible

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.migrate import Progress
    from kvcatalog.verify import VerifyRun


@contextmanager
def import_progress(label: str, *, is_wanted: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a line that follows an import while the context lasts; yields a function that takes how far it is."""
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TextColumn("{task.fields[lines]} lines{task.fields[hashed]}", markup=False),
        progress.TimeRemainingColumn(),
    )
    # The program's own standard error lets no control sequence pass.
    console = Console(file=sys.__stderr__)
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(visible(label), total=None, lines=0, hashed="")

        def follow(reached: Progress) -> None:
            hashed = f", {reached.hashed_files} files hashed ({size_text(reached.hashed_bytes)})"
            bar.update(
                task,
                completed=reached.bytes_read,
                total=reached.bytes_total,
                lines=reached.lines,
                hashed=hashed if reached.hashed_bytes else "",
            )

        yield follow


@contextmanager
def step_progress(*, is_wanted: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a line that follows steps of some work; yields a function that takes what is done, and how much of how much.

    Where results are written while the context lasts, they stay on standard output.
    """
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(file=sys.__stderr__)
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)

        def follow(what: str, done: int, total: int) -> None:
            bar.update(task, description=visible(what), completed=done, total=total)

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


@contextmanager
def verify_progress(bytes_total: int | None, invocation: Invocation) -> Iterator[Callable[[VerifyRun], None] | None]:
    """Show a line that follows checks while the context lasts; yields None where nobody would see it."""
    if invocation.verbosity < 0 or not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.fields[checked]} checked, {task.fields[found]} found", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(file=sys.__stderr__)
    # Results go to standard output meanwhile, and must stay there.
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=bytes_total, checked=0, found=0)

        def follow(run: VerifyRun) -> None:
            found = run.counts["corrupt"] + run.counts["missing"] + run.counts["unreachable"]
            bar.update(task, completed=run.bytes_read, checked=run.counts.total(), found=found)

        yield follow


@contextmanager
def count_progress(label: str, *, is_wanted: bool) -> Iterator[Callable[[int, int | None], object]]:
    """Show a line that counts while the context lasts; yields a function that takes a count and the total, if known."""
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _count, _total: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(),
        progress.TextColumn("{task.completed} {task.description}", markup=False),
        progress.TimeElapsedColumn(),
    )
    console = Console(file=sys.__stderr__)
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda count, total: bar.update(task, completed=count, total=total)
