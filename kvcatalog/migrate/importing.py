"""import_manifest: a manifest's lines become records, and every line is accounted for."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import structs

from kvcatalog import values
from kvcatalog.migrate import lines, reading
from kvcatalog.migrate.attempts import Attempts
from kvcatalog.migrate.batch import Batch, Entry
from kvcatalog.migrate.lines import BrokenLineError, Line
from kvcatalog.migrate.places import Places, bases
from kvcatalog.migrate.rehearsal import rehearsal
from kvcatalog.migrate.report import ImportReport, LineClass, Position, Progress, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvcatalog.store.protocol import CatalogStore

BATCH_LINES = 10_000
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
    """Import a download run's manifest, of any generation, and return what became of every line.

    `manifest_path` is a file, plain or compressed (gzip, zstd), or `-` for standard input; the bare name of a rotated
    manifest stands for all of its segments. A bad line costs only itself: it is counted, and written word for word to
    `rejects`. The import is idempotent and may be stopped and run again; what it has registered is durable batch by
    batch. ManifestError if the manifest cannot be read, InvalidValueError for a `default_resolver` that cannot be
    stored, and what the catalog raises.

    Relative paths are looked up below `base_dir`, the manifest's folder and the folder above. A document whose file is
    not there is imported all the same, or left out with `require_files`. With `compute_sha256` the files of documents
    and variants that have no digest are read, and the size that is registered is the file's own, since digest and size
    must describe the same bytes; without it the size that the line states comes first. Either way a stated size that
    differs from the file's is noted as `size-mismatch`. Timestamps without a zone are in `timezone`. With `dry_run` the
    catalog is only read, and the report is that of a real run. `progress` is called every few thousand lines.
    """
    source = None if os.fspath(manifest_path) == "-" else Path(manifest_path)
    segments: list[Path | None] = [None] if source is None else [*reading.segments(source)]
    places, tally = Places(bases(source, base_dir)), Tally()
    with ExitStack() as stack:
        target = stack.enter_context(rehearsal(catalog)) if dry_run else catalog
        batch = stack.enter_context(closing(Batch(target, places, tally, compute_sha256=compute_sha256)))
        run = _Import(
            batch,
            places,
            tally,
            require_files=require_files,
            timezone=timezone,
            default_resolver=values.required_text("default_resolver", default_resolver),
            rejects=rejects,
            batch_lines=BATCH_LINES_HASHED if compute_sha256 else BATCH_LINES,
        )
        run.read(segments, progress)
    return tally.report(segments=tuple(_name(segment) for segment in segments), dry_run=dry_run)


class _Import:
    """Takes lines one by one and decides what each is; what speaks of a document goes to the batch."""

    def __init__(
        self,
        batch: Batch,
        places: Places,
        tally: Tally,
        *,
        require_files: bool,
        timezone: tzinfo,
        default_resolver: str,
        rejects: BinaryIO | None,
        batch_lines: int,
    ) -> None:
        self._batch = batch
        self._places = places
        self._tally = tally
        self._require_files = require_files
        self._timezone = timezone
        self._default_resolver = default_resolver
        self._rejects = rejects
        self._attempts = Attempts()
        self._position: Position = (0, 0)
        self._batch_lines = batch_lines

    def read(self, segments: list[Path | None], progress: Callable[[Progress], object] | None) -> None:
        """Import all segments, in order."""
        total = _bytes_total(segments)
        finished = 0
        for index, segment in enumerate(segments):
            with reading.opened(segment) as (stream, position):
                for number, raw in enumerate(reading.lines(stream, _name(segment), self._reject), 1):
                    self._position = index, number
                    self._take(raw)
                    if len(self._batch) >= self._batch_lines or self._batch.bytes >= BATCH_BYTES:
                        self._flush()
                    if progress and number % PROGRESS_LINES == 0:
                        progress(Progress(self._tally.lines, finished + position(), total))
                finished += position()
        self._flush()
        if progress:
            progress(Progress(self._tally.lines, finished, total))

    def _take(self, raw: bytes | None) -> None:
        self._tally.lines += 1
        if raw is None:
            self._other("broken", "too-long")
        elif raw.isspace():
            self._other("blank", "blank")
        else:
            try:
                self._take_line(lines.parse(raw), raw)
            except BrokenLineError as error:
                self._other("broken", error.reason)
                self._reject_line(raw)

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
        claim = lines.claim(
            line, timezone=self._timezone, default_resolver=self._default_resolver, first_page=first_page
        )
        if claim.location is None:
            self._other("skipped", "no-location")
            return
        place = self._places.find(claim.location)
        if place.is_missing and self._require_files:
            self._other("skipped", "file-missing")
            return
        if claim.source_url is None and not claim.exists:
            notes += ("url-absent",)
        if notes:
            claim.notes += notes
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
        if self._rejects is not None:
            self._rejects.write(piece)


def _name(segment: Path | None) -> str:
    return "-" if segment is None else segment.name


def _bytes_total(segments: list[Path | None]) -> int | None:
    try:
        sizes = [segment.stat().st_size for segment in segments if segment is not None]
    except OSError:
        return None
    return sum(sizes) if len(sizes) == len(segments) else None
