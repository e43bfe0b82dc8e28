"""Check that transformers is new enough.

This code is copied into saved folders too, where no installer looks at `setup.cfg`.
"""

import transformers
from packaging.version import Version

TRANSFORMERS = "5.21"  # the first that heeds `SubConfigSpec`

if Version(transformers.__version__) < Version(TRANSFORMERS):
    raise ImportError(
        f"This code of AltCLIP needs transformers {TRANSFORMERS} or newer, "
        f"and {transformers.__version__} is installed: upgrade it. "
        "The folder of an AltCLIP loads in older versions too, without trust_remote_code."
    )

__all__ = ["TRANSFORMERS"]
