"""One line of a manifest, of any generation, and what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, TypedDict

import msgspec
from msgspec import UNSET, Raw, Struct, structs

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
PAGES_MAX = 1_000
"""Entries of `html_paths` that count; further ones of the same line are passed over, which is noted."""

_LENIENT_BYTES_MAX = 1 << 20
_SCHEMA_NUMBER = re.compile(r"\s*v?\d+(\.\d+)*\s*", re.ASCII)
_SIZE_TEXT = re.compile(r"\s*(\d{1,32})(?:\.0*)?\s*", re.ASCII)


class BrokenLineError(Exception):
    """A line cannot be understood; `reason` is one of a fixed set of words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Nested(Struct, array_like=True, gc=False):
    """Stands for an array, whose items are passed over while they are read, and not built."""


class _Object(TypedDict):
    """An object; its members are passed over too, so it comes out empty."""


Value = str | int | float | bool | None | Nested | _Object
"""A JSON value, of which as much is kept as is of use."""

_NESTED = Nested()


class Line(Struct, gc=False):
    """The fields that any generation writes, of whatever type they are; all other fields are passed over."""

    record_type: Value = None
    schema_version: Value = None
    artifact_id: Value = None
    work_id: Value = None
    doc_id: Value = None
    run_id: Value = None
    source_url: Value = None
    url: Value = None
    original_url: Value = None
    resolver: Value = None
    resolver_name: Value = None
    classification: Value = None
    outcome: Value = None
    status: Value = None
    ok: Value = None
    dry_run: Value = None
    content_type: Value = None
    mime: Value = None
    bytes: Value = None
    content_length: Value = None
    size_bytes: Value = None
    sha256: Value = None
    sha: Value = None
    path: Value = None
    pdf_path: Value = None
    storage_uri: Value = None
    html_paths: Any = None
    extracted_text_path: Value = None
    timestamp: Value = None
    ts: Value = None
    created_at: Value = None


class _RawLine(Line, gc=False):
    """A line whose list of pages is not read yet: it alone may be long."""

    html_paths: Raw = Raw(b"null")


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


_PAGE_FIELDS: list[tuple[str, Any, Any]] = [(f"page_{number}", Value, UNSET) for number in range(PAGES_MAX + 1)]
_Pages = msgspec.defstruct("_Pages", _PAGE_FIELDS, array_like=True, gc=False)
"""The first entries of a list and one more, which tells that there are more; what follows is not built."""

_NO_PAGES = (Raw(b"[]"), Raw(b"null"))
_decode = msgspec.json.Decoder(_RawLine).decode
_decode_pages: Callable[[Raw], Any] = msgspec.json.Decoder(str | int | float | bool | None | _Pages | _Object).decode


def parse(raw: bytes) -> Line:
    """Return the fields of a line; BrokenLineError for one that is not a JSON object in UTF-8.

    What Python's own writer may produce and JSON forbids (NaN, lone surrogates) is read all the same, unless the line
    is so long that reading it that way, which builds all that it holds, would take much memory.
    """
    try:
        if not raw.isascii():
            raw.decode()
        line: Line = _decode(raw)
        line.html_paths = None if line.html_paths in _NO_PAGES else _listed(line.html_paths)
    except UnicodeDecodeError as error:
        raise BrokenLineError("not-utf-8") from error
    except RecursionError as error:
        raise BrokenLineError("too-deep") from error
    except msgspec.DecodeError:
        return _parse_leniently(raw)
    return line


def _listed(raw: Raw) -> Any:  # noqa: ANN401
    found = _decode_pages(raw)
    if not isinstance(found, _Pages):
        return found
    pages = structs.astuple(found)
    return list(pages if pages[-1] is not UNSET else pages[: pages.index(UNSET)])


def _parse_leniently(raw: bytes) -> Line:
    if len(raw) > _LENIENT_BYTES_MAX:
        raise BrokenLineError("not-json")
    try:
        fields = json.loads(raw.decode())
    except RecursionError as error:
        raise BrokenLineError("too-deep") from error
    except ValueError as error:
        raise BrokenLineError("not-json") from error
    if not isinstance(fields, dict):
        raise BrokenLineError("not-an-object")
    known = {name: fields[name] for name in Line.__struct_fields__ if name in fields}
    listed = known.pop("html_paths", None)
    flat = {name: _NESTED if isinstance(value, list | dict) else value for name, value in known.items()}
    return Line(**flat, html_paths=listed[: PAGES_MAX + 1] if isinstance(listed, list) else listed)


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
        is_result = first(line.artifact_id, line.work_id, line.doc_id) is not None
        raise BrokenLineError("no-outcome" if is_result else "not-a-manifest")
    return "not-a-success"


def claim(line: Line, *, timezone: tzinfo = UTC, default_resolver: str = "unknown", first_page: int = 1) -> Claim:
    """Return what a line says about its document; BrokenLineError where a value that identifies it cannot be stored.

    `first_page` is the number of the first of `html_paths` among the pages of the document.
    """
    notes: list[str] = []
    classification = _word("classification", line.classification)
    try:
        return Claim(
            artifact_id=values.required_text("artifact_id", first(line.artifact_id, line.work_id, line.doc_id)),
            source_url=_optional_text("source_url", line.source_url, line.url, line.original_url),
            resolver=values.required_text("resolver", first(line.resolver, line.resolver_name, default_resolver)),
            content_type=_optional_text("content_type", line.content_type, line.mime),
            run_id=_optional_text("run_id", line.run_id),
            size=_size(notes, line.bytes, line.content_length, line.size_bytes),
            sha256=_digest(notes, line.sha256, line.sha),
            created_at=_moment(notes, first(line.timestamp, line.ts, line.created_at), timezone),
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
    text = first(line.storage_uri, line.path, line.pdf_path)
    if text is None:
        return None
    if not isinstance(text, str) or "\0" in text:
        raise BrokenLineError("invalid-path")
    return text


def first(*candidates: Value) -> Value:
    """Return the first value that is there, of whatever type it is: neither null nor empty text; or else None."""
    for value in candidates:
        if value is not None and value != "":
            return value
    return None


def has_too_many_pages(line: Line) -> bool:
    """Tell whether a line lists more pages than count."""
    return isinstance(line.html_paths, list) and len(line.html_paths) > PAGES_MAX


def pages(line: Line) -> list[str]:
    """Return the paths of stored pages, each once, in order; what is no path is left out."""
    listed = [line.html_paths] if isinstance(line.html_paths, str) else line.html_paths
    if not isinstance(listed, list):
        return []
    usable = (page for page in listed[:PAGES_MAX] if isinstance(page, str) and page and "\0" not in page)
    return list(dict.fromkeys(usable))


def _variants(notes: list[str], line: Line, first_page: int) -> tuple[tuple[str, str], ...]:
    listed, text = line.html_paths, first(line.extracted_text_path)
    if (listed is None or listed == []) and text is None:
        return ()
    found = [("html" if number == 1 else f"html-{number}", page) for number, page in enumerate(pages(line), first_page)]
    if isinstance(text, str) and "\0" not in text:
        found.append(("text", text))
    elif text is not None:
        notes.append("variant-path-invalid")
    if isinstance(listed, list):
        if not all(isinstance(page, str) and page for page in listed[:PAGES_MAX]):
            notes.append("variant-path-invalid")
    elif not isinstance(listed, str | None):
        notes.append("variant-path-invalid")
    if has_too_many_pages(line):
        notes.append("variants-too-many")
    return tuple(found)


def _optional_text(field: str, *candidates: Value) -> str | None:
    value = first(*candidates)
    return None if value is None else values.required_text(field, value)


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
        if isinstance(value, str) and values.is_digest(value):
            return value.lower()
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
