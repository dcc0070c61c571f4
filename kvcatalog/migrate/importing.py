"""import_manifest: a manifest's lines become records, and every line is accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import Struct, structs

from kvcatalog import clock, telemetry, values
from kvcatalog.migrate import lines
from kvcatalog.migrate.attempts import Attempts
from kvcatalog.migrate.batch import Batch, Entry
from kvcatalog.migrate.hashing import Hashing
from kvcatalog.migrate.lines import BrokenLineError, Claim, Line
from kvcatalog.migrate.places import Places, bases
from kvcatalog.migrate.plain import plain_claim
from kvcatalog.migrate.rehearsal import rehearsal
from kvcatalog.migrate.report import ImportReport, LineClass, Position, Progress, Tally
from kvcatalog.migrate.runs import Run, rows, runs_at
from kvcatalog.migrate.side_files import Row, Unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvcatalog.store.protocol import CatalogStore

BATCH_LINES = 20_000
BATCH_LINES_HASHED = 1_000
BATCH_BYTES = 32 << 20
PROGRESS_LINES = 10_000


def import_manifest(
    manifest_path: str | os.PathLike[str],
    catalog: CatalogStore,
    *,
    compute_sha256: bool = False,
    dry_run: bool = False,
    base_dir: str | os.PathLike[str] | None = None,
    require_files: bool = False,
    timezone: tzinfo = UTC,
    default_resolver: str = "unknown",
    rejects: BinaryIO | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> ImportReport:
    """Import what a download run states, in any generation of manifests, and return what became of every line.

    `manifest_path` is a `manifest.jsonl`, whose bare name stands for its rotated segments too; or what lies beside one:
    the SQLite file, `last.csv`, `index.json`; each plain or, but for SQLite, compressed (gzip, zstd). `-` is standard
    input. A folder stands for all runs below it, in the order of their paths; of each, its lines are read, else its
    SQLite file, else `last.csv`, else `index.json`.

    A bad line costs only itself: it is counted, and written word for word to `rejects` (what is no JSON line as the
    line that was made of it). The import is idempotent and may be stopped and run again; what it has registered is
    durable batch by batch. ManifestError if a manifest cannot be read, InvalidValueError for a `default_resolver` that
    cannot be stored, and what the catalog raises.

    Relative paths are looked up below `base_dir`, the manifest's folder and the folder above. A document whose file is
    not there is imported all the same, or left out with `require_files`. With `compute_sha256` the files of documents
    and variants that have no digest are read, several at a time, and the size that is registered is the file's own,
    since digest and size must describe the same bytes; without it the size that the line states comes first. Either way
    a stated size that differs from the file's is noted as `size-mismatch`. Timestamps without a zone are in `timezone`.
    With `dry_run` the catalog is only read, and the report is that of a real run. `progress` is called every few
    thousand lines, and several times a second while files are read.
    """
    source = None if os.fspath(manifest_path) == "-" else Path(manifest_path)
    settings = _Settings(
        require_files, timezone, values.required_text("default_resolver", default_resolver), rejects, progress
    )
    found = runs_at(source)
    tally = Tally()
    watch = _Watch(tally, progress, _bytes_total(found.runs))
    with ExitStack() as stack:
        stack.enter_context(telemetry.span("kvcatalog.import_manifest"))
        target = stack.enter_context(rehearsal(catalog)) if dry_run else catalog
        if compute_sha256:
            watch.hashing = stack.enter_context(closing(Hashing(watch.tell)))
        first_segment = 0
        for run in found.runs:
            places = Places(bases(run.files[0], base_dir))
            batch = Batch(target, places, tally, watch.hashing)
            _Import(settings, batch, places, tally, watch).read(run, first_segment)
            first_segment += len(run.files)
    watch.tell()
    labels = tuple(label for run in found.runs for label in run.labels)
    return tally.report(segments=labels, passed_over=found.passed_over, dry_run=dry_run)


class _Settings(Struct, frozen=True):
    """What the caller has asked for."""

    require_files: bool
    timezone: tzinfo
    default_resolver: str
    rejects: BinaryIO | None
    progress: Callable[[Progress], object] | None


class _Watch:
    """Knows how far the import is, and tells who wants to know."""

    def __init__(self, tally: Tally, progress: Callable[[Progress], object] | None, total: int | None) -> None:
        self._tally = tally
        self._progress = progress
        self._total = total
        self._finished = 0
        self.hashing: Hashing | None = None
        self.position: Callable[[], int] = lambda: 0

    def tell(self) -> None:
        """Say how far it is."""
        if self._progress is not None:
            hashed = (self.hashing.files, self.hashing.bytes) if self.hashing else (0, 0)
            self._progress(Progress(self._tally.lines, self._finished + self.position(), self._total, *hashed))

    def finish_file(self) -> None:
        """Count a file as read."""
        self._finished += self.position()
        self.position = lambda: 0


class _Import:
    """Takes the lines of a run one by one and decides what each is; what speaks of a document goes to the batch."""

    def __init__(self, settings: _Settings, batch: Batch, places: Places, tally: Tally, watch: _Watch) -> None:
        self._settings = settings
        self._timezone = settings.timezone
        self._require_files = settings.require_files
        self._batch = batch
        self._places = places
        self._tally = tally
        self._watch = watch
        self._attempts = Attempts()
        self._position: Position = (0, 0)
        self._batch_lines = BATCH_LINES if watch.hashing is None else BATCH_LINES_HASHED
        self._is_index = False
        self._written_at: datetime | None = None

    def read(self, run: Run, first_segment: int) -> None:
        """Import all files of a run, in order; `first_segment` is the number of the first among those of all runs."""
        batch, tally, take = self._batch, self._tally, self._take
        self._is_index = run.kind == "index"
        for index, (file, label) in enumerate(zip(run.files, run.labels, strict=True), first_segment):
            with rows(file, run.kind, label, self._reject) as (numbered, position):
                if run.kind in {"index", "table"}:
                    self._written_at = _written_at(file)
                self._watch.position = position
                for number, row in numbered:
                    self._position = index, number
                    take(row)
                    if batch.entries >= self._batch_lines or batch.bytes >= BATCH_BYTES:
                        self._flush()
                    if not tally.lines % PROGRESS_LINES:
                        self._watch.tell()
                self._watch.finish_file()
        self._flush()

    def _take(self, row: Row) -> None:
        self._tally.lines += 1
        if row is None:
            self._other("broken", "too-long")
        elif isinstance(row, Unreadable):
            self._other("broken", row.reason)
            self._reject_line(row.raw)
        else:
            try:
                claim = None if self._is_index else plain_claim(row, self._timezone)
                if claim is not None:
                    self._take_claim(claim, row)
                elif row.isspace():
                    self._other("blank", "blank")
                else:
                    self._take_line(lines.parse(row), row)
            except BrokenLineError as error:
                self._other("broken", error.reason)
                self._reject_line(row)

    def _take_line(self, line: Line, raw: bytes) -> None:
        kind = line.record_type
        if lines.is_foreign(line):
            self._other("foreign", "other-tool")
        elif kind == "attempt":
            self._other("attempts", "attempt")
            self._attempts.remember(line)
        elif kind is not None and kind != "manifest":
            self._take_other_record(kind)
        else:
            self._take_result(line, raw)

    def _take_other_record(self, kind: object) -> None:
        if not isinstance(kind, str):
            raise BrokenLineError("invalid-record-type")
        self._other("other_records", kind if kind in lines.RECORD_TYPES else "unknown-record-type")

    def _take_result(self, line: Line, raw: bytes) -> None:
        word = lines.verdict(line)
        if word == lines.SUCCESS_IF_FILE_EXISTS:
            location = lines.location(line)
            is_found = location is not None and self._places.find(location).size is not None
            word = lines.SUCCESS if is_found else "unknown-without-file"
        if word == lines.SUCCESS:
            self._take_document(line, raw, (), first_page=1)
        elif word != "dry-run" and (pages := lines.pages(line)):
            self._take_page(line, raw, pages)
        else:
            self._other("misses" if word == "miss" else "failures", word)

    def _take_page(self, line: Line, raw: bytes, pages: list[str]) -> None:
        """Take a result that is no success but left pages behind: the first is the document, as its attempt tells."""
        page = self._attempts.page_of(line)
        changes: dict[str, Any] = {"storage_uri": None, "path": pages[0], "classification": "html"}
        changes["html_paths"] = pages[1:]
        if page is not None:
            changes |= {"url": page.url, "source_url": None, "original_url": None, "resolver": page.resolver}
            changes |= {"sha256": page.sha256, "sha": None, "content_type": page.content_type, "mime": None}
            changes |= {"bytes": page.size, "content_length": None, "size_bytes": None}
        notes: tuple[str, ...] = () if page else ("page-without-attempt",)
        if lines.has_too_many_pages(line):
            notes += ("variants-too-many",)
        self._take_document(structs.replace(line, **changes), raw, notes, first_page=2)

    def _take_document(self, line: Line, raw: bytes, notes: tuple[str, ...], *, first_page: int) -> None:
        settings = self._settings
        claim = lines.claim(
            line, timezone=settings.timezone, default_resolver=settings.default_resolver, first_page=first_page
        )
        if claim.location is None:
            self._other("skipped", "no-location")
            return
        if self._is_index:
            # An index says what there is and not how it came, so what the catalog knows of the path comes first.
            claim.exists = True
        if claim.created_at is None:
            claim.created_at = self._written_at
        if claim.source_url is None and not claim.exists:
            notes += ("url-absent",)
        if notes:
            claim.notes += notes
        self._take_claim(claim, raw)

    def _take_claim(self, claim: Claim, raw: bytes) -> None:
        place = self._places.find(claim.location or "")
        if self._require_files and place.is_missing:
            self._other("skipped", "file-missing")
        else:
            self._batch.add(Entry(claim, place, raw, self._position))

    def _flush(self) -> None:
        for entry, reason in self._batch.flush():
            self._tally.other("broken", reason, entry.position)
            self._reject_line(entry.raw)

    def _other(self, line_class: LineClass, reason: str) -> None:
        self._tally.other(line_class, reason, self._position)

    def _reject_line(self, raw: bytes) -> None:
        self._reject(raw if raw.endswith(b"\n") else raw + b"\n")

    def _reject(self, piece: bytes) -> None:
        if self._settings.rejects is not None:
            self._settings.rejects.write(piece)


def _written_at(file: Path | None) -> datetime | None:
    """Return when a file was written: what has no times of its own then says the same whenever it is imported."""
    return None if file is None else clock.from_micros(file.stat().st_mtime_ns // 1000)


def _bytes_total(runs: Sequence[Run]) -> int | None:
    try:
        sizes = [file.stat().st_size for run in runs for file in run.files if file is not None]
    except OSError:
        return None
    return sum(sizes) if None not in runs[0].files else None
