"""The command `fetch`."""

from __future__ import annotations

import sys
from collections import Counter, deque
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from kvcatalog.bootstrap import open_pipeline
from kvcatalog.cli.command import FILE_NAME, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.mapping import MappingRow, read_rows, rows_expected
from kvcatalog.cli.progress import amount_progress
from kvcatalog.cli.quantities import SECONDS, size
from kvcatalog.cli.text import discard, size_text
from kvcatalog.pipeline import Fetched, Item, Limits, Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from kvcatalog.cli.invocation import Invocation

_COLUMNS = ("outcome", "reason", "id", "bytes", "url", "storage_uri", "line")
_FACTS = ("line", "id", *Item.__struct_fields__, *Fetched.__struct_fields__[1:-1])
_PROGRESS = "{success} stored, {skip} passed over, {error} failed"
_JOBS_MAX = 256
_DEFAULTS = Limits()


@click.command(cls=Command)
@click.argument("urls", nargs=-1, metavar="[URL...]")
@click.option(
    "-i", "--input", "source", type=FILE_NAME, metavar="FILE", help="Rows of URLs and their keys; - for stdin."
)
@click.option("--artifact-id", metavar="ID", help="The artifact of what names none.  [default: the URL]")
@click.option("--resolver", default="direct", show_default=True, help="The resolver of what names none.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, _JOBS_MAX), default=4, show_default=True, help="Downloads at once."
)
@click.option("--run", "run_id", metavar="ID", help="The name of this run.  [default: made from the time]")
@click.option("--manifest", type=FILE_NAME, metavar="FILE", help="Where to append a line for each download.")
@click.option("--max-bytes", type=size, metavar="SIZE", help="Refuse what is larger.  [default: 1GiB]")
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    default=_DEFAULTS.total_seconds,
    show_default=True,
    help="Give a download up after that long, retries and all; only the look-up of a host's name may last longer.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be fetched, and fetch nothing.")
@click.pass_obj
def fetch(
    invocation: Invocation,
    /,
    urls: tuple[str, ...],
    *,
    source: str | None,
    artifact_id: str | None,
    resolver: str,
    jobs: int,
    run_id: str | None,
    manifest: str | None,
    max_bytes: int | None,
    timeout: float,
    dry_run: bool,
) -> ExitStatus:
    """Download each URL that is not in the catalog yet, store it below the root, and register it.

    FILE is CSV with a header or JSON lines, with url, artifact and resolver, or a list of URLs. One line for each goes
    to manifest.jsonl beside the catalog. Nothing that came in part is stored; what failed or was interrupted is
    fetched by running the command again. The exit status is 1 if something failed.

    \b
    Example:
      kvcatalog --root data/docs fetch https://example.org/a.pdf
      kvcatalog -c kvcatalog.yaml fetch -i found.csv -j 16 --max-bytes 200MB
    """  # noqa: D301
    if not urls and source is None:
        raise click.UsageError("give URLs or --input FILE")
    bytes_max = _DEFAULTS.bytes_max if max_bytes is None else max_bytes
    limits = structs.replace(_DEFAULTS, bytes_max=bytes_max, total_seconds=timeout)
    run = _Run(
        _items(urls, source, artifact_id, resolver),
        total=lambda: _expected(urls, source),
        shows_progress=invocation.verbosity >= 0,
        rehearsal=dry_run,
    )
    with (
        open_pipeline(
            invocation.load_config(),
            run_id=run_id,
            manifest_path=manifest,
            limits=limits,
            jobs=jobs,
            rehearsal=dry_run,
            command="fetch",
        ) as pipeline,
        closing(run.rows(pipeline)) as rows,
    ):
        try:
            invocation.output.rows(rows, _COLUMNS)
            sys.stdout.flush()
        except BrokenPipeError:
            # Who reads the results has had enough; what is left is fetched all the same.
            discard(sys.stdout)
            for _ in rows:
                pass
        except KeyboardInterrupt as interruption:
            # It came while a row was written. The others are not written any more, but counted.
            run.interrupted = True
            with suppress(KeyboardInterrupt, StopIteration):
                rows.throw(interruption)
                deque(rows, maxlen=0)
    invocation.note(run.summary())
    if run.interrupted:
        raise KeyboardInterrupt
    return ExitStatus.FINDINGS if run.counts["error"] else ExitStatus.DONE


def _items(
    urls: tuple[str, ...], source: str | None, artifact_id: str | None, resolver: str
) -> Iterator[Item | MappingRow]:
    """Yield what is to be fetched, and rows that do not tell."""
    for url in urls:
        yield Item(artifact_id or url, url, resolver)
    if source is None:
        return
    for row in read_rows(source, required=("url",), plain="url"):
        if row.error:
            yield row
        else:
            url = row.values["url"]
            artifact = row.values.get("artifact_id", artifact_id or url)
            yield Item(artifact, url, row.values.get("resolver", resolver))


def _expected(urls: tuple[str, ...], source: str | None) -> int | None:
    rows = 0 if source is None else rows_expected(source)
    return None if rows is None else len(urls) + rows


class _Run:
    """What becomes of the items, told row by row and counted."""

    def __init__(
        self,
        items: Iterator[Item | MappingRow],
        *,
        total: Callable[[], int | None],
        shows_progress: bool,
        rehearsal: bool,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.interrupted = False
        self._items = items
        self._total = total
        self._rehearsal = rehearsal
        self._rejected: deque[MappingRow] = deque()
        self._shows_progress = shows_progress

    def rows(self, pipeline: Pipeline) -> Generator[dict[str, Any], None, None]:
        """Fetch, and yield a row for each item; an interruption ends the rows, and what came before stands."""
        with (
            amount_progress(
                _PROGRESS, "success", "skip", "error", total=self._total, is_wanted=self._shows_progress
            ) as progress,
            closing(pipeline.run(self._fetchable())) as results,
        ):
            try:
                for fetched in results:
                    yield self._row(fetched)
                    progress(self.counts)
                    yield from self._rejections()
            except KeyboardInterrupt as interruption:
                self.interrupted = True
                yield from self._rest(results, interruption)
            yield from self._rejections()

    def _rest(
        self, results: Generator[Fetched, None, None], interruption: KeyboardInterrupt
    ) -> Generator[dict[str, Any], None, None]:
        """Yield rows of what was done when an interruption came, which may have been between two results."""
        with suppress(KeyboardInterrupt):
            yield self._row(results.throw(interruption))
            for fetched in results:
                yield self._row(fetched)

    def summary(self) -> str:
        """Return what was done, on one line."""
        if self._rehearsal:
            there = self.counts["skip"] - self.counts["dry-run"]
            text = f"{self.counts['dry-run']} would be fetched, {there} passed over, {self.counts['error']} refused"
        else:
            stored = f"{self.counts['success']} stored ({size_text(self.counts['bytes'])})"
            text = f"{stored}, {self.counts['skip']} passed over, {self.counts['error']} failed"
        return text + ("; run it again for the rest" if self.interrupted else "")

    def _fetchable(self) -> Iterator[Item]:
        for item in self._items:
            if isinstance(item, Item):
                yield item
            else:
                self._rejected.append(item)

    def _row(self, fetched: Fetched) -> dict[str, Any]:
        self.counts[fetched.outcome] += 1
        self.counts["dry-run"] += fetched.reason == "dry-run"
        self.counts["bytes"] += fetched.bytes or 0
        row = structs.asdict(fetched)
        return {"line": None, "id": row.pop("record_id"), **structs.asdict(row.pop("item")), **row}

    def _rejections(self) -> Iterator[dict[str, Any]]:
        while self._rejected:
            rejected = self._rejected.popleft()
            self.counts["error"] += 1
            facts = {"url": rejected.values.get("url"), "reason": rejected.error, "line": rejected.line}
            yield {**dict.fromkeys(_FACTS), **facts, "outcome": "error"}
