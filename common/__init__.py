"""What training, evaluation and model cards share.

`recipe` turns YAML and flags into arguments, `files` reads images, captions and tables, `models` loads models
of any kind, and `languages` matches language codes. `embedding_cache` keeps embeddings on disk. `errors` has
`InputError`, the error that a user can fix.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
