"""What a registration costs in a small catalog and in a large one, in bulk and one durable call at a time."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from tools.bench import contestants
from tools.bench.contestants import catalog_at
from tools.bench.parts import Bench, Row, in_child, scratch
from tools.bench.stream import Feed, request_at

if TYPE_CHECKING:
    from pathlib import Path

_BULK_MAX = 100_000
_SINGLE_MAX = 5_000


def measure(bench: Bench) -> list[Row]:
    """Return the cost in the large catalog beside that in the small one.

    The small one is made anew for each turn; the large one grows by what is measured.
    """
    small, large = bench.growth
    bulk, single = min(_BULK_MAX, small), min(_SINGLE_MAX, bench.operations)
    costs: dict[int, list[tuple[float, float]]] = {small: [], large: []}
    with scratch(bench.folder) as large_folder:
        in_child(contestants.fill_catalog, large_folder, range(large))
        for turn in range(bench.repeats):
            with scratch(bench.folder) as small_folder:
                in_child(contestants.fill_catalog, small_folder, range(small))
                costs[small].append(in_child(_costs, small_folder, small, bulk, single))
            start = large + turn * (bulk + single)
            costs[large].append(in_child(_costs, large_folder, start, bulk, single))
    return [
        Row(
            f"{work} registration, {large:,} records",
            "µs",
            [cost[number] for cost in costs[large]],
            f"{small:,} records",
            [cost[number] for cost in costs[small]],
            at_most=2,
        )
        for number, work in enumerate(("bulk", "durable"))
    ]


def _costs(folder: Path, start: int, bulk: int, single: int) -> tuple[float, float]:
    """Return microseconds for a registration in bulk, and for one durable call."""
    with catalog_at(folder) as catalog:
        feed = Feed(request_at, range(start, start + bulk))
        started = time.perf_counter()
        deque(catalog.register_many(feed), maxlen=0)
        bulk_seconds = time.perf_counter() - started - feed.seconds
        alone = Feed(request_at, range(start + bulk, start + bulk + single))
        started = time.perf_counter()
        for request in alone:
            catalog.register(
                artifact_id=request.artifact_id,
                source_url=request.source_url,
                resolver=request.resolver,
                content_type=request.content_type,
                bytes=request.bytes,
                sha256=request.sha256,
                storage_uri=request.storage_uri,
                run_id=request.run_id,
            )
        single_seconds = time.perf_counter() - started - alone.seconds
    return bulk_seconds / bulk * 1e6, single_seconds / single * 1e6
