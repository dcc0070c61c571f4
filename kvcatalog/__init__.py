"""kvcatalog: the index of record for what a download pipeline has stored."""

from importlib import import_module
from typing import TYPE_CHECKING

from kvcatalog.errors import (
    AmbiguousDigestError,
    BackupError,
    BlobCondemnedError,
    BlobNotFoundError,
    CatalogBusyError,
    CatalogClosedError,
    CatalogError,
    CatalogLockedError,
    CatalogMissingError,
    CatalogUnavailableError,
    ConfigError,
    CopyTargetError,
    CorruptRecordError,
    DatabaseDamagedError,
    DigestMismatchError,
    FilterSyntaxError,
    InvalidValueError,
    JournalPrunedError,
    LeaseLostError,
    ManifestError,
    MapLimitError,
    NetworkFileSystemError,
    NotFoundError,
    OutcomeUnknownError,
    OutputExistsError,
    PlanError,
    RootOwnershipError,
    RootUnreachableError,
    SqlServerError,
    SqlSourceError,
    StorageFailedError,
    StorageFullError,
    StoragePermissionError,
    TooManyReadersError,
    TransactionTooLargeError,
    UnsafePathError,
    UnsupportedError,
    UnsupportedFormatError,
)
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.models import (
    CatalogStats,
    Conflict,
    CreatedCatalog,
    DocumentRecord,
    DuplicateGroup,
    JournalEntry,
    Page,
    Possession,
    Registration,
    RegistrationRequest,
    Root,
    Sighting,
    SightingRequest,
    VariantRecord,
    VariantRegistration,
    VariantRegistrationRequest,
)
from kvcatalog.store import init_catalog, open_catalog

if TYPE_CHECKING:
    from kvcatalog.checks import BlobCheck, Verification
    from kvcatalog.config import CatalogConfig, ContentDownloadConfig, StorageConfig, load_config
    from kvcatalog.copying import CopyReport, compare_catalogs, copy_catalog, plan_copy
    from kvcatalog.custody import Hold
    from kvcatalog.digest import HashingWriter
    from kvcatalog.finalize import DownloadOutcome, finalize_candidate_download
    from kvcatalog.migrate import ImportReport, import_manifest
    from kvcatalog.sql_export import ExportReport, export_sql, export_to_postgres
    from kvcatalog.sql_import import SqlImportReport, import_sql
    from kvcatalog.storage import adopt_root
    from kvcatalog.store.lmdb_catalog import LmdbCatalog
    from kvcatalog.store.protocol import CatalogStore
    from kvcatalog.verify import VerifyRun, verify_blobs

__version__ = "0.1.0"
__all__ = [
    "AmbiguousDigestError",
    "BackupError",
    "BlobCheck",
    "BlobCondemnedError",
    "BlobNotFoundError",
    "CatalogBusyError",
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
    "CopyReport",
    "CopyTargetError",
    "CorruptRecordError",
    "CreatedCatalog",
    "DatabaseDamagedError",
    "DigestMismatchError",
    "DocumentRecord",
    "DownloadOutcome",
    "DuplicateGroup",
    "ExportReport",
    "Filter",
    "FilterSyntaxError",
    "HashingWriter",
    "Hold",
    "ImportReport",
    "InvalidValueError",
    "JournalEntry",
    "JournalPrunedError",
    "LeaseLostError",
    "LmdbCatalog",
    "ManifestError",
    "MapLimitError",
    "NetworkFileSystemError",
    "NotFoundError",
    "OutcomeUnknownError",
    "OutputExistsError",
    "Page",
    "PlanError",
    "Possession",
    "Registration",
    "RegistrationRequest",
    "Root",
    "RootOwnershipError",
    "RootUnreachableError",
    "Sighting",
    "SightingRequest",
    "SqlImportReport",
    "SqlServerError",
    "SqlSourceError",
    "StorageConfig",
    "StorageFailedError",
    "StorageFullError",
    "StoragePermissionError",
    "TooManyReadersError",
    "TransactionTooLargeError",
    "UnsafePathError",
    "UnsupportedError",
    "UnsupportedFormatError",
    "VariantRecord",
    "VariantRegistration",
    "VariantRegistrationRequest",
    "Verification",
    "VerifyRun",
    "__version__",
    "adopt_root",
    "compare_catalogs",
    "copy_catalog",
    "export_sql",
    "export_to_postgres",
    "finalize_candidate_download",
    "import_manifest",
    "import_sql",
    "init_catalog",
    "load_config",
    "open_catalog",
    "parse_filter",
    "plan_copy",
    "verify_blobs",
]

# What brings in pydantic, or the engine, is imported when it is first used.
_ON_USE = {
    "BlobCheck": "kvcatalog.checks",
    "Verification": "kvcatalog.checks",
    "Hold": "kvcatalog.custody",
    "CatalogConfig": "kvcatalog.config",
    "ContentDownloadConfig": "kvcatalog.config",
    "StorageConfig": "kvcatalog.config",
    "load_config": "kvcatalog.config",
    "DownloadOutcome": "kvcatalog.finalize",
    "finalize_candidate_download": "kvcatalog.finalize",
    "CopyReport": "kvcatalog.copying",
    "compare_catalogs": "kvcatalog.copying",
    "copy_catalog": "kvcatalog.copying",
    "plan_copy": "kvcatalog.copying",
    "ExportReport": "kvcatalog.sql_export",
    "export_sql": "kvcatalog.sql_export",
    "export_to_postgres": "kvcatalog.sql_export",
    "HashingWriter": "kvcatalog.digest",
    "adopt_root": "kvcatalog.storage",
    "ImportReport": "kvcatalog.migrate",
    "import_manifest": "kvcatalog.migrate",
    "SqlImportReport": "kvcatalog.sql_import",
    "import_sql": "kvcatalog.sql_import",
    "LmdbCatalog": "kvcatalog.store.lmdb_catalog",
    "CatalogStore": "kvcatalog.store.protocol",
    "VerifyRun": "kvcatalog.verify",
    "verify_blobs": "kvcatalog.verify",
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    module = _ON_USE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value
