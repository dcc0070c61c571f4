"""Predict capacity, throughput and price of a catalog on DynamoDB from what the real code sends.

    python -m tools.capacity --records 2000
    python -m tools.capacity --json

Starts a ministack, lets a catalog register documents there through a proxy that reads along, and counts items, bytes
and request units as DynamoDB bills them. From that, and from the assumptions that it prints with the answer (each can
be set), follow calls a second for 1, 10 and 100 hosts, what holds them back, and the price of a billion records.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from kvcatalog import Registration, open_catalog
from kvcatalog.store import init_catalog
from kvcatalog.store.protocol import CatalogStore
from tools.bench.workload import Source, sources
from tools.capacity.model import Assumptions, Need, cost, need_of, predicted
from tools.servers import ministack, processes
from tools.servers.dynamodb_proxy import Exchange, between

HOSTS = (1, 10, 100)
RECORDS = 10**9
THREADS = 16
ROOT = "file:///data/docs"

Work = Callable[[CatalogStore, Source], object]


def register(catalog: CatalogStore, source: Source) -> Registration:
    """Register a content-addressed document as finalizing does."""
    sha256 = source.sha256.hex()
    return catalog.register(
        artifact_id=source.artifact_id,
        source_url=source.source_url,
        resolver=source.resolver,
        content_type=source.content_type,
        bytes=source.bytes,
        sha256=sha256,
        storage_uri=f"{ROOT}/cas/sha256/{sha256[:2]}/{sha256[2:]}",
        run_id=source.run_id,
        blob_epoch=catalog.blob_epoch(recent=True),
    )


WORKS: dict[str, Work] = {
    "register, new": register,
    "register, known": register,
    "get by key": lambda catalog, source: catalog.get(
        artifact_id=source.artifact_id, source_url=source.source_url, resolver=source.resolver
    ),
    "get by digest": lambda catalog, source: catalog.get_by_sha256(source.sha256.hex()),
}
"""What is done with each document, one kind after the other."""


def measured(endpoint: str, records: int) -> dict[str, Need]:
    """Return what each kind of call needs, from so many of each on a new table."""
    heard: list[Exchange] = []
    with between(endpoint) as proxy:
        proxy.heard = heard.append
        sent = {}
        for name in _done(f"dynamodb://requests?region=us-east-1&endpoint_url={proxy.endpoint_url}", records):
            sent[name] = heard.copy()
            heard.clear()
    # The proxy works in this process, so that is measured without it.
    seconds: dict[str, float] = {}
    start = time.process_time()
    for name in _done(f"dynamodb://seconds?region=us-east-1&endpoint_url={endpoint}", records):
        seconds[name] = time.process_time() - start
        start = time.process_time()
    return {name: need_of(sent[name], records, seconds[name]) for name in WORKS}


def _done(url: str, records: int) -> Iterator[str]:
    """Make a table, then do each kind of work in it, and yield what was done."""
    init_catalog(url, recovery=False)
    with open_catalog(url) as catalog, ThreadPoolExecutor(THREADS) as pool:
        catalog.add_root(ROOT, uuid="one")
        yield "make the table"
        for name, work in WORKS.items():
            deque(pool.map(partial(work, catalog), sources(records, seed=1)), maxlen=0)
            yield name


def report(needs: dict[str, Need], assumed: Assumptions) -> dict[str, Any]:
    """Return all that is predicted, as plain values."""
    return {
        "assumptions": to_builtins(assumed),
        "calls": {
            name: {
                "need": to_builtins(need) | {"write_units": need.write_units, "read_units": need.read_units},
                "hosts": [to_builtins(predicted(need, hosts, assumed)) for hosts in HOSTS],
                "billion": to_builtins(cost(need, RECORDS, assumed)),
            }
            for name, need in needs.items()
        },
    }


def table(needs: dict[str, Need], assumed: Assumptions) -> Iterator[str]:
    """Yield the lines that people read."""
    for name, need in needs.items():
        requests = ", ".join(f"{count:.2f} {operation}" for operation, count in need.requests.items())
        yield f"{name}: {requests}"
        yield f"  {'items':8} {'written':>8} {'read':>8} {'bytes':>7} {'keys':>6}   units a call; partition keys met"
        for letter, each in need.families.items():
            size = f"{each.item_bytes:7.0f}" if each.items else " " * 7
            yield f"  {letter:8} {each.write_units:8.2f} {each.read_units:8.2f} {size} {each.partitions:6}"
        yield f"  {'all':8} {need.write_units:8.2f} {need.read_units:8.2f} {need.stored_bytes:7.0f}    stored"
        for hosts in HOSTS:
            found = predicted(need, hosts, assumed)
            yield f"  {hosts:4} hosts {found.calls_a_second:10,.0f} calls/s, limited by: {found.limit}"
        price = cost(need, RECORDS, assumed)
        dollars = price.writes + price.reads
        kept = f", then {price.storage_a_month:,.0f} a month for {price.stored_gb:,.0f} GB" if price.stored_gb else ""
        yield f"  a million: {dollars / 1000:,.2f} dollars; a billion: {dollars:,.0f}{kept}"
        yield ""
    yield "assumed: " + ", ".join(f"{name} {value:g}" for name, value in structs.asdict(assumed).items())


def main() -> int:
    """Measure, predict and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=2000, help="how many documents to measure with")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    for name, default in structs.asdict(Assumptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="N")
    options = parser.parse_args()
    assumed = Assumptions(**{name: getattr(options, name) for name in Assumptions.__struct_fields__})
    with tempfile.TemporaryDirectory() as folder:
        try:
            access = ministack.started(Path(folder))
            os.environ |= {"AWS_ACCESS_KEY_ID": access["key"], "AWS_SECRET_ACCESS_KEY": access["secret"]}
            needs = measured(access["endpoint"], options.records)
        finally:
            processes.stop(Path(folder))
    if options.json:
        print(json.dumps(report(needs, assumed), indent=1))
    else:
        print("\n".join(table(needs, assumed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
