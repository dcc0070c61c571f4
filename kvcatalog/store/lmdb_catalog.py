"""LmdbCatalog: the catalog of one host, in an LMDB environment that its threads and processes share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from kvcatalog.checks import Finding
from kvcatalog.clock import Clock, now_micros
from kvcatalog.errors import CatalogUnavailableError
from kvcatalog.kv.environment import Environment
from kvcatalog.kv.preflight import DATA_FILE
from kvcatalog.store import lifetime, reading
from kvcatalog.store.catalog import Catalog
from kvcatalog.store.lmdb_backend import LmdbBackend

if TYPE_CHECKING:
    from pathlib import Path


class LmdbCatalog(Catalog):
    """A CatalogStore; made by `open_catalog`. Any thread may use it, and a forked child goes on with its own files."""

    def __init__(
        self,
        environment: Environment,
        *,
        read_only: bool = False,
        clock: Clock = now_micros,
        command: str = "library",
    ) -> None:
        backend = LmdbBackend(environment)
        self._environment = environment
        self._writer = backend.writer
        super().__init__(backend, read_only=read_only, clock=clock, command=command)

    @property
    def path(self) -> Path:
        """The folder in which the catalog lies, absolute."""
        from pathlib import Path

        return Path(self._environment.path)

    def recognise_file(self) -> None:
        """Begin a generation if the catalog lies in another file than the one in which it was written to before.

        Such a file is a copy, or came to another file system, which looks the same. Where a file system does not
        remember when a file was made, copies pass for the original.
        """
        from kvcatalog.kv.birth import birth_of  # who only reads does without it

        birth = birth_of(os.path.join(self._environment.path, DATA_FILE))
        if birth is None:
            return
        with self._environment.read() as transaction:
            known = reading.read_birth(transaction)
            self.identity = reading.read_identity(transaction)  # another may have begun a generation meanwhile
        if known == birth:
            return
        # Nothing hangs on the first time: where it cannot be written down, who comes next does it.
        with suppress(*(() if known is not None else (CatalogUnavailableError,))):
            self.identity = self._write(
                lambda txn, scribe: lifetime.recognise(txn, birth, scribe), "the catalog's file is a copy, or was moved"
            )

    def audit(self, progress: Callable[[int, int], object] | None = None) -> Iterator[Finding]:
        """See CatalogStore; where pages of the file lie out of place, rows are not looked at."""
        from kvcatalog.kv.paging import pages_out_of_place  # lookups do without it

        is_sound = True
        for table, text in pages_out_of_place(self._environment):
            is_sound = False
            yield Finding("file", text, table)
        if is_sound:  # of other files the engine may die
            yield from super().audit(progress)
