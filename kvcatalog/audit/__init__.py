"""Audits: is all that the catalog keeps what it should be, and are the blobs where it says.

`audit_catalog` holds every row against those it derives from, `audit_blobs` the records against the storage roots.
"""

from kvcatalog.audit.blobs import audit_blobs
from kvcatalog.audit.rows import audit_catalog, examine

__all__ = ["audit_blobs", "audit_catalog", "examine"]
