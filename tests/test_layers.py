"""Heavy dependencies have one importer each, and cost nothing until they are used.

The order of the layers is import-linter's to check; its contracts cannot say "everyone but".
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kvcatalog"

# A module stands for itself and all below it.
IMPORTERS = {
    "boto3": {"kvcatalog.process_clients", "kvcatalog.s3_layout"},
    "botocore": {"kvcatalog.process_clients", "kvcatalog.s3_layout", "kvcatalog.dynamo"},
    "click": {"kvcatalog.cli"},
    "lmdb": {"kvcatalog.kv.engine"},
    "opentelemetry": {"kvcatalog.telemetry"},
    "psycopg": {"kvcatalog.sql_export.postgres_server"},
    "sqlite3": {"kvcatalog.sqlite_files", "kvcatalog.sql_import.sources", "kvcatalog.migrate.database"},
    "urllib3": {"kvcatalog.pipeline"},
}

SLOW = {"boto3", "botocore", "opentelemetry", "pydantic", "psycopg", "pydantic_settings", "rich", "sqlite3", "urllib3"}


def imported(source: str) -> Iterator[str]:
    """Yield the top-level name of every absolute import in the source, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module.partition(".")[0]


def trespasses(module: str, source: str) -> set[str]:
    """Return the dependencies that the module imports and must not."""
    owners = {module, *(module[:end] for end, char in enumerate(module) if char == ".")}
    return {name for name in imported(source) if name in IMPORTERS and not IMPORTERS[name] & owners}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_each_heavy_dependency_has_its_importer_only() -> None:
    modules = {module_name(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    assert "kvcatalog" in modules
    found = {module: trespasses(module, source) for module, source in modules.items()}
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import os, lmdb",
        "import lmdb.tool as t",
        "from lmdb import Environment",
        "def f():\n    import lmdb",
        "if TYPE_CHECKING:\n    from lmdb import Cursor",
        "importlib.import_module('lmdb')",
        "__import__('lmdb')",
    ],
)
def test_an_import_is_seen_in_every_form(source: str) -> None:
    assert trespasses("kvcatalog.kv.engineering", source) == {"lmdb"}
    assert trespasses("kvcatalog.kv.engine", source) == set()
    assert trespasses("kvcatalog.kv.engine.cursors", source) == set()


@pytest.mark.parametrize("module", ["kvcatalog", "kvcatalog.cli"])
def test_an_import_does_not_pay_for_what_it_may_not_need(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "kvcatalog" in loaded
    assert loaded & SLOW == set()


def test_a_catalog_in_a_folder_with_local_blobs_needs_no_client_of_a_service(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from kvcatalog import StorageConfig, finalize_candidate_download, open_catalog
folder = Path(sys.argv[1])
(folder / "a.pdf").write_bytes(b"%PDF-1.7")
key = {"artifact_id": "a", "source_url": "https://e.org/a.pdf", "resolver": "r"}
with open_catalog(folder / "catalog") as catalog:
    storage = StorageConfig(root_dir=str(folder / "docs"))
    assert finalize_candidate_download(folder / "a.pdf", **key, catalog=catalog, cfg_storage=storage).ok
    assert catalog.stats().documents == 1
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & {"boto3", "botocore"} == set()
