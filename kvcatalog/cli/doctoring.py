"""The command `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.doctor import diagnose
from kvcatalog.errors import CatalogUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.config import ContentDownloadConfig
    from kvcatalog.doctor import Diagnosis

_COLUMNS = ("state", "subject", "check", "detail", "advice")


@click.command(cls=Command)
@click.pass_obj
def doctor(invocation: Invocation) -> ExitStatus:
    """Tell whether catalog, roots and configuration agree, and what file systems and buckets can do.

    Each line is ok, a note, or a problem with what to do about it; the exit status is 1 if there is a problem. Files to
    try things on are written below the roots' own .kvcatalog/staging, and removed again.

    \b
    Example:
      kvcatalog doctor
      kvcatalog -c kvcatalog.yaml --json doctor
    """  # noqa: D301
    config = invocation.load_config()
    problems = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal problems
        for diagnosis in _diagnoses(invocation, config):
            problems += diagnosis.state == "problem"
            yield asdict(diagnosis)

    invocation.output.rows(rows(), _COLUMNS, identity=None)
    return ExitStatus.FINDINGS if problems else ExitStatus.DONE


def _diagnoses(invocation: Invocation, config: ContentDownloadConfig) -> Iterator[Diagnosis]:
    try:
        catalog = invocation.open_catalog()
    except CatalogUnavailableError as error:
        yield from diagnose(config, error)
        return
    with catalog:
        yield from diagnose(config, catalog)
