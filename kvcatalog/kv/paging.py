"""The pages of an environment, looked at beside the engine: see `pages`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from kvcatalog.errors import DatabaseDamagedError
from kvcatalog.kv import engine, preflight
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.pages import Wrong, wrong_pages

_RENEW_PAGES = 4096


def pages_out_of_place(environment: Environment) -> Iterator[Wrong]:
    """Yield what is wrong with the pages of one snapshot, which is held meanwhile."""
    path = os.path.join(environment.path, preflight.DATA_FILE)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    counted = count(1)

    def read(start: int, size: int) -> bytes:
        if not next(counted) % _RENEW_PAGES:
            environment.renew_locks()
        return os.pread(descriptor, size, start)

    try:
        found = None
        while found is None:  # others may have committed twice since the snapshot began
            with environment.read() as transaction:
                found = preflight.moment_of(path, descriptor, transaction.commit_number())
                if found is not None:
                    yield from wrong_pages(read, *found)
    except OSError as error:
        raise engine.translate_os_error(error, path) from error
    finally:
        os.close(descriptor)


def refuse_pages_out_of_place(folder: engine.StrPath) -> None:
    """Raise DatabaseDamagedError if anything is wrong with the pages of an environment that nobody writes to."""
    path = os.path.join(folder, preflight.DATA_FILE)
    with open(path, "rb", buffering=0) as file:
        found = preflight.moment_of(path, file.fileno())
        assert found is not None  # noqa: S101 - one of its meta pages is the last
        for table, text in wrong_pages(lambda start, size: os.pread(file.fileno(), size, start), *found):
            raise DatabaseDamagedError(f"{folder}: {table}: {text}")
