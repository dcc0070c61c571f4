"""LmdbCatalog: the catalog of one host, in an LMDB environment that its threads and processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvcatalog.clock import Clock, now_micros
from kvcatalog.kv.environment import Environment
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
