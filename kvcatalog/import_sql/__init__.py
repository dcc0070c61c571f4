"""The way in from SQL: a catalog that was kept in SQLite, or one of our exports, becomes a catalog again."""

from __future__ import annotations

from kvcatalog.import_sql.importing import import_sql
from kvcatalog.import_sql.report import Refusal, SqlImportReport

__all__ = ["Refusal", "SqlImportReport", "import_sql"]
