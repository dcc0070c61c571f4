"""Let processes register the same keys at once, and see that each was made once, with exact indexes.

    python -m tools.faults.same_keys --processes 8 --keys 5000
    python -m tools.faults.same_keys --catalog 'dynamodb://table?region=…'
    python -m tools.faults.same_keys --ministack

All begin at the same moment, each in an order of its own, half of them one by one from several threads, half with
`register_many`. Exactly one call for each key must have registered it, all must have got the same record, no id may
have come twice, and every derived row and figure must be what it should. Exit status 1 says that one of that was not
so. The catalog is a new one in a temporary folder, one that is given and empty, or with `--ministack` a table in one
that is started for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from kvcatalog import open_catalog
from kvcatalog.dynamo import workers
from kvcatalog.models import Registration, RegistrationRequest
from kvcatalog.store import init_catalog
from tests.invariants import assert_consistent
from tools.servers import ministack, processes

CHECKOUT = Path(__file__).parents[2]


def request(number: int) -> RegistrationRequest:
    """Return the document of a number; of ten in a row two have one content, and all one artifact."""
    return RegistrationRequest(
        artifact_id=f"doi:10.1/{number // 10}",
        source_url=f"https://example.org/{number}.pdf",
        resolver="unpaywall",
        content_type="application/pdf",
        bytes=1000 + number // 2,
        sha256=hashlib.sha256(b"%d" % (number // 2)).hexdigest(),
        storage_uri=f"file:///store/{number}",
        run_id="the run",
    )


def register(place: str, process: int, keys: int, threads: int) -> None:
    """Register all keys in some order and print what came of each; this is what a child process does."""
    order = list(range(keys))
    random.Random(process).shuffle(order)
    requests = [request(number) for number in order]
    workers.THREADS = threads
    with open_catalog(place, create=False) as catalog:
        print("ready", flush=True)
        sys.stdin.readline()

        def one(wanted: RegistrationRequest) -> Registration:
            return catalog.register(
                artifact_id=wanted.artifact_id,
                source_url=wanted.source_url,
                resolver=wanted.resolver,
                content_type=wanted.content_type,
                bytes=wanted.bytes,
                sha256=wanted.sha256,
                storage_uri=wanted.storage_uri,
                run_id=wanted.run_id,
            )

        if process % 2:
            results = list(catalog.register_many(requests, batch_size=500))
        else:
            with ThreadPoolExecutor(threads) as pool:
                results = list(pool.map(one, requests))
    for number, result in zip(order, results, strict=True):
        print(json.dumps([number, result.record.id, result.outcome, str(result.record.created_at)]))


def run(place: str, count: int, keys: int, threads: int) -> tuple[list[str], float]:
    """Return what was wrong in the end, and how many seconds it took."""
    init_catalog(place)
    with ExitStack() as stack:
        children = [stack.enter_context(_child(place, number, keys, threads)) for number in range(count)]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        start = time.monotonic()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        with ThreadPoolExecutor(count) as pool:
            said = list(pool.map(lambda child: child.communicate()[0], children))
        seconds = time.monotonic() - start
    failed = [f"process {number} ended with {child.returncode}" for number, child in enumerate(children)]
    wrong = [text for text, child in zip(failed, children, strict=True) if child.returncode]
    wrong += findings([json.loads(line) for text in said for line in text.splitlines()], count, keys)
    with open_catalog(place, create=False) as catalog:
        if catalog.stats().documents != keys:
            wrong.append(f"there are {catalog.stats().documents} documents, not {keys}")
        try:
            catalog.stats()  # what was left to be counted is counted
            assert_consistent(catalog)
        except AssertionError as error:
            wrong.append(f"the indexes do not agree: {error}")
    return wrong, seconds


def findings(results: list[tuple[int, int, str, str]], count: int, keys: int) -> Iterator[str]:
    """Yield what is wrong with the answers that all processes got."""
    by_key: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
    for number, *answer in results:
        by_key[number].append(tuple(answer))  # type: ignore[arg-type]
    for number in range(keys):
        answers = by_key[number]
        outcomes = sorted(outcome for _, outcome, _ in answers)
        if outcomes != ["existing"] * (count - 1) + ["registered"]:
            yield f"key {number}: {outcomes}"
        if len({(record_id, created) for record_id, _, created in answers}) != 1:
            yield f"key {number}: {answers}"
    if len({record_id for record_id, *_ in (answer for answers in by_key.values() for answer in answers)}) != keys:
        yield "an id has come twice"


def _child(place: str, number: int, keys: int, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.faults.same_keys", "--catalog", place, "--child", str(number)]
    return subprocess.Popen(
        [*command, "--keys", str(keys), "--threads", str(threads)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=8, help="of each process")
    parser.add_argument("--keys", type=int, default=5000)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--catalog", help="a new folder, or the URL of a table; a temporary folder by default")
    place.add_argument("--ministack", action="store_true", help="a table in a ministack that is started for it")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        register(options.catalog, options.child, options.keys, options.threads)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        target = options.catalog or f"{folder}/catalog"
        try:
            if options.ministack:
                access = ministack.started(Path(folder))
                endpoint = access["endpoint"]
                os.environ |= {"AWS_ACCESS_KEY_ID": access["key"], "AWS_SECRET_ACCESS_KEY": access["secret"]}
                target = f"dynamodb://same-keys?region=us-east-1&endpoint_url={endpoint}"
            wrong, seconds = run(target, options.processes, options.keys, options.threads)
        finally:
            processes.stop(Path(folder))
    for finding in wrong[:20]:
        print(finding)
    facts = {"processes": options.processes, "keys": options.keys, "violations": len(wrong)}
    facts["calls_per_second"] = round(options.processes * options.keys / seconds)
    for name, value in facts.items():
        print(f"{name:>16} {value:>9,}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
