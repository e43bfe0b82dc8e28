"""Addresses that a caller or a table names, whose servers misbehave, and those that nobody may ask."""

import json
import socket
import urllib.request
from functools import partial

from modeling_altclip import addresses_altclip
from modeling_altclip.images_altclip import read_images
from training.download.addresses import prepare
from training.download.arguments import DownloadArguments
from training.download.bounded_img2dataset import install

from .place import Place, Row

# Of a table: what a row says -> why it is skipped.
TABLE = {
    "10 MB": ("http://a.example/" + "a" * 10_000_000, "no valid address"),
    "file://": ("file:///etc/passwd", "another kind than http(s)"),
    "ftp://": ("ftp://a.example/1.jpg", "another kind than http(s)"),
    "javascript:": ("javascript:alert(1)", "another kind than http(s)"),
    "a password": ("http://me:secret@a.example/1.jpg", "with a user or password"),
    "a host that looks like a user": ("http://8.8.8.8@127.0.0.1/1.jpg", "with a user or password"),
    "a line break": ("http://a.example/\r\nHost: b.example", "no valid address"),
    "127.0.0.1 in circled digits": ("http://①②⑦.⓪.⓪.①/1.jpg", "no valid address"),
    "half an IPv6 address": ("http://[::1/1.jpg", "no valid address"),
}
# Of a download: hosts inside this network.
INSIDE = ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"]
INSIDE += ["[fe80::1%25lo]", "169.254.169.254", "10.0.0.1"]


def rows(place: Place) -> list[Row]:
    endless = partial(read_images, [f"{place.bad_url}/endless"])
    return [
        Row("a redirect inwards", partial(_read_from_outside, place), "is redirected to 127.0.0.1"),
        Row("an endless answer", endless, "its file has more than", is_long=True),
        Row("a slow answer (bound: 2 s)", partial(_read_slowly, place), "its file takes more than 2 s"),
        *_tables(place),
        *_downloads(place),
    ]


def _read_from_outside(place: Place) -> object:
    """Take `localhost` for a public host, as there is none here."""
    addresses_altclip._is_inside = lambda host: host == "127.0.0.1"
    return read_images([f"{place.bad_url}/redirect"])


def _read_slowly(place: Place) -> object:
    addresses_altclip._LONGEST = 2.0
    return read_images([f"{place.bad_url}/slow"])


def _tables(place: Place) -> list[Row]:
    made = []
    for name, (address, expected) in TABLE.items():
        folder = place.new_folder()
        (folder / "table.jsonl").write_text(json.dumps({"url": address, "captions": {"en": "a dog"}}))
        arguments = DownloadArguments(dataset=str(folder / "table.jsonl"), output_dir=str(folder / "output"))
        (folder / "output").mkdir()
        made.append(Row(f"table of addresses with {name}", partial(prepare, arguments), expected))
    return made


def _downloads(place: Place) -> list[Row]:
    port = place.url.rpartition(":")[2]
    made = []
    for host in INSIDE:
        made.append(
            Row(f"download from {host}", partial(_download, f"http://{host}:{port}/secret"), "inside this")
        )
    redirected = partial(_download, f"{place.bad_url}/redirect", allow_hosts=["localhost"])
    endless = partial(_download, f"{place.bad_url}/endless", allow_hosts=["localhost"])
    return [
        *made,
        Row("download from a name of 127.0.0.1", partial(_download_by_name, port), "inside this network"),
        Row("download that is redirected inwards", redirected, "inside this network: 127.0.0.1"),
        Row("download without an end (bound: 16 MB)", endless, "more than max_bytes"),
    ]


def _download(address: str, allow_hosts: list[str] | None = None) -> str:
    """Ask for an address as img2dataset does; return the message that it records."""
    install(2**24, 10, allow_hosts or [])
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return f"read {len(answer.read())} bytes"
    except Exception as error:  # as img2dataset does
        return str(error)


def _download_by_name(port: str) -> str:
    """Ask a host whose name a server of names tells to be 127.0.0.1."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]
    socket.getaddrinfo = lambda *_, **__: answer
    return _download(f"http://pictures.example:{port}/secret")
