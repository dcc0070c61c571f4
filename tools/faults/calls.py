"""The calls of the library that change something, each on a catalog and root that are ready for it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from kvcatalog import finalize_candidate_download, import_manifest, layout, open_catalog, storage
from kvcatalog.audit import audit_blobs, audit_catalog
from kvcatalog.backup import backup, restore
from kvcatalog.clock import now_micros
from kvcatalog.compact import compact
from kvcatalog.config import CatalogConfig
from kvcatalog.errors import NotFoundError
from kvcatalog.filters import parse_filter
from kvcatalog.gc import plan_garbage
from kvcatalog.layout import cas_relative_path
from kvcatalog.models import RegistrationRequest, SightingRequest, VariantRegistrationRequest
from kvcatalog.reconcile import Adoption, Reconciling
from kvcatalog.relayout import Relayout, target_config
from kvcatalog.removal import Collection, trash
from kvcatalog.retention import Retention, Rule
from kvcatalog.sql_export import export_sql
from kvcatalog.sql_import import import_sql
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.verify import verify_blobs
from tools.faults.workload import (
    ELSEWHERE,
    Key,
    Place,
    Work,
    content_fields,
    content_of,
    digest_of,
    document_id,
    fields,
    identity,
    store,
)

KEYS: list[Key] = [(f"work {number}", f"https://host.example/{number}/paper.pdf", "r") for number in range(20)]
KNOWN, VARIED, CONFLICTING, NEW = KEYS[0], KEYS[1], KEYS[2], KEYS[8]
FRESH, FRESH_AND_LONG = 101, 10_004
CORRUPT = 4
"""The content whose blob is corrupt."""

DAY_MICROS = 86_400_000_000
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)

Catalog = LmdbCatalog | None


class Call(Struct, frozen=True):
    """`make` is given an open catalog, or None with `opens`: then it opens what it needs.

    `tells` says that it returns what it could not do, `whole` that the rows are changed in one step, `again` that a
    second call is as good as the first. `layout` is that of the root, and a `slow` call takes so long that short runs
    leave it out.
    """

    make: Callable[[Place, Any], object]
    layout: str = "cas"
    opens: bool = False
    whole: bool = True
    again: bool = True
    tells: bool = False
    slow: bool = False


def prepare(place: Place) -> None:
    """Fill an empty folder with a catalog, a root, files that are about to come in, and a corrupt blob."""
    with place.catalog() as catalog:
        for number in range(3):
            store(number, KEYS[number], catalog, place)
        store(CORRUPT, KEYS[3], catalog, place)
        catalog.register(**fields(KEYS[4], Work(9)), run_id="run 1")
        varied = document_id(catalog, VARIED)
        catalog.register_variant(document_id=varied, variant="html", **content_fields(5))
        catalog.register(**identity(CONFLICTING), **content_fields(6))
        catalog.update(varied, content_type="text/plain")
        blob = catalog.get_by_sha256(digest_of(CORRUPT))[0].storage_uri.removeprefix("file://")
        for number in (20, 21):
            blob_of_nobody = place.folder / "root" / cas_relative_path("sha256", bytes.fromhex(digest_of(number)))
            blob_of_nobody.parent.mkdir(parents=True, exist_ok=True)
            blob_of_nobody.write_bytes(content_of(number))
        export_sql(catalog, place.folder / "before.sqlite")
    storage._open.clear()
    backup(place.path, place.folder / "before")
    Path(blob).chmod(0o644)
    Path(blob).write_bytes(content_of(CORRUPT)[:-1] + b"?")
    for number in (FRESH, FRESH_AND_LONG, 1, CORRUPT):
        (place.folder / "incoming" / f"{number}.part").write_bytes(content_of(number))
    lines = [
        {"work_id": f"W{number}", "title": "t", "publication_year": 2024, "resolver": "unpaywall"}
        | {"url": f"https://e.example/{number}", "path": f"{number}/paper.pdf", "classification": "pdf", "reason": None}
        | {"content_type": "application/pdf", "html_paths": [], "timestamp": "2025-03-02T08:15:00Z"}
        | {"sha256": digest_of(number), "content_length": 7, "record_type": "manifest"}
        for number in range(5)
    ]
    (place.folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _registering(catalog: LmdbCatalog, count: int) -> None:
    requests = (RegistrationRequest(**fields(KEYS[10 + number], Work(number))) for number in range(count))
    list(catalog.register_many(requests, batch_size=2))


def _futures(catalog: LmdbCatalog) -> None:
    futures = [catalog.register_async(**fields(KEYS[10 + number], Work(number))) for number in range(3)]
    failures = [failure for future in futures if (failure := future.exception()) is not None]
    if failures:
        raise failures[0]


def _finalize(
    number: int,
    key: Key,
    *,
    variant: str | None = None,
    reads_back: bool = False,
    stream: bool = False,
    links: bool = False,
) -> Callable[[Place, LmdbCatalog], object]:
    def make(place: Place, catalog: LmdbCatalog) -> object:
        source = place.folder / "incoming" / f"{number}.part"
        if not source.exists():  # it was used up
            source.write_bytes(content_of(number))
        return finalize_candidate_download(
            io.BytesIO(content_of(number)) if stream else source,
            **identity(key),
            variant=variant,
            catalog=catalog,
            cfg_storage=place.config.model_copy(update={"policy_links": links}),
            cfg_catalog=CatalogConfig(verify_on_register=reads_back),
        )

    return make


def _open(place: Place, _: None) -> None:
    with place.catalog() as catalog:
        catalog.stats()


def _create(place: Place, _: None) -> None:
    with Place(place.folder / "other").catalog() as catalog:
        catalog.register(**fields(NEW, Work(1)))


def _first_use(place: Place, catalog: LmdbCatalog) -> None:
    config = place.config.model_copy(update={"root_dir": str(place.folder / "deep" / "other root")})
    finalize_candidate_download(io.BytesIO(content_of(FRESH)), **identity(NEW), catalog=catalog, cfg_storage=config)


def _read(place: Place, catalog: LmdbCatalog) -> None:
    list(catalog.iter_records())
    catalog.stats()
    list(catalog.have([place.folder / "manifest.jsonl"], kind="file"))
    list(catalog.find_duplicates(variants=True))
    list(audit_blobs(catalog, place.config))


def _read_only(place: Place, _: None) -> None:
    with open_catalog(place.path, read_only=True) as catalog:
        list(catalog.iter_records())


def collect_once(place: Place, catalog: LmdbCatalog) -> None:
    """Collect garbage of any age, and empty the trash."""
    now = now_micros()
    with Collection(catalog, place.config) as collection:
        with plan_garbage(catalog, collection.roots, orphan_ttl_days=0, now=now) as plan:
            list(collection.execute(plan.header.plan, plan.items()))
        list(trash.empty(collection.roots, catalog, now=now, apply=True))


def _there_and_back(place: Place, catalog: LmdbCatalog) -> None:
    """Take what nobody refers to away, and bring it back."""
    with Collection(catalog, place.config) as collection:
        with plan_garbage(catalog, collection.roots, orphan_ttl_days=0, now=now_micros()) as plan:
            list(collection.execute(plan.header.plan, plan.items()))
        for store in collection.roots.stores:
            for label in store.folders(layout.TRASH_PATH):
                with suppress(NotFoundError):  # a call that failed may leave an empty folder
                    list(trash.restore(collection, label))


def _retire(place: Place, catalog: LmdbCatalog) -> None:
    with Collection(catalog, place.config) as collection:
        rule = Rule("rule", parse_filter([f"artifact={KNOWN[0]}"]), days=1)
        run = Retention(collection, [rule], now=now_micros() + 2 * DAY_MICROS)
        with run.plan() as plan:
            list(run.records(plan))
        list(run.blobs())
        list(trash.empty(collection.roots, catalog, now=now_micros(), apply=True))


def _relayout(place: Place, catalog: LmdbCatalog) -> None:
    wanted = target_config(place.config, "cas" if place.layout == "policy_path" else "policy_path")
    target = storage.open_storage(wanted, catalog)
    with Collection(catalog, wanted) as collection:
        run = Relayout(collection, target, wanted, jobs=1)
        list(run.move())
        list(run.blobs())
        list(trash.empty(collection.roots, catalog, now=now_micros(), apply=True))


def _reconcile(place: Place, catalog: LmdbCatalog) -> None:
    with Collection(catalog, place.config) as collection:
        run = Reconciling(catalog, collection.roots, adopt=lambda _uri, path: Adoption(path))
        list(run.apply(collection))


def _hold(_: Place, catalog: LmdbCatalog) -> None:
    if not catalog.holds():
        catalog.add_hold(parse_filter(["artifact=a"]), reason="r")


def _import_sql(place: Place, _: None) -> None:
    with Place(place.folder / "other").catalog() as catalog:
        import_sql(place.folder / "before.sqlite", catalog)


def _export(form: Any) -> Callable[[Place, LmdbCatalog], object]:  # noqa: ANN401 - one of the formats
    return lambda place, catalog: export_sql(catalog, place.folder / f"export.{form}", format=form, force=True)


def _backup(place: Place, _: None) -> None:
    if (place.folder / "backup").exists():
        shutil.rmtree(place.folder / "backup")
    backup(place.path, place.folder / "backup")


def _restore(place: Place, _: None) -> None:
    if (place.folder / "restored").exists():
        shutil.rmtree(place.folder / "restored")
    restore(place.folder / "before", place.folder / "restored", apply=True)


def _adopt(place: Place, catalog: LmdbCatalog) -> None:
    shutil.rmtree(place.folder / "root" / ".kvcatalog", ignore_errors=True)
    storage.adopt_root(place.config, catalog)


CALLS: dict[str, Call] = {
    "create": Call(_create, opens=True),
    "open": Call(_open, opens=True),
    "read": Call(_read),
    "read only": Call(_read_only, opens=True),
    "register": Call(lambda _, catalog: catalog.register(**fields(NEW, Work(7)), links=[f"{ELSEWHERE}link"])),
    "register known": Call(lambda _, catalog: catalog.register_or_get(**fields(KNOWN, Work(0)) | _REST)),
    "register conflict": Call(lambda _, catalog: catalog.register(**identity(KNOWN), **content_fields(8))),
    "replace": Call(lambda _, catalog: catalog.register(**identity(KNOWN), **content_fields(8), on_conflict="replace")),
    "futures": Call(lambda _, catalog: _futures(catalog), whole=False),
    "register many": Call(lambda _, catalog: _registering(catalog, 5), whole=False),
    "update": Call(lambda _, catalog: catalog.update(document_id(catalog, KNOWN), content_type="a/b", reason="r")),
    "delete": Call(lambda _, catalog: catalog.delete(document_id(catalog, VARIED)), again=False),
    "variant": Call(
        lambda _, catalog: catalog.register_variant(
            document_id=document_id(catalog, KNOWN), variant="text", **content_fields(5)
        )
    ),
    "variants": Call(
        lambda _, catalog: list(
            catalog.register_variants(
                VariantRegistrationRequest(document_id=1, variant=f"v {number}", **content_fields(number))
                for number in range(3)
            )
        )
    ),
    "delete variant": Call(
        lambda _, catalog: catalog.delete_variant(document_id(catalog, VARIED), "html"), again=False
    ),
    "sightings": Call(
        lambda _, catalog: list(catalog.record_sightings([SightingRequest(1, "run 2"), SightingRequest(2, "run 2")]))
    ),
    "add root": Call(lambda _, catalog: catalog.add_root("s3://bucket/docs", uuid="one")),
    "adopt root": Call(_adopt, whole=False),
    "prune journal": Call(lambda _, catalog: catalog.prune_journal(EPOCH, reason="r")),
    "verify": Call(lambda place, catalog: catalog.verify(1, cfg_storage=place.config), tells=True),
    "quarantine": Call(
        lambda place, catalog: list(verify_blobs(catalog, cfg_storage=place.config, quarantine=True, jobs=1)),
        whole=False,
        tells=True,
        slow=True,
    ),
    "finalize": Call(_finalize(FRESH, NEW)),
    "finalize long": Call(_finalize(FRESH_AND_LONG, NEW, reads_back=True)),
    "finalize stream": Call(_finalize(FRESH, NEW, stream=True)),
    "finalize known content": Call(_finalize(1, NEW, reads_back=True)),
    "finalize over corrupt": Call(_finalize(CORRUPT, NEW, reads_back=True)),
    "finalize conflict": Call(_finalize(FRESH, KNOWN)),
    "finalize variant": Call(_finalize(FRESH, KNOWN, variant="text")),
    "finalize with link": Call(_finalize(FRESH, NEW, links=True)),
    "finalize by policy": Call(_finalize(FRESH, NEW), layout="policy_path"),
    "finalize twin by policy": Call(_finalize(1, NEW), layout="policy_path"),
    "first use of a root": Call(_first_use, whole=False),
    "collect garbage": Call(collect_once, tells=True),
    "collect and restore": Call(_there_and_back, tells=True),
    "retention": Call(_retire, whole=False, tells=True),
    "relayout": Call(_relayout, whole=False, tells=True),
    "relayout by policy": Call(_relayout, layout="policy_path", whole=False, tells=True),
    "reconcile": Call(_reconcile, whole=False, tells=True),
    "hold": Call(_hold),
    "import": Call(lambda place, catalog: import_manifest(place.folder / "manifest.jsonl", catalog), whole=False),
    "export sqlite": Call(_export("sqlite")),
    "export dump": Call(_export("sqlite-dump")),
    "export postgres": Call(_export("postgres")),
    "export csv": Call(_export("csv")),
    "export lines": Call(_export("jsonl")),
    "import sql": Call(_import_sql, opens=True, whole=False),
    "backup": Call(_backup, opens=True, slow=True),
    "restore": Call(_restore, opens=True, slow=True),
    "compact": Call(lambda place, _: compact(place.path), opens=True),
    "audit": Call(lambda place, _: list(audit_catalog(place.path, repair=True)), opens=True, slow=True),
}

_REST: dict[str, Any] = {"content_type": None, "run_id": "run 3"}


def facts(catalog: LmdbCatalog, *, ids: bool) -> list[object]:
    """Return all that is recorded, without times and counts; without ids where calls may come in another order."""
    records: list[Any] = list(catalog.iter_records())
    records += [variant for record in records for variant in catalog.get_variants(record.id)]
    records += [*catalog.get_conflicts(), *catalog.get_sightings(), *catalog.roots()]
    times = {"created_at", "updated_at", "first_seen_at", "last_seen_at", "seen_at", "count", "uuid"}
    left_out = times if ids else {*times, "id", "document_id"}
    found = [{name: value for name, value in structs.asdict(each).items() if name not in left_out} for each in records]
    return list(found) if ids else sorted(found, key=repr)


def names_below(folder: Path) -> set[str]:
    """Return what lies in a place, but for what may come and go or has a name of the moment."""
    found = set()
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if "quarantine" not in name and not name.endswith((".lease", "lock.mdb", "door.lock")):
            found.add(name)
    return found
