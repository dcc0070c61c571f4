"""Copying a catalog, from any engine to any, with its ids."""

from kvcatalog.copying.running import CopyReport, TableCopy, compare_catalogs, copy_catalog, plan_copy

__all__ = ["CopyReport", "TableCopy", "compare_catalogs", "copy_catalog", "plan_copy"]
