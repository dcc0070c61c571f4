"""Records by their position, so that millions can be made one after another without holding them."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from kvcatalog import RegistrationRequest
from kvcatalog.layout import cas_relative_path
from tools.bench.workload import DUPLICATE_EVERY, FIRST_CREATED_MICROSECONDS, RESOLVERS, Source, sql_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Made = TypeVar("Made")

SEED = 1
ROOT_URI = "file:///srv/data/docs"
CAS_PREFIX = "sha256"
_STRIDE = 2_654_435_761
_NUMBERS = 1 << 32
"""A prime and a power of two: steps of the one visit every number below the other once."""
BATCH_RECORDS = 10_000
RUN_RECORDS = 50_000
"""Runs come one after the other."""


def source_at(position: int) -> Source:
    """Return the record at a position: artifact ids come in no order, one record in ten repeats an earlier digest."""
    noise = hashlib.sha256(b"%d %d" % (SEED, position)).digest()
    draw = int.from_bytes(noise[:8], "big")
    created = FIRST_CREATED_MICROSECONDS + position * 997
    number = position * _STRIDE % _NUMBERS
    return Source(
        artifact_id=f"doi:10.1234/abcd.{SEED}.{number}",
        source_url=f"https://www.publisher.example/articles/{number:010d}/{noise.hex()[:18]}.pdf",
        resolver=RESOLVERS[draw % len(RESOLVERS)],
        content_type="application/pdf",
        bytes=20_000 + draw % 19_980_000,
        sha256=_digest(position),
        created=created,
        updated=created,
        run_id=hashlib.sha256(b"run %d" % (position // RUN_RECORDS)).hexdigest()[:32],
    )


def request_at(position: int) -> RegistrationRequest:
    """Return the record at a position as `register_many` takes it."""
    row = row_at(position)
    return RegistrationRequest(
        artifact_id=str(row[0]),
        source_url=str(row[1]),
        resolver=str(row[2]),
        content_type=str(row[3]),
        bytes=int(row[4]),
        sha256=str(row[5]),
        storage_uri=str(row[6]),
        run_id=str(row[9]),
    )


def row_at(position: int) -> tuple[str | int, ...]:
    """Return the record at a position as the columns of the SQLite table, its blob at the content-addressed place."""
    source = source_at(position)
    row = sql_row(source)
    return (*row[:6], f"{ROOT_URI}/{cas_relative_path(CAS_PREFIX, source.sha256)}", *row[7:])


class Feed(Generic[Made]):
    """Yields what `make` makes of the positions, made in chunks; `seconds` is how long the making took.

    What is measured takes from a feed and subtracts its time, so that no side pays for the workload.
    """

    def __init__(self, make: Callable[[int], Made], positions: range) -> None:
        self._make = make
        self._positions = positions
        self.seconds = 0.0

    def chunks(self) -> Iterator[list[Made]]:
        for start in range(0, len(self._positions), BATCH_RECORDS):
            started = time.perf_counter()
            chunk = [self._make(position) for position in self._positions[start : start + BATCH_RECORDS]]
            self.seconds += time.perf_counter() - started
            yield chunk

    def __iter__(self) -> Iterator[Made]:
        for chunk in self.chunks():
            yield from chunk


def _digest(position: int) -> bytes:
    while position % DUPLICATE_EVERY == DUPLICATE_EVERY - 1:
        draw = hashlib.sha256(b"copy %d %d" % (SEED, position)).digest()
        position = int.from_bytes(draw[:8], "big") % position
    return hashlib.sha256(b"content %d %d" % (SEED, position)).digest()
