"""What the upkeep of blobs and roots writes into a catalog in an LMDB environment."""

from __future__ import annotations

from kvcatalog import values
from kvcatalog.models import Root
from kvcatalog.schema import RootRow
from kvcatalog.store import operations
from kvcatalog.store.lmdb_writing import LmdbWriting


class LmdbUpkeep(LmdbWriting):
    """What keeps a catalog and its blobs in order; LmdbCatalog adds what is registered."""

    def add_root(self, uri: str, *, uuid: str, cas_prefix: str = "sha256") -> Root:
        """See CatalogStore."""
        row = RootRow(
            values.required_text("uri", uri).removesuffix("/"),
            values.required_text("uuid", uuid),
            values.required_text("cas_prefix", cas_prefix),
        )
        return self._write(lambda txn, scribe: operations.add_root(txn, row, scribe))
