"""Audits find what is wrong with every row, repair what can be derived, and are clean then."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvcatalog import open_catalog, schema
from kvcatalog.audit import audit_blobs, audit_catalog, examine
from kvcatalog.checks import Finding
from kvcatalog.config import StorageConfig
from kvcatalog.errors import CatalogMissingError, CatalogUnavailableError, CorruptRecordError
from kvcatalog.finalize import finalize_candidate_download
from kvcatalog.kv import preflight
from kvcatalog.kv.table import Table
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.store import upkeep
from kvcatalog.store.derived import DERIVED
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.invariants import assert_consistent

ROOT = "file:///store"
CAS = f"{ROOT}/cas/sha256/ab/{'ab' * 31}"
PAGE = 4096
TABLES = tuple(table for table, _ in DERIVED.values())


def fill(catalog: LmdbCatalog) -> None:
    """Store some of everything."""
    root = catalog.add_root(ROOT, uuid="one").id
    for number in range(12):
        digest = None if number == 5 else f"{number // 3:02x}" * 32
        catalog.register(
            artifact_id=f"work/{number // 4}",
            source_url=f"https://example.org/{number}",
            resolver=f"r{number % 3}",
            content_type=("application/pdf", "text/html; charset=utf-8", None)[number % 3],
            bytes=10 + number // 3,
            sha256=digest,
            storage_uri=f"{ROOT}/work/{number}" if number % 2 else f"s3://bucket/{number // 4}",
            run_id=f"run-{number % 2}",
            links=[f"{ROOT}/other/{number}"] if number < 4 else (),
        )
    for number in range(1, 7):
        fields: dict[str, Any] = {"bytes": 11, "sha256": f"{number % 3:02x}" * 32, "storage_uri": f"{ROOT}/v/{number}"}
        catalog.register_variant(document_id=number, variant="html", **fields)
    key: dict[str, Any] = {"artifact_id": "work/0", "source_url": "https://example.org/0", "resolver": "r0"}
    for size in (100, 200, 300):
        catalog.register(**key, bytes=size, storage_uri=f"{ROOT}/conflict/{size // 200}", run_id="run-9")
    catalog.register(**key, bytes=400, sha256="ab" * 32, storage_uri=CAS, run_id="run-8")
    catalog.update(3, content_type="text/plain", reason="it is")
    catalog.update(4, content_type="text/plain")
    catalog.delete(9)

    def checks(transaction: WriteTransaction) -> None:
        for number in range(4):
            upkeep.put_check(transaction, schema.CheckRow(root, f"work/{number}", 1000 + number // 2, "ok"))
        upkeep.put_hold(transaction, schema.HoldRow(("resolver=r0",), "kept", 1))

    catalog._writer.submit(checks)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "catalog"
    with open_catalog(folder) as catalog:
        fill(catalog)
        assert_consistent(catalog)
    return folder


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "catalog")
    return tmp_path / "catalog"


@pytest.fixture
def catalog(path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(path) as opened:
        yield opened


def audited(catalog: LmdbCatalog) -> list[Finding]:
    return list(catalog.audit())


def repaired(catalog: LmdbCatalog) -> list[Finding]:
    findings = [finding for finding in audited(catalog) if finding.repair]
    return list(catalog.repair(sorted(findings, key=lambda finding: finding.repair not in {"counter", "number"})))


def change(catalog: LmdbCatalog, *changes: Callable[[WriteTransaction], object]) -> None:
    with catalog._environment.write() as transaction:
        for each in changes:
            each(transaction)


def rows_of(catalog: LmdbCatalog, table: Table) -> list[tuple[bytes, bytes]]:
    with catalog._environment.read() as transaction:
        return list(transaction.items(table))


def test_a_sound_catalog_is_clean(catalog: LmdbCatalog, tmp_path: Path) -> None:
    assert all(rows_of(catalog, table) for table in schema.TABLES if table is not schema.CONDEMNED)
    assert audited(catalog) == []
    with open_catalog(tmp_path / "empty") as empty:
        assert audited(empty) == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_row_that_is_gone_is_found_and_brought_back(catalog: LmdbCatalog, table: Table) -> None:
    for key, value in rows_of(catalog, table):
        change(catalog, partial(WriteTransaction.delete, table=table, key=key, value=value if table.sets else b""))
        findings = audited(catalog)
        assert {(each.kind, each.table) for each in findings} >= {("index", table.name)}
        assert (key.hex(), value.hex()) in {(each.key, each.value) for each in findings}
        assert all(each.repaired for each in repaired(catalog))
        assert_consistent(catalog)
        assert audited(catalog) == []


def test_what_was_repaired_stands_in_the_journal(path: Path) -> None:
    with open_catalog(path) as catalog:
        digest = bytes(32)
        before = list(catalog.journal())[-1].sequence
        change(catalog, lambda txn: txn.delete(schema.BY_SHA256, digest, schema.id_key(2)))
    found = list(audit_catalog(path))
    assert (found[0].kind, found[0].table, found[0].document_id) == ("index", "by_sha256", 2)
    assert not any(each.repaired for each in found)
    done = list(audit_catalog(path, repair=True, command="audit", reason="a disk failed"))
    assert [each.repaired for each in done if each.repair == "row"] == [True]
    assert list(audit_catalog(path)) == []
    with open_catalog(path) as catalog:
        (entry,) = catalog.journal(after=before)
        assert (entry.action, entry.document_id, entry.command, entry.reason) == ("repair", 2, "audit", "a disk failed")
        assert entry.changes == {"by_sha256": (None, f"{digest.hex()} {2:016x}")}
        assert {record.id for record in catalog.get_by_sha256("00" * 32)} == {1, 2, 3}


Damage = tuple[str, int, int]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damage=st.lists(
        st.tuples(
            st.sampled_from([table.name for table in (*TABLES, schema.DUPLICATES, schema.COUNTERS, schema.CHECKS)]),
            st.sampled_from(["delete", "stray", "swap", "flip"]),
            st.integers(0, 999),
            st.integers(0, 999),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_damage_to_what_is_derived_is_found_and_repaired(
    template: Path, tmp_path: Path, damage: list[tuple[str, str, int, int]]
) -> None:
    path = tmp_path / "damaged"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(template, path)
    with open_catalog(path) as catalog:
        records = list(catalog.iter_records())
        before = {table: rows_of(catalog, table) for table in schema.TABLES}
        for each in damage:
            plant(catalog, *each)
        is_damaged = before != {table: rows_of(catalog, table) for table in schema.TABLES}
        findings = audited(catalog)
        assert bool(findings) == is_damaged
        repaired(catalog)  # what hides behind an index that is not whole is repaired with it
        assert audited(catalog) == []
        assert list(catalog.iter_records()) == records
        assert_consistent(catalog)
        if is_damaged:
            assert list(catalog.journal())[-1].action == "repair"


BY_NAME = {table.name: table for table in schema.TABLES}


def plant(catalog: LmdbCatalog, name: str, kind: str, first: int, second: int) -> None:
    """Damage a table in one of the ways in which its rows may be wrong."""
    table = BY_NAME[name]
    rows = rows_of(catalog, table)
    if table is schema.COUNTERS:
        kept = (b"last commit", b"blob epoch\0", b"forgotten blob epoch\0", b"last document id\0", b"last variant id\0")
        rows = [row for row in rows if row[0] not in (*kept, b"last journal sequence\0", b"last hold id\0")]
    if not rows:
        return
    key, value = rows[first % len(rows)]
    other_key, other_value = rows[second % len(rows)]
    if kind == "delete" and table is not schema.CHECKS:
        change(catalog, lambda txn: txn.delete(table, key, value if table.sets else b""))
    elif kind == "stray" and table in TABLES:
        stray = other_key[:-1] + bytes([other_key[-1] ^ 1 + first % 255])
        if table.sets:
            change(catalog, lambda txn: txn.put(table, stray, schema.id_key(second)))
        else:
            change(catalog, lambda txn: txn.put(table, stray, other_value))
    elif kind == "swap" and table in TABLES and table.sets:
        change(catalog, lambda txn: txn.delete(table, key, value), lambda txn: txn.put(table, key, other_value))
    elif kind == "swap" and table in TABLES:
        change(catalog, lambda txn: txn.put(table, key, other_value))
    elif kind == "flip" and table not in TABLES:
        flipped = bytearray(value)
        flipped[second % len(value)] ^= 1 << first % 8
        change(catalog, lambda txn: txn.put(table, key, bytes(flipped)))


def test_a_wrong_but_sound_counter_is_set_right_while_others_register(catalog: LmdbCatalog) -> None:
    key = schema.counter_key("resolver", "r0")
    wrong = schema.CounterRow(77, 0, 5, "r0")
    change(catalog, lambda txn: txn.put(schema.COUNTERS, key, schema.COUNTER_CODEC.encode(key, wrong)))
    findings = audited(catalog)
    assert [(each.kind, each.repair) for each in findings] == [("figure", "counter")]
    catalog.register(artifact_id="new", source_url="u", resolver="r0", bytes=7, storage_uri="file:///x")
    assert [each.repaired for each in catalog.repair(findings)] == [True]
    assert_consistent(catalog)


def test_last_numbers_are_never_below_what_was_given(catalog: LmdbCatalog) -> None:
    deleted = catalog.register(artifact_id="z", source_url="u", resolver="r", bytes=7, storage_uri="file:///x").record
    catalog.delete(deleted.id)
    for name in ("last document id", "last variant id", "last journal sequence", "last hold id"):
        key = schema.counter_key(name)
        row = schema.CounterRow(1, 0, 0, "")
        value = schema.COUNTER_CODEC.encode(key, row)
        change(catalog, partial(WriteTransaction.put, table=schema.COUNTERS, key=key, value=value))
        findings = audited(catalog)
        assert [each.repair for each in findings] == (["number"] if name != "last hold id" else [])
        assert all(each.repaired for each in repaired(catalog))
        change(catalog, partial(WriteTransaction.put, table=schema.COUNTERS, key=key, value=b"no counter"))
        assert [each.repair for each in audited(catalog)] == ["number"]
        assert all(each.repaired for each in repaired(catalog))
        assert audited(catalog) == []
        assert_consistent(catalog)
    new = catalog.register(artifact_id="z", source_url="u", resolver="r", bytes=7, storage_uri="file:///x").record
    assert new.id > deleted.id


@pytest.mark.parametrize(
    "table", [schema.DOCUMENTS, schema.VARIANTS, schema.CONFLICTS, schema.SIGHTINGS, schema.LINKS, schema.JOURNAL]
)
def test_a_record_that_cannot_be_read_is_told_and_what_leads_to_it_is_kept(catalog: LmdbCatalog, table: Table) -> None:
    indexes = {derived: rows_of(catalog, derived) for derived in TABLES}
    key, value = rows_of(catalog, table)[0]
    change(catalog, lambda txn: txn.put(table, key, value[:-1] + bytes([value[-1] ^ 1])))
    findings = audited(catalog)
    assert ("row", table.name, None) in {(each.kind, each.table, each.repair) for each in findings}
    assert not any(each.repair for each in findings)
    list(catalog.repair(findings))
    assert {derived: rows_of(catalog, derived) for derived in TABLES} == indexes
    change(catalog, lambda txn: txn.put(table, key, value))
    assert audited(catalog) == []


def test_rows_without_their_document_or_root_are_told(catalog: LmdbCatalog) -> None:
    change(catalog, lambda txn: txn.delete(schema.DOCUMENTS, schema.id_key(1)))
    kinds = {(each.kind, each.table) for each in audited(catalog) if each.repair is None}
    assert kinds == {("reference", name) for name in ("variants", "conflicts", "sightings", "links")}
    change(catalog, lambda txn: txn.delete(schema.ROOTS, schema.id_key(1)))
    assert ("reference", "documents") in {(each.kind, each.table) for each in audited(catalog)}


def test_two_documents_of_one_key_are_told_and_left(catalog: LmdbCatalog) -> None:
    key = schema.id_key(2)
    row = schema.DOCUMENT_CODEC.decode(schema.id_key(1), dict(rows_of(catalog, schema.DOCUMENTS))[schema.id_key(1)])
    change(catalog, lambda txn: txn.put(schema.DOCUMENTS, key, schema.DOCUMENT_CODEC.encode(key, row)))
    assert "ids 1 and 2 have the same key" in [each.message for each in audited(catalog)]
    repaired(catalog)
    assert [each.message for each in audited(catalog)] == ["ids 1 and 2 have the same key"]


def test_a_damaged_or_cut_file_is_a_finding_and_kills_nobody(path: Path) -> None:
    file = path / preflight.DATA_FILE
    whole = file.read_bytes()
    chance = random.Random(11)
    told = set()
    for number in range(12):
        damaged = bytearray(whole)
        if number % 3 == 0:
            damaged = damaged[: chance.randrange(len(whole))]
        for _ in range(chance.choice([1, 5, 50])):
            place = chance.randrange(len(damaged) or 1)
            if place < len(damaged):
                damaged[place : place + 8] = chance.randbytes(len(damaged[place : place + 8]))
        file.write_bytes(damaged)
        try:
            findings = list(audit_catalog(path, repair=False))
        except CatalogUnavailableError:
            continue
        told |= {finding.kind for finding in findings}
        if any(finding.kind == "file" for finding in findings):
            assert not any(each.repaired for each in audit_catalog(path, repair=True))
            assert file.read_bytes() == bytes(damaged)
    assert "file" in told
    file.write_bytes(whole)
    assert list(examine(path)) == []


def test_an_outdated_page_in_the_place_of_the_right_one_is_told(path: Path) -> None:
    with open_catalog(path) as catalog:
        for content_type in ("text/x-old", "text/x-new"):
            catalog.update(3, content_type=content_type)
        bounds = struct.pack("<H", 16 + 2 * catalog.stats().documents)  # of a page that holds all documents
    file = path / preflight.DATA_FILE
    whole = file.read_bytes()
    pages = [whole[start : start + PAGE] for start in range(0, len(whole), PAGE)]
    of_documents = [number for number, page in enumerate(pages) if page[12:14] == bounds and b"example.org/2" in page]
    (right,) = (number for number in of_documents if b"text/x-new" in pages[number])
    (outdated,) = (number for number in of_documents if b"text/x-old" in pages[number])
    pages[right], pages[outdated] = pages[outdated], pages[right]
    file.write_bytes(b"".join(pages))
    with open_catalog(path, read_only=True) as catalog:
        record = catalog.get_by_id(3)
        assert record is not None
        assert record.content_type == "text/x-old"  # the engine does not notice
    assert [(each.kind, each.table, each.message) for each in examine(path)] == [
        ("file", "documents", f"where page {right} belongs lies page {outdated}")
    ]


def test_an_examination_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogMissingError):
        list(examine(tmp_path / "none"))


def test_an_identity_that_cannot_be_read_is_a_finding(path: Path) -> None:
    with open_catalog(path) as catalog:
        change(catalog, lambda txn: txn.put(schema.META, schema.IDENTITY_KEY, b"nobody"))
        with pytest.raises(CorruptRecordError):
            open_catalog(path)
    assert [finding.kind for finding in examine(path)] == ["row"]


def test_progress_ends_at_all_of_it(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert list(examine(path, progress=lambda done, total: seen.append((done, total)))) == []
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[tuple[LmdbCatalog, StorageConfig, Path]]:
    config = StorageConfig(root_dir=str(tmp_path / "root"))
    with open_catalog(tmp_path / "with blobs") as catalog:
        for name in ("a", "b", "c"):
            for artifact in ("work", "twin") if name == "a" else ("work",):
                finalize_candidate_download(
                    io.BytesIO(name.encode() * 9),
                    artifact_id=artifact,
                    source_url=f"https://example.org/{name}.pdf",
                    resolver="r",
                    catalog=catalog,
                    cfg_storage=config,
                )
        catalog.register_variant(
            document_id=1, variant="gone", storage_uri=(tmp_path / "root/work/gone.html").as_uri(), bytes=3
        )
        yield catalog, config, tmp_path / "root"


def wrong(catalog: LmdbCatalog, config: StorageConfig) -> list[tuple[str, int | None, int | None]]:
    return [(each.kind, each.document_id, each.variant_id) for each in audit_blobs(catalog, config)]


def test_blobs_are_held_against_records_and_back(stored: tuple[LmdbCatalog, StorageConfig, Path]) -> None:
    catalog, config, root = stored
    gone = ("blob missing", 1, 1)
    assert wrong(catalog, config) == [gone]
    by_name = {os.path.basename(record.storage_uri): record for record in catalog.iter_records()}
    os.unlink(root / "work" / "b.pdf")
    os.chmod(root / "work" / "c.pdf", 0o600)
    (root / "work" / "c.pdf").write_bytes(b"short")
    (root / "work" / "nobody's.pdf").write_bytes(b"who am I")
    conflict = root / "cas/sha256/ab" / ("ab" * 31)
    conflict.parent.mkdir(parents=True)
    conflict.write_bytes(b"conflict")
    assert set(wrong(catalog, config)) == {
        gone,
        ("blob missing", by_name["b.pdf"].id, None),
        ("blob size", by_name["c.pdf"].id, None),
        ("blob unknown", None, None),
    }
    assert sum(kind == "blob unknown" for kind, _, _ in wrong(catalog, config)) == 2
    first = by_name["b.pdf"]
    catalog.register(
        artifact_id=first.artifact_id,
        source_url=first.source_url,
        resolver="r",
        bytes=8,
        sha256="ab" * 32,
        storage_uri=conflict.as_uri(),
    )
    unknown = [each.storage_uri for each in audit_blobs(catalog, config) if each.kind == "blob unknown"]
    assert unknown == [(root / "work" / "nobody's.pdf").as_uri()]


def test_a_root_that_is_away_is_no_loss(stored: tuple[LmdbCatalog, StorageConfig, Path]) -> None:
    catalog, config, root = stored
    root.rename(root.with_name("away"))
    findings = list(audit_blobs(catalog, config))
    assert [(each.kind, each.storage_uri) for each in findings] == [("root", root.as_uri())]
    root.mkdir()
    assert [each.kind for each in audit_blobs(catalog, config)] == ["root"]


def test_what_lies_outside_all_roots_is_glanced_at(tmp_path: Path, catalog: LmdbCatalog) -> None:
    (tmp_path / "here").write_bytes(b"1234567")
    names = {"here": 7, "other": 7, "no/folder": 7, "size": 8}
    (tmp_path / "size").write_bytes(b"1234567")
    for name, size in names.items():
        uri = (tmp_path / name).as_uri()
        catalog.register(artifact_id="out", source_url=name, resolver="r", bytes=size, storage_uri=uri)
    config = StorageConfig(root_dir=str(tmp_path / "none"))
    found = {(each.kind, each.storage_uri) for each in audit_blobs(catalog, config) if each.kind != "root"}
    assert found == {
        ("blob missing", (tmp_path / "other").as_uri()),
        ("blob size", (tmp_path / "size").as_uri()),
    }
