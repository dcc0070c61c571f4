"""Random work on a catalog and its blobs through the public API, step by step, and what must be there after each step.

All of it follows from a name and a seed, so whoever looks at what is left of a crash knows what was going on. Two
workloads of different names share contents and blobs, but no documents.
"""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from kvcatalog import finalize_candidate_download, open_catalog, storage
from kvcatalog.config import CatalogConfig, StorageConfig
from kvcatalog.errors import NotFoundError
from kvcatalog.models import RegistrationRequest, SightingRequest
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent
from tools.faults.checking import dangling, staged

CONTENTS = 40
"""Contents that are met again and again; half of the steps bring one that nobody has."""

CONTENTS_MAX = 1 << 40
WORKS_MAX = 16
ELSEWHERE = "s3://elsewhere/"
"""Where contents lie that are registered and not stored by us."""

Key = tuple[str, str, str]


class Work(Struct, frozen=True):
    """What is known of a document; contents by number."""

    content: int
    content_type: str | None = None
    variants: tuple[tuple[str, int], ...] = ()
    conflicts: frozenset[int] = frozenset()
    runs: frozenset[str] = frozenset()


class Step(Struct, frozen=True):
    """A call, and what each document that it touches is afterwards, None if it is gone.

    One that is `atomic` is made whole or not at all, otherwise each document for itself.
    """

    kind: str
    changes: tuple[tuple[Key, Work | None], ...]
    content: int = 0
    name: str = ""
    atomic: bool = True


class Place(Struct, frozen=True):
    """Where work is done: a folder for catalog, root and incoming files."""

    folder: Path
    layout: str = "cas"
    durability: str = "full"

    def catalog(self) -> LmdbCatalog:
        catalog = open_catalog(CatalogConfig.model_validate({"path": self.path, "durability": self.durability}))
        assert isinstance(catalog, LmdbCatalog)
        return catalog

    @property
    def path(self) -> str:
        return str(self.folder / "catalog")

    @property
    def config(self) -> StorageConfig:
        return StorageConfig.model_validate({"root_dir": str(self.folder / "root"), "layout": self.layout})


@lru_cache(maxsize=1024)
def content_of(number: int) -> bytes:
    """Return a content; some have equal sizes, and the sizes reach over several blocks."""
    return f"content {number:05} ".encode() * (1 + number % 5 * 150)


@lru_cache(maxsize=1 << 16)
def digest_of(number: int) -> str:
    return hashlib.sha256(content_of(number)).hexdigest()


class Workload:
    """Chooses steps; `works` is what must be there once every step that was `taken` is done."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.works: dict[Key, Work] = {}
        self.numbers: dict[str, int] = {}
        self._chance = random.Random(f"{name} {seed}")
        self._count = 0

    def next(self) -> Step:
        """Choose a step."""
        if len(self.works) < 2 or (len(self.works) < WORKS_MAX and self._chance.random() < 0.45):
            kind = self._chance.choice(("finalize", "finalize", "register", "futures", "many"))
            count = self._chance.randrange(2, 6) if kind in {"futures", "many"} else 1
            changes = tuple((self._new_key(), Work(self._content())) for _ in range(count))
            return Step(kind, changes, atomic=kind != "futures")
        key = self._chance.choice(sorted(self.works))
        return self._change(key, self.works[key])

    def taken(self, step: Step) -> None:
        """Take a step for done."""
        for key, work in step.changes:
            if work is None:
                self.works.pop(key, None)
            else:
                self.works[key] = work

    def _change(self, key: Key, work: Work) -> Step:
        number = self._content()
        kinds = ["finalize again", "conflict", "finalize conflict", "replace", "update", "delete", "sightings"]
        kinds += ["variant", "finalize variant", "variant", "delete variant"]
        kind = self._chance.choice(kinds)
        name = self._chance.choice(("html", "text"))
        variants = dict(work.variants)
        if (number == work.content and kind != "finalize again") or (kind.endswith("variant") and name in variants):
            kind = "delete variant" if name in variants else "update"
        if kind == "delete variant" and name not in variants:
            kind = "update"
        match kind:
            case "finalize again":
                number, after = work.content, work
            case "conflict" | "finalize conflict":
                after = structs.replace(work, conflicts=work.conflicts | {number})
            case "replace":
                after = structs.replace(work, content=number, conflicts=work.conflicts - {number})
            case "update":
                name = self._chance.choice(("application/pdf", "text/plain", "image/png"))
                after = structs.replace(work, content_type=name)
            case "sightings":
                name = f"run {self._chance.randrange(4)}"
                after = structs.replace(work, runs=work.runs | {name})
            case "variant" | "finalize variant":
                after = structs.replace(work, variants=tuple(sorted({**variants, name: number}.items())))
            case "delete variant":
                variants.pop(name)
                after = structs.replace(work, variants=tuple(sorted(variants.items())))
            case _:
                return Step("delete", ((key, None),))
        return Step(kind, ((key, after),), number, name)

    def _content(self) -> int:
        number = self._chance.randrange(CONTENTS if self._chance.random() < 0.5 else CONTENTS_MAX)
        self.numbers[digest_of(number)] = number
        return number

    def _new_key(self) -> Key:
        self._count += 1
        return f"work {self.name} {self._count}", f"https://host-{self._count % 3}.example/paper.pdf", "r"


def carry_out(step: Step, catalog: LmdbCatalog, place: Place) -> None:
    """Make the call that a step stands for; it returns when all of it is durable."""
    (key, after), *_ = step.changes
    match step.kind:
        case "finalize":
            assert after is not None
            store(after.content, key, catalog, place)
        case "finalize again" | "finalize conflict" | "finalize variant":
            store(step.content, key, catalog, place, variant=step.name if step.kind == "finalize variant" else None)
        case "register":
            catalog.register(**fields(key, after))
        case "futures":
            futures = [catalog.register_async(**fields(*change)) for change in step.changes]
            for future in futures:
                future.result()
        case "many":
            list(catalog.register_many(RegistrationRequest(**fields(*change)) for change in step.changes))
        case "conflict" | "replace":
            facts = {**identity(key), **content_fields(step.content)}
            catalog.register(**facts, on_conflict="replace" if step.kind == "replace" else "keep")
        case _:
            _change(step, document_id(catalog, key), catalog)


def _change(step: Step, known: int, catalog: LmdbCatalog) -> None:
    match step.kind:
        case "update":
            catalog.update(known, content_type=step.name)
        case "sightings":
            list(catalog.record_sightings([SightingRequest(known, step.name)]))
        case "variant":
            catalog.register_variant(document_id=known, variant=step.name, **content_fields(step.content))
        case "delete variant":
            catalog.delete_variant(known, step.name)
        case _:
            catalog.delete(known)


def document_id(catalog: LmdbCatalog, key: Key) -> int:
    """Return the id of a document; NotFoundError."""
    record = catalog.get(**identity(key))
    if record is None:
        raise NotFoundError(f"{key} is not there")
    return record.id


def store(number: int, key: Key, catalog: LmdbCatalog, place: Place, *, variant: str | None = None) -> None:
    """Finalize a content under a key, from a file."""
    incoming = place.folder / "incoming"
    incoming.mkdir(exist_ok=True)
    source = incoming / f"{hashlib.sha256(repr(key).encode()).hexdigest()}-{number}.part"
    source.write_bytes(content_of(number))
    finalize_candidate_download(source, **identity(key), variant=variant, catalog=catalog, cfg_storage=place.config)


def identity(key: Key) -> dict[str, Any]:
    return dict(zip(("artifact_id", "source_url", "resolver"), key, strict=True))


def content_fields(number: int) -> dict[str, Any]:
    digest = digest_of(number)
    return {"bytes": len(content_of(number)), "sha256": digest, "storage_uri": ELSEWHERE + digest}


def fields(key: Key, work: Work | None) -> dict[str, Any]:
    assert work is not None
    return {**identity(key), **content_fields(work.content)}


def found(catalog: LmdbCatalog, numbers: dict[str, int]) -> dict[Key, Work]:
    """Return what a catalog knows, in the form of the model; -1 is a content that nobody has heard of."""
    works = {}
    for record in catalog.iter_records():
        works[record.artifact_id, record.source_url, record.resolver] = Work(
            numbers.get(record.sha256 or "", -1),
            record.content_type,
            tuple((each.variant, numbers.get(each.sha256 or "", -1)) for each in catalog.get_variants(record.id)),
            frozenset(numbers.get(each.sha256 or "", -1) for each in catalog.get_conflicts(record.id)),
            frozenset(each.run_id for each in catalog.get_sightings(document_id=record.id)),
        )
    return works


def differences(works: dict[Key, Work], settled: dict[Key, Work], unsettled: list[Step]) -> list[str]:
    """Hold what is there against what must be; each of the unsettled steps (in their order) may be done or not."""
    findings = []
    allowed: dict[Key, list[Work | None]] = {key: [work] for key, work in settled.items()}
    for step in unsettled:
        for key, work in step.changes:
            allowed.setdefault(key, [None]).append(work)
    for key in allowed.keys() | works.keys():
        there = works.get(key)
        if there not in allowed.get(key, [None]):
            findings.append(f"{key}: {there} is there, and not one of {allowed.get(key)}")
    for step in unsettled:
        done = {works.get(key) == work for key, work in step.changes}
        if step.atomic and len(done) > 1 and len(unsettled) == 1:
            findings.append(f"half of a step is there: {step}")
    return findings


def unsound(catalog: LmdbCatalog, place: Place) -> list[str]:
    """Return what is wrong with blobs, root and derived rows; nobody may write meanwhile."""
    storage._open.clear()
    blobs = storage.open_storage(place.config, catalog)
    findings = staged(blobs)
    findings += [finding for finding in dangling(catalog, blobs) if ELSEWHERE not in finding]
    try:
        assert_consistent(catalog)
    except AssertionError as error:
        findings.append(f"rows do not agree: {error}")
    return findings
