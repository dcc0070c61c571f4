"""What README says of this checkout holds."""

import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kvcatalog import schema
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import group, run

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


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (CHECKOUT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("kvcatalog ")]


def test_commands_in_readme_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(readme_commands()) > 20
    for line in readme_commands():
        words = shlex.split(line.partition(" < ")[0], comments=True)
        assert run([*words[1:], "--help"]) == ExitStatus.DONE, (line, capsys.readouterr().err)


def test_the_map_names_every_module_and_no_other() -> None:
    rows = re.search(r"\| layer \|.*?\n\n", (CHECKOUT / "kvcatalog" / "ARCHITECTURE.md").read_text("utf-8"), re.DOTALL)
    assert rows is not None
    named: set[str] = set()
    folder = ""
    for row in rows[0].splitlines()[2:-1]:
        _, layers, inside, _ = row.split("|")
        if layers.strip():  # else the row goes on with the folder of the one above
            first, *others = re.findall(r"`([^`]+)`", layers)
            folder = first if first.endswith("/") else ""
            named |= {first, *others}
        if folder:
            named |= {folder + name for name in re.findall(r"`([^`]+)`", inside)}
    package = CHECKOUT / "kvcatalog"
    paths = [path.relative_to(package) for path in package.rglob("*.py")]
    modules = {str(path.with_suffix("")) for path in paths if path.name != "__init__.py"}
    packages = {f"{path.parent}/" for path in paths if path.name == "__init__.py"} - {"./"}
    assert named == modules | packages


def test_architecture_names_every_table_and_the_format() -> None:
    text = (CHECKOUT / "kvcatalog" / "ARCHITECTURE.md").read_text("utf-8")
    rows = re.search(r"\| sub-database \|.*?\n\n", text, re.DOTALL)
    assert rows is not None
    named = set(re.findall(r"`([a-z_0-9]+)`", "\n".join(row.split("|")[1] for row in rows[0].splitlines()[2:] if row)))
    assert named == {table.name for table in schema.TABLES}
    assert f"Format version {schema.FORMAT_VERSION};" in text


def examples(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name of every command and each line of the examples in its help."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            inner = command.get_command(context, below)
            assert inner is not None
            yield from examples(inner, f"{name} {below}")
    _, _, text = (command.help or "").partition("Example:")
    for line in text.splitlines():
        if line.strip() and line.strip() != "\b":
            yield name, line.strip()


EXAMPLES = tuple(examples(group, "kvcatalog"))
ELSEWHERE = ("fetch ", "s3://", "dynamodb://", "psql", "--dsn", "/backups/", " > ")
"""Networks, buckets, servers and folders outside that examples need; such lines are only held against the options."""


@pytest.fixture
def example_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name."""
    for name in os.environ:
        if name.startswith(("KVCATALOG_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("a.pdf").write_bytes(b"%PDF-1.7")
    Path("kvcatalog.yaml").write_text("catalog: {path: state/catalog.lmdb}\n")
    Path("urls.txt").write_text("https://example.org/a.pdf\n")
    key = ("--artifact-id", "doi:10.1234/abc", "--url", "https://example.org/a.pdf")
    assert run(("add", "a.pdf", *key)) == ExitStatus.DONE
    assert run(("export-sql", "-o", "state/catalog.sqlite")) == ExitStatus.DONE
    line = {"artifact_id": "W1", "source_url": "u", "resolver": "r", "status": "success", "storage_uri": "s3://b/k"}
    for folder in ("runs", "runs/2025-03-01"):
        Path(folder).mkdir()
        Path(folder, "manifest.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_runs_as_it_stands(
    name: str, line: str, example_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{name.rsplit(maxsplit=1)[-1]}" in line
    if line.startswith("eval"):
        assert line.startswith('eval "$(kvcatalog completion ')
        return
    words = shlex.split(line.partition(" | ")[0].partition(" || ")[0], comments=True)
    arguments = [word for word in words[1:] if word not in {"<", ">"}]
    if "<" in words:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(arguments.pop()).read_bytes())))
    if any(mark in line for mark in ELSEWHERE):
        assert run([*arguments, "--help"]) == ExitStatus.DONE
        return
    status = run(arguments)
    said = capsys.readouterr()
    assert status not in {ExitStatus.LOCKED, ExitStatus.INTERRUPTED}, said.err
    assert "Traceback" not in said.err
    # What an example names may not be here: a digest, a hold, a plan. That it is understood is what is asked.
    assert status != ExitStatus.USAGE or "No such file" in said.err, said.err
