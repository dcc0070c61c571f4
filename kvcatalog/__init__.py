"""kvcatalog: the index of record for what a download pipeline has stored."""

from kvcatalog.errors import CatalogError
from kvcatalog.store import open_catalog

__version__ = "0.1.0"
__all__ = ["CatalogError", "open_catalog"]
