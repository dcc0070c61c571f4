"""Reconcile: records whose blobs are not where they should be, and files that no record knows, brought together.

- `looking`: what is broken and what is unknown, each sorted on disk.
- `mending`: what is to be done about it, step by step, and doing it.
"""

from __future__ import annotations

from kvcatalog.reconcile.looking import Broken, Unknown
from kvcatalog.reconcile.mending import Adoption, Fetch, FetchError, Reconciling, Step

__all__ = ["Adoption", "Broken", "Fetch", "FetchError", "Reconciling", "Step", "Unknown"]
