"""An object store in memory, over HTTP, that misbehaves as a test says: what real servers do only now and then."""

from __future__ import annotations

import http.server
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from msgspec import Struct

DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
LISTED = "2025-01-01T00:00:00.000Z"
COPIED = b'<CopyObjectResult><ETag>"0"</ETag></CopyObjectResult>'


class Request(NamedTuple):
    """`query` is that of a listing."""

    method: str
    key: str
    conditional: bool
    query: str = ""


class Answer(Struct):
    """`sent` bytes of the body go out before the connection is cut; None for all."""

    status: int
    code: str = ""
    headers: dict[str, str] = {}
    body: bytes = b""
    sent: int | None = None


class Double:
    """Objects by key, each with its headers; `rule` may answer a request in place of the store."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[dict[str, str], bytes]] = {}
        self.requests: list[Request] = []
        self.rule: Callable[[Request], Answer | None] = lambda _request: None
        self.endpoint_url = ""

    def keep(self, key: str, body: bytes, sha256: str | None = None) -> None:
        self.objects[key] = ({"x-amz-meta-sha256": sha256} if sha256 else {}, body)

    def answer(self, request: Request, headers: dict[str, str], body: bytes) -> Answer:
        self.requests.append(request)
        given = self.rule(request)
        if given is not None:
            return given
        if request.method == "PUT":
            kept = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
            source = headers.get("x-amz-copy-source")
            if source is not None:
                body = self.objects[urllib.parse.unquote(source).lstrip("/").partition("/")[2]][1]
            self.objects[request.key] = (kept, body)
            return Answer(200, headers={"ETag": '"0"'}, body=COPIED if source is not None else b"")
        if request.method == "DELETE":
            self.objects.pop(request.key, None)
            return Answer(204)
        if not request.key:
            return Answer(200, body=b"" if request.method == "HEAD" else self.listed(request.query))
        if request.key not in self.objects:
            return Answer(404, code="NoSuchKey")
        kept, body = self.objects[request.key]
        return Answer(200, headers={**kept, "Last-Modified": DATE, "ETag": '"0"'}, body=body)

    def listed(self, query: str) -> bytes:
        """Return the page of a listing, which has all there is."""
        wanted = dict(urllib.parse.parse_qsl(query))
        prefix, delimiter = wanted.get("prefix", ""), wanted.get("delimiter")
        folders, entries = set(), ""
        for key, (_, body) in sorted(self.objects.items()):
            inside = key[len(prefix) :]
            if key.startswith(prefix) and delimiter and delimiter in inside:
                folders.add(prefix + inside.partition(delimiter)[0] + delimiter)
            elif key.startswith(prefix):
                entries += f"<Contents><Key>{key}</Key><Size>{len(body)}</Size><LastModified>{LISTED}</LastModified>"
                entries += "</Contents>"
        entries += "".join(f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>" for each in sorted(folders))
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


@contextmanager
def serving() -> Iterator[Double]:
    """Serve a new double on a free port of the loopback interface; any bucket is there."""
    double = Double()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            path, _, query = self.path.partition("?")
            key = urllib.parse.unquote(path).lstrip("/").partition("/")[2]
            request = Request(self.command, key, "if-none-match" in headers, "" if key else query)
            answer = double.answer(request, headers, body)
            content = answer.body
            if answer.code and self.command != "HEAD":
                content = f"<Error><Code>{answer.code}</Code><Message>As told</Message></Error>".encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: answer.sent])
            if answer.sent is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_DELETE = handle_any  # noqa: N815  named by http.server

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  named by http.server
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client may leave."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    double.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        with suppress(OSError):
            server.server_close()
