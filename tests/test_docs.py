"""What README says of this checkout holds."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kvcatalog import schema
from kvcatalog.cli.group import group

CHECKOUT = Path(__file__).parents[1]
FOLDERS = ("kvcatalog/", "tests/", "tools/")


def paths(text: str) -> Iterator[str]:
    """Yield every path of the checkout that stands in a fenced block or between backticks."""
    fence = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
    code = fence.findall(text) + re.findall(r"`([^`\n]+)`", fence.sub("", text))
    for word in " ".join(code).split():
        if word.startswith(FOLDERS):
            yield word


def test_paths_in_readme_exist_and_commands_can_be_run() -> None:
    named = set(paths((CHECKOUT / "README.md").read_text("utf-8")))
    assert {"tools/quickstart", "tools/test"} <= named
    assert {path for path in named if not (CHECKOUT / path).exists()} == set()
    commands = {path for path in named if (CHECKOUT / path).is_file() and not Path(path).suffix}
    assert {path for path in commands if not os.access(CHECKOUT / path, os.X_OK)} == set()


def test_the_library_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(
        r"^```python\n(.*?)^```", (CHECKOUT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    assert len(examples) > 1
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "state" / "catalog.lmdb" / "data.mdb").exists()


def test_every_command_stands_in_readme() -> None:
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    for name in group.list_commands(click.Context(group)):
        assert f"\nkvcatalog {name} " in readme, name


def test_architecture_names_every_table_and_the_format() -> None:
    text = (CHECKOUT / "kvcatalog" / "ARCHITECTURE.md").read_text("utf-8")
    rows = re.search(r"\| sub-database \|.*?\n\n", text, re.DOTALL)
    assert rows is not None
    named = set(re.findall(r"`([a-z_0-9]+)`", "\n".join(row.split("|")[1] for row in rows[0].splitlines()[2:] if row)))
    assert named == {table.name for table in schema.TABLES}
    assert f"Format version {schema.FORMAT_VERSION};" in text
