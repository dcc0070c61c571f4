"""Rules: how long a record is kept, decided from the record, its sightings and the holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from kvcatalog import clock
from kvcatalog.errors import ConfigError, FilterSyntaxError
from kvcatalog.filters import Filter, parse_filter
from kvcatalog.gc import retention_filter
from kvcatalog.models import DocumentRecord
from kvcatalog.values import DAYS_MAX

if TYPE_CHECKING:
    from kvcatalog.config import ContentDownloadConfig
    from kvcatalog.holds import Holds
    from kvcatalog.store.protocol import CatalogStore

_DAY_MICROS = 86_400_000_000


class Rule(Struct, frozen=True):
    """Records that `where` lets through are kept for `days` (0: for ever) since they were created or last seen.

    `min_copies` physical copies of each content stay whatever its age.
    """

    name: str
    where: Filter = Filter()
    days: float = 0
    since: Literal["created", "last_seen"] = "created"
    min_copies: int = 0


class Verdict(NamedTuple):
    """What a rule says of a record by itself: it may go or not, since when its age counts, and why."""

    may_go: bool
    rule: Rule
    since: datetime
    reason: str


def rules_of(config: ContentDownloadConfig, *, days: float | None = None) -> tuple[Rule, ...]:
    """Return the rules of a configuration, of which the first that lets a record through decides.

    The last lets everything through; it is `catalog.retention_days`, or `days` in its place. ConfigError names a rule
    whose filter cannot be read.
    """
    section = config.retention
    rules = []
    for number, each in enumerate(section.rules):
        try:
            where = parse_filter(each.filters)
        except FilterSyntaxError as error:
            raise ConfigError(f"retention.rules.{number}.filters: {error}") from error
        copies = section.min_copies if each.min_copies is None else each.min_copies
        rules.append(Rule(each.name, where, each.days, each.since, copies))
    name = "retention_days" if days is None else "--days"
    days = min(config.catalog.retention_days if days is None else days, DAYS_MAX)
    return (*rules, Rule(name, days=days, min_copies=section.min_copies))


class Judge:
    """Says of one record after the other what the rules and the holds of one moment say."""

    def __init__(self, catalog: CatalogStore, rules: Sequence[Rule], holds: Holds, *, now: int) -> None:
        self._catalog = catalog
        self._rules = rules
        self._holds = holds
        self._now = now
        self._moment = clock.from_micros(now)

    def verdict(self, record: DocumentRecord) -> Verdict:
        """Decide by the first rule that lets a record through."""
        rule = next((rule for rule in self._rules if rule.where.matches(record)), Rule("no rule"))
        if not rule.days:
            return Verdict(may_go=False, rule=rule, since=record.created_at, reason=f"{rule.name} keeps it for ever")
        since, seen = record.created_at, "created"
        old = bool(retention_filter([record], rule.days, now=self._moment))
        if rule.since == "last_seen":
            sightings = self._catalog.get_sightings(document_id=record.id) if old else ()
            since, seen = max([since, *(each.seen_at for each in sightings)]), "last seen"
            old = old and self._age_days(since) > rule.days
        age = f"{seen} {self._age_days(since):.1f} days ago"
        if not old:
            return Verdict(may_go=False, rule=rule, since=since, reason=f"{age}; {rule.name} keeps {rule.days:g} days")
        held = self._held(record)
        if held is not None:
            return Verdict(may_go=False, rule=rule, since=since, reason=held)
        return Verdict(may_go=True, rule=rule, since=since, reason=f"{age}, more than the {rule.days:g} of {rule.name}")

    def _held(self, record: DocumentRecord) -> str | None:
        """Return which hold keeps a record, or the blob of one of its variants."""
        found = self._holds.of_record(record)
        if not found:
            found = [
                hold
                for variant in self._catalog.get_variants(record.id)
                for hold in self._holds.of_place(variant.storage_uri)
            ]
        return f"hold {found[0].id}: {found[0].reason}" if found else None

    def _age_days(self, since: datetime) -> float:
        return (self._now - clock.to_micros(since)) / _DAY_MICROS
