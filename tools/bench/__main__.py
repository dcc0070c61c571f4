"""The catalog beside its baselines: registration, bulk, lookups, figures, exports, size, growth, blobs.

    python -m tools.bench --dir /a/real/disk --json figures.json
    python -m tools.bench --only threads-16 bulk --records 100000

`sqlite` is the design that the catalog takes the place of: its schema, WAL, synchronous FULL, INSERT OR IGNORE, commit,
SELECT, one connection behind a lock. `raw` is bare py-lmdb putting the rows that the catalog would have put, prepared
beforehand. Each side works in a process of its own, they take turns, and each has the same records.
Figures are medians; a ratio is the median of the turns' ratios. Rows that a catalog cannot do are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench import asking, bulk, collecting, durable, exporting, growth, importing, measuring, verifying
from tools.bench.parts import Bench, Row, machine, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    **{load.row: partial(durable.measure, load=load) for load in durable.LOADS},
    "futures": durable.measure_futures,
    "telemetry": measuring.measure,
    "bulk": bulk.measure,
    "importing": importing.measure,
    "lookups": asking.measure_lookups,
    "figures": asking.measure_figures,
    "export": exporting.measure,
    "growth": growth.measure,
    "verify": verifying.measure,
    "gc": collecting.measure,
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="records of bulk work and of the store asked")
    parser.add_argument("--operations", type=int, default=10_000, help="durable registrations of a measured part")
    parser.add_argument("--base", type=int, default=10_000, help="records that are there before those")
    parser.add_argument("--lookups", type=int, default=20_000, help="lookups of each kind")
    parser.add_argument("--growth", type=int, nargs=2, default=[100_000, 10_000_000], metavar=("SMALL", "LARGE"))
    parser.add_argument("--blobs", type=int, nargs=2, default=[64, 16 << 20], metavar=("COUNT", "BYTES"))
    parser.add_argument("--files", type=int, default=1_000_000, help="blobs that are looked through for garbage")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--dir", type=Path, default=Path(), help="a folder on a real disk; emptied afterwards")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    rows: list[Row] = []
    with scratch(options.dir.resolve()) as folder:
        small, large = options.growth
        count, size = options.blobs
        bench = Bench(
            folder,
            options.records,
            options.operations,
            options.base,
            options.lookups,
            (small, large),
            options.files,
            options.repeats,
            blobs=(count, size),
        )
        facts = machine(folder)
        for name in options.only or PARTS:
            started = time.perf_counter()
            rows += PARTS[name](bench)
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(table(rows))
    if options.json:
        sizes = {name: value for name, value in vars(options).items() if name not in {"dir", "json"}}
        report = {"machine": facts, "sizes": sizes, "rows": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
