"""What keeps a catalog and its blobs in order writes down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from kvcatalog.checks import BlobCheck, Finding, Verification
from kvcatalog.custody import BlobMove, Deletion, Hold, Relocation, RelocationOutcome
from kvcatalog.filters import Filter
from kvcatalog.models import (
    CatalogIdentity,
    CatalogPosition,
    Conflict,
    DocumentRecord,
    JournalEntry,
    JournalPruning,
    Link,
    Root,
    Sighting,
    VariantRecord,
)

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig

Restorable = Root | DocumentRecord | VariantRecord | Sighting | Conflict | Link | JournalEntry | Hold | BlobCheck
"""What `CatalogStore.restore` takes."""

Restored = Literal["stored", "existing", "id is taken", "key is taken", "no such document"]
"""What became of it; the last three stored nothing."""


class CatalogUpkeep(Protocol):
    """Roots, checks, holds, what is taken away or moved, and what is brought back."""

    def delete_many(self, deletions: Iterable[Deletion], *, batch_size: int = 1000) -> Iterator[DocumentRecord | None]:
        """Take documents away as `delete` does, and yield each, or None where it is not what it was, or not there.

        A batch is one transaction, and durable when its first result appears; nothing is read or done before the
        iterator is advanced.
        """
        ...

    def relocate(self, relocations: Iterable[Relocation], *, reason: str | None = None) -> list[RelocationOutcome]:
        """Let records, variants, conflicts and links refer to further places of their blobs, in one transaction.

        Each stays as it is unless it refers to that place and content; a digest where there was none is added.
        `updated_at` of documents moves on, and the journal tells of each, with the action `relocate`.
        """
        ...

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Hold something for one process of all; CatalogLockedError if another has it. A process that dies lets go."""
        ...

    def condemn(self, storage_uris: Iterable[str], *, plan: str) -> None:
        """Announce that a plan is about to take blobs away: from now on no registration refers to them.

        Whoever calls holds GC_LEASE until `settle_condemned`, and looks again before each blob whether anything refers
        to it by now.
        """
        ...

    def settle_condemned(self, storage_uris: Iterable[str], moves: Iterable[BlobMove] = ()) -> None:
        """End announcements, and write into the journal what was moved, in one step; moves the blob epoch on."""
        ...

    def forget_condemned(self) -> int:
        """Forget announcements that have ended, and return how many; whoever stored before that stores again."""
        ...

    def record_moves(self, moves: Iterable[BlobMove]) -> None:
        """Write into the journal what was moved."""
        ...

    def add_hold(self, where: Filter, *, reason: str) -> Hold:
        """Protect what a filter lets through, now and later; InvalidValueError for one without conditions."""
        ...

    def release_hold(self, hold_id: int, *, reason: str | None = None) -> Hold:
        """End a protection and return it; NotFoundError."""
        ...

    def prune_journal(self, before: datetime, *, dry_run: bool = False, reason: str | None = None) -> JournalPruning:
        """Forget the entries at the journal's beginning that are older than a time, up to the first that is not.

        It goes a step at a time, each written down itself, so it may be interrupted. A dry run only counts.
        """
        ...

    def repair(self, findings: Iterable[Finding], *, reason: str | None = None) -> Iterator[Finding]:
        """Derive anew what audits found to be wrong and can be derived, and yield each finding with what came of it.

        Each is judged again first, so others may write meanwhile, and each repair stands in the journal. What follows
        from a counter that cannot be read comes behind that.
        """
        ...

    def begin_generation(self, *, reason: str | None = None) -> CatalogIdentity:
        """Become another catalog than all others made from the same files, as is right for a restored backup.

        The storage roots stay with the former generation until they are adopted.
        """
        ...

    def verify(self, record_id: int, *, cfg_storage: StorageConfig | None = None) -> Verification:
        """Read the blob of a record, compare it with the record, and remember the result; NotFoundError.

        What cannot be read is told, not raised, and a root that is not there or not ours is `unreachable`, never a
        loss. A record without digest is `not hashed`. `cfg_storage` says how to reach a bucket. A catalog that is open
        for reading only remembers nothing. `kvcatalog.verify.verify_blobs` checks many, and variants.
        """
        ...

    def record_checks(self, checks: Iterable[BlobCheck], *, gone: Sequence[str] = ()) -> None:
        """Remember checks, each in place of the one before of its blob, and forget those of blobs that are `gone`.

        A check without `read_at` takes no turn in the queue.
        """
        ...

    def begin_quarantine(self, check: BlobCheck) -> None:
        """Announce that corrupt bytes are about to leave their place; the caller holds the lease `gc` meanwhile.

        Until `end_quarantine` no registration refers to the place, and one that made sure of the blob before is made
        to store it again.
        """
        ...

    def end_quarantine(self, check: BlobCheck) -> None:
        """End that with what became of it; the journal tells of a blob that is `missing` and `quarantined` now."""
        ...

    def add_root(self, uri: str, *, uuid: str, cas_prefix: str = "sha256", adopted: bool = False) -> Root:
        """Make a storage root known, or return it; a known UUID under another URI means that the root has moved.

        With `adopted` the journal says from when on the catalog answers for what lies there.
        """
        ...

    def restore(self, entries: Iterable[Restorable], *, batch_size: int = 10_000) -> Iterator[Restored]:
        """Store what another catalog or an export holds as it is, ids and times included; yield the results in order.

        An entry that is there already, or whose id, key or document stands in the way, changes nothing. Variants,
        sightings, conflicts and links come after their documents, ids and sequence numbers in ascending order. A batch
        is durable when its first result appears; nothing is read or stored before the iterator is advanced. Nothing is
        written to the journal but the entries that are given; it is complete from the first on that an empty one gets.
        InvalidValueError where a value cannot be stored: then nothing of its batch is.
        """
        ...

    def raise_position(self, position: CatalogPosition) -> None:
        """See that ids and sequence numbers up to a position are never given again, as if they had been."""
        ...
