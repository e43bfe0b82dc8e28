"""Read files at `http(s)://` addresses that a caller names: within a time and a size, and never further in.

A server may answer with a redirect. Followed blindly, it would make us ask hosts that only this machine can
reach, and whose answers the server's owner is not to see.
"""

import ipaddress
import socket
import time

from transformers.image_utils import httpx  # the client that transformers reads addresses with

# The largest file of an image that is read: more than any photograph has, and little enough for the memory. A
# zip of 2 MB could hold an image of 2 GB.
MOST_BYTES = 2**29
TIMEOUT = 30.0  # seconds without an answer, where the caller states none
_LONGEST = 300.0  # seconds for a whole file, since a server may send a byte at a time
_MOST_REDIRECTS = 10


def fetch(address: str, timeout: float | None = None) -> bytes:
    """Read the file at an address.

    Args:
        timeout: seconds to wait for each answer; None for `TIMEOUT`.

    Raises:
        ValueError: the file is too large or takes too long; or a redirect leads to a host of this network,
            which the caller's address does not. Errors of the network are left as they are.
    """
    url = httpx.URL(address)
    may_go_inside = _is_inside(url.host)
    deadline = time.monotonic() + _LONGEST
    with httpx.Client(timeout=TIMEOUT if timeout is None else timeout) as client:
        for _ in range(_MOST_REDIRECTS):
            with client.stream("GET", url) as response:
                if response.next_request is None:
                    return _read(response.raise_for_status(), deadline)
                url = response.next_request.url
            if not may_go_inside and _is_inside(url.host):
                raise ValueError(f"it is redirected to {url.host}, which lies inside this network: name that")
    raise ValueError(f"it is redirected more than {_MOST_REDIRECTS} times: {address[:1000]}")


def _read(response: "httpx.Response", deadline: float) -> bytes:
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > MOST_BYTES:
            raise ValueError(f"its file has more than {MOST_BYTES:,} bytes: save it smaller")
        if time.monotonic() > deadline:
            raise ValueError(f"its file takes more than {_LONGEST:g} seconds: download it first")
    return bytes(content)


def _is_inside(host: str) -> bool:
    """Check whether a host has an address that is not public, such as 127.0.0.1 or 169.254.169.254."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None)
    except (OSError, UnicodeError):
        return False  # unknown here: the request fails, or a proxy makes it
    for *_, address in found:
        number, _, _ = address[0].partition("%")  # fe80::1%eth0
        if not ipaddress.ip_address(number).is_global:
            return True
    return False


__all__ = ["MOST_BYTES", "TIMEOUT", "fetch"]
