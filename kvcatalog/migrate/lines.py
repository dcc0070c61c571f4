"""One line of a manifest, of any generation, and what it says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec
from msgspec import Struct

from kvcatalog import values
from kvcatalog.errors import InvalidValueError

RECORD_TYPES = frozenset({"io_attempt", "summary", "breaker_event", "fallback_attempt", "fallback_summary"})
"""What a pipeline writes beside `manifest` and `attempt`; none of them states a result."""

SUCCESS = "success"
SUCCESS_IF_FILE_EXISTS = "success-if-file-exists"

_SUCCESSFUL = frozenset({"pdf", "cached", "html", "xml", "pdf_unknown", "exists"})
_FAILED = frozenset(
    {
        "miss",
        "skip",
        "skipped",
        "http_error",
        "html_too_large",
        "payload_too_large",
        "pdf_corrupt",
        "empty",
        "request_error",
        "error",
        "failed",
        "failure",
    }
)
_SCHEMA_NUMBER = re.compile(r"\s*v?\d+(\.\d+)*\s*", re.ASCII)
_SIZE_TEXT = re.compile(r"\s*(\d{1,32})(?:\.0*)?\s*", re.ASCII)


class BrokenLineError(Exception):
    """A line cannot be understood; `reason` is one of a fixed set of words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Line(Struct, gc=False):
    """The fields that any generation writes, with whatever JSON value they hold; all other fields are passed over."""

    record_type: Any = None
    schema_version: Any = None
    artifact_id: Any = None
    work_id: Any = None
    doc_id: Any = None
    run_id: Any = None
    source_url: Any = None
    url: Any = None
    original_url: Any = None
    resolver: Any = None
    resolver_name: Any = None
    classification: Any = None
    outcome: Any = None
    status: Any = None
    ok: Any = None
    dry_run: Any = None
    content_type: Any = None
    mime: Any = None
    bytes: Any = None
    content_length: Any = None
    size_bytes: Any = None
    sha256: Any = None
    sha: Any = None
    path: Any = None
    storage_uri: Any = None
    html_paths: Any = None
    extracted_text_path: Any = None
    timestamp: Any = None
    ts: Any = None
    created_at: Any = None


class Claim(Struct, gc=False):
    """What a line says about one stored document, each value in the form in which it is stored.

    `source_url` None means that the line names none; `pages` are the paths of stored pages by variant name; `notes` are
    words for what was dropped on the way.
    """

    artifact_id: str
    source_url: str | None
    resolver: str
    content_type: str | None
    run_id: str | None
    size: int | None
    sha256: str | None
    created_at: datetime | None
    location: str | None
    variants: tuple[tuple[str, str], ...]
    cached: bool
    exists: bool
    notes: tuple[str, ...]


_decode = msgspec.json.Decoder(Line).decode


def parse(raw: bytes) -> Line:
    """Return the fields of a line; BrokenLineError for one that is not a JSON object in UTF-8.

    What Python's own writer may produce and JSON forbids (NaN, lone surrogates) is read all the same.
    """
    try:
        if not raw.isascii():
            raw.decode()
        return _decode(raw)
    except UnicodeDecodeError as error:
        raise BrokenLineError("not-utf-8") from error
    except RecursionError as error:
        raise BrokenLineError("too-deep") from error
    except msgspec.DecodeError:
        return _parse_leniently(raw)


def _parse_leniently(raw: bytes) -> Line:
    try:
        fields = json.loads(raw.decode())
    except RecursionError as error:
        raise BrokenLineError("too-deep") from error
    except ValueError as error:
        raise BrokenLineError("not-json") from error
    if not isinstance(fields, dict):
        raise BrokenLineError("not-an-object")
    return Line(**{name: fields[name] for name in Line.__struct_fields__ if name in fields})


def is_foreign(line: Line) -> bool:
    """Tell whether another tool wrote the line: `schema_version` is a name (`embeddings/1.0.0`), not a number."""
    version = line.schema_version
    return isinstance(version, str) and version != "" and _SCHEMA_NUMBER.fullmatch(version) is None


def verdict(line: Line) -> str:
    """Return SUCCESS, SUCCESS_IF_FILE_EXISTS, or the word for why the line is no success.

    What says failure outweighs what says success. A classification that is in neither list counts as `unknown`.
    BrokenLineError for a line that states nothing.
    """
    classification = _word("classification", line.classification)
    if classification in _SUCCESSFUL and line.outcome is None and line.status is None and not line.dry_run:
        return SUCCESS
    outcome = _word("outcome", line.outcome)
    status = _word("status", line.status)
    words = (classification, outcome, status)
    if line.dry_run in (True, "true"):
        return "dry-run"
    for word in words:
        if word and (word in _FAILED or word.endswith("_too_large")):
            return word if word in _FAILED else "too_large"
    if classification in _SUCCESSFUL or outcome == "success" or status in {"success", "ok"} or line.ok is True:
        return SUCCESS
    if classification is not None:
        return SUCCESS_IF_FILE_EXISTS
    if outcome is None and status is None and line.ok is None:
        raise BrokenLineError("no-outcome" if line.artifact_id or line.work_id or line.doc_id else "not-a-manifest")
    return "not-a-success"


def claim(line: Line, *, timezone: tzinfo = UTC, default_resolver: str = "unknown", first_page: int = 1) -> Claim:
    """Return what a line says about its document; BrokenLineError where a value that identifies it cannot be stored.

    `first_page` is the number of the first of `html_paths` among the pages of the document.
    """
    notes: list[str] = []
    classification = _word("classification", line.classification)
    try:
        return Claim(
            artifact_id=values.required_text("artifact_id", line.artifact_id or line.work_id or line.doc_id or ""),
            source_url=values.optional_text("source_url", line.source_url or line.url or line.original_url),
            resolver=values.required_text("resolver", line.resolver or line.resolver_name or default_resolver),
            content_type=values.optional_text("content_type", line.content_type or line.mime),
            run_id=values.optional_text("run_id", line.run_id),
            size=_size(notes, line.bytes, line.content_length, line.size_bytes),
            sha256=_digest(notes, line.sha256, line.sha),
            created_at=_moment(notes, line.timestamp or line.ts or line.created_at, timezone),
            location=location(line),
            variants=_variants(notes, line, first_page),
            cached=classification == "cached",
            exists=classification == "exists",
            notes=tuple(notes),
        )
    except InvalidValueError as error:
        raise BrokenLineError(f"invalid-{error.field.replace('_', '-')}") from error


def location(line: Line) -> str | None:
    """Return the URI or path of the document's file, None where there is none."""
    text = line.storage_uri or line.path
    if not text:
        return None
    if not isinstance(text, str) or "\0" in text:
        raise BrokenLineError("invalid-path")
    return text


def pages(line: Line) -> list[str]:
    """Return the paths of stored pages, each once, in order; what is no path is left out."""
    listed = [line.html_paths] if isinstance(line.html_paths, str) else line.html_paths
    if not isinstance(listed, list):
        return []
    return list(dict.fromkeys(page for page in listed if isinstance(page, str) and page and "\0" not in page))


def _variants(notes: list[str], line: Line, first_page: int) -> tuple[tuple[str, str], ...]:
    if not line.html_paths and not line.extracted_text_path:
        return ()
    found = [("html" if number == 1 else f"html-{number}", page) for number, page in enumerate(pages(line), first_page)]
    text = line.extracted_text_path
    if isinstance(text, str) and text and "\0" not in text:
        found.append(("text", text))
    elif text:
        notes.append("variant-path-invalid")
    if isinstance(line.html_paths, list) and not all(isinstance(page, str) and page for page in line.html_paths):
        notes.append("variant-path-invalid")
    return tuple(found)


def _word(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BrokenLineError(f"invalid-{field}")
    return value.strip().lower() or None


def _size(notes: list[str], *candidates: object) -> int | None:
    dropped = False
    for value in candidates:
        if value is None or value == "":
            continue
        number = value if type(value) is int else _whole_number(value)
        if number is not None and 0 <= number <= values.INTEGER_MAX:
            return number
        dropped = True
    if dropped:
        notes.append("size-dropped")
    return None


def _whole_number(value: object) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    match = _SIZE_TEXT.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else None


def _digest(notes: list[str], *candidates: object) -> str | None:
    dropped = False
    for value in candidates:
        if value is None or value == "":
            continue
        try:
            return values.digest("sha256", value)
        except InvalidValueError:
            dropped = True
    if dropped:
        notes.append("digest-dropped")
    return None


def _moment(notes: list[str], text: object, timezone: tzinfo) -> datetime | None:
    if text is None:
        notes.append("timestamp-absent")
        return None
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]
        return values.moment("created_at", moment if moment.tzinfo else moment.replace(tzinfo=timezone))
    except (TypeError, ValueError, OverflowError):
        notes.append("timestamp-unparsable")
        return None
