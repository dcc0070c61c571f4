"""A web server on this host that also misbehaves; what it serves is chosen by the first part of the path."""

# ruff: noqa: ARG002  Every way to answer has one signature.

from __future__ import annotations

import gzip
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Lock, Thread

import pytest

PDF = b"%PDF-1.7\n" + b"oxygen in small ponds\n" * 4000


class Web:
    """Serves until closed; `requests` counts the paths that were asked for, `headers` holds the last request."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests: Counter[str] = Counter()
        self.headers = ""
        self.hanging = Event()
        self._over = Event()
        self._lock = Lock()
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            waiting = b""
            while not self._over.is_set():
                while b"\r\n\r\n" not in waiting:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    waiting += piece
                head, _, waiting = waiting.partition(b"\r\n\r\n")
                if head.startswith(b"CONNECT"):
                    connection.sendall(b"HTTP/1.1 403 No\r\n\r\n")
                    return
                # A proxy is asked for the whole URL; what follows the host is answered as if it were here.
                path = re.sub("^http://[^/]*", "", head.split(b" ")[1].decode())
                with self._lock:
                    self.requests[path] += 1
                    self.headers = head.decode()
                answer: Callable[[socket.socket, str], None] = getattr(self, "_" + path.split("/")[1])
                answer(connection, path)

    def _ok(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF + path.encode()))

    def _same(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF))

    def _status(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(b"no", status=int(path.split("/")[2])))

    def _unchanged(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 304 Not Modified\r\n\r\n")

    def _empty(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(b""))

    def _badlength(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: " + path.split("/")[2].encode() + b"\r\n\r\n" + PDF)
        connection.shutdown(socket.SHUT_RDWR)

    def _badchunk(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n")
        connection.shutdown(socket.SHUT_RDWR)

    def _cut(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF)[:-1000])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.05)
        raise OSError("reset")

    def _short(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF)[:-1000])
        raise OSError("closed")

    def _long(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF) + b"and more")

    def _cutchunks(self, connection: socket.socket, path: str) -> None:
        connection.sendall(CHUNKED + b"10\r\n0123456789abcdef\r\n10\r\n0123")
        raise OSError("closed")

    def _chunks(self, connection: socket.socket, path: str) -> None:
        connection.sendall(CHUNKED)
        for start in range(0, len(PDF), 1000):
            piece = PDF[start : start + 1000]
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")

    def _closing(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/pdf\r\n\r\n" + PDF)
        raise OSError("closed")

    def _endless(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self._over.is_set():
            connection.sendall(PDF)

    def _huge(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n")
        self._over.wait()

    def _drip(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF)[:100])
        while not self._over.wait(0.02):
            connection.sendall(b".")

    def _driphead(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self._over.wait(0.02):
            connection.sendall(b".")

    def _hang(self, connection: socket.socket, path: str) -> None:
        self.hanging.set()
        self._over.wait()

    def _hangbody(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF)[:-1000])
        self.hanging.set()
        self._over.wait()

    def _garbage(self, connection: socket.socket, path: str) -> None:
        connection.sendall(b"\x00\xff\x1b[31m no HTTP at all\r\n\r\n")
        raise OSError("closed")

    def _silent(self, connection: socket.socket, path: str) -> None:
        raise OSError("closed")

    def _flaky(self, connection: socket.socket, path: str) -> None:
        """Fail with the status in the path, then answer."""
        if self.requests[path] > 1:
            connection.sendall(response(PDF))
        else:
            connection.sendall(response(b"later", status=int(path.split("/")[2])))

    def _busy(self, connection: socket.socket, path: str) -> None:
        """Ask for the wait in the path, then answer."""
        if self.requests[path] > 1:
            connection.sendall(response(PDF))
        else:
            after = path.split("/")[2].encode()
            connection.sendall(response(b"later", b"Retry-After: " + after + b"\r\n", status=429))

    def _cutonce(self, connection: socket.socket, path: str) -> None:
        if self.requests[path] > 1:
            connection.sendall(response(PDF))
        else:
            self._short(connection, path)

    def _loop(self, connection: socket.socket, path: str) -> None:
        connection.sendall(redirect(path.encode()))

    def _to(self, connection: socket.socket, path: str) -> None:
        """Redirect to what follows in the path."""
        connection.sendall(redirect(path.removeprefix("/to/").encode()))

    def _gzip(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(gzip.compress(PDF), b"Content-Encoding: gzip\r\n"))

    def _gzipcut(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(gzip.compress(PDF)[:-20], b"Content-Encoding: gzip\r\n"))

    def _gzipbomb(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(BOMB, b"Content-Encoding: gzip\r\n"))

    def _gzipnone(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF, b"Content-Encoding: gzip\r\n"))

    def _brotli(self, connection: socket.socket, path: str) -> None:
        connection.sendall(response(PDF, b"Content-Encoding: br\r\n"))


BOMB = gzip.compress(bytes(30_000_000))
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nTransfer-Encoding: chunked\r\n\r\n"


def response(body: bytes, headers: bytes = b"", *, status: int = 200) -> bytes:
    head = b"HTTP/1.1 %d Said\r\nContent-Type: application/pdf\r\nContent-Length: %d\r\n" % (status, len(body))
    return head + headers + b"\r\n" + body


def redirect(target: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + target + b"\r\n\r\n"


@pytest.fixture(scope="module")
def shared_web() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


@pytest.fixture
def web(shared_web: Web) -> Web:
    """The server of a module's tests, which has had no request yet."""
    shared_web.requests.clear()
    return shared_web
