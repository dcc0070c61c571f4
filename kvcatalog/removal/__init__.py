"""Taking blobs away so that they can come back: what garbage collection and retention have in common.

- `plans`: a plan is a value that can be printed, saved, reviewed and applied later.
- `sharing`: how many bytes go with files that have several names.
- `protection`: which blobs are none of ours to take.
- `opened`: the roots, each of them there and ours. `aliases`: files that records know by other names.
- `executing`: a plan's blobs go to the trash, each looked at again, while others register.
- `trash`: what lies there comes back, or goes for good.
"""

from __future__ import annotations

from kvcatalog.removal.executing import Collection, Result
from kvcatalog.removal.opened import OpenRoots, open_roots
from kvcatalog.removal.plans import FormerOwner, Plan, PlanItem, Totals

__all__ = ["Collection", "FormerOwner", "OpenRoots", "Plan", "PlanItem", "Result", "Totals", "open_roots"]
