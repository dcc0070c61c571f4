"""Where a table is, as a URL: `dynamodb://TABLE?region=REGION`, with `endpoint_url=…` for servers other than AWS."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from msgspec import Struct

from kvcatalog.errors import ConfigError

SCHEME = "dynamodb://"
_NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_OPTIONS = ("region", "endpoint_url")

WRITE_IT_AS = (
    f"Write it as '{SCHEME}TABLE?region=REGION', for servers other than AWS with &endpoint_url=http://HOST:PORT."
)
"""What is said of a URL that is not understood; quoted, since & and ? mean something to a shell."""


class TablePlace(Struct, frozen=True):
    """A table, and where it is asked for; what is None is found as boto3 finds it."""

    table: str
    region: str | None = None
    endpoint_url: str | None = None

    @property
    def url(self) -> str:
        """The URL of the table; nothing in it is secret."""
        options = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        return SCHEME + quote(self.table) + ("?" + urlencode(options, safe=":/") if options else "")


def parse_place(url: str) -> TablePlace:
    """Return what a URL names; ConfigError if it is not understood."""
    try:
        return _parsed(url)
    except ConfigError as error:
        raise error.advising(WRITE_IT_AS) from error.__cause__


def _parsed(url: str) -> TablePlace:
    name, _, query = url.removeprefix(SCHEME).partition("?")
    if not url.startswith(SCHEME) or not _NAME.fullmatch(name):
        raise ConfigError(f"catalog {url}: a table's name has 3 to 255 letters, digits, and . _ -")
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ConfigError(f"catalog {url}: {error}") from error
    for option, value in pairs:
        if option not in _OPTIONS or option in options or not value:
            raise ConfigError(f"catalog {url}: {option}={value}: the options are region and endpoint_url, once each")
        options[option] = value
    if "endpoint_url" in options and not _is_web_address(options["endpoint_url"]):
        raise ConfigError(f"catalog {url}: endpoint_url={options['endpoint_url']}: begins with http:// or https://")
    return TablePlace(name, **options)


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
