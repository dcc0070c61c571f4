"""Exports on a real PostgreSQL: scripts load in psql without a word, rows are equal, constraints hold."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from kvcatalog import open_catalog, parse_filter
from kvcatalog.errors import OutputExistsError, SqlServerError
from kvcatalog.sql_export import export_sql, export_to_postgres
from kvcatalog.sql_schema import tables
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tests.servers import server
from tests.sql_exports import Rows, carry_out, catalog_at, exported, fill, histories
from tools.servers.postgres import programs


@pytest.fixture(scope="module")
def endpoint(pytestconfig: pytest.Config) -> str:
    return server(pytestconfig, "postgres")["endpoint"]


@pytest.fixture
def dsn(endpoint: str) -> Iterator[str]:
    """A database of its own."""
    with database(endpoint) as made:
        yield made.dsn


class database:  # noqa: N801 - a context manager
    """A database that is gone afterwards."""

    def __init__(self, endpoint: str) -> None:
        self.name = f"test_{uuid4().hex}"
        self._endpoint = endpoint
        self.dsn = endpoint.rpartition("/")[0] + f"/{self.name}"

    def __enter__(self) -> Self:
        self._execute(f"CREATE DATABASE {self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._execute(f"DROP DATABASE {self.name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._endpoint, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[LmdbCatalog]:
    with open_catalog(tmp_path / "catalog") as opened:
        fill(opened)
        yield opened


def psql(dsn: str, script: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a script as a user would, with psql as it comes, in a folder of its own."""
    (folder / "script.sql").write_bytes(script)
    environment = {**os.environ, "PSQLRC": os.devnull, "LC_ALL": "C.UTF-8"}
    command = [str(programs() / "psql"), "-q", "-f", "script.sql", dsn]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


def script_of(catalog: LmdbCatalog, **options: Any) -> bytes:
    stream = io.BytesIO()
    export_sql(catalog, stream, format="postgres", **options)
    return stream.getvalue()


def rows_at(dsn: str) -> Rows:
    """Return every row of a database, by table, and the last number of each sequence as SQLite has them."""
    with psycopg.connect(dsn) as connection:
        rows: Rows = {name: sorted(connection.execute(f"SELECT * FROM {name}".encode()), key=repr) for name in tables()}
        last = []
        for name, table in tables().items():
            if table.counted:
                statement = f"SELECT last_value + is_called::int - 1 FROM {name}_{table.key}_seq"
                found = connection.execute(statement.encode()).fetchone()
                last.append((name, found and found[0]))
    return {**rows, "sqlite_sequence": sorted(((name, count) for name, count in last if count), key=repr)}


def loaded(dsn: str, script: bytes, folder: Path) -> None:
    done = psql(dsn, script, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_script_loads_in_psql_without_a_word(catalog: LmdbCatalog, dsn: str, tmp_path: Path) -> None:
    loaded(dsn, script_of(catalog), tmp_path)
    assert rows_at(dsn) == exported(catalog)


def test_ids_and_constraints_hold_where_it_was_loaded(catalog: LmdbCatalog, dsn: str, tmp_path: Path) -> None:
    loaded(dsn, script_of(catalog), tmp_path)
    with psycopg.connect(dsn, autocommit=True) as connection:
        kinds = connection.execute(
            "SELECT table_name, column_name, data_type, is_identity FROM information_schema.columns"
            " WHERE column_name IN ('id', 'bytes', 'sequence') AND table_schema = 'public'"
        ).fetchall()
        assert {kind for _, _, kind, _ in kinds} == {"bigint"}
        assert {name for name, _, _, identity in kinds if identity == "YES"} == {"documents", "variants", "journal"}
        insert = "INSERT INTO documents (artifact_id, source_url, resolver, bytes, storage_uri, created_at, updated_at)"
        new = connection.execute(f"{insert} VALUES ('a', 'u', 'r', 1, 'x', 't', 't') RETURNING id".encode()).fetchone()
        assert new == (catalog.stats().last_document_id + 1,)
        # Keys of more than a B-tree takes are there, and unique all the same.
        with pytest.raises(psycopg.errors.IntegrityError):
            connection.execute(
                f"{insert} SELECT artifact_id, source_url, resolver, 1, 'x', 't', 't' FROM documents"
                " WHERE length(source_url) > 3000 OR id = 1".encode()
            )
        columns = "document_id, variant, storage_uri, bytes, created_at"
        with pytest.raises(psycopg.errors.IntegrityError):
            connection.execute(f"INSERT INTO variants ({columns}) SELECT {columns} FROM variants".encode())
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute(f"INSERT INTO variants ({columns}) VALUES (999, 'v', 'x', 1, 't')".encode())
        connection.execute("DELETE FROM documents WHERE id = 1")
        assert connection.execute("SELECT count(*) FROM variants WHERE document_id = 1").fetchone() == (0,)


def test_indexes_are_those_of_the_schema_where_keys_are_short(dsn: str, tmp_path: Path) -> None:
    with catalog_at() as catalog:
        catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, storage_uri="x")
        loaded(dsn, script_of(catalog), tmp_path)
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'idx%'").fetchall()
    made = {name: (" USING btree (" in text, "UNIQUE" in text) for name, text in found}
    assert made == {index.name: (True, index.is_unique) for table in tables().values() for index in table.indexes}


def test_a_script_for_a_database_that_is_not_empty_does_nothing(catalog: LmdbCatalog, dsn: str, tmp_path: Path) -> None:
    """What is stored must not become a command of psql where a COPY fails: there is one that would write a file."""
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE documents (mine TEXT)")
    script = script_of(catalog)
    assert b"touch pwned" in script
    done = psql(dsn, script, tmp_path)
    assert done.returncode == 3
    # The same with a COPY that fails.
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP TABLE documents")
    done = psql(dsn, script.replace(b"\nCOPY documents (id,", b"\nCOPY documents (no_column,"), tmp_path)
    assert done.returncode == 3
    assert not (tmp_path / "pwned").exists()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT to_regclass('documents')").fetchone() == (None,)


def test_an_export_into_the_server_is_the_same(catalog: LmdbCatalog, dsn: str) -> None:
    report = export_to_postgres(catalog, dsn)
    assert report.documents == catalog.stats().documents
    assert rows_at(dsn) == exported(catalog)
    with pytest.raises(OutputExistsError, match="documents"):
        export_to_postgres(catalog, dsn)
    catalog.delete(1)
    export_to_postgres(catalog, dsn, force=True)
    assert rows_at(dsn) == exported(catalog)


def test_an_export_that_breaks_off_changes_nothing_in_the_server(catalog: LmdbCatalog, dsn: str) -> None:
    export_to_postgres(catalog, dsn)
    before = rows_at(dsn)
    catalog.delete(1)

    def breaks(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_to_postgres(catalog, dsn, force=True, progress=breaks)
    assert rows_at(dsn) == before


@pytest.mark.parametrize(
    "dsn", ["postgresql://postgres@127.0.0.1:1/none", "no such thing", "host=/nowhere", "{endpoint}/missing"]
)
def test_a_server_that_cannot_be_had_is_told(catalog: LmdbCatalog, endpoint: str, dsn: str) -> None:
    with pytest.raises(SqlServerError):
        export_to_postgres(catalog, dsn.format(endpoint=endpoint.rpartition("/")[0]))


def test_changes_bring_a_server_up_to_date(catalog: LmdbCatalog, dsn: str, tmp_path: Path) -> None:
    first = export_to_postgres(catalog, dsn).position
    catalog.delete(1)
    catalog.update(5, content_type="c" * 9000, run_id=None)
    catalog.register_variant(document_id=6, variant="new" * 3000, storage_uri="x", bytes=1)
    second = export_to_postgres(catalog, dsn, since=first).position
    assert rows_at(dsn) == exported(catalog)
    catalog.delete(2)
    catalog.record_sighting(5, "r" * 5000)
    script = script_of(catalog, since=second)
    loaded(dsn, script, tmp_path)
    loaded(dsn, script, tmp_path)
    assert rows_at(dsn) == exported(catalog)
    third = export_sql(catalog, tmp_path / "third").position
    catalog.register(artifact_id="more", source_url="u", resolver="r", bytes=1, storage_uri="x")
    ahead = export_sql(catalog, tmp_path / "ahead").position
    with pytest.raises(SqlServerError, match="before the position"):
        export_to_postgres(catalog, dsn, since=ahead)
    export_to_postgres(catalog, dsn, since=third)
    assert rows_at(dsn) == exported(catalog)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, histories)
def test_any_catalog_and_any_change_arrive_unchanged(
    endpoint: str, tmp_path_factory: pytest.TempPathFactory, before: list[Any], after: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("psql")
    with database(endpoint) as made, catalog_at() as catalog:
        carry_out(catalog, before)
        loaded(made.dsn, script_of(catalog), folder)
        assert rows_at(made.dsn) == exported(catalog)
        position = export_sql(catalog, catalog.path.parent / "one").position
        carry_out(catalog, after)
        loaded(made.dsn, script_of(catalog, since=position), folder)
        assert rows_at(made.dsn) == exported(catalog)


def test_a_dump_of_the_server_is_a_catalog_again(catalog: LmdbCatalog, dsn: str, tmp_path: Path) -> None:
    from kvcatalog.sql_import import import_sql

    export_to_postgres(catalog, dsn, where=parse_filter(["bytes>2"]))
    dump = tmp_path / "dump.sql"
    subprocess.run([programs() / "pg_dump", "-f", dump, dsn], check=True)
    with closing(open_catalog(tmp_path / "other")) as other:
        report = import_sql(dump, other)
        assert report.refused == 0
        assert exported(other) == exported(catalog, where=parse_filter(["bytes>2"]))
