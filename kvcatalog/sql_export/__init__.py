"""The way out for analysts: one moment of a catalog as SQLite, PostgreSQL, CSV or JSON lines."""

from __future__ import annotations

from kvcatalog.sql_export.exporting import Format, export_sql, export_to_postgres
from kvcatalog.sql_export.report import ExportReport, Progress

__all__ = ["ExportReport", "Format", "Progress", "export_sql", "export_to_postgres"]
