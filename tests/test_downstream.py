"""Who installs the package and uses its public names gets types for all of them, and what the types say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kvcatalog

PROGRAM = Path(__file__).with_name("downstream.py")
WRONG = """
from kvcatalog import CatalogStore, RegistrationRequest, open_catalog, parse_filter

with open_catalog("catalog") as catalog:
    store: CatalogStore = catalog
    catalog.get_by_id("7")  # arg-type
    catalog.get_by_id(7).artifact_id  # union-attr
    catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1)  # call-arg
    RegistrationRequest(artifact_id="a", source_url="u", resolver="r", bytes="1", storage_uri="x")  # arg-type
    catalog.register_async(artifact_id=None, source_url="u", resolver="r", bytes=1, storage_uri="x")  # arg-type
    store.search(parse_filter([]), sort="size")  # arg-type
"""


def checked(program: Path, request: pytest.FixtureRequest) -> list[str]:
    """Return what mypy says of a program that lies outside the checkout, where the package is what is installed."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                "--disallow-any-expr",
                "--no-error-summary",
                "--hide-error-context",
            ),
            *(
                "--cache-dir",
                program.with_suffix(".cache") if cache is None else cache.mkdir("downstream"),
                program.name,
            ),
        ],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout.splitlines()


def test_a_program_is_typed_through_and_through(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    program = tmp_path / "program.py"
    program.write_bytes(PROGRAM.read_bytes())
    assert checked(program, request) == []


def test_mistakes_are_seen(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    program = tmp_path / "program.py"
    program.write_text(WRONG)
    lines = WRONG.splitlines()
    expected = [f"{number}: {line.rpartition('# ')[2]}" for number, line in enumerate(lines, 1) if "# " in line]
    said = [line.split(":", 2) for line in checked(program, request) if ": error:" in line]
    assert [f"{number}: {text.rpartition('[')[2][:-1]}" for _, number, text in said] == expected


def test_a_program_uses_public_names_only() -> None:
    used: set[str] = set()
    for node in ast.walk(ast.parse(PROGRAM.read_text("utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("kvcatalog"):
                assert module == "kvcatalog"
                used |= {each.name for each in names}
            case ast.Attribute(value=ast.Name(id="kvcatalog"), attr=name):
                used.add(name)
    assert len(used) > 12
    assert used <= set(kvcatalog.__all__)


def test_a_program_runs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, PROGRAM, tmp_path], capture_output=True, text=True, check=True)
    first, *lines = done.stdout.splitlines()
    assert first.startswith("1 86edbaa24831")
    assert lines[:4] == ["s3://bucket/b: registered", "s3://bucket/c: registered", "4", "registered"]
    assert lines[4:6] == ["['s3://bucket/b', 's3://bucket/c', 's3://bucket/d', 'e']", "True False"]
    assert lines[6].endswith(" ok")
    assert lines[7:] == ["['root', 'delete'] 4", "4", "4"]
    assert done.stderr == "there is no document 99: Check the identifier; `kvcatalog search` lists what there is.\n"
