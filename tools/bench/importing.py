"""import-manifest beside register_many of the same records, both in batches of the same size; no file is hashed.

Making the workload is not part of the time of either side: one has its manifest on disk, the other its requests.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from kvcatalog import RegistrationRequest, import_manifest
from tools.bench.contestants import catalog_at
from tools.bench.parts import Bench, Row, in_child, memory_bytes, scratch
from tools.bench.stream import Feed, source_at
from tools.bench.workload import EPOCH

if TYPE_CHECKING:
    from pathlib import Path


def measure(bench: Bench) -> list[Row]:
    """Return the rows of new lines and of the same manifest again."""
    positions = range(bench.records)
    ours: dict[str, list[float]] = {"new": [], "known": [], "own MiB": []}
    theirs: dict[str, list[float]] = {"new": [], "known": []}
    manifest = bench.folder / "manifest.jsonl"
    in_child(write_manifest, manifest, positions)
    for _ in range(bench.repeats):
        for samples, part in ((ours, _import_part), (theirs, _register_part)):
            with scratch(bench.folder) as folder:
                for name, figure in in_child(part, folder, manifest, positions).items():
                    samples[name].append(figure)
    manifest.unlink()
    work, memory = f"import-manifest, {bench.records:,}", {"own MiB": ours["own MiB"]}
    return [
        Row(f"{work} new", "records/s", ours["new"], "register_many", theirs["new"], at_least=0.7, extra=memory),
        Row(f"{work} known", "records/s", ours["known"], "register_many", theirs["known"]),
    ]


def _request_at(position: int) -> RegistrationRequest:
    """Return a record at a policy path, since a manifest's files have names of their own."""
    source = source_at(position)
    return RegistrationRequest(
        artifact_id=source.artifact_id,
        source_url=source.source_url,
        resolver=source.resolver,
        content_type=source.content_type,
        bytes=source.bytes,
        sha256=source.sha256.hex(),
        storage_uri=f"file:///srv/data/pdfs/{position // 1000}/{position}.pdf",
        run_id=source.run_id,
        created_at=EPOCH + timedelta(microseconds=source.created),
    )


def write_manifest(path: Path, positions: range) -> None:
    """Write what a run of schema version 5 would have written about the records."""
    with path.open("wb") as stream:
        for request in Feed(_request_at, positions):
            assert request.created_at is not None
            line = {
                "canonical_url": request.source_url,
                "classification": "pdf",
                "content_length": request.bytes,
                "content_type": request.content_type,
                "dry_run": False,
                "etag": f'"{request.bytes:x}"',
                "extracted_text_path": None,
                "html_paths": [],
                "last_modified": None,
                "original_url": request.source_url,
                "path": request.storage_uri.removeprefix("file://"),
                "publication_year": 2024,
                "reason": None,
                "reason_detail": None,
                "record_type": "manifest",
                "resolver": request.resolver,
                "run_id": request.run_id,
                "schema_version": 5,
                "sha256": request.sha256,
                "timestamp": request.created_at.isoformat().replace("+00:00", "Z"),
                "title": "Sediment transport in alpine lakes",
                "url": request.source_url,
                "work_id": request.artifact_id,
            }
            stream.write(msgspec.json.encode(line) + b"\n")


def _import_part(folder: Path, manifest: Path, positions: range) -> dict[str, float]:
    figures: dict[str, float] = {}
    # Pages of the data file that the process has mapped are the kernel's to take, and are not counted.
    own: list[int] = []
    with catalog_at(folder) as catalog:
        for work in ("new", "known"):
            started = time.perf_counter()
            report = import_manifest(manifest, catalog, progress=lambda _: own.append(memory_bytes("RssAnon")))
            figures[work] = len(positions) / (time.perf_counter() - started)
            assert report.documents == len(positions)
            assert report.registered == (len(positions) if work == "new" else 0)
    figures["own MiB"] = max(own) / (1 << 20)
    return figures


def _register_part(folder: Path, manifest: Path, positions: range) -> dict[str, float]:  # noqa: ARG001 - as above
    figures: dict[str, float] = {}
    with catalog_at(folder) as catalog:
        for work in ("new", "known"):
            feed = Feed(_request_at, positions)
            started = time.perf_counter()
            deque(catalog.register_many(feed), maxlen=0)
            figures[work] = len(positions) / (time.perf_counter() - started - feed.seconds)
    return figures
