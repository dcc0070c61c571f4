"""Progress as a person at a terminal sees it."""

from __future__ import annotations

import io
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kvcatalog.cli.mapping import rows_expected
from kvcatalog.cli.progress import amount_progress, gc_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let a terminal be where messages go; in the test itself, since pytest sets its own streams before it."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "__stderr__", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def followed(
    monkeypatch: pytest.MonkeyPatch,
    progress: AbstractContextManager[Callable[[Counter[str]], None]],
    *steps: Counter[str],
) -> str:
    """Return the last line that was shown."""
    terminal = watched(monkeypatch)
    with progress as follow:
        for step in steps:
            follow(step)
            time.sleep(0.25)
    plain = re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", terminal.getvalue())
    return next(line for line in reversed(re.split(r"[\r\n]", plain)) if line.strip())


def files(*counts: int) -> list[Counter[str]]:
    return [Counter(files=count, bytes=1000 * count) for count in counts]


def test_how_long_it_will_take_is_told_where_it_can_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = amount_progress("{files} files", "files", total=lambda: 1000, is_wanted=True)
    line = followed(monkeypatch, known, *files(1, 2, 3))
    assert re.search(r"3 files, 3 kB, [\d.]+ k?B/s .* 0:0\d:\d\d 0:0\d:\d\d", line), line


def test_no_time_is_made_up_where_the_end_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = amount_progress("{files} files", "files", total=lambda: None, is_wanted=True)
    line = followed(monkeypatch, unknown, *files(1, 2, 3))
    assert len(re.findall(r"\d:\d\d:\d\d", line)) == 1, line  # what has gone by


def test_more_than_was_expected_is_no_more_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    line = followed(monkeypatch, gc_progress(5, is_wanted=True), Counter(seen=2), Counter(seen=9, orphans=4))
    assert "9 blobs seen, 4 orphans 100%" in line


def test_nobody_is_asked_how_much_there_is_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    asked: list[int] = []

    def total() -> int:
        asked.append(1)
        return 1

    with amount_progress("{files} files", "files", total=total, is_wanted=True) as follow:
        follow(Counter(files=1))
    assert asked == []


def test_rows_are_counted_roughly(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("file,artifact_id\na,b\nc,d\n")
    assert rows_expected(str(path)) == 3
    assert [rows_expected(name) for name in ("-", str(tmp_path), str(tmp_path / "none"), "a\0b")] == [None] * 4
