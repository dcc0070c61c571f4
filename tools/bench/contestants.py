"""Who is measured: the catalog, and the baselines `sqlite` (the scope's design) and `raw` (bare py-lmdb)."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self
from unittest import mock

import lmdb

from kvcatalog import open_catalog, telemetry
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.schema import COUNTERS, TABLES
from tools.bench.stream import CAS_PREFIX, ROOT_URI, Feed, request_at, row_at
from tools.bench.workload import INSERT, SCHEMA, SELECT, Row

if TYPE_CHECKING:
    from pathlib import Path

    from kvcatalog import LmdbCatalog
    from kvcatalog.kv.table import Table

_BUSY_SECONDS = 600.0
_RAW_MAP_BYTES = 1 << 36

VARIANTS_SCHEMA = """
CREATE TABLE variants (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  variant TEXT NOT NULL,
  storage_uri TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  content_type TEXT,
  sha256 TEXT,
  created_at TEXT NOT NULL
);
CREATE UNIQUE INDEX idx_variants_unique ON variants(document_id, variant);
"""


def catalog_at(folder: Path) -> LmdbCatalog:
    """Open or make the catalog in a folder, with the root below which the workload's blobs lie."""
    catalog = open_catalog(folder / "catalog")
    catalog.add_root(ROOT_URI, uuid="8a4a0d58-7d0e-4f0c-a6a1-b0a1e6b1f0ce", cas_prefix=CAS_PREFIX)
    return catalog


def fill_catalog(folder: Path, positions: range) -> None:
    """Register records in bulk."""
    with catalog_at(folder) as catalog:
        deque(catalog.register_many(Feed(request_at, positions)), maxlen=0)


class Sqlite:
    """The scope's design: its schema, WAL, synchronous FULL, one connection behind a lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "catalog.sqlite"
        is_new = not self.path.exists()
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS
        )
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        if is_new:
            self._connection.executescript(SCHEMA + VARIANTS_SCHEMA)

    def register(self, row: Sequence[str | int]) -> Row:
        """Insert a record unless it is there, durably, and return what is there."""
        with self._lock:
            self._connection.execute(INSERT, row)
            return self.rows("artifact_id=? AND source_url=? AND resolver=?", row[:3])[0]

    def register_many(self, rows: list[tuple[str | int, ...]]) -> None:
        """Insert a batch in one transaction."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, rows)
            self._connection.execute("COMMIT")

    def rows(self, where: str, values: Sequence[str | int]) -> list[Row]:
        """Return the records that a condition lets through."""
        return [Row(*row) for row in self._connection.execute(SELECT + where, values)]

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return all that a statement gives."""
        return self._connection.execute(statement).fetchall()

    def file_bytes(self) -> int:
        """Return the size of the file once the log is folded in."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.stat().st_size

    def close(self) -> None:
        self._connection.close()


def fill_sqlite(folder: Path, positions: range) -> None:
    """Insert records in bulk."""
    store = Sqlite(folder)
    for rows in Feed(row_at, positions).chunks():
        store.register_many(rows)
    store.file_bytes()
    store.close()


class Put(NamedTuple):
    """A row that the catalog wrote."""

    table: str
    key: bytes
    value: bytes
    append: bool


def recorded(folder: Path, positions: range) -> list[list[Put]]:
    """Register records one at a time, and return what was put for each, the counters of its commit among it."""
    found: list[list[Put]] = []
    original, original_many = WriteTransaction.put, WriteTransaction.put_many

    def put(self: WriteTransaction, table: Table, key: bytes, value: bytes, *, append: bool = False) -> None:
        found[-1].append(Put(table.name, key, value, append))
        original(self, table, key, value, append=append)

    def put_many(
        self: WriteTransaction, table: Table, rows: Iterable[tuple[bytes, bytes]], *, append: bool = False
    ) -> None:
        rows = list(rows)
        found[-1].extend(Put(table.name, key, value, append or table.sets) for key, value in rows)
        original_many(self, table, rows, append=append)

    with (
        catalog_at(folder) as catalog,
        mock.patch.object(WriteTransaction, "put", put),
        mock.patch.object(WriteTransaction, "put_many", put_many),
    ):
        for request in Feed(request_at, positions):
            found.append([])
            list(catalog.register_many([request]))
    return found


def put_raw(folder: Path, puts: list[list[Put]], batch_size: float) -> float:
    """Put recorded rows into a copy of the catalog that they were recorded on, and return records a second.

    `batch_size` may be a mean: then batches of the two sizes next to it alternate. A counter is put once a batch, as
    the catalog does.
    """
    batches = _batches(puts, max(1.0, batch_size))
    with lmdb.open(str(folder / "catalog"), map_size=_RAW_MAP_BYTES, create=False, max_dbs=len(TABLES)) as environment:
        handles = {
            table.name: environment.open_db(table.name.encode(), dupsort=table.sets, dupfixed=table.sets, create=False)
            for table in TABLES
        }
        started = time.perf_counter()
        for batch in batches:
            with environment.begin(write=True) as transaction:
                put = transaction.put
                for table, key, value, append in batch:
                    handle = handles[table]
                    if not (append and put(key, value, True, True, True, handle)):  # noqa: FBT003  by position only
                        put(key, value, db=handle)
        return len(puts) / (time.perf_counter() - started)


def _batches(puts: list[list[Put]], size: float) -> list[list[Put]]:
    batches = []
    start, end = 0, 0.0
    while start < len(puts):
        end += size
        stop = max(start + 1, round(end))
        rows = [row for record in puts[start:stop] for row in record]
        counters = {row.key: row for row in rows if row.table == COUNTERS.name}
        batches.append([row for row in rows if row.table != COUNTERS.name] + list(counters.values()))
        start = stop
    return batches


class BatchSizes:
    """Counts the commits of catalogs that are opened while it is entered, and the calls that they answered."""

    def __init__(self) -> None:
        self.commits = 0
        self.calls = 0
        self._patch = mock.patch.object(telemetry, "batch_committed", self._committed)

    def __enter__(self) -> Self:
        self._patch.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._patch.stop()

    def start_again(self) -> None:
        self.commits = self.calls = 0

    def _committed(self, calls: int) -> None:
        self.commits += 1
        self.calls += calls
