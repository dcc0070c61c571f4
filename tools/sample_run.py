"""Writes what a small download run leaves behind: a few stored files, and the manifest that tells of them.

Usage: python tools/sample_run.py [FOLDER]; the folder (default: data) is made. The same files come out every time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

RUN = "2025-03-01T12:00:00Z-sample"
PAPER = b"%PDF-1.7\nA study of oxygen in small ponds.\n%%EOF\n"
REPRINT = b"%PDF-1.7\nNotes on the drift of sand.\n%%EOF\n"
PAGE = b"<!doctype html><title>Landing page</title>\n"


def main(folder: Path) -> None:
    lines = [
        *stored("W1001", "unpaywall", "https://journal.example.org/ponds.pdf", write(folder / "pdf/ponds.pdf", PAPER)),
        *stored("W1001", "crossref", "https://mirror.example.net/ponds.pdf", write(folder / "pdf/copy.pdf", PAPER)),
        *stored("W1002", "unpaywall", "https://journal.example.org/sand.pdf", write(folder / "pdf/sand.pdf", REPRINT)),
        *stored_page("W1003", "https://doi.example.org/10.1234/kelp", write(folder / "html/kelp.html", PAGE)),
        manifest_line("W1004", "core", "https://core.example.org/gone.pdf", classification="http_error", reason="404"),
    ]
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for line in lines:
            manifest.write(json.dumps(line, sort_keys=True) + "\n")


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def stored(work: str, resolver: str, url: str, path: Path) -> list[dict[str, Any]]:
    """Return the lines of a document that was fetched at the first attempt."""
    facts = content_facts(path, "application/pdf")
    return [
        attempt_line(work, resolver, url, status="pdf", **facts),
        manifest_line(work, resolver, url, classification="pdf", path=str(path.absolute()), **facts),
    ]


def stored_page(work: str, url: str, path: Path) -> list[dict[str, Any]]:
    """Return the lines of a work for which only its landing page was kept."""
    facts = content_facts(path, 'text/html; charset="UTF-8"')
    return [
        attempt_line(work, "openalex", url, status="html", **facts),
        manifest_line(work, None, None, classification="miss", reason="unknown", html_paths=[str(path.absolute())]),
    ]


def content_facts(path: Path, content_type: str) -> dict[str, Any]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"content_length": len(content), "content_type": content_type, "sha256": digest}


def attempt_line(work: str, resolver: str, url: str, **facts: object) -> dict[str, Any]:
    return line("attempt", work_id=work, resolver_name=resolver, url=url, http_status=200, **facts)


def manifest_line(work: str, resolver: str | None, url: str | None, **facts: object) -> dict[str, Any]:
    return line("manifest", work_id=work, resolver=resolver, url=url, schema_version=5, **facts)


def line(record_type: str, **facts: object) -> dict[str, Any]:
    common = {"record_type": record_type, "run_id": RUN, "timestamp": "2025-03-01T12:00:05Z", "dry_run": False}
    return common | facts


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
