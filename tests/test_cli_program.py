from __future__ import annotations

import fcntl
import json
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import kvcatalog
from kvcatalog import errors
from kvcatalog.cli import exit_status
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.group import group, run
from kvcatalog.kv import engine
from kvcatalog.schema import FORMAT_VERSION
from kvcatalog.store import open_catalog


def commands_of(command: click.Command, *path: str) -> Iterator[list[str]]:
    """Yield the names that lead to each command; a group is one where it does something by itself."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield [*path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands_of(inner, *path, name)


COMMANDS = tuple(commands_of(group))
PROGRAM = (sys.executable, "-c", "from kvcatalog.cli import main; main()")


def give(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to a process's standard input, and wait until it has taken that and waits for more."""
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()
    left = bytearray(4)
    while process.poll() is None and not fcntl.ioctl(process.stdin, termios.FIONREAD, left) and any(left):
        time.sleep(0.01)
    time.sleep(0.2)


@pytest.fixture(autouse=True)
def _no_environment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(kvcatalog.__file__).parents[1]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog with one document."""
    location = tmp_path / "catalog.lmdb"
    with open_catalog(str(location)) as catalog:
        catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, storage_uri="s3://b/k")
    return location


class TestHelp:
    @pytest.mark.parametrize("command", [[], *COMMANDS])
    def test_help_fits_a_screen_and_has_an_example(
        self, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([*command, "--help"]) == ExitStatus.DONE
        lines = capsys.readouterr().out.splitlines()
        assert "  Example:" in lines
        assert len(lines) <= (40 if command else 45)
        assert max(map(len, lines)) <= 80

    def test_the_group_tells_every_command_and_status(self, capsys: pytest.CaptureFixture[str]) -> None:
        run(["--help"])
        text = capsys.readouterr().out
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert re.search(rf"^  (\S+  +\S.*  )?{name}  +\S", text, re.MULTILINE)
        flowing = " ".join(text.split())
        for status, meaning in exit_status.MEANINGS.items():
            assert f" {int(status)} {meaning}" in flowing
        assert set(exit_status.MEANINGS) == set(ExitStatus)

    @pytest.mark.parametrize("arguments", [["config"], ["gc"], ["hold"], ["roots"]])
    def test_no_summary_is_cut(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        run([*arguments, "--help"])
        assert "..." not in capsys.readouterr().out.partition("Commands:")[2]

    def test_what_is_missing_and_could_be_chosen_stands_on_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["completion"]) == ExitStatus.USAGE
        assert "Choose from: bash, zsh, fish\n" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [[], ["config"]])
    def test_help_is_plain_where_nothing_is_asked(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        run([*arguments, "--help"])
        help_text = capsys.readouterr().out
        assert run(arguments) == ExitStatus.USAGE
        assert capsys.readouterr().err == help_text

    def test_the_version_tells_of_format_and_engine(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--version"]) == ExitStatus.DONE
        expected = f"kvcatalog {kvcatalog.__version__}, catalog format {FORMAT_VERSION}, LMDB {engine.version()}\n"
        assert capsys.readouterr().out == expected

    def test_help_says_that_csv_is_exact(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in ([], ["show"]):
            run([*arguments, "--help"])
            assert "csv (exact)" in " ".join(capsys.readouterr().out.split())

    def test_help_imports_no_command_and_nothing_slow(self) -> None:
        script = (
            "import sys; from kvcatalog.cli.group import run; run(['--help']); "
            "print(sorted(name for name in sys.modules if name.startswith('kvcatalog.cli.')), "
            "{'pydantic', 'rich', 'lmdb', 'boto3', 'opentelemetry'} & sys.modules.keys(), file=sys.stderr)"
        )
        ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert "lookup" not in ran.stderr
        assert ran.stderr.endswith("set()\n")


class TestFailures:
    def test_errors_are_json_where_results_are(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for options in (["--json"], ["--format", "jsonl"], ["--format=json"]):
            assert run(["--catalog", str(path), *options, "show", "none\x7f"]) == ExitStatus.NOT_FOUND
            message = capsys.readouterr().err
            error = json.loads(message)["error"]
            assert (error["type"], error["status"]) == ("NotFoundError", 3)
            assert error["advice"]
            assert "\x7f" not in message

    def test_a_message_does_not_fill_the_screen(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        item = "x" * 100_000
        assert run(["--catalog", str(path), "show", item]) == ExitStatus.NOT_FOUND
        message = capsys.readouterr().err
        assert len(message) < 1200
        assert "is not in the catalog" in message
        assert run(["--json", "--catalog", str(path), "show", item]) == ExitStatus.NOT_FOUND
        assert item in json.loads(capsys.readouterr().err)["error"]["message"]

    def test_usage_errors_are_json_too(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--catalog", str(path), "show", "--json", "--colour", "1"]) == ExitStatus.USAGE
        assert "--colour" in json.loads(capsys.readouterr().err)["error"]["message"]

    @pytest.mark.parametrize(
        "arguments", [["show"], ["shwo"], ["--format", "xml", "stats"], ["search", "--limit", "-1"]]
    )
    def test_usage(self, path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        assert run(["--catalog", str(path), *arguments]) == ExitStatus.USAGE
        written = capsys.readouterr()
        assert written.out == ""
        assert "--help" in written.err

    def test_a_missing_catalog_is_unavailable_and_not_created(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["--catalog", str(tmp_path / "none"), "stats"]) == ExitStatus.UNAVAILABLE
        assert "Check --catalog" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (errors.NotFoundError("x"), ExitStatus.NOT_FOUND),
            (errors.FilterSyntaxError("x", "y"), ExitStatus.USAGE),
            (errors.ManifestError("x"), ExitStatus.USAGE),
            (errors.CatalogLockedError("x"), ExitStatus.LOCKED),
            (errors.StorageFullError("x"), ExitStatus.UNAVAILABLE),
            (errors.CorruptRecordError("x"), ExitStatus.UNAVAILABLE),
            (OSError(5, "Input/output error"), ExitStatus.UNAVAILABLE),
            (RuntimeError("a\x1bb"), ExitStatus.UNAVAILABLE),
        ],
    )
    def test_every_error_has_its_status(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: ExitStatus
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("kvcatalog.store.open_catalog", fail)
        assert run(["--catalog", "x", "stats"]) == status
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert "\x1b" not in message
        assert run(["-v", "--catalog", "x", "stats"]) == status
        message = capsys.readouterr().err
        assert "Traceback" in message
        assert "\x1b" not in message

    def test_an_interrupted_command_says_so(self, path: Path) -> None:
        command = [*PROGRAM, "--catalog", str(path), "have", "-"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            _, message = process.communicate(timeout=60)
        assert process.returncode == ExitStatus.INTERRUPTED
        assert message == b"kvcatalog: interrupted\n"

    @pytest.mark.parametrize(
        ("number", "status", "message"),
        [
            (signal.SIGINT, ExitStatus.INTERRUPTED, b"kvcatalog: interrupted\n"),
            (signal.SIGTERM, ExitStatus.TERMINATED, b"kvcatalog: terminated\n"),
        ],
    )
    def test_a_signal_ends_a_command_in_order(
        self, path: Path, number: signal.Signals, status: ExitStatus, message: bytes
    ) -> None:
        line = {"artifact_id": "W1", "source_url": "u", "resolver": "r", "status": "success", "storage_uri": "s3://b/k"}
        command = [*PROGRAM, "--catalog", str(path), "import-manifest", "-"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            give(process, json.dumps(line).encode() + b"\n")
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        assert process.returncode == status
        assert said.endswith(b"what was registered stays, run it again for the rest\n" + message)

    def test_who_ignores_termination_goes_on_ignoring_it(self, path: Path) -> None:
        command = f"trap '' TERM; exec {' '.join(map(shlex.quote, PROGRAM))} --catalog {path} have -"
        with subprocess.Popen(
            ["bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            give(process, b"a\n")
            process.terminate()
            said, _ = process.communicate(b"a\n", timeout=60)
        assert (process.returncode, said.split()[-1]) == (ExitStatus.DONE, b"1")

    def test_a_reader_that_leaves_is_no_error(self, path: Path) -> None:
        script = f"{sys.executable} -c 'from kvcatalog.cli import main; main()' --catalog {path}"
        items = "x\\n" * 3
        pipeline = f"yes '{items}' | head -200000 | {{ {script} --format jsonl have -; echo $? >&2; }} | head -1"
        ran = subprocess.run(["bash", "-c", pipeline], check=False, capture_output=True, text=True, timeout=60)
        assert ran.stderr == "0\n"
        assert len(ran.stdout.splitlines()) == 1

    def test_a_full_device_is_an_error(self, path: Path) -> None:
        with open("/dev/full", "w", encoding="utf-8") as full:
            command = [*PROGRAM, "--catalog", str(path), "stats"]
            ran = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert ran.returncode == ExitStatus.UNAVAILABLE
        assert "No space left" in ran.stderr

    def test_a_status_needs_no_room_for_its_message(self, path: Path) -> None:
        for arguments, status in ((["show", "none"], ExitStatus.NOT_FOUND), (["dedup-report"], ExitStatus.DONE)):
            with open("/dev/full", "w", encoding="utf-8") as full:
                command = [*PROGRAM, "--catalog", str(path), *arguments]
                ran = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=full, timeout=60)
            assert ran.returncode == status

    def test_an_interruption_while_modules_are_imported_is_quiet(self) -> None:
        script = (
            "import sys\n"
            "from kvcatalog.cli import main\n"
            "class Interrupted:\n"
            "    def find_spec(self, name, *_):\n"
            "        if name == 'kvcatalog.cli.group':\n"
            "            raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Interrupted())\n"
            "main()\n"
        )
        ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
        assert ran.returncode == ExitStatus.INTERRUPTED
        assert ran.stderr == "kvcatalog: interrupted\n"

    def test_closed_streams_are_no_place_for_a_database(self, path: Path) -> None:
        script = f"exec {sys.executable} -c 'from kvcatalog.cli import main; main()' --catalog {path}"
        for closed in ("<&- >&-", "<&- >&- 2>&-"):
            ran = subprocess.run(["bash", "-c", f"{script} show 1 {closed}"], check=False, timeout=60)
            assert ran.returncode == ExitStatus.DONE
            ran = subprocess.run(["bash", "-c", f"{script} show none {closed}"], check=False, timeout=60)
            assert ran.returncode == ExitStatus.NOT_FOUND


def test_show_imports_no_more_than_it_needs(path: Path) -> None:
    script = (
        "import sys; from kvcatalog.cli.group import run; "
        f"status = run(['--catalog', {str(path)!r}, 'show', '1']); "
        "sys.exit(status or repr({'pydantic', 'yaml', 'rich', 'boto3', 'opentelemetry'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ran.stderr == "set()\n"


@pytest.mark.parametrize(("command", "status"), [(b"show", ExitStatus.USAGE), (b"why", ExitStatus.NOT_FOUND)])
def test_arguments_that_are_not_utf8_are_answered(path: Path, command: bytes, status: ExitStatus) -> None:
    arguments: list[str | bytes] = [*PROGRAM, "--catalog", str(path), command, b"\xff.pdf"]
    ran = subprocess.run(arguments, check=False, capture_output=True, timeout=60)
    assert ran.returncode == status
    assert (b"lone surrogate" if status == ExitStatus.USAGE else b"\\udcff.pdf") in ran.stderr
