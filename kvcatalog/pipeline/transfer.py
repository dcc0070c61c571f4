"""The limits of a download, and a socket that keeps them.

urllib3 bounds each wait for bytes, not their sum: a server that sends one byte a second is never late. Here every
receive, of headers too, looks at the deadline and at whether the run was stopped.
"""

from __future__ import annotations

import io
import socket
from contextlib import suppress
from contextvars import ContextVar
from http.client import HTTPResponse
from threading import Event
from time import monotonic
from typing import Any

from msgspec import Struct

_TICK_SECONDS = 0.2
"""How long a receive waits before it looks whether the run was stopped."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a download may take.

    `connect_seconds` bounds connecting to one address, `read_seconds` a silence, `total_seconds` everything from the
    first try to the last byte, with the waits between tries and all addresses of a host. Looking up a host's name
    counts, but is never cut short: the operating system's resolver has limits of its own. `bytes_max` bounds what is
    stored. `backoff_seconds` is the first wait between tries; each further one is twice as long.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    total_seconds: float = 600.0
    bytes_max: int = 1 << 30
    redirects_max: int = 10
    tries_max: int = 4
    backoff_seconds: float = 0.5


class StoppedError(Exception):
    """The run is to end; what was not whole is not stored."""


class Transfer:
    """One document on its way: until when, and whether more came than was announced."""

    def __init__(self, limits: Limits, stop: Event) -> None:
        self.limits = limits
        self.exceeded_length = False
        self._deadline = monotonic() + limits.total_seconds
        self._stop = stop

    def seconds_left(self) -> float:
        """Return the time that is left; TimeoutError if none is, StoppedError if the run is to end."""
        if self._stop.is_set():
            raise StoppedError
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("it took longer than it may")
        return left

    def wait(self, seconds: float) -> bool:
        """Wait; False, at once, if that would last beyond the deadline. StoppedError if the run is to end."""
        if monotonic() + seconds >= self._deadline:
            return False
        if self._stop.wait(seconds):
            raise StoppedError
        return True


CURRENT: ContextVar[Transfer] = ContextVar("CURRENT")
"""The transfer that a thread makes requests for; it is told here, since the standard library makes the responses."""


class WatchedResponse(HTTPResponse):
    """A response of the standard library that reads its socket within the limits of the current transfer."""

    def __init__(self, sock: socket.socket, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(sock, *arguments, **settings)
        # Its own reader is kept: it holds the socket open for as long as the response is read.
        self.fp = _Buffered(_Receiver(sock, self.fp, CURRENT.get()), self)


class _Receiver(io.RawIOBase):
    def __init__(self, sock: socket.socket, holder: io.BufferedIOBase, transfer: Transfer) -> None:
        self._socket = sock
        self._holder = holder
        self.transfer = transfer
        self.waits = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401
        if not self.waits:
            return self._at_once(buffer)
        silent_until = monotonic() + self.transfer.limits.read_seconds
        while True:
            left = min(self.transfer.seconds_left(), silent_until - monotonic())
            if left <= 0:
                raise TimeoutError("nothing came for too long")
            self._socket.settimeout(min(left, _TICK_SECONDS))
            with suppress(TimeoutError):
                return self._socket.recv_into(buffer)

    def _at_once(self, buffer: Any) -> int | None:  # noqa: ANN401
        try:
            self._socket.settimeout(0)
            return self._socket.recv_into(buffer)
        except OSError:
            return None

    def close(self) -> None:
        if not self.closed:
            # The connection may serve the next request.
            with suppress(OSError):
                self._socket.settimeout(self.transfer.limits.read_seconds)
            self._holder.close()
        super().close()


class _Buffered(io.BufferedReader):
    def __init__(self, receiver: _Receiver, response: HTTPResponse) -> None:
        super().__init__(receiver)
        self._receiver = receiver
        self._response = response

    def close(self) -> None:
        # The standard library closes its reader with the last byte that Content-Length announces. What lies behind it
        # shows that the server announced something else than what it sent.
        if not self.closed and self._response.length == 0:
            self._receiver.waits = False
            self._receiver.transfer.exceeded_length = bool(self.peek(1))
        super().close()
