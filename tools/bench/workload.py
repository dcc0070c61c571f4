"""Records that look like a download catalog's, and the SQLite design that layouts are compared with."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Digest = bytes  # a field named bytes hides the type from the annotations beside it

RESOLVERS = ("unpaywall", "crossref", "openalex", "arxiv", "landing_page")
RUN_COUNT = 20
DUPLICATE_EVERY = 10
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_CREATED_MICROSECONDS = 1_750_000_000_000_000

SCHEMA = """
CREATE TABLE documents (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  artifact_id TEXT NOT NULL,
  source_url TEXT NOT NULL,
  resolver TEXT NOT NULL,
  content_type TEXT,
  bytes INTEGER NOT NULL,
  sha256 TEXT,
  storage_uri TEXT NOT NULL,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  run_id TEXT
);
CREATE UNIQUE INDEX idx_documents_unique ON documents(artifact_id, source_url, resolver);
CREATE INDEX idx_documents_sha ON documents(sha256);
CREATE INDEX idx_documents_ct ON documents(content_type);
CREATE INDEX idx_documents_run ON documents(run_id);
"""
COLUMNS = "artifact_id, source_url, resolver, content_type, bytes, sha256, storage_uri, created_at, updated_at, run_id"
INSERT = f"INSERT OR IGNORE INTO documents ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"
SELECT = f"SELECT id, {COLUMNS} FROM documents WHERE "


class Source(NamedTuple):
    """What a caller registers; times in microseconds since the epoch, the digest raw."""

    artifact_id: str
    source_url: str
    resolver: str
    content_type: str
    bytes: int
    sha256: Digest
    created: int
    updated: int
    run_id: str


@dataclass(slots=True, frozen=True)
class Row:
    """A row of the SQLite table as text and numbers."""

    id: int
    artifact_id: str
    source_url: str
    resolver: str
    content_type: str | None
    bytes: int
    sha256: str | None
    storage_uri: str
    created_at: str
    updated_at: str
    run_id: str | None


def sources(count: int, seed: int) -> list[Source]:
    """`count` records in shuffled order of artifact id; one in ten repeats the digest of an earlier one."""
    rng = random.Random(seed)
    numbers = list(range(count))
    rng.shuffle(numbers)
    runs = [rng.randbytes(16).hex() for _ in range(RUN_COUNT)]
    result: list[Source] = []
    for position, number in enumerate(numbers):
        is_duplicate = position % DUPLICATE_EVERY == DUPLICATE_EVERY - 1
        digest = result[rng.randrange(position)].sha256 if is_duplicate else rng.randbytes(32)
        slug = hashlib.md5(b"%d %d" % (seed, number), usedforsecurity=False).hexdigest()[:18]
        created = FIRST_CREATED_MICROSECONDS + position * 997
        result.append(
            Source(
                artifact_id=f"doi:10.1234/abcd.{seed}.{number}",
                source_url=f"https://www.publisher.example/articles/{number:08d}/{slug}.pdf",
                resolver=RESOLVERS[rng.randrange(len(RESOLVERS))],
                content_type="application/pdf",
                bytes=rng.randrange(20_000, 20_000_000),
                sha256=digest,
                created=created,
                updated=created,
                run_id=runs[rng.randrange(RUN_COUNT)],
            )
        )
    return result


def batches(records: Sequence[Source], size: int) -> Iterator[Sequence[Source]]:
    """Consecutive slices of `size` records."""
    for start in range(0, len(records), size):
        yield records[start : start + size]


def sql_time(microseconds: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    return (EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sql_row(source: Source) -> tuple[str | int, ...]:
    """The columns of `INSERT`, with the URI that a content-addressed layout gives."""
    digest = source.sha256.hex()
    created = sql_time(source.created)
    updated = created if source.updated == source.created else sql_time(source.updated)
    return (
        source.artifact_id,
        source.source_url,
        source.resolver,
        source.content_type,
        source.bytes,
        digest,
        f"file:///srv/data/docs/sha256/{digest[:2]}/{digest[2:]}",
        created,
        updated,
        source.run_id,
    )


class SqliteStore:
    """The schema with its four indexes, WAL, synchronous FULL, one transaction for each batch."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "catalog.sqlite"
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.executescript(SCHEMA)
        self.build_seconds = 0.0

    def add(self, records: Sequence[Source]) -> None:
        """Insert one batch and commit it."""
        started = time.perf_counter()
        rows = [sql_row(source) for source in records]
        self.build_seconds += time.perf_counter() - started
        self.connection.execute("BEGIN")
        self.connection.executemany(INSERT, rows)
        self.connection.execute("COMMIT")

    def get(self, source: Source) -> Row | None:
        """By the composite key."""
        row = self.connection.execute(
            SELECT + "artifact_id=? AND source_url=? AND resolver=?",
            (source.artifact_id, source.source_url, source.resolver),
        ).fetchone()
        return Row(*row) if row else None

    def get_by_id(self, number: int) -> Row | None:
        """By id."""
        row = self.connection.execute(SELECT + "id=?", (number,)).fetchone()
        return Row(*row) if row else None

    def get_by_sha256(self, digest: bytes) -> list[Row]:
        """All records with the digest."""
        return [Row(*row) for row in self.connection.execute(SELECT + "sha256=?", (digest.hex(),))]

    def live_bytes(self) -> int:
        """Size of the file once the log is folded in."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.stat().st_size

    def file_bytes(self) -> int:
        """The same: nothing in it is free after inserts alone."""
        return self.live_bytes()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
