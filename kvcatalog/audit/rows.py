"""The rows of a catalog, looked at in a process of its own, and repaired in this one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from tempfile import TemporaryFile
from typing import IO

import msgspec

from kvcatalog.checks import Finding
from kvcatalog.errors import CatalogMissingError, CorruptRecordError, DatabaseDamagedError
from kvcatalog.kv.apart import answering
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.store import is_url, open_catalog

Progress = Callable[[int, int], object]

_MODULE = "kvcatalog.audit.apart"
_COUNTERS = ("counter", "number")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Finding).decode


def examine(
    path: str | os.PathLike[str], *, locking: bool = True, progress: Progress | None = None
) -> Iterator[Finding]:
    """Yield all that is wrong with the catalog in a folder, of one moment, or in a DynamoDB table; change nothing.

    A folder is read in a process of its own, since the engine can die of a damaged file: a finding, and the last.
    `locking=False` is for a catalog that nobody writes to. An examination that could not be made is an error, never
    the end: CatalogMissingError, or another kind of CatalogUnavailableError.
    """
    if is_url(path):
        yield from _examined_over(os.fspath(path), progress)
        return
    folder = os.path.abspath(path)
    if not os.path.exists(os.path.join(folder, DATA_FILE)):
        raise CatalogMissingError(f"{folder}: there is no catalog")
    try:
        with answering(_MODULE, folder, str(int(locking))) as stream:
            for line in stream:
                if line.startswith(b"{"):
                    yield _decode(line)
                elif progress is not None:
                    done, total = line.split()
                    progress(int(done), int(total))
    except DatabaseDamagedError as error:
        yield Finding("file", str(error))
    except CorruptRecordError as error:
        yield Finding("row", str(error))


def _examined_over(url: str, progress: Progress | None) -> Iterator[Finding]:
    with open_catalog(url, create=False, read_only=True) as catalog:
        yield from catalog.audit(progress)


def audit_catalog(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    reason: str | None = None,
    command: str = "library",
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """Do as `examine` does; with `repair` what can be derived is, once all is found, and each finding tells of it.

    Repairs stand in the journal. A damaged database file is left alone.
    """
    if not repair:
        yield from examine(path, progress=progress)
        return
    with TemporaryFile() as repairable:
        is_readable = True
        for finding in examine(path, progress=progress):
            is_readable &= finding.kind != "file"
            if finding.repair is None:
                yield finding
            else:
                repairable.write(_encode(finding) + b"\n")
        repairable.seek(0)
        if not is_readable:
            yield from _read(repairable)
        elif repairable.read(1):
            with open_catalog(path, create=False, command=command) as catalog:
                for counters in (True, False):  # first: other repairs count, too
                    repairable.seek(0)
                    chosen = (each for each in _read(repairable) if (each.repair in _COUNTERS) == counters)
                    yield from catalog.repair(chosen, reason=reason)


def _read(stream: IO[bytes]) -> Iterator[Finding]:
    return map(_decode, stream)
