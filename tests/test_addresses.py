"""Addresses that a caller names are read within a time and a size, and lead nowhere else."""

import io
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from PIL import Image
from transformers.image_utils import httpx

from modeling_altclip import addresses_altclip
from modeling_altclip.addresses_altclip import fetch
from modeling_altclip.images_altclip import read_image, read_images


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        if self.path == "/slow":
            time.sleep(1)
            return
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments):
        """Print nothing on the terminal."""


@pytest.fixture
def server():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.content = buffer.getvalue()
        server.paths = []
        server.redirects = {}
        server.inside = f"http://127.0.0.1:{server.server_port}"
        server.outside = f"http://localhost:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def localhost_is_public(monkeypatch):
    """Take `localhost` for a public host, as there is none here, and 127.0.0.1 for one of this network."""
    monkeypatch.setattr(addresses_altclip, "_is_inside", lambda host: host == "127.0.0.1")


def test_a_redirect_does_not_lead_inside(server, localhost_is_public):
    server.redirects = {"/a": f"{server.outside}/b", "/b": f"{server.inside}/secret"}
    with pytest.raises(ValueError, match=r"images\[0\] cannot be read: it is redirected to 127.0.0.1, which"):
        read_images([f"{server.outside}/a"])
    assert server.paths == ["/a", "/b"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://localhost/a", "data:image/png;base64,A"])
def test_a_redirect_does_not_lead_to_another_scheme(server, target):
    server.redirects = {"/a": target}
    with pytest.raises((ValueError, httpx.HTTPError)):
        read_image(f"{server.outside}/a")


def test_other_redirects_are_followed(server, localhost_is_public):
    """Follow those between public hosts, and those from a host of this network, which the caller named."""
    server.redirects = {"/a": "/c", "/b": f"{server.inside}/c"}
    for address in (f"{server.outside}/a", f"{server.inside}/b"):
        assert read_image(address).getpixel((0, 0)) == (255, 0, 0)


def test_redirects_have_an_end(server):
    server.redirects = {"/a": "/a"}
    with pytest.raises(ValueError, match="it is redirected more than 10 times"):
        fetch(f"{server.inside}/a")
    assert len(server.paths) == 10


def test_a_file_has_a_bound(server, monkeypatch):
    monkeypatch.setattr(addresses_altclip, "MOST_BYTES", len(server.content))
    assert fetch(f"{server.inside}/a") == server.content
    monkeypatch.setattr(addresses_altclip, "MOST_BYTES", len(server.content) - 1)
    with pytest.raises(ValueError, match="its file has more than .* bytes: save it smaller"):
        fetch(f"{server.inside}/a")


@pytest.mark.parametrize("timeout", [0.1, None])
def test_an_answer_has_a_time(server, monkeypatch, timeout):
    monkeypatch.setattr(addresses_altclip, "TIMEOUT", 0.1)
    with pytest.raises(ValueError, match=r"images\[0\] cannot be read"):
        read_images([f"{server.inside}/slow"], timeout=timeout)


def test_a_whole_file_has_a_time(server, monkeypatch):
    monkeypatch.setattr(addresses_altclip, "_LONGEST", -1.0)
    with pytest.raises(ValueError, match="its file takes more than -1 seconds: download it first"):
        fetch(f"{server.inside}/a")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.1", "169.254.169.254", "2130706433", "0"],
)
def test_hosts_of_this_network_are_known(host):
    """Also by names and numbers that mean them."""
    assert addresses_altclip._is_inside(host)


def test_a_public_host_is_none_of_this_network():
    assert not addresses_altclip._is_inside("8.8.8.8")
    assert not addresses_altclip._is_inside("no.such.host.invalid")
