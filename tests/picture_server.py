"""Serve pictures at a loopback address, and all that may stand where a picture was: 20 kinds of behaviour."""

import io
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from PIL import Image

# Path -> the kind under which the download counts it; None for a picture.
KINDS = {
    "jpeg": None,
    "png": None,
    "webp": None,
    "redirect": None,
    "broken": "no picture that can be decoded",
    "text": "no picture that can be decoded",
    "bomb": "no picture that can be decoded",
    "empty": "empty file",
    "slow": "slower than max_seconds",
    "slow_headers": "slower than max_seconds",
    "huge": "larger than max_bytes",
    "huge_unannounced": "larger than max_bytes",
    "cut": "connection lost midway",
    "inwards": "address inside this network",
    "to_a_file": "redirect to another kind of address",
    "403": "HTTP 403",
    "404": "HTTP 404",
    "500": "HTTP 500",
    "optout": "opted out by X-Robots-Tag",
    "optout_by_name": "opted out by X-Robots-Tag",
}
MAX_BYTES = 50_000
_PIECE = 1000


def picture(number, kind="jpeg"):
    """Return the bytes of a picture of a colour of its own."""
    buffer = io.BytesIO()
    color = (number % 256, number // 256 % 256, 128)
    Image.new("RGB", (20, 16), color).save(buffer, kind)
    return buffer.getvalue()


def bomb():
    """Return the bytes of a small file that unpacks to a picture of 100 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "png")
    return buffer.getvalue()


class PictureServer(ThreadingHTTPServer):
    """Server of `/KIND/NUMBER`.

    `requests` lists the host and path of each request.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = []
        self.bomb = bomb()
        self.lock = Lock()
        Thread(target=self.serve_forever, daemon=True).start()

    def url(self, kind, number, host="127.0.0.1"):
        return f"http://{host}:{self.server_port}/{kind}/{number}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        """Print nothing on the terminal."""

    def do_GET(self):
        with self.server.lock:
            self.server.requests.append((self.headers["Host"].partition(":")[0], self.path))
        _, kind, number = self.path.split("/")
        with suppress(OSError):  # the client has left
            self.behave(kind, int(number))

    def behave(self, kind, number):
        targets = {
            "redirect": self.server.url("jpeg", number),
            "inwards": self.server.url("jpeg", number, host="localhost"),
            "to_a_file": "file:///etc/hostname",
        }
        contents = {
            "broken": picture(number)[:40],
            "bomb": self.server.bomb,
            "text": b"<html>gone</html>",
            "empty": b"",
        }
        if kind in ("jpeg", "png", "webp"):
            self.answer(picture(number, kind))
        elif kind in ("403", "404", "500"):
            self.send_error(int(kind))
        elif kind in targets:
            self.redirect(targets[kind])
        elif kind in contents:
            self.answer(contents[kind])
        else:
            self.misbehave(kind, number)

    def misbehave(self, kind, number):
        """Answer with a refusal, or with too much, too little or too late."""
        if kind == "optout":
            self.answer(picture(number), {"X-Robots-Tag": "noindex, NoAI"})
        elif kind == "optout_by_name":
            self.answer(picture(number), {"X-Robots-Tag": "img2dataset: noai"})
        elif kind == "huge":
            self.answer(picture(number), {"Content-Length": str(10**10)})
        elif kind == "cut":
            self.answer(picture(number), {"Content-Length": "20000"})
        elif kind == "huge_unannounced":
            self.send_response(200)
            self.end_headers()
            for _ in range(10 * MAX_BYTES // _PIECE):
                self.wfile.write(b"\xff" * _PIECE)
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            self.drip()
        elif kind == "slow_headers":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Header: ")
            self.drip()

    def drip(self):
        """Send a byte now and then, for longer than anybody should wait."""
        for _ in range(600):
            self.wfile.write(b"a")
            time.sleep(0.1)

    def answer(self, content, headers=None):
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()
