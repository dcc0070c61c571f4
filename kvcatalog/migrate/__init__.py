"""The way in for what download runs have recorded: manifests become records, variants and sightings."""

from __future__ import annotations

from kvcatalog.migrate.importing import import_manifest
from kvcatalog.migrate.report import ImportReport, Progress, Reason

__all__ = ["ImportReport", "Progress", "Reason", "import_manifest"]
