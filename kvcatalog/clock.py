"""The one module that reads the clock, and the one place where times change their form.

Inside the catalog a time is an `int` of microseconds since 1970-01-01 UTC; outside it is an aware `datetime` in UTC;
in SQL and JSON it is text of one fixed form, `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

Clock = Callable[[], int]
"""Returns the present time in microseconds since 1970-01-01 UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now_micros() -> int:
    """Return the wall clock's time in microseconds since 1970-01-01 UTC; it may go backwards."""
    return time.time_ns() // 1000


def to_micros(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970-01-01 UTC, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=256)  # what was registered together has one time
def from_micros(micros: int) -> datetime:
    """Return microseconds since 1970-01-01 UTC as an aware datetime in UTC; OverflowError outside years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=micros)


def to_text(moment: datetime) -> str:
    """Return an aware datetime as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, always with six digits and in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def micros_to_text(micros: int) -> str:
    """Return microseconds since 1970-01-01 UTC in the form of `to_text`; many that are close together are quick."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_seconds_to_text(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=4096)
def _seconds_to_text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
