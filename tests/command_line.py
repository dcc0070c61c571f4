"""The command line run in this process, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from kvcatalog.cli.group import run


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Run a command that answers in JSON, and return its status, its answer and its messages."""
    status = run(arguments)
    written = capsys.readouterr()
    return status, json.loads(written.out or "null"), written.err
