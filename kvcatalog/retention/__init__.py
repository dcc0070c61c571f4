"""Retention: which records may go by the rules of the configuration, decided as a whole, and taken away.

- `rules`: how long a record is kept, decided from the record alone.
- `planning`: all decisions, with what has to be looked at together: copies that stay, bytes that become free.
- `applying`: records go, then blobs that nothing else refers to.
"""

from __future__ import annotations

from kvcatalog.retention.applying import Retention, Retired
from kvcatalog.retention.planning import Decision, RetentionPlan, Totals, plan_retention
from kvcatalog.retention.rules import Rule, rules_of

__all__ = [
    "Decision",
    "Retention",
    "RetentionPlan",
    "Retired",
    "Rule",
    "Totals",
    "plan_retention",
    "rules_of",
]
