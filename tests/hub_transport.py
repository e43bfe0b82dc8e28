"""How the Hub of the tests reads requests and sends answers, whole or broken on purpose."""

import json
import re
import socket
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from .hub_repositories import Refusal


@dataclass
class Failure:
    """A failure of the next requests that match: a status, or a connection that is dropped.

    Attributes:
        pattern: what "METHOD /path" has to match.
        times: how many requests fail.
        how: a status such as 500; "drop", when the request's body is half read; "lose", when all is done, so
            that only the answer is lost; or "cut", in the middle of the answer.
    """

    pattern: str
    times: int
    how: int | str


class Transport(BaseHTTPRequestHandler):
    """Reads a request and sends what `answer` returns as JSON, or has sent itself."""

    def log_message(self, *arguments) -> None:
        """Print nothing on the terminal."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        method = "GET" if self.command == "HEAD" else self.command
        request = f"{self.command} {unquote(url.path)}"
        self.server.requests.append(request)
        self.query = parse_qs(url.query)
        self.failure = self.server.failure_of(request)
        if self.failure == "drop":
            return self.drop()
        self.body = self.read_body()
        if isinstance(self.failure, int):
            return self.send_json({"error": "Something went wrong"}, self.failure)
        try:
            self.answer(method, url.path)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message.splitlines()[0]}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send_json({"error": refusal.message}, refusal.status, headers)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def drop(self) -> None:
        """Read half of the request, and close the connection without an answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
        self.close()

    def close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send_json(self, content, status: int = 200, headers: dict | None = None) -> None:
        body = json.dumps(content).encode()
        self.send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, body: bytes, headers: dict) -> None:
        if self.failure == "lose":
            return self.close()
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.failure == "cut":
            self.wfile.write(body[: len(body) // 2])
            return self.close()
        self.wfile.write(body)

    def send_content(self, content: bytes, headers: dict) -> None:
        """Send a file, or the part of it that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"Accept-Ranges": "bytes"} | headers
        if asked is None:
            return self.send(200, content, headers)
        self.server.ranges.append(asked[0])
        begin = int(asked[1])
        end = min(int(asked[2] or len(content)) + 1, len(content))
        if begin >= len(content):
            return self.send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        self.send(206, content[begin:end], headers)
