"""What the upkeep of blobs and roots writes into a catalog in an LMDB environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvcatalog import values
from kvcatalog.kv.transaction import WriteTransaction
from kvcatalog.models import BlobCheck, Root
from kvcatalog.schema import RootRow
from kvcatalog.store import operations
from kvcatalog.store.lmdb_writing import LmdbWriting
from kvcatalog.store.operations import Scribe


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

    def record_checks(self, checks: Iterable[BlobCheck], *, gone: Sequence[str] = ()) -> None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        found = list(checks)

        def operation(transaction: WriteTransaction, scribe: Scribe) -> None:
            for check in found:
                checking.remember(transaction, check, scribe)
            for uri in gone:
                checking.forget(transaction, uri, scribe)

        self._write(operation)

    def begin_quarantine(self, check: BlobCheck) -> None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        self._write(lambda txn, scribe: checking.begin_quarantine(txn, check, scribe))

    def end_quarantine(self, check: BlobCheck) -> None:
        """See CatalogStore."""
        from kvcatalog.store import checking

        self._write(lambda txn, scribe: checking.end_quarantine(txn, check, scribe))
