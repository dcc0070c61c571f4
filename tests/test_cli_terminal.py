"""A newcomer at a real terminal: commands as they are typed in bash, wrong turns, tab key and Control-C included."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pexpect
import pytest

import kvcatalog
from kvcatalog.cli.completing import SHELLS
from kvcatalog.store import open_catalog

PROMPT = re.compile(r"<(\d+)> $")
INTERRUPT = "\x03"
SECONDS = 60
"""What takes longer hangs."""


class Said(NamedTuple):
    """What a command printed on the terminal: as it came, and without styles; and how it ended."""

    raw: str
    status: int

    @property
    def text(self) -> str:
        return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", self.raw).replace("\r", "")


class Terminal:
    """bash in a folder, with the program on its path."""

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "KVCATALOG_"))}
        environment: Any = kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm"}
        environment["PYTHONPATH"] = str(Path(kvcatalog.__file__).parents[1])
        environment |= {"PS1": "<$?> ", "HISTFILE": "", "INPUTRC": "/dev/null"}
        command = ["bash", "--norc", "--noprofile", "-i"]
        self.bash = pexpect.spawn(
            command[0],
            command[1:],
            cwd=str(folder),
            env=environment,
            encoding="utf-8",
            timeout=SECONDS,
            dimensions=(50, 100),
        )
        self.bash.expect(PROMPT)
        self.run("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; stty -echo")

    def run(self, command: str) -> Said:
        """Type a command and wait for its end."""
        self.bash.sendline(command)
        return self.ended()

    def ended(self) -> Said:
        self.bash.expect(PROMPT)
        before, match = self.bash.before, self.bash.match
        assert isinstance(before, str)
        assert isinstance(match, re.Match)
        return Said(before, int(match[1]))

    def close(self) -> None:
        self.bash.close(force=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def test_a_newcomer_finds_the_way(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"abc" * 500_000)
    (tmp_path / "b.pdf").write_bytes(b"abc" * 500_000)

    helped = terminal.run("kvcatalog")
    assert helped.status == 2
    assert "  show " in helped.text
    assert len(helped.text.splitlines()) < 50

    misspelt = terminal.run("kvcatalog shwo W1")
    assert misspelt.status == 2
    assert "Did you mean show?" in misspelt.text
    assert "kvcatalog --help" in misspelt.text

    empty = terminal.run("kvcatalog stats")
    assert empty.status == 4
    assert "there is no catalog" in empty.text
    assert "create a catalog" in empty.text

    forgotten = terminal.run("kvcatalog add a.pdf")
    assert forgotten.status == 2
    assert "--artifact-id" in forgotten.text

    added = terminal.run("kvcatalog add a.pdf b.pdf --artifact-id W1")
    assert added.status == 0
    assert "1.5 MB" in added.text
    assert "2 registered" in added.text

    nothing = terminal.run("kvcatalog show W2")
    assert nothing.status == 3
    assert "W2 is not in the catalog" in nothing.text
    shown = terminal.run("kvcatalog show W1 | cat")
    assert re.search(r"^bytes +1500000$", shown.text, re.MULTILINE)
    shown = terminal.run("kvcatalog show W1")
    assert re.search(r"^bytes +1.5 MB$", shown.text, re.MULTILINE)
    assert re.search(r"^created_at +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", shown.text, re.MULTILINE)
    assert "twins (1)" in shown.text

    shared = terminal.run("kvcatalog dedup-report")
    assert "1.5 MB saved by sharing, 0 B savable" in shared.text

    wrong = terminal.run("kvcatalog search bytes=big")
    assert (wrong.status, "bytes=big: at character 7" in wrong.text) == (2, True)
    machine = terminal.run("kvcatalog --json show W2 2>&1 >/dev/null")
    assert machine.text.startswith('{"error": {"type": "NotFoundError"')

    verified = terminal.run("kvcatalog verify")
    assert (verified.status, "2 ok" in verified.text) == (0, True)
    terminal.run("chmod u+w data/docs/W1/*; truncate -s 3 data/docs/W1/a.pdf")
    corrupt = terminal.run("kvcatalog verify")
    assert (corrupt.status, "corrupt" in corrupt.text) == (1, True)
    terminal.run("mv data gone")
    assert "unreachable" in terminal.run("kvcatalog where W1").text
    assert terminal.run("kvcatalog verify").status == 4

    terminal.run("echo 'catalog: {pahth: x}' > kvcatalog.yaml")
    checked = terminal.run("kvcatalog -c kvcatalog.yaml config check")
    assert (checked.status, "there is no such key" in checked.text) == (2, True)
    assert "LMDB 0.9" in terminal.run("kvcatalog --version").text


def test_what_is_stored_cannot_command_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"abc")
    terminal.run(r"kvcatalog add a.pdf --artifact-id $'W\e[31m\u202e\a' --url $'https://e.org/\e]0;title\a'")
    for command in (
        "show 1",
        "where 1",
        "search",
        "stats",
        "why 1",
        "--format csv search",
        "have $'W\\e[31m\\u202e\\a'",
    ):
        said = terminal.run(f"kvcatalog {command}")
        assert said.status == 0, command
        assert not set(said.raw) & {"\u202e", "\a"}, command
        assert "\x1b[31m" not in said.raw, command
        assert "\x1b]" not in said.raw, command
    assert r"W\x1b[31m\u202e\x07" in terminal.run("kvcatalog show 1").text
    missing = terminal.run(r"kvcatalog show $'\e[31mnothing'")
    assert (missing.status, "\x1b[31m" in missing.raw) == (3, False)


def test_control_c_ends_long_work_where_it_can_go_on(terminal: Terminal, tmp_path: Path) -> None:
    with open_catalog(tmp_path / "state" / "catalog.lmdb") as catalog:
        for name, size in (("small", 3), ("large", 1 << 40)):
            with open(tmp_path / name, "wb") as file:
                file.truncate(size)
            uri = (tmp_path / name).as_uri()
            facts: dict[str, Any] = {"source_url": "u", "resolver": "r", "bytes": size, "sha256": "0" * 64}
            catalog.register(artifact_id=name, storage_uri=uri, **facts)
    terminal.bash.sendline("kvcatalog verify -j 1")
    terminal.bash.expect("1 checked")
    terminal.bash.expect(r"[0-9.]+ (MB|GB)/s")
    terminal.bash.send(INTERRUPT)
    stopped = terminal.ended()
    assert stopped.status == 130
    assert "kvcatalog: interrupted" in stopped.text
    assert re.search(r"^check +corrupt$", terminal.run("kvcatalog show small").text, re.MULTILINE)
    assert re.search(r"^check +-$", terminal.run("kvcatalog show large").text, re.MULTILINE)

    line = '{"artifact_id": "W9", "source_url": "u9", "resolver": "r", "status": "success", "storage_uri": "s3://b/9"}'
    terminal.bash.sendline(f"(printf '{line}\\n'; sleep {SECONDS}) | kvcatalog import-manifest -")
    terminal.bash.expect("lines")
    terminal.bash.send(INTERRUPT)
    stopped = terminal.ended()
    assert stopped.status == 130
    assert "run it again for the rest" in stopped.text


def test_the_tab_key_completes_commands_options_values_and_files(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "my settings.yaml").write_text("catalog: {path: c}\n")
    terminal.run('eval "$(kvcatalog completion bash)"; stty echo')
    terminal.bash.send("kvcatalog -c my\t")
    terminal.bash.expect(re.escape(r"my\ settings.yaml "))
    terminal.bash.send("conf\t")
    terminal.bash.expect("config ")
    terminal.bash.send("sh\t--fo\tjsonl\n")
    said = terminal.ended()
    assert "show --format jsonl" in said.text
    assert '"key": "catalog.path", "value": "c"' in said.text
    assert said.status == 0
    terminal.bash.send("kvcatalog dedup-report --by re\t")
    terminal.bash.expect("--by resolver ")


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def test_fish_completes_with_whole_descriptions(tmp_path: Path) -> None:
    need("fish")
    script = "kvcatalog completion fish | source; for line in 'sho' 'gc --a' 'dedup-report --by re' '-c my'\n"
    (tmp_path / "my.yaml").touch()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(kvcatalog.__file__).parents[1])
    said = subprocess.run(
        ["fish", "-c", script + 'complete -C "kvcatalog $line"\nend'],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=SECONDS,
    )
    assert said.stdout.splitlines() == [
        "show\tShow the records that ITEM names, with...",
        "--apply\tShow what would go, or take it to the trash.  [default: dry run]",
        "resolver",
        "my.yaml",
    ]


def test_zsh_completes(tmp_path: Path) -> None:
    need("zsh")
    (tmp_path / ".zshrc").write_text("PROMPT='<%?> '\nautoload -U compinit\ncompinit -u\n")
    environment: Any = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm"}
    environment |= {"PYTHONPATH": str(Path(kvcatalog.__file__).parents[1]), "ZDOTDIR": str(tmp_path)}
    zsh = pexpect.spawn("zsh", ["-i"], cwd=str(tmp_path), env=environment, encoding="utf-8", timeout=SECONDS)
    zsh.expect("<0> ")
    zsh.sendline('eval "$(kvcatalog completion zsh)"')
    zsh.expect("<0> ")
    zsh.send("kvcatalog comple\t")
    zsh.expect("completion")
    zsh.send("fi\t")
    zsh.expect("fish")
    zsh.sendline("| head -c 9")
    zsh.expect("function")
    zsh.close(force=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_each_shell_is_one_that_it_reads(shell: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", "from kvcatalog.cli import main; main()", "completion", shell],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "_KVCATALOG_COMPLETE" in printed
    need(shell)
    subprocess.run([shell, "-n"], input=printed, check=True, text=True)
