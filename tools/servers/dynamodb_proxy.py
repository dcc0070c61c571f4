"""A proxy before a DynamoDB on the loopback interface: it hears all, and lets a rule refuse, cut off or change calls.

So the client is exercised as it is with what a real service does now and then and no emulator shows.
"""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

TARGET_PREFIX = "DynamoDB_20120810."
_CONTENT_TYPE = "application/x-amz-json-1.0"
_NOT_FORWARDED = {"host", "connection", "content-length", "accept-encoding", "expect"}

Body = dict[str, Any]


class Exchange(NamedTuple):
    """A call that was answered: what it is called, what came, and what went back."""

    operation: str
    request: Body
    reply: Body
    status: int


class Refuse(Struct):
    """Answer with an error in place of the server; `reasons` are those of a cancelled transaction."""

    code: str
    status: int = 400
    reasons: tuple[str, ...] = ()


class Cut(Struct):
    """Close the connection without an answer, the call being done or not."""

    is_done: bool


class Change(Struct):
    """Send another request on, or change the answer."""

    request: Body | None = None
    reply: Callable[[Body], Body] | None = None


class Say(Struct):
    """Answer with some text and status 200 in place of the server, as a broken proxy or another service would."""

    text: bytes


Action = Refuse | Cut | Change | Say | None
Rule = Callable[[str, Body], Action]


class Proxy:
    """What is between; `rule` may be set at any time, and `heard` is called with each exchange, from any thread."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._connections = threading.local()
        self.rule: Rule = lambda _operation, _request: None
        self.heard: Callable[[Exchange], object] = lambda _exchange: None
        self.endpoint_url = ""

    def answer(self, operation: str, path: str, headers: Mapping[str, str], data: bytes) -> tuple[int, bytes] | None:
        """Return the status and body of an answer, None to cut the connection."""
        request = json.loads(data or b"{}")
        action = self.rule(operation, request)
        if isinstance(action, Refuse):
            return action.status, _refusal(action)
        if isinstance(action, Cut) and not action.is_done:
            return None
        if isinstance(action, Say):
            return http.HTTPStatus.OK, action.text
        changed = action.request if isinstance(action, Change) else None
        status, body = self._forward(path, headers, data if changed is None else json.dumps(changed).encode())
        if isinstance(action, Change) and action.reply is not None and status == http.HTTPStatus.OK:
            body = json.dumps(action.reply(json.loads(body))).encode()
        self.heard(Exchange(operation, changed or request, json.loads(body or b"{}"), status))
        return None if isinstance(action, Cut) else (status, body)

    def _forward(self, path: str, headers: Mapping[str, str], data: bytes) -> tuple[int, bytes]:
        kept = {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}
        for is_last in (False, True):
            connection = getattr(self._connections, "one", None)
            if connection is None:
                connection = self._connections.one = http.client.HTTPConnection(*self._address)
            try:
                connection.request("POST", path, data, kept)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                # One that was kept open may have been closed by the server meanwhile.
                connection.close()
                self._connections.one = None
                if is_last:
                    raise
        raise AssertionError("unreachable")

    def hang_up(self) -> None:
        """Close what this thread has open to the server."""
        connection = getattr(self._connections, "one", None)
        if connection is not None:
            connection.close()


@contextmanager
def between(upstream: str) -> Iterator[Proxy]:
    """Serve a proxy before an endpoint until the context ends."""
    proxy = Proxy(upstream)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            operation = self.headers.get("X-Amz-Target", "").removeprefix(TARGET_PREFIX)
            answer = proxy.answer(operation, self.path, dict(self.headers), data)
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def finish(self) -> None:
            proxy.hang_up()
            super().finish()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that leaves is no error."""

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            with suppress(RuntimeError):
                thread.join()


def _refusal(action: Refuse) -> bytes:
    body: Body = {"__type": f"com.amazonaws.dynamodb.v20120810#{action.code}", "message": f"{action.code}, as told"}
    if action.reasons:
        body["message"] = f"Transaction cancelled, reasons: [{', '.join(action.reasons)}]"
        body["CancellationReasons"] = [{"Code": reason} for reason in action.reasons]
    return json.dumps(body).encode()
