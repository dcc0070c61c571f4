"""Leases: one process of all hosts holds something, and keeps saying so; no two clocks are ever compared.

A lease is an item with its owner and a number that the owner raises every few seconds. Who wants it watches the number:
only when that has stood still for long, by the watcher's own monotonic clock, is it taken over. The owner gives up long
before, by its own clock. What is written under a lease carries the condition that the item still names the owner, so a
process that was stopped for minutes writes nothing when it wakes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from msgspec import Struct

from kvcatalog.dynamo.connection import AmbiguousError, Connection
from kvcatalog.dynamo.items import attributes_of
from kvcatalog.dynamo.layout import ItemKey
from kvcatalog.dynamo.patience import ATTEMPTS, pause
from kvcatalog.errors import CatalogError, CatalogLockedError, LeaseLostError

BEAT_SECONDS = 3.0
LOST_SECONDS = 15.0
"""How long after its last beat an owner takes the lease for lost."""

TAKEN_OVER_SECONDS = 45.0
"""How long a lease must have stood still to be taken over."""

_LOOK_SECONDS = 0.5
_PARTITION = "lease"


class _Lease:
    """A lease that this process holds."""

    def __init__(self, name: str, owner: str, renewed: float) -> None:
        self.name = name
        self.owner = owner
        self.renewed = renewed
        self.is_lost = False
        self.ended = threading.Event()


class _Seen(Struct, frozen=True):
    """An owner and its number, and when they were seen first."""

    owner: str
    beat: str
    since: float


class Leases:
    """The leases of one process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: dict[str, _Lease] = {}
        self._seen: dict[str, _Seen] = {}

    @contextmanager
    def hold(self, name: str, *, patiently: bool) -> Iterator[None]:
        """Hold a lease; CatalogLockedError if another has it, LeaseLostError at the end if it was lost meanwhile.

        Patiently means to watch for as long as it takes to know whether the owner lives. One that gave no sign since it
        was seen here first, long enough ago, is taken for dead at once.
        """
        lease = self._taken(name, patiently=patiently)
        self._held[name] = lease
        beating = threading.Thread(target=self._beat, args=(lease,), name=f"kvcatalog lease {name}", daemon=True)
        beating.start()
        try:
            yield
            self._check(lease)
        finally:
            self._held.pop(name, None)
            lease.ended.set()
            beating.join()
            self._let_go(lease)

    def _let_go(self, lease: _Lease) -> None:
        from botocore.exceptions import ClientError

        with suppress(CatalogError, AmbiguousError, ClientError):  # it is another's by now, or will be
            self._conditionally("delete_item", lease.name, lease.owner)

    def held(self, name: str) -> tuple[ItemKey, str] | None:
        """Return the item of a lease that this process has taken, and its owner; LeaseLostError."""
        lease = self._held.get(name)
        if lease is None:
            return None
        self._check(lease)
        return _place(name), lease.owner

    def check(self) -> None:
        """Raise LeaseLostError if anything that is held is lost."""
        for lease in list(self._held.values()):
            self._check(lease)

    def lost(self) -> LeaseLostError:
        """Take what is held for lost, and return the error."""
        for lease in list(self._held.values()):
            lease.is_lost = True
        return self._lost_error("its lease")

    def _lost_error(self, name: str) -> LeaseLostError:
        return LeaseLostError(f"{self._connection.place.url}: {name} was not renewed in time, and may be another's")

    def _check(self, lease: _Lease) -> None:
        if lease.is_lost or time.monotonic() > lease.renewed + LOST_SECONDS:
            lease.is_lost = True
            raise self._lost_error(f"the lease {lease.name}")

    def _taken(self, name: str, *, patiently: bool) -> _Lease:
        owner, tried, tries = str(uuid4()), 0.0, 0
        first: _Seen | None = None
        while True:
            seen = self._look(name)
            if seen is not None and seen.owner == owner:  # the answer to a try was lost
                return _Lease(name, owner, tried)
            now = time.monotonic()
            if seen is None or now > seen.since + TAKEN_OVER_SECONDS:
                tried, tries = now, tries + 1
                if self._put(name, owner, seen):
                    return _Lease(name, owner, tried)
                if tries == ATTEMPTS:
                    raise self._connection.silence()
                pause(tries)
                continue
            first = first or seen
            if not patiently or (seen.owner, seen.beat) != (first.owner, first.beat):
                raise CatalogLockedError(f"{self._connection.place.url}: another process is at work: {name}")
            time.sleep(_LOOK_SECONDS)

    def _look(self, name: str) -> _Seen | None:
        """Return who has a lease, and since when it is seen with this number."""
        answer = self._connection.read("get_item", Key=attributes_of(_place(name)), ConsistentRead=True)
        item = answer.get("Item")
        if item is None:
            self._seen.pop(name, None)
            return None
        owner, beat, known = item["o"]["S"], item["c"]["S"], self._seen.get(name)
        if known is None or (known.owner, known.beat) != (owner, beat):
            known = self._seen[name] = _Seen(owner, beat, time.monotonic())
        return known

    def _put(self, name: str, owner: str, old: _Seen | None) -> bool:
        """Take a lease that nobody has, or that has stood still; False where that failed, or no answer told."""
        from botocore.exceptions import ClientError

        item = attributes_of(_place(name)) | {"o": {"S": owner}, "c": {"S": str(uuid4())}}
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
        if old is not None:
            values = {":o": {"S": old.owner}, ":b": {"S": old.beat}}
            condition = {"ConditionExpression": "o = :o AND c = :b", "ExpressionAttributeValues": values}
        try:
            self._connection.call("put_item", Item=item, **condition)
        except (ClientError, AmbiguousError):
            return False
        return True

    def _beat(self, lease: _Lease) -> None:
        from botocore.exceptions import ClientError

        while not lease.ended.wait(BEAT_SECONDS):
            began = time.monotonic()
            try:
                self._conditionally(
                    "update_item",
                    lease.name,
                    lease.owner,
                    {":c": {"S": str(uuid4())}},
                    UpdateExpression="SET c = :c",
                )
            except ClientError:
                lease.is_lost = True
                return
            except (CatalogError, AmbiguousError):
                continue  # it is lost when that goes on for too long
            lease.renewed = began

    def _conditionally(
        self, request: str, name: str, owner: str, values: dict[str, Any] | None = None, **options: str
    ) -> None:
        self._connection.call(
            request,
            Key=attributes_of(_place(name)),
            ConditionExpression="o = :o",
            ExpressionAttributeValues={":o": {"S": owner}} | (values or {}),
            **options,
        )


def _place(name: str) -> ItemKey:
    return _PARTITION, name.encode()
