"""Find what names this machine, its user, a path of it or a secret, in the text of files."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open

from common.errors import InputError

from .files import Contents, PushedFile

_SHOWN = 5  # findings in a message
_HEAD = 8192  # bytes by which text is told from other content
_SECRET = "a token or key"
_SECRETS = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bAKIA[0-9A-Z]{16}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# Some of their entries look like paths: "/var/www"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
# Folders below which users have theirs, so that two names are enough: /home/me
_ROOTS = "home|Users|root|mnt|media|tmp|var|private|opt|srv|scratch|work|workspace|content|kaggle|Volumes"
# Folders of every machine, which say nothing of one: /usr/bin/env
_COMMON = "usr|bin|lib|dev|proc|sys|etc"
# A slash within an address, after a variable or in a relative path begins no absolute path:
# https://host/home/x, ${HOME}/tmp/x, ../data/x
_BEFORE = r"(?:(?<![\w./~%+\-}\])>*@:])|(?<=file://))"
_PATHS = re.compile(
    rf"{_BEFORE}/(?:(?:{_ROOTS})/[\w.~+-]+|(?!(?:{_COMMON})/)[\w.~+-]+/[\w.~+-]+/[\w.~+-]+)(?:/[\w.~+-]+)*"
    r"|\b[A-Za-z]:\\+Users\\+[\w.-]+"
)


@dataclass(frozen=True)
class _Finding:
    """What was found: the file, the line, the text, and what it is."""

    file: str
    line: int
    text: str
    what: str

    def __str__(self) -> str:
        # A secret is not repeated in logs.
        text = f"{self.text[:6]}..." if self.what == _SECRET else self.text
        return f"{self.file}, line {self.line}: {text!r}, {self.what}"


def refuse_private(contents: Contents, folder: Path, allowed: list[str]) -> None:
    """Search all text that is pushed, and the metadata of weights.

    Other binary files, such as pictures and parquet, are not searched.

    Args:
        allowed: texts that may be pushed all the same.

    Raises:
        InputError: something private is found; the message names file and line.
    """
    known = _known_here(folder)
    findings = []
    for file in contents.files:
        findings += [one for one in _search(file, known) if one.text not in allowed]
    if not findings:
        return
    shown = "\n  ".join(map(str, findings[:_SHOWN]))
    more = f"\n  and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    raise InputError(
        f"{len(findings)} places name what is private, and nothing was pushed:\n  {shown}{more}\n"
        "Remove them, or give what may be known as --allow TEXT"
    )


def _known_here(folder: Path) -> dict[str, str]:
    """Return what would name this machine, `{text: what it is}`."""
    known = {}
    for path in (Path.home(), Path.cwd(), folder.resolve()):
        if len(path.parts) > 2:  # "/root" alone says nothing
            known[str(path)] = "a path of this machine"
    host = socket.gethostname()
    if len(host) > 3 and host != "localhost":
        known[host] = "the name of this machine"
    token = get_token()
    if token:
        known[token] = _SECRET
    return known


def _search(file: PushedFile, known: dict[str, str]) -> Iterator[_Finding]:
    """Yield what is private in a file, each once a line."""
    words = {re.compile(rf"(?<![\w-]){re.escape(text)}(?![\w-])"): what for text, what in known.items()}
    # A path of this machine is mostly the beginning of an absolute path, which says more.
    general = {_SECRETS: _SECRET, _PATHS: "an absolute path"}
    patterns = words if file.path.name in _VOCABULARIES else general | words
    for number, line in _lines(file):
        seen = []
        for pattern, what in patterns.items():
            for match in pattern.finditer(line):
                if not any(match[0] in text or text in match[0] for text in seen):
                    seen.append(match[0])
                    yield _Finding(file.name, number, match[0], what)


def _lines(file: PushedFile) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text file, or of the metadata at the beginning of weights."""
    if file.name.endswith(".safetensors"):
        yield 1, _metadata_of_weights(file.path)
        return
    with open(file.path, "rb") as stream:
        is_binary = b"\0" in stream.read(_HEAD)
        stream.seek(0)
        if not is_binary:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8", "replace")


def _metadata_of_weights(path: Path) -> str:
    """Return what a safetensors file says beside its weights, as JSON."""
    try:
        with safe_open(path, "pt") as weights:
            return json.dumps(weights.metadata() or {}, ensure_ascii=False)
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is no safetensors file: {error}") from error


__all__ = ["refuse_private"]
