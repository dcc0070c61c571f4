"""What the upkeep of blobs and roots writes into a catalog in an LMDB environment."""

from __future__ import annotations

from collections.abc import Iterable

from kvcatalog import values
from kvcatalog.errors import InvalidValueError
from kvcatalog.filters import Filter
from kvcatalog.models import BlobMove, Hold, Root
from kvcatalog.schema import RootRow
from kvcatalog.store import operations, upkeep, upkeep_operations
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

    def condemn(self, storage_uris: Iterable[str], *, plan: str) -> None:
        """See CatalogStore."""
        uris = [values.required_text("storage_uris", uri) for uri in storage_uris]
        label = values.required_text("plan", plan)
        self._write(lambda txn, scribe: upkeep_operations.condemn(txn, uris, label, scribe))

    def settle_condemned(self, storage_uris: Iterable[str], moves: Iterable[BlobMove] = ()) -> None:
        """See CatalogStore."""
        uris, done = list(storage_uris), list(moves)
        self._write(lambda txn, scribe: upkeep_operations.settle_condemned(txn, uris, done, scribe))

    def forget_condemned(self) -> int:
        """See CatalogStore."""
        return self._write(lambda txn, _: upkeep.forget_cleared(txn))

    def record_moves(self, moves: Iterable[BlobMove]) -> None:
        """See CatalogStore."""
        done = list(moves)
        self._write(lambda txn, scribe: upkeep_operations.record_moves(txn, done, scribe))

    def add_hold(self, where: Filter, *, reason: str) -> Hold:
        """See CatalogStore."""
        if not where.conditions:
            raise InvalidValueError("filters", "a hold needs a filter: say what must stay")
        filters = tuple(map(str, where.conditions))
        why = values.required_text("reason", reason)
        return self._write(lambda txn, scribe: upkeep_operations.add_hold(txn, filters, why, scribe))

    def release_hold(self, hold_id: int, *, reason: str | None = None) -> Hold:
        """See CatalogStore."""
        values.record_id("hold_id", hold_id)
        return self._write(lambda txn, scribe: upkeep_operations.release_hold(txn, hold_id, scribe), reason)
