"""What one answer costs from a cold shell, beside importing what it cannot do without.

Usage: python -m tools.bench.startup CATALOG [--document ID] [--runs N]; processor time, medians, in turns. Compiled
modules must be cached: run it without PYTHONDONTWRITEBYTECODE.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog")
    parser.add_argument("--document", default="1")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    program = str(Path(sys.executable).parent / "kvcatalog")
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "kvcatalog.yaml")
        configuration.write_text(f"catalog:\n  path: {Path(arguments.catalog).absolute()}\n")
        commands = {
            "import click, lmdb, msgspec": [sys.executable, "-c", "import click, lmdb, msgspec"],
            "show --catalog": [program, "--catalog", arguments.catalog, "show", arguments.document],
            "show --config": [program, "--config", str(configuration), "show", arguments.document],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.runs + 1):
            for name, command in commands.items():
                times[name].append(processor_seconds(command))
    medians = {name: statistics.median(of_command[1:]) for name, of_command in times.items()}
    baseline = medians["import click, lmdb, msgspec"]
    for name, median in medians.items():
        print(f"{name:30} {median * 1000:7.1f} ms  {median / baseline:5.2f}")


def processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
