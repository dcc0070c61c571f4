"""The way in from SQL: a catalog that was kept in SQLite, or one of our exports, becomes a catalog again."""

from __future__ import annotations

from kvcatalog.sql_import.importing import import_sql
from kvcatalog.sql_import.report import Refusal, SqlImportReport

__all__ = ["Refusal", "SqlImportReport", "import_sql"]
