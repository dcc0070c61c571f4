"""Progress of long commands: on standard error, and only where a person watches it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvcatalog.cli.text import size_text, visible

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.migrate import Progress
    from kvcatalog.verify import VerifyRun


@contextmanager
def import_progress(label: str, *, is_wanted: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a line that follows an import while the context lasts; yields a function that takes how far it is."""
    if not is_watched(is_wanted=is_wanted):
        yield lambda _: None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TextColumn("{task.fields[lines]} lines{task.fields[hashed]}", markup=False),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with _bar(columns) as bar:
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

    A new name of what is done begins anew, so that rate and remaining time are its own.
    """
    if not is_watched(is_wanted=is_wanted):
        yield lambda _what, _done, _total: None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(show_speed=True),
        progress.TimeRemainingColumn(),
    )
    with _bar(columns) as bar:
        task = bar.add_task("", total=None)
        before = ""

        def follow(what: str, done: int, total: int) -> None:
            nonlocal before
            if what != before:
                bar.reset(task, description=visible(what))
                before = what
            bar.update(task, completed=done, total=total)

        yield follow


@contextmanager
def amount_progress(
    text: str, *names: str, total: Callable[[], int | None], is_wanted: bool
) -> Iterator[Callable[[Counter[str]], None]]:
    """Show a line that follows work on items, with their bytes and the rate of these.

    `text` holds the names of counts in braces, which make up what is done. `total` is asked how many items there are,
    roughly, if anybody watches; None where nobody knows. Yields a function that takes the counts so far, those of
    `bytes` among them.
    """
    if not is_watched(is_wanted=is_wanted):
        yield lambda _: None
        return
    from rich import progress

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with _bar(columns) as bar:
        expected = total()
        task = bar.add_task("", total=expected)

        def follow(counts: Counter[str]) -> None:
            done = sum(counts[name] for name in names)
            seconds = bar.tasks[0].elapsed or 1.0
            amount = f"{size_text(counts['bytes'])}, {size_text(round(counts['bytes'] / seconds))}/s"
            description = f"{text.format_map({name: counts[name] for name in names})}, {amount}"
            reached = None if expected is None else max(expected, done)
            bar.update(task, completed=done, total=reached, description=description)

        yield follow


@contextmanager
def gc_progress(expected: int | None, *, is_wanted: bool) -> Iterator[Callable[[Counter[str]], None]]:
    """Show a line that follows a search for orphans while the context lasts; yields what takes the counts so far.

    `expected` is how many blobs there are, roughly, if that is known.
    """
    if not is_watched(is_wanted=is_wanted):
        yield lambda _: None
        return
    from rich import progress

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.completed} blobs seen, {task.fields[orphans]} orphans", markup=False),
        progress.TaskProgressColumn(show_speed=True),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with _bar(columns) as bar:
        task = bar.add_task("", total=expected, orphans=0)

        def follow(counts: Counter[str]) -> None:
            total = None if expected is None else max(expected, counts["seen"])
            bar.update(task, completed=counts["seen"], total=total, orphans=counts["orphans"])

        yield follow


@contextmanager
def count_progress(label: str, *, is_wanted: bool) -> Iterator[Callable[[int, int | None], object]]:
    """Show a line that counts while the context lasts; yields a function that takes a count and the total, if known."""
    if not is_watched(is_wanted=is_wanted):
        yield lambda _count, _total: None
        return
    from rich import progress

    columns = (
        progress.BarColumn(),
        progress.TextColumn("{task.completed} {task.description}", markup=False),
        progress.TaskProgressColumn(show_speed=True),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with _bar(columns) as bar:
        task = bar.add_task(label, total=None)
        yield lambda count, total: bar.update(task, completed=count, total=total)


@contextmanager
def verify_progress(bytes_total: int | None, invocation: Invocation) -> Iterator[Callable[[VerifyRun], None] | None]:
    """Show a line that follows checks while the context lasts; yields None where nobody would see it."""
    if not is_watched(is_wanted=invocation.verbosity >= 0):
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.fields[checked]} checked, {task.fields[found]} found", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with _bar(columns) as bar:
        task = bar.add_task("", total=bytes_total, checked=0, found=0)

        def follow(run: VerifyRun) -> None:
            found = run.counts["corrupt"] + run.counts["missing"] + run.counts["unreachable"]
            bar.update(task, completed=run.bytes_read, checked=run.counts.total(), found=found)

        yield follow


def is_watched(*, is_wanted: bool) -> bool:
    """Tell whether progress would be seen by a person who has not asked for quiet."""
    return is_wanted and sys.stderr.isatty()


def _bar(columns: tuple[ProgressColumn, ...]) -> Bar:
    """Return a line on the terminal that is gone at the end.

    The program's own standard error lets no control sequence pass. Results go to standard output meanwhile, and must
    stay there.
    """
    from rich.console import Console
    from rich.progress import Progress as Bar

    return Bar(*columns, console=Console(file=sys.__stderr__), transient=True, redirect_stdout=False)
