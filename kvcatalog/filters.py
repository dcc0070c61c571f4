r"""The filter language that every command and call that lists records understands.

An expression is a name, an operator and a value without space between them: `resolver=unpaywall`, `bytes>1MB`,
`created<2025-01-01`, `artifact=doi:10.1234/*`. Several expressions must all hold.

Text knows `=` and `!=`, and a trailing `*` asks for a prefix; `\*` at the end is a star itself. An empty value
(`run=`, `type=`, `sha256=`, also `sha256=none`) means that the record has none. Media types are compared without
parameters and letter case. Sizes take kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024). Times
are UTC unless they carry an offset; a date stands for its whole day, so `created=2025-01-01` is that day, and
`created>2025-01-01` begins with the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import attrgetter, eq, ge, gt, le, lt, ne
from typing import Any, Literal, cast

from msgspec import Struct

from kvcatalog import clock, values
from kvcatalog.errors import FilterSyntaxError, InvalidValueError
from kvcatalog.models import DocumentRecord

FieldName = Literal["id", "artifact", "url", "resolver", "type", "bytes", "sha256", "uri", "run", "created", "updated"]
Operator = Literal["=", "!=", "<", "<=", ">", ">="]
Predicate = Callable[[DocumentRecord], bool]

_ATTRIBUTES: dict[FieldName, str] = {
    "id": "id",
    "artifact": "artifact_id",
    "url": "source_url",
    "resolver": "resolver",
    "type": "content_type",
    "bytes": "bytes",
    "sha256": "sha256",
    "uri": "storage_uri",
    "run": "run_id",
    "created": "created_at",
    "updated": "updated_at",
}
_NAMES: dict[str, FieldName] = {
    spelling: name for name, attribute in _ATTRIBUTES.items() for spelling in (name, attribute)
}
_TIMES = frozenset(("created", "updated"))
_NUMBERS = frozenset(("id", "bytes"))
_OPTIONAL = frozenset(("type", "sha256", "run"))
_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}

# Patterns are compiled when they are first used: most commands import this module and filter nothing.
_EXPRESSION = r"(?s)(?P<name>[A-Za-z0-9_]*)(?P<operator>!=|<=|>=|=|<|>)?(?P<value>.*)"
_TRAILING_STAR = r"(?P<slashes>\\*)\*\Z"
_SIZE = r"(?P<number>[0-9]{1,19}(?:\.[0-9]{1,9})?)(?P<unit>[A-Za-z]*)"
_UNITS = {"": 1, "b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIMESTAMP = _DATE + r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?"
_DIGEST_LENGTH = 64
_HEX = r"[0-9a-f]{0,64}"
_DAY_MICROS = timedelta(days=1) // timedelta(microseconds=1)


class Condition(Struct, frozen=True):
    """One comparison of a field with a value; `str` gives it as an expression that means the same.

    `value` is text for text fields (a media type for `type`, lowercase hex for `sha256`, None where the record must
    have none), an int for `id` and `bytes`, and microseconds since 1970-01-01 UTC for `created` and `updated`. With
    `prefix` the text is what the field begins with; the operator is then `=` or `!=`.
    """

    field: FieldName
    operator: Operator
    value: str | int | None
    prefix: bool = False

    def __str__(self) -> str:
        """Return an expression that `parse_filter` turns into this condition again."""
        return f"{self.field}{self.operator}{self._value_text()}"

    def _value_text(self) -> str:
        if self.value is None:
            return ""
        if isinstance(self.value, int):
            return clock.to_text(clock.from_micros(self.value)) if self.field in _TIMES else str(self.value)
        if not self.prefix and not self.value.endswith("*"):
            return self.value
        stem = self.value if self.prefix else self.value[:-1]
        slashes = len(stem) - len(stem.rstrip("\\"))
        return stem + "\\" * slashes + ("*" if self.prefix else "\\*")


class Filter(Struct, frozen=True, dict=True):
    """Conditions that must all hold; without any, every record passes."""

    conditions: tuple[Condition, ...] = ()

    def matches(self, record: DocumentRecord) -> bool:
        """Tell whether a record fulfils every condition."""
        return self.predicate(record)

    @cached_property
    def predicate(self) -> Predicate:
        """The conditions as one function, for loops over many records."""
        predicates = tuple(map(_compile, self.conditions))
        if len(predicates) == 1:
            return predicates[0]

        def all_hold(record: DocumentRecord) -> bool:
            for predicate in predicates:  # noqa: SIM110 - a generator expression takes twice as long
                if not predicate(record):
                    return False
            return True

        return all_hold

    def __str__(self) -> str:
        """Return the conditions as expressions, with a space between them."""
        return " ".join(map(str, self.conditions))


def parse_filter(expressions: Iterable[str]) -> Filter:
    """Return the filter that demands all expressions; FilterSyntaxError names the expression and the place in it."""
    return Filter(tuple(condition for expression in expressions for condition in _parse(expression)))


def _parse(expression: str) -> tuple[Condition, ...]:
    match = re.fullmatch(_EXPRESSION, expression)
    if match is None or match["name"] not in _NAMES:
        name = match["name"] if match else expression
        reason = f"{name!r} is not one of {', '.join(_ATTRIBUTES)}" if name else "a name is missing"
        raise FilterSyntaxError(expression, f"at character 1: {reason}")
    field = _NAMES[match["name"]]
    operator = match["operator"]
    if operator is None:
        reason = f"one of {', '.join(_COMPARE)} must follow the name"
        raise FilterSyntaxError(expression, f"at character {match.end('name') + 1}: {reason}")
    try:
        return _conditions(field, cast("Operator", operator), match["value"])
    except _OperatorError as error:
        raise FilterSyntaxError(expression, f"at character {match.start('operator') + 1}: {error.reason}") from None
    except InvalidValueError as error:
        raise FilterSyntaxError(expression, f"at character {match.start('value') + 1}: {error.reason}") from None


class _OperatorError(InvalidValueError):
    """A field does not know the operator."""


def _conditions(field: FieldName, operator: Operator, text: str) -> tuple[Condition, ...]:
    if field in _TIMES:
        return _time_conditions(field, operator, text)
    if field in _NUMBERS:
        number = parse_size(text) if field == "bytes" else _id(text)
        return (Condition(field, operator, number),)
    if operator not in ("=", "!="):
        raise _OperatorError(field, f"{field} takes = and != only")
    if field in _OPTIONAL and (not text or (field == "sha256" and text == "none")):
        return (Condition(field, operator, None),)
    value, prefix = _unescape(text)
    if field == "sha256":
        value = _digest(value, prefix=prefix)
    elif field == "type":
        value = _media_type(value, prefix=prefix)
    elif value or not prefix:
        value = values.required_text(field, value)
    return (Condition(field, operator, value, prefix),)


def _unescape(text: str) -> tuple[str, bool]:
    r"""Return the text and whether it is a prefix: before a final star, `\\` is one backslash and `\*` a star."""
    match = re.search(_TRAILING_STAR, text)
    if match is None:
        return text, False
    stem = text[: match.start()]
    pairs, literal = divmod(len(match["slashes"]), 2)
    return stem + "\\" * pairs + "*" * literal, not literal


def _digest(text: str, *, prefix: bool) -> str:
    digits = text.lower()
    if not re.fullmatch(_HEX, digits) or (not prefix and len(digits) != _DIGEST_LENGTH):
        raise InvalidValueError("sha256", "must be 64 hex digits, fewer with * after them, or none")
    return digits


def _media_type(text: str, *, prefix: bool) -> str:
    if prefix:
        if ";" in text:
            raise InvalidValueError("type", "parameters are not compared, so a prefix cannot hold any")
        return text.strip().lower()
    media_type = values.media_type(text)
    if media_type is None:
        raise InvalidValueError("type", "must be a media type such as application/pdf")
    return values.required_text("type", media_type)


def parse_size(text: str) -> int:
    """Return the number of bytes that a size such as 500, 1.5MB or 4GiB means; InvalidValueError."""
    match = re.fullmatch(_SIZE, text)
    factor = match and _UNITS.get(match["unit"].lower())
    if not match or not factor:
        raise InvalidValueError("bytes", f"{text!r} is not a size such as 500, 1.5MB or 4GiB")
    whole, _, decimals = match["number"].partition(".")
    size, remainder = divmod(int(whole + decimals) * factor, 10 ** len(decimals))
    if remainder:
        raise InvalidValueError("bytes", f"{text!r} is not a whole number of bytes")
    return values.size("bytes", size)


def _id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > values.ID_MAX:
        raise InvalidValueError("id", f"{text!r} is not an id")
    return int(text)


def _time_conditions(field: FieldName, operator: Operator, text: str) -> tuple[Condition, ...]:
    if operator == "!=":
        raise _OperatorError(field, f"{field} takes =, <, <=, > and >=")
    first = parse_moment(field, text)
    if not re.fullmatch(_DATE, text):
        return (Condition(field, operator, first),)
    last = first + _DAY_MICROS - 1
    if operator == "=":
        return (Condition(field, ">=", first), Condition(field, "<=", last))
    return (Condition(field, operator, last if operator in ("<=", ">") else first),)


def parse_moment(field: str, text: str) -> int:
    """Return a time such as 2025-01-31 (its first moment) or 2025-01-31T08:30:00Z in microseconds since 1970 UTC.

    InvalidValueError names the field.
    """
    if not re.fullmatch(_DATE, text) and not re.fullmatch(_TIMESTAMP, text):
        raise InvalidValueError(field, f"{text!r} is not a time such as 2025-01-31 or 2025-01-31T08:30:00Z")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidValueError(field, f"{text!r} is not a time: {error}") from None
    return clock.to_micros(values.moment(field, moment if moment.tzinfo else moment.replace(tzinfo=UTC)))


def _compile(condition: Condition) -> Predicate:
    get = _getter(condition.field)
    if condition.prefix:
        wanted = condition.operator == "="
        start = str(condition.value)

        def begins(record: DocumentRecord) -> bool:
            text = get(record)
            return (text is not None and text.startswith(start)) is wanted

        return begins
    compare = _COMPARE[condition.operator]
    value: object = condition.value
    if condition.field in _TIMES and isinstance(value, int):
        value = clock.from_micros(value)

    def compares(record: DocumentRecord) -> bool:
        return compare(get(record), value)

    return compares


def _getter(field: FieldName) -> Callable[[DocumentRecord], Any]:
    if field == "type":
        return lambda record: values.media_type(record.content_type)
    return attrgetter(_ATTRIBUTES[field])
