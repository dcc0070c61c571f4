"""Every error that the catalog raises on purpose, below one base class.

Each class stands for one condition that a caller can act on; its first line says what happened, `advice` what to do.
Errors of the engine, of botocore and of the operating system are translated where they enter, with `from`.
"""

from __future__ import annotations

import errno
from typing import Self


class CatalogError(Exception):
    """Base of all errors of the catalog; `advice` is one sentence for the person who reads it."""

    advice = "See the message."

    def advising(self, advice: str) -> Self:
        """Return this error with an advice that fits its case better than that of its class."""
        self.advice = advice
        return self


class InvalidValueError(CatalogError, ValueError):
    """A value cannot be stored or asked for; `field` names it."""

    advice = "Correct the field that the message names."

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidValueError], tuple[str, str]]:
        return type(self), (self.field, self.reason)


class FilterSyntaxError(InvalidValueError):
    """A filter expression cannot be understood."""

    advice = "Write NAME=VALUE, NAME!=VALUE, NAME<VALUE or NAME>VALUE; `kvcatalog search --help` lists the names."


class ConfigError(CatalogError):
    """The configuration cannot be read or holds a value that is refused."""

    advice = "Correct what the message names; `kvcatalog config check` lists all that is wrong."


class NotFoundError(CatalogError, LookupError):
    """What was asked for by identity is not in the catalog."""

    advice = "Check the identifier; `kvcatalog search` lists what there is."


class AmbiguousDigestError(CatalogError):
    """The first characters of a digest fit more than one; `candidates` lists the first few."""

    advice = "Give more characters of the digest."

    def __init__(self, prefix: str, candidates: tuple[str, ...]) -> None:
        super().__init__(f"{prefix} is the start of several digests: {', '.join(candidates)}")
        self.prefix = prefix
        self.candidates = candidates


class CatalogUnavailableError(CatalogError):
    """The catalog cannot be opened or used at all."""

    advice = "Check the path, its permissions and its file system."


class CatalogMissingError(CatalogUnavailableError):
    """There is no catalog at the path, and none was to be created."""

    advice = "Check --catalog; `kvcatalog import-manifest`, `add` and `fetch` create a catalog where there is none."


class NetworkFileSystemError(CatalogUnavailableError):
    """The path lies on a network file system, where memory maps and locks do not hold what LMDB needs."""

    advice = "Put the catalog on a local disk of the host; several hosts share a catalog through dynamodb:// only."


class UnsupportedFormatError(CatalogUnavailableError):
    """The catalog was written in a format that this version cannot read."""

    advice = "Use a version of kvcatalog that knows this format."


class DatabaseDamagedError(CatalogUnavailableError):
    """The database file itself is damaged: cut short, no database, or refused by the engine."""

    advice = "Keep a copy of the file, then restore a backup."


class StorageFullError(CatalogUnavailableError):
    """The file system has no room left; nothing of the failed call was stored."""

    advice = "Free some space and try again; nothing needs to be repaired."


class StorageFailedError(CatalogUnavailableError):
    """The operating system reported an error on reading or writing the catalog; nothing acknowledged is lost."""

    advice = "Look at the disk and the kernel's log, then try again."


class StoragePermissionError(CatalogUnavailableError):
    """The operating system does not let us read or write the catalog here."""

    advice = "Use it as the user who owns it, or on a file system that is not read-only."


class MapLimitError(CatalogUnavailableError):
    """The memory map cannot grow: its limit is reached, or a snapshot held it for too long."""

    advice = "End long snapshots, and see that the process may use enough address space (ulimit -v)."


class TooManyReadersError(CatalogUnavailableError):
    """Every slot for a reading thread or process is taken by one that lives."""

    advice = "Use fewer processes and threads on this catalog at once."


class CatalogClosedError(CatalogError):
    """The catalog was closed before or during the call; the call stored nothing."""

    advice = "Open the catalog again."


class CatalogLockedError(CatalogError):
    """Another process holds what the operation needs for itself alone."""

    advice = "Wait for the other process, or stop it."


class CatalogBusyError(CatalogUnavailableError):
    """Others change the same rows all the time, or the service takes no more requests; the call stored nothing."""

    advice = "Try again later, with fewer writers at once, or give the table more capacity."


class LeaseLostError(CatalogLockedError):
    """A lease could not be renewed in time, so another process may have it; the call stored nothing."""

    advice = "Look at the network and the load of this host, then run the command again."


class TransactionTooLargeError(CatalogError):
    """What belongs together is more than one transaction of DynamoDB takes; nothing of it was stored."""

    advice = "Do it in smaller parts."


class UnsupportedError(CatalogError):
    """The backend that keeps this catalog cannot do what was asked for."""

    advice = "See the message for what serves instead."


class OutcomeUnknownError(CatalogError):
    """A commit failed and what it held may or may not have been stored."""

    advice = "Read the record again before repeating the call; registering again is always safe."


class CorruptRecordError(CatalogError):
    """A stored value fails its checksum, or rows that belong together do not agree; it was not returned."""

    advice = "`kvcatalog audit` tells what is damaged, and what --repair can derive anew; else restore a backup."


class ManifestError(CatalogError):
    """A manifest cannot be read at all: missing, not a file of the kind it claims, or cut short."""

    advice = "Check the path, and that compressed files are whole."


class JournalPrunedError(NotFoundError):
    """Entries of the journal that were asked for are no more; those behind `pruned_to` are there."""

    advice = "Begin anew from all that is there, as with a first export; then go on from its position."

    def __init__(self, after: int, pruned_to: int) -> None:
        super().__init__(f"the journal was pruned up to {pruned_to}, so what came behind {after} is not all there")
        self.after = after
        self.pruned_to = pruned_to

    def __reduce__(self) -> tuple[type[JournalPrunedError], tuple[int, int]]:
        return type(self), (self.after, self.pruned_to)


class BackupError(CatalogUnavailableError):
    """A backup cannot be used: it is none, or not what its manifest says."""

    advice = "Use another backup, and look for damage on the disk that holds this one."


class OutputExistsError(CatalogError):
    """What was to be written is there already, and was left as it is."""

    advice = "Give another name, or --force to replace it."


class CopyTargetError(CatalogError):
    """The target of a copy holds what its source does not; none of that was changed."""

    advice = "Copy to a new place, or bring both to what they were when an earlier copy to this one was interrupted."


class SqlSourceError(CatalogError):
    """A database, a dump or an export cannot be read: missing, of another kind, damaged, or changed meanwhile."""

    advice = "Check the path, that the file is whole, and that nobody writes to it."


class SqlServerError(CatalogUnavailableError):
    """A database server cannot be reached, or refused a statement; nothing of the export stays there."""

    advice = "Check --dsn, the rights of its user, and what the server says."


class PlanError(CatalogError):
    """A plan cannot be read: missing, cut short, or made for another catalog."""

    advice = "Make a new plan with a dry run."


class BlobNotFoundError(NotFoundError):
    """There is no blob where one was to be."""

    advice = "Check that its root is the right one; `kvcatalog why` tells what is known of the place."


class BlobCondemnedError(CatalogError):
    """What lay at the place of a blob is being taken away by garbage collection; nothing was registered."""

    advice = "Store the bytes again and register anew; finalize_candidate_download does both."


class DigestMismatchError(CatalogError):
    """Bytes do not have the digest that they should have."""

    advice = "Download them again; what came is in quarantine."

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place}: the SHA-256 is {found}, not {expected}")
        self.place = place
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[type[DigestMismatchError], tuple[str, str, str]]:
        return type(self), (self.place, self.expected, self.found)


class UnsafePathError(CatalogError, ValueError):
    """A path leads out of its root, or over a symbolic link; nothing was touched."""

    advice = "Remove the link, or correct the path."


class RootUnreachableError(CatalogUnavailableError):
    """A storage root cannot be reached: its folder, mount, bucket or marker is missing. Nothing is said to be lost."""

    advice = "Mount it or correct the configuration; a new, empty place for a known root is refused on purpose."


class RootOwnershipError(CatalogUnavailableError):
    """A storage root belongs to another catalog or generation, or is not where the catalog knows it."""

    advice = (
        "Use a root of its own for each catalog; `kvcatalog roots adopt` takes a root over, or follows one that moved."
    )


OS_ERRORS: dict[int, type[CatalogError]] = {
    errno.ENOSPC: StorageFullError,
    errno.EDQUOT: StorageFullError,
    errno.EACCES: StoragePermissionError,
    errno.EPERM: StoragePermissionError,
    errno.EROFS: StoragePermissionError,
}
"""What error numbers of the operating system mean wherever something of ours is stored."""

_NO_PLACE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP))


def of_file(error: OSError, path: str) -> CatalogError:
    """Return the error of ours for one of the operating system's on a file that somebody named to be written."""
    kind = OS_ERRORS.get(error.errno or 0, StorageFailedError)
    failure = kind(f"{path}: {error.strerror or error}")
    return failure.advising("Give a path where a file can be made.") if error.errno in _NO_PLACE else failure
