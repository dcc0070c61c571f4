"""What a value must be before it is stored: the checks of every field, in one place.

Each function returns the value in its stored form or raises InvalidValueError with the field's name.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from kvcatalog.errors import InvalidValueError

INTEGER_MAX = 2**63 - 1
"""Sizes and counts are signed 64-bit integers, so that every SQL database takes them."""

ID_MAX = 2**53 - 1
"""Ids stay exact in every language whose numbers are doubles."""

DAYS_MAX = 100_000
"""So old is nothing."""

_DIGEST_DIGITS = 64
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_DIGEST_PREFIX = re.compile(r"[0-9a-fA-F]{1,64}")


def required_text(field: str, value: object) -> str:
    """Return text that is not empty, valid UTF-8, and free of NUL."""
    if type(value) is str and value and value.isascii() and "\0" not in value:
        return value
    if not isinstance(value, str):
        raise InvalidValueError(field, f"must be text, not {type(value).__name__}")
    if not value:
        raise InvalidValueError(field, "must not be empty")
    if "\0" in value:
        raise InvalidValueError(field, "must not contain the NUL character")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(field, f"is not valid Unicode: a lone surrogate at character {error.start}") from error
    return value if type(value) is str else encoded.decode()


def optional_text(field: str, value: object) -> str | None:
    """Return text as `required_text` does; None and the empty string become None."""
    return None if value is None or value == "" else required_text(field, value)


def digest(field: str, value: object) -> str | None:
    """Return a SHA-256 in 64 lowercase hex digits; None and the empty string become None."""
    if value is None or value == "":
        return None
    return raw_digest(field, value).hex()


def raw_digest(field: str, value: object) -> bytes:
    """Return the 32 bytes that 64 hex digits stand for."""
    if isinstance(value, str) and len(value) == _DIGEST_DIGITS:
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        if 2 * len(raw) == _DIGEST_DIGITS:  # fewer where there was white space
            return raw
    raise InvalidValueError(field, "must be a SHA-256 in 64 hex digits")


def is_digest(text: str) -> bool:
    """Tell whether a text is 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def digest_prefix(field: str, value: object) -> str:
    """Return 1 to 64 hex digits in lowercase."""
    if not isinstance(value, str) or not _DIGEST_PREFIX.fullmatch(value):
        raise InvalidValueError(field, "must be 1 to 64 hex digits")
    return value.lower()


def size(field: str, value: object) -> int:
    """Return a number of bytes from 0 to 2^63-1."""
    return _integer(field, value, 0, INTEGER_MAX)


def record_id(field: str, value: object) -> int:
    """Return an id from 1 to 2^53-1."""
    return _integer(field, value, 1, ID_MAX)


def positive(field: str, value: object) -> int:
    """Return a number from 1 to 2^63-1."""
    return _integer(field, value, 1, INTEGER_MAX)


def days(field: str, value: float) -> float:
    """Return a number of days from 0 to DAYS_MAX."""
    if not 0 <= value <= DAYS_MAX:  # nan compares with nothing
        raise InvalidValueError(field, f"must be a number of days from 0 to {DAYS_MAX}")
    return value


def choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise InvalidValueError(field, f"must be one of {', '.join(choices)}, not {value!r}")


def moment(field: str, value: object) -> datetime:
    """Return an aware datetime, in UTC."""
    if not isinstance(value, datetime):
        raise InvalidValueError(field, f"must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidValueError(field, "must carry a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidValueError(field, "lies outside the years 1 to 9999 in UTC") from error


def media_type(content_type: str | None) -> str | None:
    """Return a content type's media type, lowercase and without parameters (RFC 9110, 8.3.1); None if there is none."""
    if content_type is None:
        return None
    return content_type.partition(";")[0].strip().lower() or None


def _integer(field: str, value: object, lowest: int, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValueError(field, f"must be an integer, not {type(value).__name__}")
    if not lowest <= value <= highest:
        raise InvalidValueError(field, f"must be from {lowest} to {highest}")
    return int(value)
