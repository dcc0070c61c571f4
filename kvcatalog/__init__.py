"""kvcatalog: the index of record for what a download pipeline has stored."""

from importlib import import_module
from typing import TYPE_CHECKING

from kvcatalog.errors import (
    AmbiguousDigestError,
    BlobCondemnedError,
    BlobNotFoundError,
    CatalogClosedError,
    CatalogError,
    CatalogLockedError,
    CatalogMissingError,
    CatalogUnavailableError,
    ConfigError,
    CorruptRecordError,
    DatabaseDamagedError,
    DigestMismatchError,
    FilterSyntaxError,
    InvalidValueError,
    ManifestError,
    MapLimitError,
    NetworkFileSystemError,
    NotFoundError,
    OutcomeUnknownError,
    PlanError,
    RootOwnershipError,
    RootUnreachableError,
    StorageFailedError,
    StorageFullError,
    StoragePermissionError,
    TooManyReadersError,
    UnsafePathError,
    UnsupportedFormatError,
)
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.models import (
    CatalogStats,
    Conflict,
    DocumentRecord,
    DuplicateGroup,
    Hold,
    JournalEntry,
    Page,
    Possession,
    Registration,
    RegistrationRequest,
    Root,
    Sighting,
    VariantRecord,
    VariantRegistration,
)
from kvcatalog.store import open_catalog

if TYPE_CHECKING:
    from kvcatalog.config import CatalogConfig, ContentDownloadConfig, StorageConfig, load_config
    from kvcatalog.digest import HashingWriter
    from kvcatalog.finalize import DownloadOutcome, finalize_candidate_download
    from kvcatalog.migrate import ImportReport, import_manifest
    from kvcatalog.storage import adopt_root
    from kvcatalog.store.lmdb_catalog import LmdbCatalog
    from kvcatalog.store.protocol import CatalogStore

__version__ = "0.1.0"
__all__ = [
    "AmbiguousDigestError",
    "BlobCondemnedError",
    "BlobNotFoundError",
    "CatalogClosedError",
    "CatalogConfig",
    "CatalogError",
    "CatalogLockedError",
    "CatalogMissingError",
    "CatalogStats",
    "CatalogStore",
    "CatalogUnavailableError",
    "ConfigError",
    "Conflict",
    "ContentDownloadConfig",
    "CorruptRecordError",
    "DatabaseDamagedError",
    "DigestMismatchError",
    "DocumentRecord",
    "DownloadOutcome",
    "DuplicateGroup",
    "Filter",
    "FilterSyntaxError",
    "HashingWriter",
    "Hold",
    "ImportReport",
    "InvalidValueError",
    "JournalEntry",
    "LmdbCatalog",
    "ManifestError",
    "MapLimitError",
    "NetworkFileSystemError",
    "NotFoundError",
    "OutcomeUnknownError",
    "Page",
    "PlanError",
    "Possession",
    "Registration",
    "RegistrationRequest",
    "Root",
    "RootOwnershipError",
    "RootUnreachableError",
    "Sighting",
    "StorageConfig",
    "StorageFailedError",
    "StorageFullError",
    "StoragePermissionError",
    "TooManyReadersError",
    "UnsafePathError",
    "UnsupportedFormatError",
    "VariantRecord",
    "VariantRegistration",
    "__version__",
    "adopt_root",
    "finalize_candidate_download",
    "import_manifest",
    "load_config",
    "open_catalog",
    "parse_filter",
]

# What brings in pydantic, or the engine, is imported when it is first used.
_ON_USE = {
    "CatalogConfig": "kvcatalog.config",
    "ContentDownloadConfig": "kvcatalog.config",
    "StorageConfig": "kvcatalog.config",
    "load_config": "kvcatalog.config",
    "DownloadOutcome": "kvcatalog.finalize",
    "finalize_candidate_download": "kvcatalog.finalize",
    "HashingWriter": "kvcatalog.digest",
    "adopt_root": "kvcatalog.storage",
    "ImportReport": "kvcatalog.migrate",
    "import_manifest": "kvcatalog.migrate",
    "LmdbCatalog": "kvcatalog.store.lmdb_catalog",
    "CatalogStore": "kvcatalog.store.protocol",
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    module = _ON_USE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value
