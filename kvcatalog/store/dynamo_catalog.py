"""DynamoCatalog: a catalog that several hosts share, in one table of DynamoDB."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from kvcatalog.clock import Clock, now_micros
from kvcatalog.dynamo import creation
from kvcatalog.dynamo.patience import pause
from kvcatalog.dynamo.sums import RECENT_SECONDS
from kvcatalog.errors import CorruptRecordError
from kvcatalog.kv.protocol import ReadTransaction
from kvcatalog.models import CatalogStats, DuplicateGroup, Possession
from kvcatalog.store import lifetime, reading
from kvcatalog.store.catalog import Catalog
from kvcatalog.store.catalog_reader import CatalogReader, Question
from kvcatalog.store.dynamo_backend import BELIEVED_ATTEMPTS, DynamoBackend
from kvcatalog.store.roots import RootMap

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Item = TypeVar("Item")
Position = TypeVar("Position")


def _believed(
    method: Callable[Concatenate[CatalogReader, Arguments], Answer],
) -> Callable[Concatenate[CatalogReader, Arguments], Answer]:
    """Ask again where rows do not agree, since they may be of different moments, before it is taken for damage."""

    def asked(self: CatalogReader, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        return _again(lambda: method(self, *arguments, **named))

    asked.__name__, asked.__doc__ = method.__name__, method.__doc__
    return asked


def _again(ask: Callable[[], Answer]) -> Answer:
    for attempt in range(BELIEVED_ATTEMPTS - 1):
        try:
            return ask()
        except CorruptRecordError:
            pause(attempt)
    return ask()


class DynamoCatalog(Catalog):
    """A CatalogStore; made by `open_catalog`. Any thread may use it, and a forked child goes on with its own client.

    What is written is whole or not at all for each record, not for a batch. What is read is the latest, but several
    rows may be of different moments; so is a snapshot. Counts and duplicate counts are brought up to date after each
    call, not with it: a process that dies in between leaves them behind, until an audit repairs them.
    """

    def __init__(
        self,
        backend: DynamoBackend,
        *,
        read_only: bool = False,
        clock: Clock = now_micros,
        command: str = "library",
    ) -> None:
        self._dynamo = backend
        self._epoch: tuple[float, int] | None = None
        super().__init__(backend, read_only=read_only, clock=clock, command=command)

    def recognise_table(self) -> None:
        """Begin a generation if the catalog lies in another table than the one in which it was written to before.

        Such a table was recovered from a point in time or a backup, or is another region's replica: so a root has one
        owner, and it is adopted on purpose.
        """
        birth = creation.birth_of(self._dynamo.connection)
        if birth is None:
            return
        with self._dynamo.read() as transaction:
            known = reading.read_birth(transaction)
            self.identity = reading.read_identity(transaction)  # another may have begun a generation meanwhile
        if known != birth:
            why = "the catalog's table is a copy"
            self.identity = self._write(lambda txn, scribe: lifetime.recognise(txn, birth, scribe), why)

    def is_recoverable(self) -> bool:
        """Tell whether the table can be recovered to a moment of the past; StoragePermissionError and its kin."""
        return creation.is_recoverable(self._dynamo.connection)

    get = _believed(CatalogReader.get)
    get_by_id = _believed(CatalogReader.get_by_id)
    get_by_artifact = _believed(CatalogReader.get_by_artifact)
    get_by_sha256 = _believed(CatalogReader.get_by_sha256)
    get_by_url = _believed(CatalogReader.get_by_url)
    get_by_storage_uri = _believed(CatalogReader.get_by_storage_uri)
    get_variants = _believed(CatalogReader.get_variants)
    get_variants_by_sha256 = _believed(CatalogReader.get_variants_by_sha256)
    get_variants_by_storage_uri = _believed(CatalogReader.get_variants_by_storage_uri)
    get_links = _believed(CatalogReader.get_links)
    references = _believed(CatalogReader.references)
    blobs_at = _believed(CatalogReader.blobs_at)
    last_check = _believed(CatalogReader.last_check)
    digests = _believed(CatalogReader.digests)
    search = _believed(CatalogReader.search)

    def blob_epoch(self, *, recent: bool = False) -> int:
        """See CatalogStore: all hosts would read one item before each blob that they store."""
        asked, known = time.monotonic(), self._epoch
        if not recent or known is None or asked > known[0] + RECENT_SECONDS:
            known = self._epoch = (asked, super().blob_epoch())
        return known[1]

    def referenced(self, storage_uris: Iterable[str]) -> set[str]:
        """See CatalogStore; LeaseLostError where the answer is not to be acted upon any more."""
        uris = list(storage_uris)
        found = _again(lambda: super(DynamoCatalog, self).referenced(uris))
        self._dynamo.check_leases()
        return found

    def stats(self) -> CatalogStats:
        """See CatalogStore."""
        self._dynamo.settle()
        return super().stats()

    def find_duplicates(self, *, variants: bool = False) -> Iterator[DuplicateGroup]:
        """See CatalogStore."""
        self._dynamo.settle()
        return super().find_duplicates(variants=variants)

    def _possessions(self, questions: Sequence[Question]) -> list[Possession]:
        one = super()._possessions
        answers = self._dynamo.map(lambda question: _again(lambda: one([question])), questions)
        return [answer for (answer,) in answers]

    def _stepwise(
        self, step: Callable[[ReadTransaction, RootMap, Position | None], tuple[list[Item], Position | None]]
    ) -> Iterator[Item]:
        def again(
            transaction: ReadTransaction, roots: RootMap, position: Position | None
        ) -> tuple[list[Item], Position | None]:
            return _again(lambda: step(transaction, roots, position))

        return super()._stepwise(again)
