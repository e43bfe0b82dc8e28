"""Run img2dataset within bounds of where, how much and how long it downloads.

`running.py` starts this file by the python of another environment, which has img2dataset and none of our
packages, so that it imports nothing but Python's own library. Every worker of img2dataset's pool imports it
as well.

img2dataset asks for addresses by `urllib.request.urlopen`, which would follow a table or a redirect to any
host, read a file of any size, and wait for as long as a server sends a byte now and then. `urllib` lets a
program install an opener of its own, and the one that is installed here

- looks up each host, redirects too, and connects to none with an address that is not public: no request is
  sent (the rule of `modeling_altclip/addresses_altclip.py`);
- ends an answer that is too large or takes too long, its headers counted;
- has no handler for `file:`, `ftp:` and `data:`, and none for proxies, whose look-ups could not be checked.
"""

import argparse
import http.client
import io
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

# Beginnings of messages, by which `outcome.py` counts failures.
INSIDE = "refused: inside this network"
TOO_LARGE = "refused: more than max_bytes"
TOO_SLOW = "refused: more than max_seconds"


class _Refused(Exception):
    """A download that leaves its bounds. Its message stands in img2dataset's record of the address."""


class _Bounds:
    """The bounds of this process; `install` sets them."""

    max_bytes = 0
    max_seconds = 0.0
    allow_hosts: frozenset[str] = frozenset()


def is_inside(number: str) -> bool:
    """Check whether an IP address is not public, such as "127.0.0.1", "10.0.0.1", "fe80::1%eth0" or "::1"."""
    number, _, _ = number.partition("%")
    return not ipaddress.ip_address(number).is_global


def _refuse_inside(host: str) -> None:
    """Look up a host, and refuse it where one of its addresses is inside this network.

    Raises:
        _Refused: one is.
        OSError: there is no such host.
    """
    if host in _Bounds.allow_hosts:
        return
    for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        if is_inside(address[0]):
            raise _Refused(f"{INSIDE}: {host}")


class _BoundedReads(io.RawIOBase):
    """Reads of one answer from its connection, headers and body, until it is too large or too late."""

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw
        self._n_bytes = 0
        self._deadline = time.monotonic() + _Bounds.max_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        if time.monotonic() > self._deadline:
            raise _Refused(TOO_SLOW)
        n_bytes = self._raw.readinto(buffer)  # waits for `timeout` seconds at most
        self._n_bytes += n_bytes or 0
        if self._n_bytes > _Bounds.max_bytes:
            raise _Refused(TOO_LARGE)
        return n_bytes

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose reads are bounded, and which is refused at once where it declares to be too large."""

    def __init__(self, sock: socket.socket, *arguments, **options):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_BoundedReads(self.fp.detach()))

    def begin(self) -> None:
        super().begin()
        if self.length is not None and self.length > _Bounds.max_bytes:
            raise _Refused(TOO_LARGE)


class _Connection(http.client.HTTPConnection):
    """A connection to a public host."""

    response_class = _Response

    def connect(self) -> None:
        _refuse_inside(self.host)
        super().connect()
        # The host was looked up once more, and may have got another address in between.
        number = self.sock.getpeername()[0]
        if self.host not in _Bounds.allow_hosts and is_inside(number):
            self.close()
            raise _Refused(f"{INSIDE}: {self.host}")


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """A connection to a public host by TLS; `HTTPSConnection.connect` calls that of `_Connection`."""


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


def install(max_bytes: int, max_seconds: float, allow_hosts: list[str]) -> None:
    """Make `urllib.request.urlopen` of this process keep within bounds.

    Args:
        max_bytes: of one answer, its headers counted.
        max_seconds: for one answer; each redirect begins another.
        allow_hosts: hosts that may lie inside this network.
    """
    _Bounds.max_bytes = max_bytes
    _Bounds.max_seconds = max_seconds
    _Bounds.allow_hosts = frozenset(allow_hosts)
    opener = urllib.request.OpenerDirector()
    for handler in (
        _HTTPHandler(),
        _HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    urllib.request.install_opener(opener)


def _end_with_parent() -> None:
    """Kill this process and its workers as soon as the process that started it has ended.

    That one holds the other end of standard input and writes nothing to it. Without this, workers would go on
    writing a tar which the next run, that resumes, writes at the same time.
    """
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def _read_settings() -> dict[str, dict]:
    """Return the `bounds` of this process and the arguments of `img2dataset.download`."""
    parser = argparse.ArgumentParser(description="Run img2dataset within bounds; run_download.py starts it.")
    parser.add_argument("--settings", required=True, help="JSON file of `bounds` and `img2dataset`.")
    return json.loads(Path(parser.parse_args().settings).read_text("utf-8"))


def main() -> None:
    """Download what the settings name."""
    settings = _read_settings()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    install(**settings["bounds"])
    from img2dataset import download

    download(**settings["img2dataset"])
    sys.stdout.flush()


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a worker, which has the command line of the process that started it
    install(**_read_settings()["bounds"])
