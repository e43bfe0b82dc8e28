"""Shorten paths for publication, so that a card never says where files lie on this machine."""

import re
import shlex
from pathlib import Path

# An absolute path within a word: alone, after a flag's `=`, a library's `:` or a `+`, or in quotes or
# brackets. The second slash of `https://` tells addresses from paths.
_ABSOLUTE_PATH = re.compile(r"""(?<![^=:+,"'({\[])/(?!/)[^=:+,"')}\]]*""")


def public_path(name: str) -> str:
    """Return a path relative to the working directory, or its last part if it lies elsewhere.

    Names without an absolute path are returned as they are, such as Hub ids and addresses:
    `open_clip:/home/me/model` -> `open_clip:model`, `org/data` -> `org/data`.
    """
    return _ABSOLUTE_PATH.sub(_shorten, name)


def public_command(command: str) -> str:
    """Return a command line with its absolute paths shortened by `public_path`."""
    return shlex.join(public_path(word) for word in shlex.split(command))


def _shorten(found: re.Match) -> str:
    path = Path(found[0])
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return path.name


__all__ = ["public_command", "public_path"]
