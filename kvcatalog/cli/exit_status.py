"""The exit statuses of every command, in one table."""

from __future__ import annotations

from enum import IntEnum

from kvcatalog import errors


class ExitStatus(IntEnum):
    """What the program tells the shell."""

    DONE = 0
    FINDINGS = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    LOCKED = 5
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    ExitStatus.DONE: "done",
    ExitStatus.FINDINGS: "findings: corrupt, missing, rejected lines",
    ExitStatus.USAGE: "wrong command line, configuration or input",
    ExitStatus.NOT_FOUND: "not found",
    ExitStatus.UNAVAILABLE: "catalog or storage unavailable",
    ExitStatus.LOCKED: "locked",
    ExitStatus.INTERRUPTED: "interrupted",
    ExitStatus.TERMINATED: "terminated",
}

_STATUSES: dict[type[errors.CatalogError], ExitStatus] = {
    errors.InvalidValueError: ExitStatus.USAGE,
    errors.ConfigError: ExitStatus.USAGE,
    errors.AmbiguousDigestError: ExitStatus.USAGE,
    errors.ManifestError: ExitStatus.USAGE,
    errors.OutputExistsError: ExitStatus.USAGE,
    errors.CopyTargetError: ExitStatus.USAGE,
    errors.SqlSourceError: ExitStatus.USAGE,
    errors.PlanError: ExitStatus.USAGE,
    errors.UnsupportedError: ExitStatus.USAGE,
    errors.NotFoundError: ExitStatus.NOT_FOUND,
    errors.CatalogLockedError: ExitStatus.LOCKED,
}


def status_of(error: BaseException) -> ExitStatus:
    """Return the status for an error of the catalog; whatever is not listed makes the catalog unavailable."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), ExitStatus.UNAVAILABLE)
