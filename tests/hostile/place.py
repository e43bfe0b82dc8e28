"""Where hostile inputs lie: a folder within one that must not change, and servers that count or misbehave."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from modeling_altclip import AltCLIPProcessor


@dataclass(frozen=True)
class Row:
    """An input of one kind.

    Args:
        name: what it is, for the table.
        attempt: gives the input to what reads it.
        expected: what the error, or else the value that is returned, has to contain.
        is_long: whether it takes seconds, and stays out of the quick table.
    """

    name: str
    attempt: Callable[[], object]
    expected: str
    is_long: bool = False


@dataclass(frozen=True)
class Place:
    """What the makers of inputs are given.

    Args:
        root: the folder that must not change, but for what lies below `inside`.
        url: the address of a server that nobody may ask.
        bad_url: the address of a server that misbehaves, which callers name.
        processor: for images of 224 pixels.
    """

    root: Path
    url: str
    bad_url: str
    processor: AltCLIPProcessor

    @property
    def canary(self) -> Path:
        """Return the picture that must neither change nor be read."""
        return self.root / "canary.png"

    def new_folder(self) -> Path:
        """Make a folder for one input, four levels below the root."""
        inside = self.root / "one/two/three"
        inside.mkdir(parents=True, exist_ok=True)
        folder = inside / str(len(list(inside.iterdir())))
        folder.mkdir()
        return folder

    def outside(self) -> dict[str, bytes]:
        """Return the contents of all files that must not change."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files if self.root / "one" not in path.parents}


class BadServer(ThreadingHTTPServer):
    """Redirects to another server at /redirect, never ends at /endless, sends bytes slowly at /slow."""

    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        # By this name tests take it for a server outside of this network.
        self.url = f"http://localhost:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", self.server.target)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        size, pause = {"/endless": (2**20, 0), "/slow": (1, 0.5)}[self.path]
        with suppress(OSError):  # whoever asked has gone
            while True:
                self.wfile.write(bytes(size))
                time.sleep(pause)

    def log_message(self, *arguments):
        """Print nothing on the terminal."""
