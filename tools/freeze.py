"""Keep a catalog of today's format with the tests, so that later versions must read it.

Usage: python -m tools.freeze. Writes `tests/frozen/format-N.mdb.gz`, the database file with a row in each table, and
`format-N.json`, all that a catalog tells of it. Run it when FORMAT_VERSION has been raised, never otherwise.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from kvcatalog import VariantRegistrationRequest, open_catalog
from kvcatalog.checks import BlobCheck
from kvcatalog.clock import to_micros
from kvcatalog.compact import compact
from kvcatalog.custody import BlobMove
from kvcatalog.filters import parse_filter
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.models import DocumentRecord
from kvcatalog.schema import FORMAT_VERSION
from kvcatalog.store.backend import GC_LEASE
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.store.protocol import CatalogStore

FROZEN = Path(__file__).parents[1] / "tests" / "frozen"

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_ROOT = "file:///srv/store"
_DIGESTS = [f"{number:02x}" * 32 for number in range(16)]


def main() -> int:
    """Write both files; refuse to replace those of a format that is frozen already."""
    store, told = frozen(FORMAT_VERSION)
    if store.exists():
        print(f"format {FORMAT_VERSION} is frozen: raise FORMAT_VERSION, and write a migration", file=sys.stderr)
        return 1
    FROZEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "catalog")
        fill(path)
        compact(path)
        with open_catalog(path, read_only=True) as catalog:
            told.write_bytes(msgspec.json.format(msgspec.json.encode(facts(catalog)), indent=1) + b"\n")
        store.write_bytes(gzip.compress((path / DATA_FILE).read_bytes(), mtime=0))
    return 0


def frozen(version: int) -> tuple[Path, Path]:
    """Return where a format's database file lies, and what is told of it."""
    return FROZEN / f"format-{version}.mdb.gz", FROZEN / f"format-{version}.json"


def fill(path: Path) -> None:
    """Make a catalog that has everything a catalog can have, long and odd values too."""
    ticks = count()
    with open_catalog(path) as catalog:
        assert isinstance(catalog, LmdbCatalog)
        catalog._clock = lambda: to_micros(_EPOCH + timedelta(seconds=next(ticks)))
        catalog.add_root(_ROOT, uuid="7d7c2b1e-0000-4000-8000-000000000001")
        catalog.add_root("s3://bucket/docs", uuid="7d7c2b1e-0000-4000-8000-000000000002")
        for number in range(12):
            catalog.register(**_document(number))
        catalog.register(**_document(0, sha256=_DIGESTS[9], storage_uri=f"{_ROOT}/other.pdf", run_id="run-2"))
        catalog.register(**_document(1, run_id="r" * 300), links=[f"{_ROOT}/by-name/one.pdf"])
        catalog.update(3, content_type="text/html", reason="it was a page")
        catalog.delete(4, reason="withdrawn")
        variants = [("html", f"{_ROOT}/1.html", None), ("text", _cas(_DIGESTS[5]), _DIGESTS[5])]
        requests = [
            VariantRegistrationRequest(document_id=1, variant=name, storage_uri=uri, bytes=7, sha256=digest)
            for name, uri, digest in variants
        ]
        for _ in catalog.register_variants(requests):
            pass
        catalog.add_hold(parse_filter(["resolver=unpaywall"]), reason="evidence")
        catalog.record_checks([BlobCheck(_cas(_DIGESTS[1]), "ok", _EPOCH, _EPOCH)])
        catalog.record_checks([BlobCheck(_cas(_DIGESTS[2]), "missing", _EPOCH, None)])
        with catalog.lease(GC_LEASE):
            catalog.condemn([f"{_ROOT}/gone.pdf", f"{_ROOT}/going.pdf"], plan="plan-1")
            move = BlobMove("trash", f"{_ROOT}/gone.pdf", f"{_ROOT}/.kvcatalog/trash/plan-1/gone.pdf", 9, "orphan")
            catalog.settle_condemned([f"{_ROOT}/gone.pdf"], [move])


def _document(number: int, **changes: str | list[str]) -> dict[str, Any]:
    odd = {6: "doi:10.1/" + "é" * 300, 7: "naïve \u202e\t\n\\. id", 8: "x" * 2000}
    digest = _DIGESTS[number % 8] if number != 10 else None
    fields: dict[str, Any] = {
        "artifact_id": odd.get(number, f"doi:10.1234/{number}"),
        "source_url": f"https://example.org/{number}.pdf?{'q' * (1500 if number == 9 else 3)}",
        "resolver": ("unpaywall", "crossref")[number % 2],
        "content_type": ("application/pdf", "text/html; charset=utf-8", None)[number % 3],
        "bytes": 2**62 + number if number == 11 else 1000 + number % 8,
        "sha256": digest,
        "storage_uri": _cas(digest) if digest else f"s3://bucket/docs/{number}.pdf",
        "run_id": None if number == 5 else "run-1",
        "created_at": _EPOCH - timedelta(days=number),
    }
    return fields | changes


def _cas(digest: str) -> str:
    return f"{_ROOT}/cas/sha256/{digest[:2]}/{digest[2:]}"


def facts(catalog: CatalogStore) -> dict[str, Any]:
    """Return all that a catalog tells, as JSON has it."""
    with catalog.snapshot() as snapshot:
        tables = {
            name: [row for rows in getattr(snapshot, name)() for row in rows]
            for name in ("documents", "variants", "sightings", "conflicts", "links", "journal")
        }
        told = {"position": snapshot.position, **tables, "roots": snapshot.roots()}
    documents = list(catalog.iter_records())
    told |= {
        "identity": catalog.identity,
        "by key": [_get(catalog, each) == each for each in documents],
        "by digest": [[each.id for each in catalog.get_by_sha256(digest)] for digest in _DIGESTS],
        "by place": [[ref.kind for ref in catalog.references(each.storage_uri)] for each in documents],
        "by run": [each.id for each in catalog.get_by_run("run-1")],
        "by type": [each.id for each in catalog.get_by_content_type("text/html")],
        "by age": [each.id for each in catalog.search(sort="created", limit=99).records],
        "duplicates": list(catalog.find_duplicates(variants=True)),
        "checks": [catalog.last_check(each.storage_uri) for each in documents],
        "queue": list(catalog.blobs_to_check(read_before=_EPOCH + timedelta(days=1))),
        "condemned": catalog.condemned(),
        "holds": catalog.holds(),
        "blob epoch": catalog.blob_epoch(),
        "of a place": [each.sequence for each in catalog.journal(storage_uri=f"{_ROOT}/gone.pdf")],
        "of a document": [each.sequence for each in catalog.journal(document_id=3)],
        "stats": _without_file(catalog),
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(told))
    return plain


def _get(catalog: CatalogStore, record: DocumentRecord) -> DocumentRecord | None:
    return catalog.get(artifact_id=record.artifact_id, source_url=record.source_url, resolver=record.resolver)


def _without_file(catalog: CatalogStore) -> dict[str, Any]:
    figures = msgspec.structs.asdict(catalog.stats())
    return {name: value for name, value in figures.items() if name not in {"file_bytes", "used_bytes"}}


if __name__ == "__main__":
    sys.exit(main())
