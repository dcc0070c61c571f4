"""Backups of a catalog, made while it is used, and new catalogs made of them."""

from kvcatalog.backup.making import BackupReport, backup
from kvcatalog.backup.manifest import BackupManifest, read_manifest
from kvcatalog.backup.restoring import RestoreReport, restore

__all__ = ["BackupManifest", "BackupReport", "RestoreReport", "backup", "read_manifest", "restore"]
