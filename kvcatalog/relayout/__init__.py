"""Relayout: stored blobs come under another layout, below another root or into a bucket, and records follow.

- `claims`: what refers to the blobs of a document, and where each belongs under a layout.
- `moving`: blobs are read, compared, stored where they belong; then records refer to that; then the old ones go.
"""

from __future__ import annotations

from kvcatalog.relayout.claims import Claimed, Plan, target_config
from kvcatalog.relayout.moving import Moved, Relayout

__all__ = ["Claimed", "Moved", "Plan", "Relayout", "target_config"]
