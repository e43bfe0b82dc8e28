"""What a card says of files: never where they lie on this machine."""

import re
import shlex
from pathlib import Path

# A path from the root, as it stands in a word: alone, behind a flag's `=`, a library's `:` or a `+`, or in
# quotes and brackets. Addresses have a second slash.
FROM_ROOT = re.compile(r"""(?<![^=:+,"'({\[])/(?!/)[^=:+,"')}\]]*""")


def public_path(name: str) -> str:
    """Return a path as others may read it: relative to the working directory, or its last part where it lies
    elsewhere.

    Names that are no path from the root stay, such as Hub ids and addresses.
    """
    return FROM_ROOT.sub(lambda found: _relative(Path(found[0])), name)


def public_command(command: str) -> str:
    """Return a command line with each of its paths as `public_path` gives it."""
    return shlex.join(public_path(word) for word in shlex.split(command))


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path.name)


__all__ = ["public_command", "public_path"]
