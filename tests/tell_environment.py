"""Write the environment variables of a launcher's first process: `python tell_environment.py FILE`."""

import json
import os
import sys
from pathlib import Path

if os.environ.get("RANK", "0") == "0":
    Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)), encoding="utf-8")
