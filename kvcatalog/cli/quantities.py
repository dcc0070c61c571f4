"""Options that are amounts, as functions that click takes for a type: of time, of bytes, and shares."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

import click

from kvcatalog.errors import InvalidValueError
from kvcatalog.filters import parse_size
from kvcatalog.values import DAYS_MAX

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|m|min|h|d|w)")
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%")


class _Number(click.FloatRange):
    """A number in a range, and no `nan`, which compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


DAYS = _Number(min=0, max=DAYS_MAX)
SECONDS = _Number(min=0, max=DAYS_MAX * 86_400, min_open=True)


def duration(text: str) -> timedelta:
    """Return a time such as 90s, 30m, 1h, 30d or 2w."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time such as 90s, 30m, 1h, 30d or 2w")
    number, unit = float(match[1]), _UNITS[match[2]]
    if number > timedelta(days=DAYS_MAX) / unit:
        raise click.BadParameter(f"{text!r} is longer than {DAYS_MAX} days")
    return unit * number


def size(text: str) -> int:
    """Return a number of bytes such as 500, 50G, 1.5MB or 4GiB."""
    plain = text.strip()
    try:
        return parse_size(f"{plain}B" if plain[-1:] in {*"kKmMgGtT"} else plain)
    except InvalidValueError as error:
        raise click.BadParameter(error.reason) from error


def share(text: str) -> float:
    """Return a share such as 5% or 0.1% as a fraction."""
    match = _SHARE.fullmatch(text.strip())
    fraction = float(match[1]) / 100 if match else 0.0
    if not 0 < fraction <= 1:
        raise click.BadParameter(f"{text!r} is not a share such as 5% or 0.1%")
    return fraction
