"""A catalog with something of everything that a copy takes along."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from kvcatalog.checks import BlobCheck
from kvcatalog.custody import BlobMove
from kvcatalog.filters import parse_filter
from kvcatalog.models import CatalogPosition, RegistrationRequest
from kvcatalog.store.protocol import CatalogSnapshot, CatalogStore

ROOT = "file:///store"
MOMENT = datetime(2025, 1, 1, tzinfo=UTC)
HOSTILE = "\x1b[31m\u202e\\.\t\n'\"文\U0010ffff"


def digest(number: int) -> str:
    return f"{number:064x}"


def requests(count: int) -> Iterator[RegistrationRequest]:
    """Yield documents of few artifacts, contents and places, with and without what they may lack."""
    for number in range(count):
        sha256 = None if number % 7 == 0 else digest(number % 5)
        places = [f"{ROOT}/{number}", f"file:///elsewhere/{number}", f"s3://bucket/{HOSTILE}/{number}"]
        if sha256:
            places.append(f"{ROOT}/cas/sha256/{sha256[:2]}/{sha256[2:]}")
        yield RegistrationRequest(
            artifact_id=f"a{number % 11}{'文' * 200 if number % 13 == 0 else ''}",
            source_url=f"https://example.org/{number}{HOSTILE if number % 3 == 0 else ''}",
            resolver=f"r{number % 3}",
            content_type=(None, "application/pdf", 'Text/HTML; charset="UTF-8"')[number % 3],
            bytes=2**63 - 1 if number == 0 else number % 5,
            sha256=sha256,
            storage_uri=places[number % len(places)],
            run_id=None if number % 4 == 0 else f"run-{number % 2}",
            created_at=MOMENT + timedelta(seconds=number),
            links=(f"{ROOT}/link-{number}",) if number % 5 == 0 else (),
        )


def fill(catalog: CatalogStore, count: int) -> None:
    """Bring everything into an empty catalog, and take some of it out again."""
    catalog.add_root(ROOT, uuid="one")
    catalog.add_root("s3://bucket/prefix", uuid="two", cas_prefix="cas")
    known = list(requests(count))
    records = [registration.record for registration in catalog.register_many(known)]
    for number, record in enumerate(records):
        if number % 3 == 0:
            catalog.register_variant(
                document_id=record.id,
                variant=("html", HOSTILE, "文" * 200)[number % 9 // 3],
                storage_uri=f"{ROOT}/variant-{number}",
                bytes=number,
                sha256=digest(number % 5),
            )
        if number % 4 == 0:
            catalog.record_sighting(record.id, f"later-{'文' * 200}{number % 2}", seen_at=MOMENT)
    for number in range(0, count, 6):
        again: dict[str, Any] = {
            "artifact_id": known[number].artifact_id,
            "source_url": known[number].source_url,
            "resolver": known[number].resolver,
        }
        for _ in range(2):
            catalog.register(**again, bytes=77, sha256=digest(99), storage_uri=f"{ROOT}/conflict-{number}")
            catalog.register(**again, bytes=78, storage_uri=f"{ROOT}/unhashed-{number}", run_id="later")
    catalog.update(records[1].id, content_type="text/plain", reason=HOSTILE)
    for record in (records[2], records[-1]):
        catalog.delete(record.id, reason="gone")
    catalog.record_moves([BlobMove("trash", f"{ROOT}/2", f"{ROOT}/.kvcatalog/trash/2", 2, None)])
    for name in ("first", "second", "third"):
        catalog.add_hold(parse_filter([f"resolver={name}", "bytes>1kB"]), reason=HOSTILE)
    for hold_id in (2, 3):
        catalog.release_hold(hold_id)
    catalog.record_checks(
        [
            BlobCheck(f"{ROOT}/1", "ok", MOMENT, MOMENT),
            BlobCheck("file:///elsewhere/3", "size only", MOMENT, None),
            BlobCheck(f"s3://bucket/{HOSTILE}/5", "corrupt", MOMENT + timedelta(1), MOMENT, f"{ROOT}/.q/5"),
        ]
    )


def said(catalog: CatalogStore) -> dict[str, Any]:
    """Return all that a catalog says, as a reader gets it, and what it gives next."""
    stats = catalog.stats()
    with catalog.snapshot() as snapshot:
        return {
            "position": snapshot.position,
            "rows": every_row(snapshot),
            "figures": {name: getattr(stats, name) for name in stats.__struct_fields__ if "used" not in name}
            | {"file_bytes": 0},
            "records": list(catalog.iter_records()),
            "duplicates": list(catalog.find_duplicates(variants=True)),
            "journal": (catalog.journal_start(), list(catalog.journal())),
            "holds": catalog.holds(),
            "roots": catalog.roots(),
            "queue": list(catalog.blobs_to_check(read_before=MOMENT + timedelta(days=3650))),
            "checks": [catalog.last_check(f"{ROOT}/{number}") for number in range(9)],
        }


def every_row(snapshot: CatalogSnapshot) -> dict[str, list[Any]]:
    return {
        "documents": [row for rows in snapshot.documents() for row in rows],
        "variants": [row for rows in snapshot.variants() for row in rows],
        "sightings": [row for rows in snapshot.sightings() for row in rows],
        "conflicts": [row for rows in snapshot.conflicts() for row in rows],
        "links": [row for rows in snapshot.links() for row in rows],
        "journal": [row for rows in snapshot.journal() for row in rows],
        "roots": snapshot.roots(),
        "holds": snapshot.holds(),
        "checks": [check for checks in snapshot.checks() for check in checks],
    }


def raised(position: CatalogPosition, by: int) -> CatalogPosition:
    return CatalogPosition(position.journal + by, position.document + by, position.variant + by, position.hold + by)
