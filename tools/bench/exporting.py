"""export-sql beside what the databases' own programs do with the same rows: `sqlite3 .import`, and `pg_dump`.

`.import` reads them from CSV into the same table with the same indexes, made before or after. `pg_dump` writes that
table from a server that has it in memory. All but `pg_dump` flush what they wrote.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kvcatalog.sql_export import export_sql, export_to_postgres
from kvcatalog.sql_schema import tables
from tools.bench.asking import filled
from tools.bench.contestants import catalog_at
from tools.bench.parts import Bench, Row, in_child, memory_bytes, scratch
from tools.servers import postgres, processes, sqlite

if TYPE_CHECKING:
    from kvcatalog.sql_export import Format

_MIB = 1 << 20


def measure(bench: Bench) -> list[Row]:
    """Return the rows of exports."""
    folder = filled(bench)
    with scratch(bench.folder) as work, tempfile.TemporaryDirectory() as place:
        server = Path(place, "postgres")
        server.mkdir()
        try:
            dsn = postgres.started(server)["endpoint"]
            in_child(_prepare, folder, work, dsn)
            return _rows(bench, folder, work, dsn)
        finally:
            processes.stop(server)


def _rows(bench: Bench, folder: Path, work: Path, dsn: str) -> list[Row]:
    names = ("sqlite", "memory", "postgres", "indexes first", "indexes last", "pg_dump")
    rates: dict[str, list[float]] = {name: [] for name in names}
    program = sqlite.started(work)["endpoint"]
    for _ in range(bench.repeats):
        for form in ("sqlite", "postgres"):
            seconds, memory = in_child(_export, folder, work, form)
            rates[form].append(bench.records / seconds)
            if form == "sqlite":
                rates["memory"].append(memory / _MIB)
        for name, script in _scripts(work / "rows.csv").items():
            rates[name].append(bench.records / _imported(program, work / "imported", script))
        command = [str(postgres.programs() / "pg_dump"), "-t", "documents", "-f", str(work / "dump"), dsn]
        rates["pg_dump"].append(bench.records / _seconds(command))
    work_sqlite, unit, extra = "export-sql, SQLite file", "records/s", {"own MiB": rates["memory"]}
    return [
        Row(
            work_sqlite,
            unit,
            rates["sqlite"],
            "sqlite3 .import, indexes after",
            rates["indexes last"],
            at_least=0.8,
            extra=extra,
        ),
        Row(
            work_sqlite, unit, rates["sqlite"], "sqlite3 .import, indexes before", rates["indexes first"], at_least=0.8
        ),
        Row("export-sql, Postgres dump", unit, rates["postgres"], "pg_dump", rates["pg_dump"], at_least=0.5),
    ]


def _prepare(folder: Path, work: Path, dsn: str) -> None:
    with catalog_at(folder) as catalog:
        export_sql(catalog, work / "rows.csv", format="csv")
        export_to_postgres(catalog, dsn)


def _export(folder: Path, work: Path, form: Format) -> tuple[float, int]:
    """Return how long an export takes, and the most memory that was this process's own after it."""
    with catalog_at(folder) as catalog:
        started = time.perf_counter()
        export_sql(catalog, work / "export", format=form, force=True)
        return time.perf_counter() - started, memory_bytes("RssAnon")


def _scripts(rows: Path) -> dict[str, str]:
    table = tables()["documents"]
    indexes = "".join(f"{index.sqlite}\n" for index in table.indexes)
    take = f'.import --csv --skip 1 "{rows}" documents\n'
    return {"indexes first": f"{table.sqlite}\n{indexes}{take}", "indexes last": f"{table.sqlite}\n{take}{indexes}"}


def _imported(program: str, database: Path, script: str) -> float:
    database.unlink(missing_ok=True)
    return _seconds([program, str(database)], script)


def _seconds(command: list[str], script: str = "") -> float:
    started = time.perf_counter()
    subprocess.run(command, input=script, check=True, text=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
