"""What the tests of exports and imports share: catalogs with all that one can hold, and a look at what came out."""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from kvcatalog import open_catalog
from kvcatalog.sql_export import export_sql
from kvcatalog.sql_schema import tables
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.servers import server

Rows = dict[str, list[tuple[Any, ...]]]

ROOT = "file:///store"
DIGESTS = [None, *(digit * 64 for digit in "abc")]
START = datetime(2025, 1, 1, tzinfo=UTC)

HOSTILE = [
    "\\.",
    "\\.\n\\.\n",
    "\n\\! touch pwned\n",
    "\\N",
    "\\",
    "a\tb\\tc",
    "line\r\nline\rline\n",
    "'; DROP TABLE documents; --",
    '"quoted", ""twice""',
    "$$ :name :'name' %s %% ?",
    "\u202eexe.fdp\u2066",
    "\U0001f600\U0001f1e9\U0001f1ea e\u0301",
    "\x01\x08\x0b\x0c\x1b[2J\x7f\x85\u2028",
    " leading and trailing ",
    "NULL",
    "u" * 3000 + "文" * 2000,
]

text = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
)
optional_text = st.none() | text
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
contents = st.fixed_dictionaries(
    {
        "bytes": st.sampled_from([0, 1, 2**63 - 1]),
        "sha256": st.sampled_from(DIGESTS),
        "storage_uri": st.sampled_from([f"{ROOT}/cas/sha256/aa/{'a' * 62}", f"{ROOT}/policy/one.pdf"]) | text,
    }
)
registrations = st.tuples(
    st.just("register"),
    st.fixed_dictionaries(
        {
            "artifact_id": st.sampled_from("ab") | text,
            "source_url": st.sampled_from("uv") | text,
            "resolver": st.just("r"),
            "content_type": optional_text,
            "run_id": st.sampled_from([None, "run-1", "run-2"]) | text,
            "created_at": st.none() | moments,
            "links": st.lists(text, max_size=1).map(tuple),
        }
    ),
    contents,
)
steps = st.one_of(
    registrations,
    registrations,
    st.tuples(st.just("variant"), st.integers(0, 9), text, contents),
    st.tuples(st.just("sighting"), st.integers(0, 9), text),
    st.tuples(st.just("update"), st.integers(0, 9), optional_text),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("root")),
)
histories = st.lists(steps, max_size=14)


@contextmanager
def catalog_at(folder: Path | str | None = None) -> Iterator[LmdbCatalog]:
    """Give a catalog in a folder, or in one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as temporary, open_catalog(Path(folder or temporary) / "catalog") as catalog:
        yield catalog


def carry_out(catalog: LmdbCatalog, history: list[Any]) -> None:
    """Do with a catalog what a history says."""
    for step in history:
        ids = [record.id for record in catalog.iter_records()]
        match step:
            case ("register", fields, content):
                catalog.register(**fields, **content)
            case ("root",):
                catalog.add_root(ROOT, uuid="one")
            case (_, number, *_) if number >= len(ids):
                pass
            case ("variant", number, name, content):
                catalog.register_variant(document_id=ids[number], variant=name, **content)
            case ("sighting", number, run):
                catalog.record_sighting(ids[number], run)
            case ("update", number, value):
                catalog.update(ids[number], content_type=value, run_id=value, reason=value)
            case ("delete", number):
                catalog.delete(ids[number], reason="asked for")


def fill(catalog: LmdbCatalog) -> None:
    """Store something of every kind, hostile text in every place."""
    catalog.add_root(ROOT, uuid="one")
    for number, value in enumerate(HOSTILE):
        record = catalog.register(
            artifact_id=value,
            source_url=value,
            resolver=value,
            content_type=value if number % 2 else None,
            bytes=number,
            sha256=DIGESTS[number % 4],
            storage_uri=value if number % 3 else f"{ROOT}/policy/{number}",
            run_id=value if number % 2 else None,
            created_at=START + timedelta(days=number, microseconds=number),
            links=(f"{ROOT}/{value}",) if number % 5 == 0 else (),
        ).record
        catalog.register_variant(document_id=record.id, variant=value, storage_uri=value, bytes=1, content_type=value)
        catalog.record_sighting(record.id, f"again {value}")
        catalog.register(
            artifact_id=value,
            source_url=value,
            resolver=value,
            bytes=77,
            sha256="d" * 64,
            storage_uri=value,
            run_id="other",
        )
    catalog.update(2, run_id="moved", reason=HOSTILE[1])
    catalog.delete_variant(4, HOSTILE[3])
    catalog.delete(3, reason=HOSTILE[2])
    catalog.delete(len(HOSTILE))  # the last id that was ever used is no row's any more


def rows_of(database: Path) -> Rows:
    """Return every row of a SQLite database, by table."""
    with closing(sqlite3.connect(database)) as connection:
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
            for name in [*tables(), "sqlite_sequence"]
        }


def exported(catalog: LmdbCatalog, **options: Any) -> Rows:
    """Return what an export to a SQLite file holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export.sqlite"
        export_sql(catalog, path, **options)
        return rows_of(path)


def sqlite_shell(config: pytest.Config, database: Path, script: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Run the program sqlite3 on a script; it must be there or the end of the run says that it is not."""
    program = server(config, "sqlite")["endpoint"]
    script = script.encode() if isinstance(script, str) else script
    return subprocess.run([program, database], input=script, capture_output=True, check=False)
