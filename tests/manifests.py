"""Manifest lines of every generation with values of our own, and what a catalog holds, without ids and clock times."""

import json
from collections.abc import Iterable
from pathlib import Path

from kvcatalog.store.protocol import CatalogStore

DIGEST = "5e" * 32
OTHER_DIGEST = "c4" * 32

Fields = dict[str, object]

GEN0: Fields = {
    "timestamp": "2025-03-02 08:15:00",
    "work_id": "W7001",
    "title": "Sediment in alpine lakes",
    "publication_year": 2023,
    "resolver": "unpaywall",
    "url": "https://journal.example/7001.pdf",
    "path": "pdfs/7001.pdf",
    "classification": "pdf",
    "content_type": "application/pdf",
    "reason": None,
    "html_paths": [],
}
GEN0_EXISTS: Fields = GEN0 | {
    "resolver": "existing",
    "classification": "exists",
    "url": None,
    "content_type": None,
    "reason": "already-downloaded",
}
GEN1: Fields = GEN0 | {
    "record_type": "manifest",
    "timestamp": "2025-03-02T08:15:00Z",
    "sha256": DIGEST,
    "content_length": 4321,
    "etag": '"e-1"',
    "last_modified": None,
    "extracted_text_path": None,
    "dry_run": False,
}
V2: Fields = GEN1 | {"schema_version": 2, "run_id": "run-a", "reason_detail": None}
V3: Fields = V2 | {"schema_version": 3, "classification": "xml", "content_type": "application/xml"}
V4: Fields = V2 | {
    "schema_version": 4,
    "canonical_url": "https://journal.example/7001",
    "original_url": "http://journal.example/7001.pdf",
    "normalized_url": "https://journal.example/7001.pdf",
}
V5: Fields = {name: value for name, value in V4.items() if name != "normalized_url"} | {"schema_version": 5}
OUTCOME: Fields = {
    "ts": "2025-04-01T00:00:00.250Z",
    "run_id": "run-o",
    "artifact_id": "doi:10.5555/alpine",
    "resolver": "crossref",
    "url": "https://cdn.example/alpine.pdf",
    "outcome": "success",
    "ok": True,
    "reason": None,
    "path": "/srv/docs/alpine.pdf",
    "content_type": "application/pdf",
    "bytes": 998,
    "html_paths": [],
    "config_hash": "sha256:00",
    "dry_run": False,
}
DOC_ID: Fields = {
    "run_id": "run-d",
    "doc_id": "openalex:W7002",
    "stage": "fetch",
    "url": "https://preprints.example/7002",
    "canonical_url": "https://preprints.example/7002",
    "role": "artifact",
    "status": "ok",
    "http_status": 200,
    "mime": "application/pdf",
    "size_bytes": 77,
    "sha256": "1234...",
    "path": "artifacts/7002.pdf",
    "attempt": 1,
    "resolver": "arxiv_pdf",
    "created_at": "2025-05-01T00:00:00+02:00",
}
PLAIN: Fields = {
    "artifact_id": "doi:10.5555/plain",
    "source_url": "https://cdn.example/plain.pdf",
    "resolver": "unpaywall",
    "content_type": "application/pdf",
    "bytes": 12,
    "sha256": DIGEST,
    "status": "success",
    "storage_uri": "s3://bucket/plain.pdf",
}
MISS: Fields = V2 | {
    "classification": "miss",
    "path": None,
    "url": None,
    "resolver": None,
    "sha256": None,
    "content_length": None,
    "content_type": None,
}
ATTEMPT: Fields = {
    "record_type": "attempt",
    "run_id": "run-a",
    "work_id": "W7001",
    "resolver_name": "openalex",
    "status": "html",
    "url": "https://journal.example/landing",
    "sha256": OTHER_DIGEST,
    "content_length": 314,
    "content_type": 'text/html; charset="UTF-8"',
    "timestamp": "2025-03-02T08:14:00Z",
}


def encoded(lines: Iterable[Fields | bytes]) -> bytes:
    """Return lines as a manifest's bytes; bytes stand for themselves."""
    return b"".join(
        line if isinstance(line, bytes) else json.dumps(line, sort_keys=True).encode() + b"\n" for line in lines
    )


def write(path: Path, *lines: Fields | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(lines))
    return path


def contents(catalog: CatalogStore) -> list[object]:
    """Return all that a catalog holds, in an order that does not depend on ids."""
    return sorted(
        (
            (
                (record.artifact_id, record.source_url, record.resolver),
                (record.content_type, record.bytes, record.sha256, record.storage_uri, record.run_id),
                [(item.variant, item.bytes, item.sha256, item.storage_uri) for item in catalog.get_variants(record.id)],
                sorted(sighting.run_id for sighting in catalog.get_sightings(document_id=record.id)),
                sorted(
                    (str(item.variant), str(item.sha256), item.bytes, item.storage_uri)
                    for item in catalog.get_conflicts(record.id)
                ),
            )
            for record in catalog.iter_records()
        ),
        key=repr,
    )
