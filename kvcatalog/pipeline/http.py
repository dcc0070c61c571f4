"""One GET, whose body is a stream that ends well or raises; the one module that imports urllib3."""

from __future__ import annotations

import gzip
import io
import re
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import IncompleteRead, InvalidURL
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse
from urllib3.util.connection import allowed_gai_family

from kvcatalog import __version__
from kvcatalog.pipeline.transfer import CURRENT, Transfer, WatchedResponse

_HEADERS = {"User-Agent": f"kvcatalog/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
_WHOLE = frozenset((200, 203))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
_NOT_MODIFIED = 304
_LENGTH = re.compile(r"[0-9]+")
_GZIP = frozenset(("gzip", "x-gzip"))

# What urllib3 and the standard library raise, the special before the general; whether another try may fare better.
_FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (exceptions.ProxyError, "proxy", True),
    (exceptions.NewConnectionError, "connection", True),
    (exceptions.TimeoutError, "timeout", True),
    (exceptions.SSLError, "tls", False),
    (exceptions.LocationValueError, "invalid-url", False),
    (InvalidURL, "invalid-url", False),
    (exceptions.IncompleteRead, "size-mismatch", True),
    (IncompleteRead, "cut", True),
    (OSError, "cut", True),
)


class DownloadError(Exception):
    """A download did not give a whole document.

    `reason` is one of a fixed set of words, or `http-` and a status. With `passing` another try may fare better, after
    `retry_after` seconds where the server named them.
    """

    def __init__(self, reason: str, *, passing: bool = False, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passing = passing
        self.retry_after = retry_after


class Client:
    """Makes requests and keeps connections; any thread may use it.

    It goes through the proxies that the environment names (`http_proxy`, `https_proxy`, `no_proxy`).
    """

    def __init__(self, *, connections: int) -> None:
        self._connections = connections
        self._direct = self._watched(urllib3.PoolManager)
        self._proxies = {
            scheme: self._watched(partial(urllib3.ProxyManager, proxy if "://" in proxy else f"http://{proxy}"))
            for scheme, proxy in getproxies().items()
            if scheme in {"http", "https"}
        }

    @contextmanager
    def get(self, url: str, transfer: Transfer) -> Iterator[Body]:
        """Request a URL, following redirects, and yield the body of the answer; DownloadError if there is none."""
        token = CURRENT.set(transfer)
        try:
            response = self._follow(url, transfer)
        finally:
            CURRENT.reset(token)
        try:
            yield Body(response, transfer)
        finally:
            # What was read to its end has given its connection back already.
            response.close()

    def close(self) -> None:
        """Close the connections that wait for another request."""
        for pools in (self._direct, *self._proxies.values()):
            pools.clear()

    def _watched(self, make: Callable[..., urllib3.PoolManager]) -> urllib3.PoolManager:
        pools = make(num_pools=2 * self._connections + 8, maxsize=self._connections, headers=_HEADERS, retries=False)
        pools.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return pools

    def _pools(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        return self._direct if proxy is None or proxy_bypass(parts.hostname or "") else proxy

    def _follow(self, url: str, transfer: Transfer) -> BaseHTTPResponse:
        for _ in range(transfer.limits.redirects_max + 1):
            response = self._request(url, transfer)
            target = response.headers.get("Location") if response.status in _REDIRECTS else None
            if target is None:
                return _answered(response)
            response.close()
            try:
                url = urljoin(url, target)
            except ValueError as error:
                raise DownloadError("redirect-refused") from error
            if not is_fetchable(url):
                raise DownloadError("redirect-refused")
        raise DownloadError("too-many-redirects")

    def _request(self, url: str, transfer: Transfer) -> BaseHTTPResponse:
        limits = transfer.limits
        with _translated():
            connect = min(limits.connect_seconds, transfer.seconds_left())
            timeout = urllib3.Timeout(connect=connect, read=limits.read_seconds)
            try:
                return self._pools(url).request(
                    "GET", url, timeout=timeout, redirect=False, preload_content=False, decode_content=False
                )
            except ValueError as error:
                # No host, or one that no name service could look up.
                raise DownloadError("invalid-url") from error


class Body(io.RawIOBase):
    """The bytes of a document as they come.

    Whoever has read it to its end has all that the server announced. Anything else raises DownloadError on the way:
    `cut`, `size-mismatch`, `timeout`, `too-large`, `empty`, `encoding` (it cannot be decoded). A server is asked to
    send no content encoding; gzip, which some send all the same, is decoded, and others are refused. Where a server
    announces no length and no chunks, the closing of the connection is the end, and a cut cannot be told from it.
    """

    def __init__(self, response: BaseHTTPResponse, transfer: Transfer) -> None:
        self.content_type = _content_type(response)
        self._response = response
        self._transfer = transfer
        self._bytes_left = transfer.limits.bytes_max
        self._is_empty = True
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity", *_GZIP}:
            raise DownloadError("encoding")
        announced = response.headers.get("Content-Length", "")
        if announced and not all(_LENGTH.fullmatch(part.strip()) for part in announced.split(",")):
            raise DownloadError("bad-response")  # what it announces cannot be held against what comes
        if encoding not in _GZIP and announced.isdecimal() and int(announced[:20]) > self._bytes_left:
            raise DownloadError("too-large")
        self._source: Any = gzip.GzipFile(fileobj=response) if encoding in _GZIP else response

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        """Receive into a buffer and return how many bytes; 0 at the end of a whole document."""
        with _translated():
            piece = self._source.read(len(buffer))
        count = len(piece)
        buffer[:count] = piece
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise DownloadError("too-large")
        if count:
            self._is_empty = False
        elif self._transfer.exceeded_length:
            raise DownloadError("size-mismatch")
        elif self._is_empty:
            raise DownloadError("empty")
        return count


def is_fetchable(url: str) -> bool:
    """Tell whether a URL is of a scheme that is fetched."""
    return url.lower().startswith(("http://", "https://"))


def _answered(response: BaseHTTPResponse) -> BaseHTTPResponse:
    if response.status in _WHOLE:
        return response
    response.close()
    if response.status == _NOT_MODIFIED:
        raise DownloadError("not-modified")
    passing = response.status in _PASSING
    retry_after = _retry_after(response) if passing else None
    raise DownloadError(f"http-{response.status}", passing=passing, retry_after=retry_after)


def _retry_after(response: BaseHTTPResponse) -> float | None:
    named = response.headers.get("Retry-After")
    try:
        return urllib3.Retry().parse_retry_after(named) if named else None
    except (exceptions.HTTPError, ValueError, OverflowError):
        return None


def _content_type(response: BaseHTTPResponse) -> str | None:
    named = " ".join(response.headers.get("Content-Type", "").split())
    return None if "\0" in named else named or None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exceptions.HTTPError as error:
        raise _failure(error) from error
    except TimeoutError as error:
        raise DownloadError("timeout") from error
    except ValueError as error:
        raise DownloadError("bad-response") from error  # a length that the standard library cannot use
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DownloadError("cut" if isinstance(error, EOFError) else "encoding") from error


def _failure(error: exceptions.HTTPError) -> DownloadError:
    cause = error.args[1] if isinstance(error, exceptions.ProtocolError) and len(error.args) > 1 else error
    for kind, reason, passing in _FAILURES:
        if isinstance(cause, kind):
            return DownloadError(reason, passing=passing)
    return DownloadError("bad-response")


class _Connection(HTTPConnection):
    """Tries the addresses of a host in turn; urllib3 would give each of them the whole time."""

    response_class = WatchedResponse

    def _new_conn(self) -> socket.socket:
        transfer = CURRENT.get()
        name = self._dns_host
        failure: Exception | None = None
        try:
            for address in self._addresses():
                with _translated():
                    self.timeout = min(transfer.limits.connect_seconds, transfer.seconds_left())
                self.host = address
                try:
                    return super()._new_conn()
                except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError) as error:
                    failure = error
        finally:
            self.host = name
        raise failure or exceptions.NewConnectionError(self, "the host has no address")

    def _addresses(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self._dns_host.strip("[]"), self.port, allowed_gai_family(), socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise exceptions.NameResolutionError(self.host, self, error) from error
        return [str(place[0]) for *_, place in found]


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection
