"""The lines that most manifests consist of, read in one step: a stored document, every field of the usual type.

What is read here is read in the same way by `lines`, which reads everything else; `tests/test_migrate_properties.py`
holds the two against each other.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from kvcatalog import values
from kvcatalog.migrate.lines import Claim

_Text = Annotated[str, Meta(min_length=1)]


class _PlainLine(Struct, gc=False, kw_only=True):
    """What is typed None must be absent: with a value there, another one would not decide.

    Fields are in the order in which pipelines write them, since each is looked for from the one before on.
    """

    artifact_id: None = None
    bytes: None = None
    classification: Literal["pdf", "html", "xml", "pdf_unknown"]
    content_length: Annotated[int, Meta(ge=0, le=values.INTEGER_MAX)]
    content_type: str | None = None
    created_at: None = None
    doc_id: None = None
    dry_run: bool | None = None
    extracted_text_path: None = None
    html_paths: Annotated[list[None], Meta(max_length=0)] | None = None
    mime: None = None
    ok: None = None
    outcome: None = None
    path: _Text
    # pdf_path comes after path, and original_url after url: with those there, they do not decide.
    record_type: Literal["manifest"] | None = None
    resolver: _Text
    resolver_name: None = None
    run_id: str | None = None
    schema_version: int | None = None
    sha: None = None
    sha256: str | None = None
    size_bytes: None = None
    source_url: None = None
    status: None = None
    storage_uri: None = None
    timestamp: _Text
    ts: None = None
    url: _Text
    work_id: _Text


_decode = msgspec.json.Decoder(_PlainLine).decode


def plain_claim(raw: bytes, timezone: tzinfo) -> Claim | None:
    """Return what a line says, None if it is not a plain one."""
    try:
        line = _decode(raw)
        if not raw.isascii():
            raw.decode()
        content_type, digest, run_id = line.content_type or None, line.sha256 or None, line.run_id or None
        texts = line.work_id + line.url + line.resolver + line.path + (content_type or "") + (run_id or "")
        if line.dry_run or "\0" in texts or (digest is not None and not values.is_digest(digest)):
            return None
        moment = datetime.fromisoformat(line.timestamp)
        if moment.tzinfo is not UTC:
            moment = values.moment("created_at", moment if moment.tzinfo else moment.replace(tzinfo=timezone))
    except (ValueError, RecursionError):
        return None
    return Claim(
        line.work_id,
        line.url,
        line.resolver,
        content_type,
        run_id,
        line.content_length,
        None if digest is None else digest.lower(),
        moment,
        line.path,
        (),
        cached=False,
        exists=False,
        notes=(),
    )
