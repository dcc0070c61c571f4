"""Import a manifest of lines that mean harm, and see that every one is accounted for in little memory.

    python -m tools.faults.manifest_fuzz [--lines N] [--long N] [--seed N] [--memory MiB]

Among good lines of every generation stand deep nesting, huge numbers, wrong types, lone surrogates, NULs, broken and
missing bytes, binary, and a few lines of 10 MB. The import runs in a process of its own, twice. Exit status 1 says that
it failed, that figures do not add up, that the second time changed something, or that more memory was taken.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from kvcatalog import import_manifest, open_catalog
from kvcatalog.migrate.lines import Line
from kvcatalog.migrate.report import LineClass
from tests.manifests import ATTEMPT, DOC_ID, GEN0, MISS, OUTCOME, PLAIN, V2, V5, Fields, contents
from tools.bench.parts import in_child, memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASES: tuple[Fields, ...] = (GEN0, V2, V5, V5, V5, OUTCOME, DOC_ID, PLAIN, MISS, ATTEMPT, {})
_LONG_BYTES = 10_000_000
_START = datetime(2025, 1, 1, tzinfo=UTC)
_TEXTS = ("", "\0", "a\0b", "\ud800", "\udcff", "../..", "/", "file:///\0", "file://x/y", "s3://", "9" * 400, "é" * 50)
_MEBIBYTE = 1 << 20


def fuzzed_lines(count: int, long_lines: int, seed: int) -> Iterator[bytes]:
    """Yield lines with their ends; `long_lines` of them are long."""
    rng = random.Random(seed)
    long_at = set(rng.sample(range(count), long_lines))
    for number in range(count):
        yield (_long_line if number in long_at else _line)(rng, number).replace(b"\n", b" ") + b"\n"


def _line(rng: random.Random, number: int) -> bytes:
    # Lines of one time have no order, so what is matched by its time needs them apart.
    moment = (_START + timedelta(seconds=number)).isoformat()
    base: Fields = rng.choice(_BASES) | {"work_id": f"W{number % 5_000}", "timestamp": moment}
    changes = {rng.choice(Line.__struct_fields__): _value(rng, 3) for _ in range(rng.randrange(4))}
    raw = json.dumps(base | changes, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    match rng.randrange(12):
        case 0:
            place = rng.randrange(len(raw))
            return raw[:place] + rng.randbytes(1) + raw[place + 1 :]
        case 1:
            return raw[: rng.randrange(len(raw))]
        case 2:
            return rng.randbytes(rng.randrange(400))
        case 3:
            return b'{"path": ' + rng.choice((b"[", b'{"a":')) * rng.randrange(20_000)
        case _:
            return raw


def _value(rng: random.Random, depth: int) -> object:
    if depth and rng.random() < 0.2:
        inner = [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return rng.choice((inner, dict(zip("abc", inner, strict=False))))
    odd = (None, True, False, 0, -1, 2**63, -(10**40), 10**300, float("nan"), float("inf"), -0.0, 1.5, *_TEXTS)
    return rng.choice((*odd, "x" * rng.randrange(3_000), "".join(chr(rng.randrange(0x2_0000)) for _ in range(8))))


def _long_line(rng: random.Random, number: int) -> bytes:
    start = json.dumps(V5 | {"work_id": f"long {number}"}).encode()[:-1]
    filler = rng.choice((b"[],", b'"\\ud800",', b"1e5,", '"ж",'.encode(), b'{"a":1},', b"\0\0"))
    field = rng.choice((b"title", b"html_paths", b"path", b"work_id"))
    return start + b', "' + field + b'": [' + filler * (_LONG_BYTES // len(filler)) + b"0]}"


def imported_twice(folder: Path) -> dict[str, int]:
    """Import the manifest of a folder twice, and return figures; AssertionError where they do not add up."""
    with open_catalog(folder / "catalog.lmdb") as catalog:
        first = import_manifest(folder / "manifest.jsonl", catalog)
        peak = memory_bytes("VmHWM")
        held = contents(catalog)
        again = import_manifest(folder / "manifest.jsonl", catalog)
        assert contents(catalog) == held
        stats = catalog.stats()
    classes = {name: getattr(first, name) for name in get_args(LineClass)}
    assert sum(classes.values()) == first.lines
    assert classes == {name: getattr(again, name) for name in classes}
    assert first.registered == stats.documents
    assert (again.registered, again.enriched, again.variants_registered) == (0, 0, 0)
    return {"lines": first.lines, **classes, "peak_bytes": peak}


def run(count: int, long_lines: int, seed: int) -> dict[str, int]:
    """Write a manifest, import it in a process of its own, and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "manifest.jsonl").open("wb") as stream:
            stream.writelines(fuzzed_lines(count, long_lines, seed))
        return in_child(imported_twice, folder)


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--long", type=int, default=40, help="how many of them have 10 MB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="what the import may take")
    options = parser.parse_args()
    started = time.perf_counter()
    figures = run(options.lines, options.long, options.seed)
    peak = figures.pop("peak_bytes") / _MEBIBYTE
    print(", ".join(f"{name} {count}" for name, count in figures.items()))
    print(f"peak memory {peak:.0f} MiB of {options.memory}, {time.perf_counter() - started:.0f} s")
    return int(peak > options.memory)


if __name__ == "__main__":
    sys.exit(main())
