"""AltCLIP for everyone, as one name: `altclip.training`, `altclip.benchmarks` and so on.

The command `altclip` is in `command.py`. The model itself is `modeling_altclip`, which stands alone.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# A wheel holds the other packages inside this one (see setup.py). In a clone they lie beside it.
if not Path(__file__).with_name("training").is_dir():
    from . import _clone

    _clone.install()

try:
    __version__ = version("altclip")
except PackageNotFoundError:  # a clone that is only on the path
    __version__ = "0+unknown"

__all__ = ["__version__"]
