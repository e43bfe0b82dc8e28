"""What training, evaluation and model cards share.

`launching` starts a job, `recipe` turns YAML and flags into arguments, `files` reads images, captions and
tables, `models` loads models of any kind, and `languages` matches language codes. `embedding_cache` keeps
embeddings on disk. `errors` has `InputError`, the error that a user can fix.
"""

from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

# Its settings of the process have to stand before torch is loaded. The file is run alone: the package imports
# torch and transformers, for which a wrong flag need not wait.
run_path(str(Path(find_spec("modeling_altclip").origin).with_name("reproducibility.py")))
